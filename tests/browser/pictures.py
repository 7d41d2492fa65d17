"""Takes the pictures of the documentation: `python -m tests.browser.pictures`, from golden documents, in Chromium."""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from storecheck.report import html
from storecheck.report.document import load
from tests.browser.test_page import CHROMIUM, FLAGS, TIMEOUT_MS
from tests.report.making import GOLDEN

PICTURES = {"race": "B76", "sequence": "B65", "crash": "B27"}
DIRECTORY = Path(__file__).parents[2] / "docs" / "images"


def main() -> None:
    """Write one picture per kind."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as scratch:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=TIMEOUT_MS)
        for name, mutant in PICTURES.items():
            path = Path(scratch, f"{name}.html")
            path.write_text(html.render(load(GOLDEN / f"{mutant}.json")), encoding="utf-8")
            page = chromium.new_page(viewport={"width": 1440, "height": 4000}, color_scheme="light")
            page.goto(path.as_uri())
            page.locator("article").first.screenshot(path=str(DIRECTORY / f"report-{name}.png"))
        chromium.close()


if __name__ == "__main__":
    main()
