"""pytest plugin: ties tests to promises and ends a run with a verdict.

A test says which promises it checks (`@pytest.mark.promise("SNAP1")`) or which planted bug it kills
(`@pytest.mark.mutant("B64", promise="WRITE6")`), and counts what it sampled (fixture `evidence`). All of it travels in
`user_properties`, so it crosses xdist's process border and reaches JUnit files. With `--verdict` the controller shows
one line per finished test and a table at the end; the list of promises is named by the ini option `promises`.

Not a runner: pytest collects, runs and fails tests as always, and decides the exit status.
"""

from __future__ import annotations

import importlib
import os
import platform
import shlex
import sys
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from storecheck import verdict as verdicts
from storecheck.searched import LISTENERS
from storecheck.verdict import BOUND_KINDS, MutantKill, PromiseText, TestMarks, TestRecord, Verdict, total_evidence

pytest_plugins = ("storecheck.report.plugin",)
"""Shards and reports."""

MUTANT_VARIABLE = "STORECHECK_MUTANT"
"""Names the planted bug to run with; child processes inherit it."""

_PROPERTY_PROMISE = "promise"
_PROPERTY_MUTANT = "mutant"
_PROPERTY_MUTANT_PROMISE = "mutant_promise"
_PROPERTY_EVIDENCE = "evidence_"
_WORKER_MARKS = "storecheck_marks"

_REPLAY_OPTIONS = ("--hypothesis-profile", "--hypothesis-seed", "--mutant")
"""Options that change what a test does, and so belong into the command that replays it."""

_REPLAY_VARIABLES = ("PYTHONHASHSEED",)


# -- what a test says -------------------------------------------------------------------------------------------------


