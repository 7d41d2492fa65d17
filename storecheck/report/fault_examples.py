"""Makes failing examples from recorded faults: which call failed, what the program did then, and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from storecheck.report.crashes import excerpt_of
from storecheck.report.document import Crash, Example, Replays, Shrunk, SourceExcerpt
from storecheck.report.examples import Origin, fingerprint_of, make_example
from storecheck.report.faults import RecordedFault, crash_of_fault
from storecheck.report.words import plural

MAX_NEXT_CALLS = 4


def fault_example(
    fault: RecordedFault,
    origin: Origin,
    *,
    document: Mapping[str, Any],
    environment: Mapping[str, str],
    replays: Replays,
    template: str,
    shrunk: tuple[Shrunk, ...] = (),
) -> Example:
    """The failing example that a recorded fault is."""
    crash = crash_of_fault(fault)
    sources = _sources(fault, crash)
    return make_example(
        kind="crash",
        document=document,
        environment=environment,
        origin=origin,
        title=_title(fault),
        verdict=tuple(_verdict(fault, crash)),
        # Not the error: whatever makes the call fail, the same code goes wrong.
        fingerprint=fingerprint_of(origin.promise, "crash", cause_of(fault), sources),
        replays=replays,
        shrunk=shrunk,
        preemptions=None,
        crash=crash,
        sources=sources,
        template=template,
        raw="\n".join(_raw(fault)),
    )


def cause_of(fault: RecordedFault) -> list[str]:
    """What is wrong where: the same for the same bug, whichever error showed it."""
    problem = fault.problem
    about = "" if problem is None else problem.what.replace(fault.operation, "the operation")
    return ["failing call", fault.failed.verb, about]


def _title(fault: RecordedFault) -> str:
    problem = fault.problem
    what = "nothing is wrong" if problem is None else problem.problem.partition(": ")[0]
    return f"{happened(fault)}, {what}"


def happened(fault: RecordedFault) -> str:
    """The failing call as the beginning of a sentence."""
    call = f"{fault.failed.verb} of {fault.failed.what}" if fault.failed.what else fault.failed.verb
    kind = fault.failure.kind
    if kind == "short":
        return f"When {fault.failed.verb} takes only a part"
    if kind == "errno":
        return f"When {call} fails with {fault.failure.error}"
    return f"When {fault.how} at {call}" if fault.how else f"When {call} is interrupted"


def _verdict(fault: RecordedFault, crash: Crash) -> list[str]:
    number = crash.cuts[0].after
    after = [f"`{each.verb} {each.what}`".replace(" `", "`") for each in crash.operations[:-1] if each.number > number]
    then = f"It then did {', '.join(after[:MAX_NEXT_CALLS])}" if after else "It made no further call"
    if len(after) > MAX_NEXT_CALLS:
        then += f" and {plural(len(after) - MAX_NEXT_CALLS, 'more call')}"
    ended = "reported success" if fault.ended == "returned" else fault.ended
    sentences = [
        f"Call {number} of `{fault.operation}` failed: `{fault.shown}`.",
        f"{then}, and `{fault.operation}` {ended}.",
    ]
    wrong = "; ".join(each.problem for each in fault.aftermath if each.problem)
    sentences.append(f"**Wrong afterwards**: {wrong}.")
    if crash.states:
        sentences.append(
            f"Of {crash.states} runs in which one call failed in this way, "
            f"**{crash.broken} break{'s' if crash.broken == 1 else ''} the promise**."
        )
    return sentences


def _sources(fault: RecordedFault, crash: Crash) -> tuple[SourceExcerpt, ...]:
    """The line that made the call that failed."""
    path, _, line = fault.failed.place.rpartition(":")
    if not path:
        return ()
    note = f"call {crash.cuts[0].after}, {fault.failed.verb}, fails"
    return (excerpt_of(fault.sources[path], path, {int(line): note}),)


def _raw(fault: RecordedFault) -> list[str]:
    calls = [f"{call.verb} {call.what}{f' ! {call.error}' if call.error else ''}" for call in fault.calls]
    return [*(f"{each.what}: {each.after}; {each.problem or 'as promised'}" for each in fault.aftermath), "", *calls]
