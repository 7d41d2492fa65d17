"""How lightly `status --json` starts, and that the package's lazy names are the ordinary ones."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import sessionstore
from benchmarks.launch import Finished, launch
from models.images import load_image
from tests.unit.cli_runs import TIMEOUT_S, clean_environment, command

MAX_MB_ABOVE_BARE = 15.0
MAX_MODULES_ABOVE_BARE = 150
MAX_MS_ABOVE_BARE = 1500.0
"""Ten times the benchmark's bar, which is measured on a machine that does nothing else. Tests share theirs; what this
catches is a start that waits for something or imports a large library."""

ROUNDS = 5

# Third-party modules: of all that is installed beside the store, one codec. Of the standard library, what drags in
# an event loop, sockets, processes or a foreign-function interface.
ALLOWED_PACKAGES = {"sessionstore", "orjson"}
REFUSED_MODULES = {"asyncio", "ctypes", "curses", "multiprocessing", "socket", "ssl", "subprocess", "unittest"}

_LIST_MODULES = """
import atexit, sys
atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr))
sys.argv[1:] = {arguments!r}
"""
_RUN_MAIN = "from sessionstore.cli import main; main()"


def modules_of(code: str, arguments: Sequence[str], directory: Path) -> set[str]:
    """The modules that a fresh interpreter has loaded when it has run `code`."""
    done = subprocess.run(
        [sys.executable, "-c", _LIST_MODULES.format(arguments=list(arguments)) + code],
        cwd=directory,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    return set(done.stderr.split())


@pytest.fixture
def big_store(tmp_path: Path, big_store_bytes: bytes) -> Path:
    """A store of the size and shape met in production."""
    path = tmp_path / "sessions.json"
    path.write_bytes(big_store_bytes)
    return path


@pytest.mark.promise("CLI3")
@pytest.mark.parametrize("arguments", [["status", "--json"], ["--store", "sessions.json", "status", "--json"]])
def test_status_json_imports_no_test_report_or_terminal_library(arguments: list[str], store_path: Path) -> None:
    """CLI3: of what is installed, `status --json` imports orjson; of the standard library, nothing heavy."""
    store_path.write_bytes(b'{"a": {}}')
    loaded = modules_of(_RUN_MAIN, arguments, store_path.parent) - modules_of("", [], store_path.parent)
    packages = {name.partition(".")[0] for name in loaded}
    assert packages - sys.stdlib_module_names <= ALLOWED_PACKAGES
    assert not packages & REFUSED_MODULES
    assert len(loaded) <= MAX_MODULES_ABOVE_BARE


@pytest.mark.promise("CLI3")
def test_status_json_needs_little_more_memory_and_time_than_an_interpreter(big_store: Path, tmp_path: Path) -> None:
    """CLI3: the peak memory of `status --json` on a 7.6 MB store is at most 15 MB above an interpreter's."""
    # Compiled modules in a place of their own: a first run compiles, the others are what a monitor meets.
    environ = clean_environment(PYTHONPYCACHEPREFIX=str(tmp_path / "pycache"))
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    programs = {
        "bare": [sys.executable, "-c", "pass"],
        "status": command("--store", str(big_store), "status", "--json"),
    }
    finished: dict[str, list[Finished]] = {name: [] for name in programs}
    for number in range(ROUNDS + 1):
        for name, arguments in programs.items():
            done = launch(arguments, directory=tmp_path, environ=environ)
            assert done.exit_code == 0, done.stderr
            if number:
                finished[name].append(done)
    bare, status = finished["bare"], finished["status"]
    assert '"sessions": 35' in status[0].stdout
    # The most that status ever took against the least that the interpreter did: memory needs no averaging.
    above_mb = max(done.peak_rss_mb for done in status) - min(done.peak_rss_mb for done in bare)
    assert above_mb <= MAX_MB_ABOVE_BARE
    above_ms = statistics.median(done.elapsed_ms for done in status) - statistics.median(
        done.elapsed_ms for done in bare
    )
    assert above_ms <= MAX_MS_ABOVE_BARE


_INTERRUPT_IMPORT = """
import sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
sys.argv[1:] = {arguments!r}
"""


@pytest.mark.promise("CLI1")
@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (["status", "--json"], "sessionstore.cli.status"),
        (["status", "--json"], "sessionstore.cli.survey"),
        (["list"], "sessionstore.cli.commands"),
        (["list"], "click"),
    ],
)
def test_an_interrupt_while_the_command_starts_is_status_130(arguments: list[str], module: str, tmp_path: Path) -> None:
    """CLI1: Ctrl-C before the command has done anything ends it as at any other time, without a traceback."""
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPT_IMPORT.format(module=module, arguments=arguments) + _RUN_MAIN],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_importing_the_package_imports_none_of_its_modules(tmp_path: Path) -> None:
    """A program pays for the names that it uses."""
    loaded = modules_of("import sessionstore", [], tmp_path)
    assert {name for name in loaded if name.startswith("sessionstore")} == {"sessionstore"}


@pytest.mark.parametrize("name", sessionstore.__all__)
def test_every_public_name_is_the_one_of_its_module(name: str) -> None:
    """A lazy name is the object itself, found once and then an ordinary attribute."""
    value = getattr(sessionstore, name)
    assert value is getattr(importlib.import_module(value.__module__), name)
    assert vars(sessionstore)[name] is value


def test_public_names_are_listed_and_others_refused() -> None:
    """`dir` and `import *` know the lazy names; an unknown name is an AttributeError as from any module."""
    assert set(sessionstore.__all__) <= set(dir(sessionstore))
    assert sorted(sessionstore.__all__) == sessionstore.__all__
    with pytest.raises(AttributeError, match="has no attribute 'Sessions'"):
        _ = sessionstore.Sessions  # type: ignore[attr-defined]


def test_each_instance_of_the_package_has_its_own_lazy_names() -> None:
    """A second instance of the package never hands out the classes of the first."""
    image = load_image()
    assert image.package.SessionStore is image.modules["sessionstore.store"].SessionStore
    assert image.package.SessionStore is not sessionstore.SessionStore


@pytest.mark.promise("CLI1")
@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("list >&-", 1),
        ("status --json >&-", 1),
        ("status >&-", 1),
        ("set b - <&-", 1),
        ("set b '{}' 2>&-", 0),
        ("set b '{}' 2>/dev/full", 0),
        ("list 2>&-", 0),
        ("show nope 2>&-", 1),
        ("list >&- 2>&- <&-", 1),
    ],
)
def test_without_a_standard_stream_there_is_no_traceback_and_the_work_is_done(
    tmp_path: Path, line: str, status: int
) -> None:
    """CLI1: what cannot be shown is an error of status 1; what was only a remark costs nothing."""
    store = tmp_path / "sessions.json"
    store.write_text('{"old": {"updatedAt": 1}}')  # due for maintenance: a write has something to remark
    program = shlex.join([*command("--store", str(store))])
    done = subprocess.run(
        ["sh", "-c", f"OPENCLAW_SESSION_CACHE_TTL_MS=45s {program} {line}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == status, done
    assert ("b" in json.loads(store.read_bytes())) == ("set b '{}'" in line)


@pytest.mark.promise("CLI1")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("words", [["list"], ["set", "b", "{}"], ["status", "--json"]])
def test_an_error_of_standard_output_is_not_taken_for_one_of_the_disk(tmp_path: Path, words: list[str]) -> None:
    """CLI1: "no space left" names the stream that is full."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("--store", str(tmp_path / "sessions.json"), *words),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
            cwd=Path(__file__).parents[2],
        )
    assert done.returncode == 1
    assert "standard output: " in done.stderr
