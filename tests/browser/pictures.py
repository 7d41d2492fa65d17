"""Takes the pictures of README and documentation from golden documents, in Chromium.

`tox exec -e browser -- python -m tests.browser.pictures`. The documents are what runs with planted bugs have reported
(`tests.report.making`). A picture shows a failing example down to the end of its second part.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from storecheck.report import html
from storecheck.report.document import load
from tests.browser.test_page import CHROMIUM, FLAGS, TIMEOUT_MS
from tests.report.making import GOLDEN

PICTURES = {"race": "B76", "sequence": "B65", "crash": "history-B27"}
WIDTH = 1180
MARGIN = 24
DIRECTORY = Path(__file__).parents[2] / "docs" / "images"


def main() -> None:
    """Write one picture per kind."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as scratch:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=TIMEOUT_MS)
        for name, golden in PICTURES.items():
            path = Path(scratch, f"{name}.html")
            path.write_text(html.render(load(GOLDEN / f"{golden}.json")), encoding="utf-8")
            page = chromium.new_page(viewport={"width": WIDTH, "height": 4000}, color_scheme="light")
            page.goto(path.as_uri())
            article = page.locator("article").first.bounding_box()
            second = page.locator("article section").nth(1).bounding_box()
            assert article is not None
            assert second is not None
            height = second["y"] + second["height"] - article["y"] + MARGIN
            clip = {"x": article["x"], "y": article["y"], "width": article["width"], "height": height}
            page.screenshot(path=str(DIRECTORY / f"report-{name}.png"), clip=clip)
        chromium.close()


if __name__ == "__main__":
    main()
