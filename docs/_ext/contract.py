"""Sphinx extension: pages that say which tests and planted bugs stand behind each promise.

Three directives, `promises`, `promised-tests` and `planted-bugs`, write Markdown from what pytest collects and from
`models`, at every build: nothing on these pages is kept by hand, so it cannot grow untrue. Runs no tests: what passed
is in the verdict of a run.
"""

from __future__ import annotations

import ast
import difflib
import functools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from models.mutants import MUTANTS, Patch

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
COLLECT_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True, order=True)
class CheckingTest:
    """A test function or class, without the parameters of its cases."""

    file: str
    name: str

    @classmethod
    def of(cls, nodeid: str) -> CheckingTest:
        """The test that `nodeid` is a case of."""
        file, _, name = re.sub(r"\[.*", "", nodeid, flags=re.DOTALL).partition("::")
        return cls(file, name)

    @property
    def label(self) -> str:
        """Name of the anchor on the page of tests."""
        return "test-" + re.sub(r"\W+", "-", f"{self.file}-{self.name}")


def collect(root: Path = ROOT) -> Mapping[str, Any]:
    """The verdict of a run that only collects: promises, their tests, and the bugs planted for them.

    Raises:
        ExtensionError: pytest could not collect; with what it printed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "verdict.json")
        done = subprocess.run(  # noqa: S603 - this interpreter, and arguments written here
            [
                sys.executable,
                "-m",
                "pytest",
                "--collect-only",
                "-q",
                "-p",
                "no:cacheprovider",
                f"--verdict-json={path}",
            ],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=COLLECT_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise ExtensionError(f"pytest --collect-only exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return document


@functools.cache
def promises() -> Sequence[Mapping[str, Any]]:
    """What `collect` found, once per build."""
    found: Sequence[Mapping[str, Any]] = collect()["promises"]
    return found


@functools.cache
def definitions(file: str) -> Mapping[str, tuple[str, str]]:
    """Docstring and source of each test in `file`, by its name as in node ids."""
    text = (ROOT / file).read_text(encoding="utf-8")
    found: dict[str, tuple[str, str]] = {}

    def add(name: str, node: ast.stmt, documented: ast.AST) -> None:
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
        source = "\n".join(text.splitlines()[first - 1 : node.end_lineno])
        docstring = ""
        if isinstance(documented, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            docstring = ast.get_docstring(documented) or ""
        found[name] = (docstring, source)

    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            add(node.targets[0].id, node, node)  # `TestStore = Machine.TestCase`
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            add(node.name, node, node)
            for inner in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    add(f"{node.name}::{inner.name}", inner, inner)
    return found


def definition(test: CheckingTest) -> tuple[str, str]:
    """Docstring and source of `test`; of the class that it is in, if it stands in none of the file's own."""
    known = definitions(test.file)
    return known.get(test.name) or known.get(test.name.partition("::")[0]) or ("", "")


def tests_of(promise: Mapping[str, Any]) -> list[CheckingTest]:
    """The tests of one promise, each once, however many cases it has."""
    return sorted({CheckingTest.of(nodeid) for nodeid in promise["tests"]})


def anchor(promise_id: str) -> str:
    """Name of the anchor of a promise on the contract page."""
    return f"promise-{promise_id}"


def bug_anchor(mutant_id: str) -> str:
    """Name of the anchor of a planted bug on its page."""
    return f"mutant-{mutant_id}"


# -- pages ------------------------------------------------------------------------------------------------------------


def contract_page() -> Iterator[str]:
    """Each promise with links to its tests and planted bugs."""
    for promise in promises():
        yield f"({anchor(promise['id'])})="
        yield f"## {promise['id']}: {promise['title']}\n"
        yield f"{promise['text']}\n"
        tests = tests_of(promise)
        if tests:
            yield "Checked by\n"
            for test in tests:
                docstring, _ = definition(test)
                sentence = docstring.partition("\n\n")[0].replace("\n", " ").strip()
                yield f"- [`{test.file}::{test.name}`](#{test.label}){': ' if sentence else ''}{sentence}"
        else:
            yield "No test checks this promise yet: a run lists it as *not verified*."
        bugs = [
            f"[{bug.id}](#{bug_anchor(bug.id)}) ({bug.bug_class})" for bug in MUTANTS if bug.promise == promise["id"]
        ]
        yield "\nPlanted bugs: " + (", ".join(bugs) or "none yet") + ".\n"


def tests_page() -> Iterator[str]:
    """The source of every test that names a promise, by file."""
    promises_of: dict[CheckingTest, list[str]] = {}
    for promise in promises():
        for test in tests_of(promise):
            promises_of.setdefault(test, []).append(promise["id"])
    file = ""
    for test in sorted(promises_of):
        if test.file != file:
            file = test.file
            yield f"## {file}\n"
        _, source = definition(test)
        yield f"({test.label})="
        yield f"### `{test.name}`\n"
        yield "Checks " + ", ".join(f"[{id_}](#{anchor(id_)})" for id_ in promises_of[test]) + ".\n"
        yield f"~~~~python\n{source}\n~~~~\n"


def mutants_page() -> Iterator[str]:
    """Every planted bug: what it does, what it breaks, how it is planted, and which tests must notice."""
    shown_tests = {test for promise in promises() for test in tests_of(promise)}
    for bug in MUTANTS:
        yield f"({bug_anchor(bug.id)})="
        yield f"## {bug.id}: {bug.bug_class}\n"
        yield f"{bug.description} Breaks [{bug.promise}](#{anchor(bug.promise)}). Noticed by\n"
        for test in sorted({CheckingTest.of(killer) for killer in bug.killers}):
            name = f"`{test.file}::{test.name}`" if test.name else f"`{test.file}`"
            yield f"- [{name}](#{test.label})" if test in shown_tests else f"- {name}"
        for patch in bug.patches:
            yield f"\n~~~~diff\n{as_diff(patch)}\n~~~~\n"


def as_diff(patch: Patch) -> str:
    """What a patch changes, as a unified diff of the lines that it names."""
    file = f"sessionstore/{patch.module.replace('.', '/')}.py"
    lines = difflib.unified_diff(patch.old.splitlines(), patch.new.splitlines(), file, file, lineterm="", n=99)
    return "\n".join(lines)


class MarkdownDirective(SphinxDirective):
    """A directive whose content is Markdown that a function writes."""

    write: Callable[[], Iterator[str]]

    def run(self) -> list[nodes.Node]:
        """Parse what the function wrote as if it stood in the page."""
        text = "\n".join(type(self).write())
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class Promises(MarkdownDirective):
    """`promises`: the contract."""

    write = staticmethod(contract_page)


class PromisedTests(MarkdownDirective):
    """`promised-tests`: the tests behind the contract."""

    write = staticmethod(tests_page)


class PlantedBugs(MarkdownDirective):
    """`planted-bugs`: the bugs that the suite has to notice."""

    write = staticmethod(mutants_page)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("promises", Promises)
    app.add_directive("promised-tests", PromisedTests)
    app.add_directive("planted-bugs", PlantedBugs)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
