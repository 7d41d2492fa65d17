"""The report in a real browser: Debian's Chromium, headless, driven by Playwright."""
