"""The report's page in a real, headless Chromium.

Goal: the page works for people: no error in the console, readable in light and dark, reachable by keyboard, whole on a
phone, complete without scripts. Method: Playwright drives the Chromium of the system (`/usr/bin/chromium`, or the one
that STORECHECK_CHROMIUM names) and never downloads one. With STORECHECK_SCREENSHOTS=DIR the pictures are kept there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.promises import PROMISES
from storecheck.report import html
from storecheck.report.document import Kept, KnownFailure, Run, load
from storecheck.verdict import PromiseVerdict
from tests.report.making import GOLDEN

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: tox -e browser installs it"
)
CHROMIUM = os.environ.get("STORECHECK_CHROMIUM", "/usr/bin/chromium")
pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).exists(), reason=f"{CHROMIUM} does not exist: install Debian's chromium"
)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
TIMEOUT_MS = 20_000
SHOWN = (
    "B76",
    "B87",
    "B27",
    "B54",
    "B48",
    "machine-B54",
    "history-B27",
    "machine-B27",
    "fault-B33",
    "recorded-B76",
    "recovery-B25",
)

CONTRAST = """() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number);
    const k = c.startsWith('color(srgb') ? 255 : 1; return [m[0]*k, m[1]*k, m[2]*k, m[3] ?? 1]; };
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const lum = c => { const f = c.slice(0, 3).map(v => linear(v / 255));
    return .2126 * f[0] + .7152 * f[1] + .0722 * f[2]; };
  const back = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c[3] === 1) return c; } return [255, 255, 255, 1]; };
  const bad = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility()) continue;
    if (e.closest('.sr, .skip, script, style')) continue;
    const a = lum(parse(getComputedStyle(e).color)), b = lum(back(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) bad.push(`${e.tagName}.${e.className} ${ratio.toFixed(2)} ${e.textContent.trim().slice(0, 40)}`);
  }
  return bad;
}"""


def failing() -> Run:
    """Races, a sequence and a crash."""
    runs = [load(GOLDEN / f"{name}.json") for name in SHOWN]
    return replace(runs[0], examples=tuple(run.examples[0] for run in runs))


def passing() -> Run:
    """A run in which nothing new failed, one promise not verified, compared with an earlier one."""
    promises = tuple(
        PromiseVerdict(
            id=each.id, title=each.title, text=each.text, outcome="not verified" if number == 0 else "passed",
            tests=(), tests_passed=min(number, 3), tests_failed=0, tests_skipped=0, tests_unfinished=0,
            evidence={"schedules": 100 * number, "processes_max": 3, "exhausted": number} if number else {},
            mutants_killed=("B76",) if number == 2 else (),
            mutants_survived=(), mutants_untried=(), failures=(),
        )
        for number, each in enumerate(PROMISES[:6])
    )  # fmt: skip
    run = failing()
    shards = (replace(run.shards[0], failed=0, exit_status=0, passed=15),)
    known = KnownFailure(test="tests/test_known.py::test_of_a_bug_that_is_known", reason="issue 7", fingerprint="")
    kept = Kept(commit="0" * 40, started_at=run.started_at, figures={"passed": 12, "schedules": 1000})
    return replace(
        run, examples=(), shards=shards, promises=promises, kept=kept, known=(known,),
        figures={"passed": 15, "known": 1, "schedules": 1500, "processes_max": 3, "points_max": 60, "exhausted": 15},
    )  # fmt: skip


PAGES = {"failing": failing, "passing": passing}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for all tests of this file."""
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=TIMEOUT_MS)
        yield chromium
        chromium.close()


