"""pytest options for shards and reports: `--shard 3/8`, `--job search`, `--report-dir DIR`.

A shard runs its part of the tests (split by recorded durations, by pytest-split), draws from seeds of its own, and
leaves `run.json` for `storecheck merge`. Works inside xdist: counterexamples travel with the test reports. Loaded by
`storecheck.pytest_plugin`; imports the renderers only when a report is written.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

if TYPE_CHECKING:
    from storecheck.report.document import Example, KnownFailure, Run
    from storecheck.verdict import Verdict

SHARD_VARIABLES: Final = (
    # For CI that has no variables of its own, as GitHub has none for a matrix. Counted from 1.
    ("STORECHECK_SHARD_INDEX", "STORECHECK_SHARD_COUNT", 1),
    ("CI_NODE_INDEX", "CI_NODE_TOTAL", 1),  # GitLab: parallel
    ("BUILDKITE_PARALLEL_JOB", "BUILDKITE_PARALLEL_JOB_COUNT", 0),  # Buildkite counts from 0
)
RUN_VARIABLES: Final = ("GITHUB_RUN_ID", "CI_PIPELINE_ID", "BUILDKITE_BUILD_NUMBER")
"""What tells one run of CI from the next, and is the same for all its shards."""

REDIS_SCHEMES: Final = ("redis://", "rediss://")

MAX_EXAMPLES_TOLD: Final = 20
"""Counterexamples told in full; each takes seconds. The rest is shown as plain failing tests."""

GIT_TIMEOUT_S: Final = 10.0
_PAYLOAD = "storecheck_counterexample"
_SECRETS = "storecheck_secrets"
"""Attributes of a test's report."""


@dataclass(frozen=True, slots=True)
class ShardChoice:
    """Which part of how many, counted from 1."""

    index: int
    count: int


def parse_shard(text: str) -> ShardChoice:
    """`3/8`.

    Raises:
        ValueError: the text is something else.
    """
    match = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f'--shard is "{text}". Give the part and how many there are, such as 3/8, or auto.')
    return ShardChoice(int(match[1]), int(match[2]))


def shard_of_ci(environ: Mapping[str, str]) -> ShardChoice | None:
    """What our own variables, or those of GitLab or Buildkite, say; None if they say nothing.

    Raises:
        ValueError: they say something that is no shard.
    """
    for index_name, count_name, first in SHARD_VARIABLES:
        index, count = environ.get(index_name, ""), environ.get(count_name, "")
        if index and count:
            if not (index.isdecimal() and count.isdecimal()):
                raise ValueError(f'{index_name} is "{index}" and {count_name} is "{count}". Both are whole numbers.')
            return parse_shard(f"{int(index) + 1 - first}/{int(count)}")
    return None


def run_of_ci(environ: Mapping[str, str]) -> str:
    """What CI calls the run that this is part of; empty outside CI."""
    return next((environ[name] for name in RUN_VARIABLES if environ.get(name)), "")


def seed_of(base: str, shard: ShardChoice, nodeid: str = "") -> int:
    """The seed of a shard, or of one test in it: different for each, the same for the same base."""
    text = f"{base}\0{shard.index}/{shard.count}\0{nodeid}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


