"""What the README and the documentation say is true: examples run, links lead somewhere, names exist."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from models.promises import PROMISES
from sessionstore import settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
CODE_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

README_EXAMPLE_MAX_LINES = 15


def run_examples(page: Path, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Run all Python examples of `page`, one after the other as a reader would, in `directory`."""
    monkeypatch.chdir(directory)
    for variable in (
        settings.OBJECT_CACHE_VARIABLE,
        settings.CACHE_TTL_VARIABLE,
        settings.SERIALIZED_CACHE_VARIABLE,
    ):
        monkeypatch.delenv(variable, raising=False)
    names: dict[str, object] = {}
    text = page.read_text(encoding="utf-8")
    for block in CODE_BLOCK.finditer(text):
        lines_before = text[: block.start(1)].count("\n")
        exec(compile("\n" * lines_before + block.group(1), str(page), "exec"), names)


def test_the_example_in_the_readme_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The README's example does what its comments say, in a directory of its own."""
    run_examples(ROOT / "README.md", monkeypatch, tmp_path)

    label, whole, parses = capsys.readouterr().out.splitlines()
    assert label == "renamed"
    assert re.fullmatch(
        r"\{'agent:main:main': \{'sessionId': '5f1c', 'updatedAt': \d{13}, 'label': 'renamed'\}\}", whole
    )
    assert parses == "0", "the base matched, so nothing had to be parsed"
    assert caplog.records == [], "the first thing that a user sees is no warning"


def test_the_example_in_the_readme_is_short() -> None:
    """One example, which a reader takes in at a glance."""
    (example,) = CODE_BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))

    assert len(example.splitlines()) <= README_EXAMPLE_MAX_LINES


def test_the_quick_start_runs_again_and_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The examples of the quick start run with their assertions, and a second time; at the end is the error shown."""
    for _ in range(2):
        run_examples(ROOT / "docs/quickstart.md", monkeypatch, tmp_path)

        assert "doctor --repair" in capsys.readouterr().out
        assert caplog.records == [], "the first thing that a user sees is no warning"


@pytest.mark.parametrize(
    ("beginning", "source"), [("@rule(", "tests/stateful/machines.py"), ("Mutant(", "models/mutants/caching.py")]
)
def test_what_is_quoted_stands_in_the_source(beginning: str, source: str) -> None:
    """The rule and the planted bug that the documentation shows are those that the project has."""
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    (quoted,) = (block for block in CODE_BLOCK.findall(page) if block.startswith(beginning))

    assert textwrap.indent(quoted, "    ") in (ROOT / source).read_text(encoding="utf-8")


def test_links_between_pages_lead_somewhere() -> None:
    """A relative link on any page names a file of the repository."""
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in LINK.findall(page.read_text(encoding="utf-8"))
        if not target.startswith(("https://", "#")) and not (page.parent / target.partition("#")[0]).exists()
    ]

    assert broken == []


def test_the_operators_page_has_every_variable_with_its_default() -> None:
    """Variables and defaults in the operators' table are those that the store reads."""
    page = (ROOT / "docs/operators.md").read_text(encoding="utf-8")
    table = {name: int(default) for name, default in re.findall(r"^\| `(\w+)` \| (\d+) \|", page, re.MULTILINE)}
    defaults = settings.Settings()

    assert table == {
        settings.OBJECT_CACHE_VARIABLE: defaults.object_cache_max_bytes,
        settings.CACHE_TTL_VARIABLE: defaults.cache_ttl_ms,
        settings.SERIALIZED_CACHE_VARIABLE: defaults.serialized_cache_max_bytes,
    }


def test_promises_are_told_apart() -> None:
    """Every promise has an id of its own, a title and one sentence."""
    assert len({promise.id for promise in PROMISES}) == len(PROMISES)
    for promise in PROMISES:
        assert re.fullmatch(r"[A-Z]+[0-9]+", promise.id), promise
        assert promise.title, promise
        assert not promise.title.endswith("."), promise
        assert promise.text.endswith("."), promise
        assert ". " not in promise.text, f"{promise.id} is more than one sentence"
