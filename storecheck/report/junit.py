"""The run as a JUnit file: one test case per failing example and per promise; `message` is the title."""

from __future__ import annotations

from junitparser import Error as SuiteError
from junitparser import Failure, JUnitXml, Properties, Property, Skipped, TestCase, TestSuite

from storecheck.report import words
from storecheck.report.document import Example, Run

PREFIX = "storecheck."


def render(run: Run) -> str:
    """The XML text."""
    suite = TestSuite("storecheck")
    suite.timestamp = run.started_at
    for example in run.examples:
        suite.add_testcase(_example(example))
    for promise in run.promises:
        case = TestCase(promise.id, classname="promises")
        case.time = 0
        if promise.outcome == "FAILED":
            survived = f"survived: {', '.join(promise.mutants_survived)}" if promise.mutants_survived else ""
            case.result = [_failure(f"{promise.id}: {promise.title}", survived or promise.text, "promise")]
        elif promise.outcome == "not verified":
            case.result = [Skipped("not verified")]
        suite.add_testcase(case)
    for other in run.other_failures:
        case = TestCase(other.nodeid, classname="tests")
        case.result = [_failure(next(iter(other.example.splitlines()), other.nodeid), other.example, "test")]
        suite.add_testcase(case)
    for index in run.missing_shards:
        case = TestCase(f"shard {index}", classname="shards")
        case.result = [SuiteError(f"shard {index} did not report", "missing-shard")]
        suite.add_testcase(case)
    suite.time = run.duration_s
    xml = JUnitXml("storecheck")
    xml.add_testsuite(suite)
    xml.time = run.duration_s
    text: bytes = xml.tostring()  # type: ignore[no-untyped-call]
    return _printable(text.decode("utf-8"))


def _printable(text: str) -> str:
    """XML 1.0 has no control characters and neither of U+FFFE and U+FFFF, however they are written."""
    return "".join(each for each in text if each in "\t\n\r" or (ord(each) >= 0x20 and each not in "\ufffe\uffff"))


def _failure(message: str, text: str, kind: str) -> Failure:
    failure = Failure(_printable(message), kind)
    failure.text = _printable(text)
    return failure


def _example(example: Example) -> TestCase:
    path, _, name = example.test.rpartition("::")
    case = TestCase(name or example.id, classname=(path or "storecheck").replace("/", ".").removesuffix(".py"))
    case.time = 0
    properties = {
        "id": example.id,
        "kind": example.kind,
        "promise": example.promise,
        "fingerprint": example.fingerprint,
        "shards": ", ".join(map(str, example.shards)),
        "replay": example.replay,
    }
    collected = Properties()  # type: ignore[no-untyped-call]
    for key, value in properties.items():
        collected.add_property(Property(PREFIX + key, _printable(value)))
    case.append(collected)  # type: ignore[no-untyped-call]
    lines = [f"Replay: {example.replay}", words.plain(" ".join(example.verdict))]
    if example.deciding is not None:
        order = " < ".join(f"P{p.process + 1} {p.verb} ({p.number})" for p in example.deciding.points)
        lines.append(f"Order that matters: {order}")
    case.result = [_failure(example.title, "\n".join(lines), example.kind)]
    return case