# -- options ----------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--shard`, `--shard-seed`, `--job`, where examples are, `--as-found` and `--report-dir`."""
    group = parser.getgroup("storecheck reports")
    group.addoption("--shard", metavar="I/N", help="run part I of N; auto: as the CI's variables say")
    group.addoption(
        "--shard-seed", metavar="TEXT", help="from which the seeds of --job search derive; default: CI's run"
    )
    group.addoption(
        "--job",
        choices=("gate", "search"),
        help="gate: derandomised, no example database, the same result twice; search: seeds of the shard",
    )
    group.addoption(
        "--example-database",
        metavar="WHERE",
        help="with --job search: read earlier examples from here, never written: a directory, redis://HOST, or"
        " github:OWNER/REPO, the artifact hypothesis-example-db of that repository's last run",
    )
    group.addoption(
        "--new-examples",
        metavar="WHERE",
        help="with --job search: keep what this shard finds in this directory or redis:// address; default: the"
        " directory examples in --report-dir, if that is given",
    )
    group.addoption(
        "--as-found",
        action="store_true",
        help="show a failing example as it was found, neither shrunk nor minimised: for runs that only ask whether any"
        " test fails",
    )
    group.addoption("--report-dir", metavar="DIR", type=Path, help="write run.json and the report to DIR")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Turn `--shard` into the options of pytest-split, before it looks at them."""
    try:
        shard = _chosen_shard(config)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
    if shard is None:
        return
    config.option.shard = f"{shard.index}/{shard.count}"
    if not config.pluginmanager.hasplugin("pytest-split") and importlib.util.find_spec("pytest_split") is None:
        raise pytest.UsageError("--shard splits the tests with pytest-split. Install sessionstore[verify].")
    config.option.splits, config.option.group = shard.count, shard.index
    config.option.splitting_algorithm = "least_duration"


def _chosen_shard(config: pytest.Config) -> ShardChoice | None:
    text = config.getoption("shard")
    if text is None:
        return None
    if text != "auto":
        return parse_shard(text)
    shard = shard_of_ci(os.environ)
    if shard is None:
        names = ", ".join(index for index, _, _ in SHARD_VARIABLES)
        raise ValueError(f"--shard auto found none of {names}. Give --shard I/N.")
    return shard


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """After Hypothesis has chosen its profile: what the job changes of it; and the writer of the report."""
    shard = parse_shard(config.getoption("shard")) if config.getoption("shard") else ShardChoice(1, 1)
    base = config.getoption("shard_seed") or run_of_ci(os.environ) or "0"
    job = config.getoption("job")
    for option in ("--example-database", "--new-examples"):
        if config.getoption(option.removeprefix("--").replace("-", "_")) and job != "search":
            raise pytest.UsageError(f"{option} needs --job search: a gate must give the same result twice.")
    if config.getoption("as_found"):
        _tell_as_found()
    if job is not None:
        _change_profile(derandomize=job == "gate", database=None if job == "gate" else _search_database(config))
        if job == "search":
            config.pluginmanager.register(_Seeds(base, shard), "storecheck-seeds")
    directory: Path | None = config.getoption("report_dir")
    if directory is not None:
        is_worker = hasattr(config, "workerinput")
        config.pluginmanager.register(_Carrier(), "storecheck-carrier")
        if not is_worker:
            writer = _ReportWriter(config, directory, shard=shard, seed=base if job == "search" else "none")
            config.pluginmanager.register(writer, "storecheck-report-writer")


def _search_database(config: pytest.Config) -> Any:
    """What a shard of a search reads and writes: the shared examples are read, its own go elsewhere."""
    from hypothesis.database import MultiplexedDatabase

    directory: Path | None = config.getoption("report_dir")
    new = config.getoption("new_examples") or (directory and str(directory / "examples"))
    databases = [open_database(new)] if new else []
    if config.getoption("example_database"):
        databases.append(shared_database(config.getoption("example_database")))
    return MultiplexedDatabase(*databases) if databases else None


def _change_profile(**changes: Any) -> None:
    """Change the current profile of Hypothesis. It keeps its name: tests may ask for that."""
    from hypothesis import settings

    settings.register_profile(settings.get_current_profile_name(), settings.default, **changes)


def _tell_as_found() -> None:
    """Leave out what is done with a failure after it was found; that can take a hundred times as long."""
    from hypothesis import Phase

    from storecheck.drawing import TELLING

    TELLING.minimised = False
    _change_profile(phases=(Phase.explicit, Phase.reuse, Phase.generate))


def shared_database(where: str) -> Any:
    """Earlier examples, read only: from `redis://…`, `github:owner/repository`, or a directory.

    Raises:
        pytest.UsageError: there is no such directory, it is no such name, or redis is not installed.
    """
    from hypothesis.database import GitHubArtifactDatabase, ReadOnlyDatabase

    if where.startswith("github:"):
        match = re.fullmatch(r"github:([\w.-]+)/([\w.-]+)", where)
        if match is None:
            raise pytest.UsageError(f'--example-database is "{where}". Give github:OWNER/REPOSITORY.')
        return ReadOnlyDatabase(GitHubArtifactDatabase(match[1], match[2]))
    if not where.startswith(REDIS_SCHEMES) and not Path(where).is_dir():
        raise pytest.UsageError(
            f'--example-database "{where}" is no directory. Give one, a redis:// address, or github:OWNER/REPOSITORY.'
        )
    return ReadOnlyDatabase(open_database(where))


def open_database(where: str) -> Any:
    """Hypothesis's database in a directory, which need not exist yet, or in the redis of a `redis://` address.

    Raises:
        pytest.UsageError: redis is not installed.
    """
    from hypothesis.database import DirectoryBasedExampleDatabase

    if not where.startswith(REDIS_SCHEMES):
        return DirectoryBasedExampleDatabase(where)
    try:
        from hypothesis.extra.redis import RedisExampleDatabase
        from redis import Redis
    except ImportError as error:
        raise pytest.UsageError(f"{where} needs the package redis. Install it.") from error
    return RedisExampleDatabase(Redis.from_url(where))


class _Seeds:
    """Before each test, sets what Hypothesis draws from: a seed of the shard and the test, in whatever order they run.

    `--hypothesis-seed` would switch the example database off; this does not, and reaches state machines as well.
    """

    def __init__(self, base: str, shard: ShardChoice) -> None:
        from hypothesis import core

        source = getattr(core, "threadlocal", core)  # one of each thread in newer versions, one of all in older ones
        if not hasattr(source, "_hypothesis_global_random"):
            raise pytest.UsageError(
                f"--job search cannot seed Hypothesis {metadata.version('hypothesis')}: it draws from elsewhere now"
            )
        self._source: Any = source
        self._base = base
        self._shard = shard

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        drawn_from = Random(seed_of(self._base, self._shard, item.nodeid))  # noqa: S311 - examples, no secrets
        self._source._hypothesis_global_random = drawn_from  # noqa: SLF001 - looked for in __init__


# -- counterexamples --------------------------------------------------------------------------------------------------


class _Carrier:
    """Attaches what a failure leaves to its report, which crosses xdist's process border.

    That is the counterexample, and the secrets that are to be masked; neither is written from there.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        # A known failure (xfail) counts as skipped for pytest; its cause is looked for among the new ones.
        if (report.failed or hasattr(report, "wasxfail")) and call.excinfo is not None:
            found = _counterexample_in(call.excinfo.value)
            if found is not None:
                sizes = getattr(found, "found_sizes", None)
                document = found.counterexample.to_json()  # type: ignore[attr-defined]
                payload = {"document": document, "found": sizes, "promise": getattr(found, "broken_promise", "")}
                setattr(report, _PAYLOAD, json.dumps(payload))
            from storecheck.report.held import secrets_of_error

            secrets = secrets_of_error(call.excinfo.value, below=item.config.rootpath)
            setattr(report, _SECRETS, json.dumps(sorted(secrets)))
        return report


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, dict[str, Any] | None, dict[str, Any] | None]:
    """On its way from a worker of xdist: half a surrogate pair in what a failure says would end the worker."""
    from storecheck.report.codec import printable

    report = yield
    return cast("dict[str, Any] | None", printable(report))


