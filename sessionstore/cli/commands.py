"""The subcommands of `sessionstore`: what they take, what they print, how they exit.

Each is a thin layer over `survey`, `doctor`, `cleanup`, `stress`, `measure` and the store itself. Whatever is wrong
with a store or a disk comes out as one message without a traceback and exit status 1; click reports wrong usage with 2.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import IO, Any, TypeVar

import click

from sessionstore.cli import (
    INTERRUPTED,
    STORE_VARIABLE,
    chosen_store,
    cleanup,
    doctor,
    measure,
    memory,
    repair,
    scratch,
    stress,
)
from sessionstore.cli import status as status_report
from sessionstore.cli.survey import has_file, survey
from sessionstore.cli.terminal import counted, is_decorated, json_text, printable, table, to_stderr, to_stdout
from sessionstore.draft import Draft
from sessionstore.encoding import MAX_DEPTH, InvalidJSONError, decode_entry, nesting_depth
from sessionstore.errors import StoreError, command_for
from sessionstore.settings import MAX_LOCK_TIMEOUT_S, Settings, misread_variables
from sessionstore.snapshot import Snapshot, normalise_key
from sessionstore.store import SessionStore

MAX_TARGET_KB = 1_000_000
DEFAULT_LOCK_TIMEOUT_S = Settings().lock_timeout_s

_COLOURS = {"problem": "red", "remark": "yellow", "fine": "green"}

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(slots=True)
class Target:
    """The store that the command is about, and how long to wait for its lock."""

    option: str | None = None
    lock_timeout_s: float = DEFAULT_LOCK_TIMEOUT_S

    @property
    def path(self) -> str:
        """The store file."""
        return chosen_store(self.option)

    def settings(self) -> Settings:
        """Limits from the environment, for a process that does one thing and ends: nothing is worth keeping."""
        for misread in misread_variables(os.environ):
            logging.getLogger("sessionstore").warning("%s", misread)
        return replace(Settings.from_env(os.environ), cache_ttl_ms=0, lock_timeout_s=self.lock_timeout_s)

    def open(self) -> SessionStore:
        """The store."""
        return SessionStore(self.path, _without_maintenance(self.settings()))


def _without_maintenance(settings: Settings) -> Settings:
    # Warned of by each process that writes, and each command is one, it would be told of every little change.
    return replace(settings, maintenance_mode="off")


class _Failure(click.ClickException):
    """A problem of the store: exit status 1."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message. By the same way as everything else: click would send UTF-8 to an ASCII terminal."""
        to_stderr(f"Error: {printable(self.message)}") if file is None else super().show(file)


class _Commands(click.Group):
    """Turns what the store and the disk raise into one message."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            to_stderr("interrupted")
            ctx.exit(INTERRUPTED)
        except StoreError as error:
            raise _Failure(str(error)) from error
        except OSError as error:
            # Whoever reads the output has gone: click ends the program quietly.
            if error.errno == errno.EPIPE:
                raise
            raise _Failure(str(error)) from error


class _LogToStderr(logging.Handler):
    """Log records as lines on stderr, where it is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        to_stderr(f"{record.levelname.lower()}: {printable(record.getMessage())}")


def _store_option(*, inherited: bool) -> Callable[[Command], Command]:
    """`--store FILE`, for the group and (`inherited`) for each command after it."""

    def remember(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        if value is None:
            return
        if not value or "\0" in value:
            raise click.BadParameter("give the path of the store file")
        ctx.ensure_object(Target).option = value

    return click.option(
        "--store",
        metavar="FILE",
        expose_value=False,
        callback=remember,
        help="The store file."
        if inherited
        else f"The store file. Default: ${STORE_VARIABLE}, else sessions.json in the current directory.",
    )


def _decode(raw: bytes) -> dict[str, Any]:
    """A whole entry given on the command line, under the rules that the store reads by."""
    try:
        entry: object = decode_entry(raw)
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"not JSON: {error.msg} (character {error.pos})", param_hint="JSON") from None
    except InvalidJSONError as error:
        raise click.BadParameter(error.reason, param_hint="JSON") from None
    except RecursionError:
        raise click.BadParameter("nested too deeply", param_hint="JSON") from None
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"not UTF-8: {error.reason} (byte {error.start})", param_hint="JSON") from None
    if not isinstance(entry, dict):
        raise click.BadParameter('an entry is an object, such as \'{"label": "x"}\'', param_hint="JSON")
    if nesting_depth(entry) > MAX_DEPTH:
        raise click.BadParameter(f"nested deeper than {MAX_DEPTH} levels", param_hint="JSON")
    return entry