class Evidence:
    """Counts what the running test sampled.

    One object per session: Hypothesis refuses fixtures that pytest makes anew for each test, and counting over all
    examples of a test is what is wanted here. Every count goes to the test that runs at that moment.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def __repr__(self) -> str:
        # Hypothesis prints fixtures in minimal examples; an address would differ from run to run.
        return "evidence"

    def add(self, *, steps: int = 0, histories: int = 0, schedules: int = 0, crash_states: int = 0) -> None:
        """Add to the counts of the running test.

        Raises:
            ValueError: a count is negative.
        """
        added = {"steps": steps, "histories": histories, "schedules": schedules, "crash_states": crash_states}
        for kind, count in added.items():
            if count < 0:
                raise ValueError(f"evidence {kind}={count} is negative. Give what was looked at, 0 or more.")
            self._counts[kind] = self._counts.get(kind, 0) + count

    def searched(self, did: Mapping[str, int]) -> None:
        """Add what one search did: see `storecheck.searched`; of bounds the largest counts."""
        for kind, count in did.items():
            before = self._counts.get(kind, 0)
            self._counts[kind] = max(before, count) if kind in BOUND_KINDS else before + count

    def take(self) -> dict[str, int]:
        """Return the counts above zero and start again from zero."""
        counts = {kind: count for kind, count in self._counts.items() if count}
        self._counts.clear()
        return counts


_EVIDENCE = pytest.StashKey[Evidence]()


@pytest.fixture(scope="session")
def evidence(request: pytest.FixtureRequest) -> Evidence:
    """Count what this test samples: `evidence.add(steps=12, histories=1)`."""
    return request.config.stash[_EVIDENCE]


def marks_of(item: pytest.Item) -> TestMarks:
    """What `item` says with the markers `promise` and `mutant`.

    Raises:
        ValueError: a marker is used in a form that it does not have.
    """
    promises: list[str] = []
    kills: list[MutantKill] = []
    for mark in item.iter_markers("promise"):
        if not mark.args or mark.kwargs or not all(isinstance(arg, str) for arg in mark.args):
            raise ValueError(f'{item.nodeid}: promise{mark.args!r} names no promise. Write promise("SNAP1").')
        promises.extend(mark.args)
    for mark in item.iter_markers("mutant"):
        if len(mark.args) != 1 or set(mark.kwargs) != {"promise"}:
            raise ValueError(
                f"{item.nodeid}: a marker mutant names no bug or no promise. "
                'Write mutant("B64", promise="WRITE6"): one bug, and one promise that it breaks.'
            )
        kills.append(MutantKill(str(mark.args[0]), str(mark.kwargs["promise"])))
    return TestMarks(tuple(dict.fromkeys(promises)), tuple(kills))


def _to_properties(marks: TestMarks) -> list[tuple[str, object]]:
    properties: list[tuple[str, object]] = [(_PROPERTY_PROMISE, promise) for promise in marks.promises]
    for kill in marks.kills:
        properties += [(_PROPERTY_MUTANT, kill.mutant), (_PROPERTY_MUTANT_PROMISE, kill.promise)]
    return properties


def _from_properties(properties: Iterable[tuple[str, object]]) -> tuple[TestMarks, dict[str, int]]:
    values: dict[str, list[str]] = {_PROPERTY_PROMISE: [], _PROPERTY_MUTANT: [], _PROPERTY_MUTANT_PROMISE: []}
    counts: dict[str, int] = {}
    for name, value in properties:
        if name in values:
            values[name].append(str(value))
        elif name.startswith(_PROPERTY_EVIDENCE) and isinstance(value, int):
            counts[name.removeprefix(_PROPERTY_EVIDENCE)] = value
    kills = map(MutantKill, values[_PROPERTY_MUTANT], values[_PROPERTY_MUTANT_PROMISE])
    return TestMarks(tuple(values[_PROPERTY_PROMISE]), tuple(kills)), counts


# -- options ----------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--verdict`, `--verdict-json`, `--mutant` and the ini option `promises`."""
    group = parser.getgroup("storecheck")
    group.addoption("--verdict", action="store_true", help="show live progress and end with a verdict per promise")
    group.addoption("--verdict-json", metavar="FILE", type=Path, help="write the verdict per promise to FILE as JSON")
    group.addoption(
        "--mutant",
        metavar="ID",
        help=f"run with the planted bug ID: sets {MUTANT_VARIABLE} before tests are imported",
    )
    parser.addini("promises", "the project's list of promises, as module:attribute")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Choose the planted bug before a conftest can import the code under test."""
    mutant = early_config.known_args_namespace.mutant
    if mutant is not None:
        os.environ[MUTANT_VARIABLE] = mutant


def load_promises(location: str) -> tuple[PromiseText, ...]:
    """The list of promises at `location`, written `module:attribute`.

    Raises:
        pytest.UsageError: there is no such list, or two promises have one id.
    """
    module_name, colon, attribute = location.partition(":")
    if not (module_name and colon and attribute):
        raise pytest.UsageError(
            f'ini option promises is "{location}". Give module:attribute, such as project.promises:ALL.'
        )
    try:
        promises = tuple(getattr(importlib.import_module(module_name), attribute))
    except (ImportError, AttributeError) as error:
        raise pytest.UsageError(f'ini option promises is "{location}", which cannot be loaded: {error}') from error
    ids = [promise.id for promise in promises]
    if len(set(ids)) != len(ids):
        twice = sorted({id_ for id_ in ids if ids.count(id_) > 1})
        raise pytest.UsageError(f"{location} has more than one promise with the id {', '.join(twice)}. Ids are unique.")
    return promises


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and in the controller the collector of verdicts if asked for."""
    config.addinivalue_line("markers", "promise(*ids): the promises that this test checks")
    config.addinivalue_line(
        "markers", "mutant(id, promise): the planted bug that this test kills, and the promise it breaks"
    )
    config.stash[_EVIDENCE] = Evidence()
    LISTENERS.append(config.stash[_EVIDENCE].searched)
    location = config.getini("promises")
    promises = load_promises(location) if location else ()
    item_marks = _ItemMarks(location, frozenset(promise.id for promise in promises))
    config.pluginmanager.register(item_marks, "storecheck-marks")
    wanted = config.getoption("verdict") or config.getoption("verdict_json") or config.getoption("report_dir")
    if not wanted or _is_worker(config):
        return
    if not promises:
        option = "--report-dir" if config.getoption("report_dir") else "--verdict"
        raise pytest.UsageError(f"{option} needs the list of promises. Set the ini option promises=module:attribute.")
    config.pluginmanager.register(_VerdictCollector(config, promises, item_marks), "storecheck-verdict")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop listening to searches."""
    if _EVIDENCE in config.stash:
        LISTENERS.remove(config.stash[_EVIDENCE].searched)


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


# -- in the process that runs the tests -------------------------------------------------------------------------------


class _ItemMarks:
    """Reads each test's markers and attaches them, with the evidence, to its reports."""

    def __init__(self, location: str, known_ids: frozenset[str]) -> None:
        self._location = location
        self._known_ids = known_ids
        self._wrong: dict[str, str] = {}
        self.marks_by_nodeid: dict[str, TestMarks] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            try:
                marks = marks_of(item)
            except ValueError as error:
                marks = TestMarks()
                self._wrong[item.nodeid] = str(error)
            self.marks_by_nodeid[item.nodeid] = marks
            unknown = [id_ for id_ in marks.promise_ids if id_ not in self._known_ids]
            if unknown and self._location:
                self._wrong[item.nodeid] = (
                    f"{item.nodeid} names promise {', '.join(unknown)}, which {self._location} does not list. "
                    "Correct the marker, or add the promise there."
                )

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        # The test fails, not the collection: xdist turns an error while collecting into an internal error of a worker.
        if item.nodeid in self._wrong:
            pytest.fail(self._wrong[item.nodeid], pytrace=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        # At teardown, not before: fixtures may still count evidence, and a report copies the properties it finds.
        if call.when == "setup":
            item.user_properties.extend(_to_properties(self.marks_by_nodeid[item.nodeid]))
        elif call.when == "teardown":
            counts = item.config.stash[_EVIDENCE].take()
            item.user_properties.extend((_PROPERTY_EVIDENCE + kind, count) for kind, count in counts.items())
        return (yield)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if _is_worker(session.config):
            # A test that takes its worker down leaves no properties: the controller looks them up in what any worker
            # collected (all collect the same tests).
            session.config.workeroutput[_WORKER_MARKS] = [  # type: ignore[attr-defined]
                [nodeid, _to_properties(marks)] for nodeid, marks in self.marks_by_nodeid.items()
            ]


# -- in the process that shows the result -----------------------------------------------------------------------------


class _VerdictCollector:
    """Follows the run, shows a line per finished test, and the verdict at the end."""

    def __init__(self, config: pytest.Config, promises: Sequence[PromiseText], item_marks: _ItemMarks) -> None:
        self._config = config
        self._item_marks = item_marks
        self._promises = promises
        self._started_s = time.monotonic()
        self._collected: dict[str, TestMarks] = {}
        self._total = 0
        self._running = True
        self._phases: dict[str, list[pytest.TestReport]] = {}
        self._finished: dict[str, list[pytest.TestReport]] = {}

    # Following the run.

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self) -> None:
        reporter = self._reporter()
        if reporter is not None and self._config.getoption("verdict"):
            # Our lines replace pytest's dots. There is no public switch for the percentages at their end.
            reporter.showfspath = False
            reporter._show_progress_info = False  # noqa: SLF001

    def _reporter(self) -> pytest.TerminalReporter | None:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._total = len(session.items)
        self._collected.update(self._item_marks.marks_by_nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        self._total = len(ids)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        output: dict[str, list[tuple[str, list[tuple[str, object]]]]] = getattr(node, "workeroutput", {})
        for nodeid, properties in output.get(_WORKER_MARKS, []):
            self._collected[nodeid] = _from_properties(properties)[0]

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, tuple[str, str, object], tuple[str, str, object]]:
        category, letter, word = yield
        # No dot while the test runs, since a line of ours follows; but the word is needed for pytest's short summary.
        silent = self._running and self._config.getoption("verdict")
        return (category, "", "") if silent else (category, letter, word)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        self._running = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        phases = self._phases.setdefault(report.nodeid, [])
        phases.append(report)
        # xdist reports a test that took its worker down once more, with a `when` of its own and no teardown.
        if report.when not in {"setup", "call"}:
            self._finished[report.nodeid] = self._phases.pop(report.nodeid)
            self._show_progress(report.nodeid)

    def _record(self, nodeid: str) -> TestRecord:
        phases = self._finished[nodeid]
        # A report that xdist makes up for a crashed test has no properties; that of its setup has.
        properties = next((phase.user_properties for phase in reversed(phases) if phase.user_properties), [])
        marks, evidence = _from_properties(properties)
        failed = [phase for phase in phases if phase.failed]
        passed = any(phase.when == "call" and phase.passed for phase in phases)
        return TestRecord(
            nodeid=nodeid,
            outcome="failed" if failed else "passed" if passed else "skipped",
            duration_s=sum(phase.duration for phase in phases),
            marks=self._collected.get(nodeid, marks),
            evidence=evidence,
            example=verdicts.minimal_example(failed[0].longreprtext) if failed else "",
            replay=_replay_command(self._config, nodeid) if failed else "",
        )

    def _show_progress(self, nodeid: str) -> None:
        reporter = self._reporter()
        if reporter is None or not self._config.getoption("verdict"):
            return
        record = self._record(nodeid)
        percent = 100 * len(self._finished) // max(self._total, len(self._finished))
        subjects = [*record.marks.promises, *(f"{kill.mutant}>{kill.promise}" for kill in record.marks.kills)]
        reporter.ensure_newline()
        reporter.write(f"[{percent:3d}%] ")
        reporter.write(f"{record.outcome:7}", **_markup(record.outcome))
        reporter.write(f" {record.duration_s:7.2f} s  {nodeid}  {' '.join(subjects)}".rstrip() + "\n", flush=True)

    # The end.

    def promises_of(self, nodeid: str) -> tuple[str, ...]:
        """The promises that a finished test checks, in the order of the list: as its failure would name them."""
        checked = self._record(nodeid).marks.promise_ids
        return tuple(promise.id for promise in self._promises if promise.id in checked)

    def evidence_totals(self) -> dict[str, int]:
        """What all finished tests counted, each test once."""
        return total_evidence(self._record(nodeid).evidence for nodeid in self._finished)

    def verdict(self, exit_status: int) -> Verdict:
        """What the run says so far."""
        return verdicts.judge(
            self._promises,
            records=[self._record(nodeid) for nodeid in self._finished],
            collected=self._collected,
            duration_s=time.monotonic() - self._started_s,
            exit_status=int(exit_status),
            environment=_environment(self._config),
        )

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
        verdict = self.verdict(exitstatus)
        path: Path | None = self._config.getoption("verdict_json")
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(verdicts.to_json(verdict), encoding="utf-8")
        if self._config.getoption("verdict"):
            terminalreporter.section(f"verdict: {verdicts.headline(verdict)}")
            for outcome, line in verdicts.table_lines(verdict):
                terminalreporter.write_line(line, **_markup(outcome))
            for line in verdicts.failure_lines(verdict):
                terminalreporter.write_line(line)


def _markup(outcome: str | None) -> dict[str, bool]:
    colour = {"passed": "green", "failed": "red", "FAILED": "red", "skipped": "yellow", "not verified": "yellow"}
    return {colour[outcome]: True} if outcome in colour else {}


def _environment(config: pytest.Config) -> dict[str, str]:
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "arguments": shlex.join(map(str, config.invocation_params.args)),
    }
    return environment | {
        name: os.environ[name] for name in (*_REPLAY_VARIABLES, MUTANT_VARIABLE) if name in os.environ
    }


def _replay_command(config: pytest.Config, nodeid: str) -> str:
    """The command that runs one test again as this run did, to be given in the root directory of the project."""
    python = Path(sys.executable)
    if python.is_relative_to(config.rootpath):
        python = python.relative_to(config.rootpath)
    variables = [f"{name}={os.environ[name]}" for name in _REPLAY_VARIABLES if name in os.environ]
    options = []
    for option in _REPLAY_OPTIONS:
        value = config.getoption(option.removeprefix("--").replace("-", "_"), None)
        if value is not None:
            options.append(f"{option}={value}")
    return " ".join([*variables, shlex.join([str(python), "-m", "pytest", nodeid, *options])])