def _counterexample_in(error: BaseException | None) -> BaseException | None:
    """The exception that carries a counterexample, among this one, its causes and the members of a group."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if hasattr(each, "counterexample"):
            return each
        pending += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]
    return None


# -- the report -------------------------------------------------------------------------------------------------------


class _ReportWriter:
    """Collects what a run says and writes its report at the end."""

    def __init__(self, config: pytest.Config, directory: Path, *, shard: ShardChoice, seed: str) -> None:
        self._config = config
        self._directory = directory
        self._shard = shard
        self._seed = seed
        self._started_at = datetime.now(timezone.utc)
        self._started_s = time.monotonic()
        self._payloads: dict[str, dict[str, Any]] = {}
        self._secrets: set[str] = set()
        self._outcomes: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._durations: dict[str, float] = {}
        # A report of an earlier run must not be taken for this one's, should this one be killed.
        (directory / "run.json").unlink(missing_ok=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        from storecheck.report.masking import secret_values

        if hasattr(report, _PAYLOAD):
            self._payloads[report.nodeid] = json.loads(getattr(report, _PAYLOAD))
            self._secrets |= secret_values(self._payloads[report.nodeid]["document"])
        self._secrets.update(json.loads(getattr(report, _SECRETS, "[]")))
        self._durations[report.nodeid] = self._durations.get(report.nodeid, 0.0) + report.duration
        known = self._outcomes.get(report.nodeid)
        if report.failed:
            self._outcomes[report.nodeid] = "failed"
        elif report.skipped and hasattr(report, "wasxfail"):
            self._outcomes[report.nodeid] = "known"
            self._reasons[report.nodeid] = report.wasxfail.removeprefix("reason: ")
        elif known is None or (report.when == "call" and known not in ("failed", "known")):
            self._outcomes[report.nodeid] = "skipped" if report.skipped else "passed"

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
        from storecheck.report.masking import masker
        from storecheck.report.merging import write_durations, write_report

        collector = self._config.pluginmanager.get_plugin("storecheck-verdict")
        assert collector is not None, "registered whenever --report-dir is given"
        run = self._run(collector.verdict(exitstatus))
        write_report(run, self._directory)
        masked = masker(self._secrets)  # a test may be named after its parameters
        write_durations({masked(test): round(spent_s, 3) for test, spent_s in self._durations.items()}, self._directory)
        terminalreporter.write_line(f"report: {self._directory / 'report.html'}")

    def _run(self, verdict: Verdict) -> Run:
        from storecheck.report.document import Run, Shard
        from storecheck.report.failures import with_masked_lanes
        from storecheck.report.masking import mask_run
        from storecheck.report.merging import figures_of, other_failures_of, with_kept

        documents = {nodeid: payload["document"] for nodeid, payload in self._payloads.items()}
        verdict = with_masked_lanes(verdict, documents)
        outcomes = list(self._outcomes.values())
        shard = Shard(
            index=self._shard.index,
            count=self._shard.count,
            seed=self._seed if self._seed == "none" else f"{seed_of(self._seed, self._shard):016x}",
            job=self._config.getoption("job") or "",
            ci_run=run_of_ci(os.environ),
            started_at=self._started_at.isoformat(timespec="seconds"),
            duration_s=round(time.monotonic() - self._started_s, 3),
            passed=outcomes.count("passed"),
            failed=outcomes.count("failed"),
            known=outcomes.count("known"),
            skipped=outcomes.count("skipped"),
            unfinished=sum(promise.tests_unfinished for promise in verdict.promises),
            exit_status=int(verdict.exit_status),
            environment=verdict.environment,
        )
        examples = self._examples(verdict)
        run = Run(
            commit=commit_of(self._config.rootpath),
            started_at=shard.started_at,
            duration_s=shard.duration_s,
            shards=(shard,),
            missing_shards=(),
            promises=verdict.promises,
            other_tests=verdict.other_tests,
            other_failures=other_failures_of(verdict.other_failures, (example.test for example in examples)),
            examples=examples,
            known=tuple(self._known()),
            bounds=(_bounds(),),
            figures=self._evidence(),
            kept=None,
            made_by=f"storecheck {metadata.version('sessionstore')}",
        )
        return mask_run(with_kept(replace(run, figures=figures_of(run, [run])), ()), secrets=self._secrets)

    def _known(self) -> Generator[KnownFailure, None, None]:
        from storecheck.report.document import KnownFailure
        from storecheck.report.failures import fingerprint_of_payload

        for number, (nodeid, reason) in enumerate(self._reasons.items()):
            payload = self._payloads.get(nodeid) if number < MAX_EXAMPLES_TOLD else None
            fingerprint = ""
            if payload is not None:
                fingerprint = fingerprint_of_payload(payload, payload["promise"] or self._promise_of(nodeid))
            yield KnownFailure(test=nodeid, reason=reason, fingerprint=fingerprint)

    def _promise_of(self, nodeid: str) -> str:
        collector = self._config.pluginmanager.get_plugin("storecheck-verdict")
        assert collector is not None
        return str(next(iter(collector.promises_of(nodeid)), ""))

    def _evidence(self) -> dict[str, float]:
        collector = self._config.pluginmanager.get_plugin("storecheck-verdict")
        assert collector is not None
        return dict(collector.evidence_totals())

    def _examples(self, verdict: Verdict) -> tuple[Example, ...]:
        """One for each cause. Each failure is told in a directory of its own, and the files of those shown are kept."""
        from storecheck.report.examples import discard_failure
        from storecheck.report.merging import FAILURES_DIRECTORY, join_examples, with_files

        failures = self._directory / FAILURES_DIRECTORY
        with tempfile.TemporaryDirectory(prefix="storecheck-") as scratch:
            told = list(self._told(verdict, Path(scratch)))
            joined = join_examples(example for _, example in told)
            for example in joined:
                discard_failure(example, failures)
            return with_files(joined, told, failures)

    def _told(self, verdict: Verdict, scratch: Path) -> Generator[tuple[Path, Example], None, None]:
        from storecheck.report.failures import example_of_failure, example_of_payload, failures_of, promise_broken

        told = 0
        for number, (failure, promise) in enumerate(failures_of(verdict)):
            directory = scratch / str(number)
            payload = self._payloads.get(failure.nodeid)
            if payload is not None and told < MAX_EXAMPLES_TOLD:
                told += 1
                broken = promise_broken(payload, failure, verdict) or promise
                yield (
                    directory,
                    example_of_payload(payload, failure, broken, shard=self._shard.index, directory=directory),
                )
            else:
                yield directory, example_of_failure(failure, promise, shard=self._shard.index)


def _bounds() -> str:
    """How far Hypothesis's profile lets each drawn test go; a test may set limits of its own."""
    from hypothesis import settings

    profile = settings()
    drawn = "derandomised" if profile.derandomize else "seeded"
    return (
        f"By default a drawn test tried at most {profile.max_examples:,} examples, a state machine "
        f"{profile.stateful_step_count:,} steps in each, {drawn}."
    )


def commit_of(root: Path) -> str:
    """The commit of the tree at `root`, or empty if it is under no version control or git is not there."""
    for name in ("GITHUB_SHA", "CI_COMMIT_SHA", "BUILDKITE_COMMIT"):
        if os.environ.get(name):
            return os.environ[name]
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