def _check_key(_ctx: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        # The bytes that were typed: Python takes an ASCII locale by its word, and terminals send UTF-8 all the same.
        return os.fsencode(value).decode("utf-8")
    except UnicodeError:
        raise click.BadParameter("it is not UTF-8") from None


key_argument = click.argument("key", callback=_check_key)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs instead.")


def _print_json(value: object) -> None:
    to_stdout(json.dumps(value, indent=2))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@_store_option(inherited=False)
@click.option(
    "--lock-timeout",
    "lock_timeout_s",
    type=click.FloatRange(0, MAX_LOCK_TIMEOUT_S),
    metavar="SECONDS",
    default=DEFAULT_LOCK_TIMEOUT_S,
    show_default=True,
    help="How long a command that writes waits for other writers; 0 tries once.",
)
@click.version_option(package_name="sessionstore")
@click.pass_context
def sessionstore(ctx: click.Context, lock_timeout_s: float) -> None:
    """Look at, change, repair and measure a store of sessions in one JSON file.

    Results go to stdout, progress and logs to stderr. Exit status: 0 all is well, 1 the store has a problem or has no
    such session, 2 wrong usage, 130 and 143 ended by Ctrl-C or SIGTERM.
    """
    if math.isnan(lock_timeout_s):
        raise click.BadParameter("give seconds", param_hint="--lock-timeout")
    ctx.ensure_object(Target).lock_timeout_s = lock_timeout_s
    logger = logging.getLogger("sessionstore")
    handler = _LogToStderr()
    logger.addHandler(handler)
    ctx.call_on_close(lambda: logger.removeHandler(handler))


@sessionstore.command()
@_store_option(inherited=True)
@json_option
@click.pass_context
def status(ctx: click.Context, *, as_json: bool) -> None:
    """Tell the state of the store: size, sessions, settings, lock, files next to it. Reads only, takes no lock."""
    path = ctx.ensure_object(Target).path
    ctx.exit(status_report.print_json(path) if as_json else status_report.print_text(path))


@dataclass(frozen=True, slots=True)
class _Listed:
    key: str
    updated_at: float | None
    size_bytes: int
    label: object


def _listed(snapshot: Snapshot) -> list[_Listed]:
    """All sessions, the newest first; those without a time last."""
    found: list[_Listed] = []
    for ordinals in snapshot.index.table.ordinals.values():
        ordinal = snapshot.winner(ordinals)
        raw = snapshot.entry_bytes(ordinal)
        entry = decode_entry(raw)
        updated_at = entry.get("updatedAt")
        is_time = isinstance(updated_at, int | float) and not isinstance(updated_at, bool)
        found.append(
            _Listed(snapshot.index.table.keys[ordinal], updated_at if is_time else None, len(raw), entry.get("label"))
        )
    return sorted(found, key=lambda session: -math.inf if session.updated_at is None else session.updated_at)[::-1]


def _iso_time(time_ms: float | None) -> str:
    if time_ms is None:
        return "-"
    try:
        when = datetime.fromtimestamp(time_ms / 1000, tz=timezone.utc)
    except (OverflowError, ValueError, OSError):
        return str(time_ms)  # not a time in this era
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"


@sessionstore.command(name="list")
@_store_option(inherited=True)
@json_option
@click.pass_context
def list_sessions(ctx: click.Context, *, as_json: bool) -> None:
    """List all sessions, the newest first: key, time of the last update, size of the entry in bytes, label."""
    target = ctx.ensure_object(Target)
    snapshot = target.open().load(skip_cache=True)
    if snapshot.content is None:
        to_stderr(printable(f"{target.path}: there is no file, so there are no sessions"))
    sessions = _listed(snapshot)
    if as_json:
        _print_json(
            [
                {
                    "key": session.key,
                    "updatedAt": session.updated_at,
                    "updatedAtTime": None if session.updated_at is None else _iso_time(session.updated_at),
                    "sizeBytes": session.size_bytes,
                    "label": session.label,
                }
                for session in sessions
            ]
        )
        return
    rows = [
        (
            _shown_key(session.key),
            _iso_time(session.updated_at),
            f"{session.size_bytes:,}",
            printable(session.label) if isinstance(session.label, str) else "",
        )
        for session in sessions
    ]
    to_stdout("\n".join(table(("KEY", "UPDATED", "BYTES", "LABEL"), rows, right=frozenset({"BYTES"}))))


def _shown_key(key: str) -> str:
    return printable(key) or '""'


def _no_such_session(path: str, key: str, *, exists: bool) -> _Failure:
    if not exists:
        return _Failure(f"{path}: there is no file, so no session {key!r} either. Is --store right?")
    return _Failure(f"{path}: no session {key!r}. `{command_for(path)} list` shows the keys.")


@sessionstore.command()
@_store_option(inherited=True)
@key_argument
@click.pass_context
def show(ctx: click.Context, key: str) -> None:
    """Print the entry of session KEY as it is spelled in the file."""
    target = ctx.ensure_object(Target)
    snapshot = target.open().load(skip_cache=True)
    if key not in snapshot:
        raise _no_such_session(target.path, key, exists=snapshot.content is not None)
    ordinals = snapshot.index.table.ordinals[normalise_key(key)]
    text = snapshot.entry_bytes(snapshot.winner(ordinals)).decode("utf-8")
    # One level less of indentation, as the entry stands alone here. Line breaks in strings are escaped, so every one
    # in the text is layout.
    to_stdout(json_text(text.replace("\n  ", "\n"), sys.stdout))


@sessionstore.command(name="set")
@_store_option(inherited=True)
@key_argument
@click.argument("entry_text", metavar="JSON")
@click.pass_context
def set_session(ctx: click.Context, key: str, entry_text: str) -> None:
    """Replace the whole entry of session KEY by JSON, an object, or create it. `-` reads the object from stdin."""
    if not normalise_key(key):
        raise click.BadParameter("it is empty, as an unset variable is. Give the key of a session.", param_hint="KEY")
    # A file that is sent through a pipe may begin with a byte order mark, as a store file may.
    entry = _decode(sys.stdin.buffer.read().removeprefix(BOM_UTF8) if entry_text == "-" else os.fsencode(entry_text))
    target = ctx.ensure_object(Target)
    settings = target.settings()
    has_file(target.path)

    def put(draft: Draft) -> bool:
        existed = key in draft
        draft[key] = entry
        return existed

    done = SessionStore(target.path, _without_maintenance(settings)).update(put, active_session=key)
    outcome = "unchanged" if not done.written else "replaced" if done.result else "created"
    if outcome == "created":
        cleanup.warn(target.path, done.snapshot, settings, active_session=key)
    to_stdout(f"{outcome} {_shown_key(normalise_key(key))}")


@sessionstore.command()
@_store_option(inherited=True)
@key_argument
@click.pass_context
def remove(ctx: click.Context, key: str) -> None:
    """Remove session KEY, under all spellings of it. Exit status 1 if there is none."""
    target = ctx.ensure_object(Target)
    if not has_file(target.path):
        raise _no_such_session(target.path, key, exists=False)

    def take_out(draft: Draft) -> bool:
        existed = key in draft
        if existed:
            del draft[key]
        return existed

    if not target.open().update(take_out).result:
        raise _no_such_session(target.path, key, exists=True)
    to_stdout(f"removed {_shown_key(normalise_key(key))}")


@sessionstore.command(name="cleanup")
@_store_option(inherited=True)
@click.option("--enforce", is_flag=True, help="Do it, instead of saying what would be done.")
@click.pass_context
def clean_up(ctx: click.Context, *, enforce: bool) -> None:
    """Remove old and surplus sessions and back up a large file, as maintenance in mode `enforce` does with each write.

    Without --enforce nothing is changed.
    """
    target = ctx.ensure_object(Target)
    settings = target.settings()
    done = cleanup.enforce(target.path, settings) if enforce else cleanup.preview(target.path, settings)
    would = "" if enforce else "would "
    days = settings.prune_after_ms / 86_400_000
    for verb, keys, why in (
        ("remove", done.too_old, f"not updated for more than {days:g} days"),
        ("remove", done.too_many, f"not among the {settings.max_entries:,} newest"),
    ):
        for key in keys:
            to_stdout(f"{would}{verb if would else 'removed'} {printable(key)}: {why}")
    if done.backed_up_bytes is not None:
        backed_up = f"would back up the file, {done.backed_up_bytes:,} bytes" if would else f"backup: {done.backup}"
        to_stdout(printable(f"{backed_up}: larger than {settings.rotate_bytes:,} bytes"))
    removed = len(done.too_old) + len(done.too_many)
    if not done.is_due:
        to_stdout("nothing to do")
    elif enforce:
        to_stdout(f"removed {counted(removed, 'session')}")
    else:
        to_stdout(f"would remove {counted(removed, 'session')}; --enforce does it")


def _tell(findings: Iterable[doctor.Finding]) -> None:
    decorated = is_decorated(sys.stdout)
    for finding in findings:
        level = f"{finding.level}:"
        shown = click.style(level, fg=_COLOURS[finding.level], bold=True) if decorated else level
        to_stdout(f"{shown} {printable(finding.text)}")
        for detail in finding.details:
            to_stdout(f"    {printable(detail)}")


@sessionstore.command(name="doctor")
@_store_option(inherited=True)
@click.option(
    "--repair",
    "repairing",
    is_flag=True,
    help="Set the exact bytes of a corrupt file aside, then replace it by every entry that can be read.",
)
@click.pass_context
def diagnose(ctx: click.Context, *, repairing: bool) -> None:
    """Explain what is wrong with the store, where, and what to do; --repair does it.

    A healthy file is left alone. Copies of corrupt content are named FILE.corrupt-TIME-RANDOM and never removed by this
    program.
    """
    target = ctx.ensure_object(Target)
    findings = list(doctor.findings(survey(target.path)))
    _tell(findings)
    if repairing:
        _tell(doctor.told_repair(repair.repair(target.path, lock_timeout_s=target.lock_timeout_s)))
        findings = list(doctor.findings(survey(target.path)))
    problems = [finding for finding in findings if finding.level == "problem"]
    if problems:
        raise _Failure(f"{target.path}: {problems[0].name or problems[0].text}")


def _megabytes(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / memory.MB:.1f}"


_STRESS_COLUMNS = ("cycle", "rss_mb", "heap_mb", "external_mb", "store_kb", "elapsed_ms")
_STRESS_WIDTHS = (6, 8, 8, 11, 9, 11)


def _stress_row(cells: Iterable[str]) -> str:
    return " ".join(cell.rjust(width) for cell, width in zip(cells, _STRESS_WIDTHS, strict=True))


@sessionstore.command(name="stress")
@_store_option(inherited=True)
@click.option(
    "--target-kb",
    type=click.IntRange(1, MAX_TARGET_KB),
    default=7600,
    show_default=True,
    help="Size of the store that is built, in units of 1000 bytes.",
)
@click.option("--cycles", type=click.IntRange(1, 1_000_000), default=50, show_default=True, help="Cycles to run.")
@click.option(
    "--sample-every",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Cycles between two lines of the table.",
)
@click.option("--reuse-loaded-store", is_flag=True, help="Give each update what was loaded as its base.")
@click.option(
    "--payload-size",
    type=click.IntRange(1, 10_000_000),
    default=2048,
    show_default=True,
    help="Bytes of text per entry.",
)
@click.option(
    "--unique-touches", type=click.IntRange(1), default=400, show_default=True, help="Entries to update in turn."
)
@click.option("--cache-ttl-ms", type=click.IntRange(0, 2**53 - 1), help="Instead of OPENCLAW_SESSION_CACHE_TTL_MS.")
@json_option
@click.pass_context
def run_stress(
    ctx: click.Context,
    *,
    target_kb: int,
    cycles: int,
    sample_every: int,
    reuse_loaded_store: bool,
    payload_size: int,
    unique_touches: int,
    cache_ttl_ms: int | None,
    as_json: bool,
) -> None:
    """Build a store, then load it and update one entry of it, many times, and print memory, size and time.

    The store is built in a temporary directory and removed, unless --store names a file that does not exist yet: then
    it is built there and stays. An existing store is never touched.

    rss_mb is what is resident, heap_mb the part of it that allocators hold, external_mb the rest (program and library
    files); 1 MB is 1,000,000 bytes. elapsed_ms counts from the first cycle.
    """
    option = ctx.ensure_object(Target).option
    if option is not None and os.path.lexists(option):
        raise click.UsageError(f"{option} exists. stress never touches an existing store; name a new file.")
    settings = replace(Settings.from_env(os.environ), maintenance_mode="off")
    if cache_ttl_ms is not None:
        settings = replace(settings, cache_ttl_ms=cache_ttl_ms)
    samples: list[stress.Sample] = []
    with scratch.scratch_directory() as directory:
        path = os.path.join(directory, "sessions.json") if option is None else option
        scratch.build_store(path, size_bytes=target_kb * 1000, payload_bytes=payload_size)
        if not as_json:
            to_stdout(_stress_row(_STRESS_COLUMNS))
        for sample in stress.run_cycles(
            path,
            settings,
            cycles=cycles,
            sample_every=sample_every,
            unique_touches=unique_touches,
            reuse_loaded=reuse_loaded_store,
        ):
            samples.append(sample)
            if not as_json:
                to_stdout(
                    _stress_row(
                        (
                            str(sample.cycle),
                            _megabytes(sample.rss_bytes),
                            _megabytes(sample.heap_bytes),
                            _megabytes(sample.external_bytes),
                            f"{sample.store_bytes / 1000:.0f}",
                            f"{sample.elapsed_ms:.0f}",
                        )
                    )
                )
    growth_bytes = stress.growth_bytes(samples)
    if as_json:
        _print_json(
            {
                "samples": [asdict(sample) for sample in samples],
                "peak_rss_bytes": memory.peak_rss_bytes(),
                "settled_cycle": stress.SETTLED_CYCLE,
                "growth_bytes": growth_bytes,
            }
        )
        return
    grown = "" if growth_bytes is None else f", growth after cycle {stress.SETTLED_CYCLE} {_megabytes(growth_bytes)} MB"
    to_stderr(f"peak {_megabytes(memory.peak_rss_bytes())} MB{grown}")


@sessionstore.command(name="measure")
@_store_option(inherited=True)
@click.option("--rounds", type=click.IntRange(1, 1000), default=9, show_default=True, help="Rounds; medians are shown.")
@json_option
@click.pass_context
def run_measure(ctx: click.Context, *, rounds: int, as_json: bool) -> None:
    """Time the store's operations on this machine and disk, on a copy of this store next to it.

    Without a store, a made-up one of 0.9 MB is measured. Cached means as the environment's limits allow.
    """
    path = os.path.realpath(ctx.ensure_object(Target).path)
    with scratch.scratch_directory(os.path.dirname(path)) as directory:
        copy, size_bytes = measure.copy_of_store(path, directory)
        timings = measure.measure(copy, Settings.from_env(os.environ), rounds=rounds)
    raw_ms = next(timing.median_ms for timing in timings if timing.operation == measure.RAW_WRITE)
    if as_json:
        _print_json(
            {
                "path": path,
                "size_bytes": size_bytes,
                "rounds": rounds,
                "timings": [
                    {
                        "operation": timing.operation,
                        "median_ms": timing.median_ms,
                        "ratio_to_raw": timing.median_ms / raw_ms,
                        "rounds_ms": list(timing.rounds_ms),
                    }
                    for timing in timings
                ],
            }
        )
        return
    to_stdout(f"{printable(path)}: {size_bytes:,} bytes, {counted(rounds, 'round')}, medians")
    rows = [
        (
            timing.operation,
            f"{timing.median_ms:.3f}",
            f"{min(timing.rounds_ms):.3f}",
            f"{max(timing.rounds_ms):.3f}",
            f"{timing.median_ms / raw_ms:.2f}",
        )
        for timing in timings
    ]
    heading = ("OPERATION", "MS", "MIN", "MAX", "OF RAW")
    for line in table(heading, rows, right=frozenset(heading[1:])):
        to_stdout(line)