@pytest.fixture(params=PAGES)
def page_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A page as a file."""
    path = tmp_path / f"{request.param}.html"
    path.write_text(html.render(PAGES[request.param]()), encoding="utf-8")
    return path


def opened(browser: Any, path: Path, *, width: int = 1440, **context: Any) -> tuple[Any, list[str]]:
    """The page in a new context, and what goes wrong in it."""
    page = browser.new_context(viewport={"width": width, "height": 900}, **context).new_page()
    page.set_default_timeout(TIMEOUT_MS)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if not request.url.startswith("file:") else None)
    page.goto(path.as_uri())
    return page, problems


def keep(page: Any, name: str) -> None:
    """Keep a picture as an artifact, if asked for."""
    directory = os.environ.get("STORECHECK_SCREENSHOTS")
    if directory:
        page.screenshot(path=str(Path(directory) / f"{name}.png"), full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_clean_and_readable(browser: Any, page_path: Path, scheme: str) -> None:
    """No console message, no request, and every text has a contrast of at least 4.5."""
    page, problems = opened(browser, page_path, color_scheme=scheme)
    for fold in page.query_selector_all("summary"):
        fold.click()
    assert page.evaluate(CONTRAST) == []
    assert problems == []
    keep(page, f"{page_path.stem}-{scheme}")
    page.context.close()


def test_the_switch_changes_the_colours(browser: Any, page_path: Path) -> None:
    """Dark / light works, and says its state."""
    page, problems = opened(browser, page_path, color_scheme="light")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.get_attribute("#theme", "aria-pressed") == "true"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert page.evaluate(CONTRAST) == []
    assert problems == []
    page.context.close()


def test_a_phone_shows_everything_without_scrolling_sideways(browser: Any, page_path: Path) -> None:
    """The page is as wide as the phone; wide tables scroll inside."""
    page, problems = opened(browser, page_path, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert problems == []
    keep(page, f"{page_path.stem}-phone")
    page.context.close()


def test_the_keyboard_reaches_everything(browser: Any, tmp_path: Path) -> None:
    """Tab goes to the skip link first, then to every button, fold, link and scrolling part."""
    path = tmp_path / "failing.html"
    path.write_text(html.render(failing()), encoding="utf-8")
    page, _ = opened(browser, path)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    wanted = page.evaluate("document.querySelectorAll('a, button, summary, [tabindex=\"0\"]').length")
    mark = "() => { const e = document.activeElement; e.dataset.reached = '1'; }"
    for _ in range(wanted + 5):
        page.evaluate(mark)
        page.keyboard.press("Tab")
    missed = page.evaluate(
        "[...document.querySelectorAll('a, button, summary, .scroll, [tabindex=\"0\"]')]"
        ".filter(e => e.checkVisibility() && !e.dataset.reached).map(e => e.outerHTML.slice(0, 80))"
    )
    assert missed == []
    page.context.close()


def test_copying_gives_the_replay(browser: Any, tmp_path: Path) -> None:
    """The button copies the command as it stands, or selects it where the clipboard is closed, and says so."""
    path = tmp_path / "failing.html"
    path.write_text(html.render(failing()), encoding="utf-8")
    page, _ = opened(browser, path)
    button = page.locator("[data-copy]").first
    button.click()
    assert button.inner_text().startswith("Copied")
    page.context.close()


def test_without_scripts_all_is_there_and_no_dead_button(browser: Any, page_path: Path) -> None:
    """Scripts off: the same text, folds open, no button that does nothing."""
    page, problems = opened(browser, page_path, java_script_enabled=False)
    assert page.locator("h1").first.is_visible()
    assert page.locator("button:visible").count() == 0
    folds = page.locator("summary")
    if folds.count():
        folds.first.click()
        assert page.locator("details[open]").count() == 1
    assert problems == []
    page.context.close()


def test_paper_has_no_margin_and_no_buttons(browser: Any, page_path: Path) -> None:
    """Printed: the navigation and the buttons are gone, the text is there."""
    page, _ = opened(browser, page_path)
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    assert page.locator("button:visible").count() == 0
    assert page.locator("h1").first.is_visible()
    assert page.pdf()[:5] == b"%PDF-"
    page.context.close()
