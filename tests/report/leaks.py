"""A small project whose tests fail in every way that a report tells, each with a secret under a secret-like key.

Kept as text: it is written to a directory and run there by pytest, in a process of its own.
"""

from __future__ import annotations

from typing import Final

SECRET: Final = "hunter2-very-secret"
SHORT: Final = "x7Q"
"""Shorter than what is masked elsewhere than at its key."""

NUMBER: Final = 80461355
ALONE: Final = "swordfish"
"""How the secrets of plain tests begin: each has its own, which no counterexample and no other test makes known."""


SUBJECT = '''
"""A store that forgets to lock and to sync, and its model."""

import json
import os

from storecheck.report.calls import understand
from storecheck.report.document import Step
from storecheck.report.told import Told, ToldFinding


class Store:
    def __init__(self, root):
        self._path = os.path.join(root, "sessions.json")

    def load(self):
        with open(self._path, encoding="utf-8") as file:
            return json.load(file)

    def set(self, key, field, value):
        sessions = self.load()
        sessions.setdefault(key, {})[field] = value
        temporary = f"{self._path}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(sessions, file)
        os.replace(temporary, self._path)

    def login(self, token):
        raise ValueError(f"login with {token} refused, Authorization: Bearer {token}")


def both_kept(execution):
    sessions = json.loads(execution.files()["sessions.json"])["main"]
    return None if sessions.get("authToken") and sessions.get("model") else f"a change is lost: {sessions}"


def welcome(execution):
    return next((f"{each}" for each in execution.operations if each.error), None)


def play(lines):
    """What a state machine does: a dict that loses what is set twice."""
    kept, steps = {}, []
    for number, line in enumerate(lines, start=1):
        call = understand(line, {})
        before = kept.get(call.arguments[0])
        if len(call.arguments) == 2 and before is None:
            kept[call.arguments[0]] = call.arguments[1]
        found = repr(kept.get(call.arguments[0]))
        expected = repr(call.arguments[-1])
        wrong = len(call.arguments) == 2 and found != expected
        steps.append(Step(
            number=number, process=0, call=line, loose=(), model=f"{call.arguments[0]} = {expected}", disk=0,
            disk_changed=False, disk_bytes=None, returned=found, expected=expected if wrong else None, cache="",
        ))
        if wrong:
            message = f"{call.arguments[0]} is {found} and not {expected}"
            return Told(file="kept", steps=tuple(steps), finding=ToldFinding(about="returned", message=message),
                        environment={"Started with": f"--api-key {kept.get('authToken')}"})
    return Told(file="kept", steps=tuple(steps), finding=None)
'''

TESTS = '''
import json

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

import subject
from storecheck import Operation, PreemptionBounded, Program, RandomSchedules, process
from storecheck.drawing import verify
from storecheck.report import crashes
from storecheck.report.calls import spell
from storecheck.report.told import attach

SECRET = "".join(["hunter2", "-very", "-secret"])  # not as one word: what a report quotes of this file is no leak
SHORT = "x7" + "Q"
NUMBER = 8046 * 10_000 + 1355
ENTRY = {"authToken": SECRET, "pin_secret": SHORT, "token_seed": NUMBER, "credentials": {"user": "u", "pass": [SECRET]}}
FILES = {
    "sessions.json": json.dumps({"main": {"apiKey": SECRET, "pin_secret": SHORT, "token_seed": NUMBER}}).encode(),
    "image": b"\\xff\\xfe\\x00" + json.dumps(ENTRY).encode() + SECRET.encode() + b"\\x00",
    ".env": b"API_TOKEN=" + SECRET.encode() + b"\\n",
}


def program(*processes):
    return Program(
        adapter="subject:Store", processes=processes, files=FILES, environment={"AUTH_TOKEN": SECRET},
    )


@pytest.mark.promise("A1")
def test_race():
    one = process(Operation("set", {"key": "main", "field": "authToken", "value": SECRET}))
    other = process(Operation("set", {"key": "main", "field": "model", "value": f"told {SECRET}"}))
    verify(
        program(one, other), strategy=PreemptionBounded(1), check=subject.both_kept, check_path="subject:both_kept"
    )


@pytest.mark.promise("A1")
def test_race_without_path():
    one = process(Operation("set", {"key": "main", "field": "authToken", "value": SECRET}))
    other = process(Operation("set", {"key": "main", "field": "label", "value": f"told {SECRET}"}))

    def kept(execution):
        sessions = json.loads(execution.files()["sessions.json"])["main"]
        return None if "authToken" in sessions and "label" in sessions else f"lost one of {sessions}"

    verify(program(one, other), strategy=PreemptionBounded(1), check=kept)


@pytest.mark.promise("A1")
def test_sequence():
    one = process(Operation("set", {"key": "main", "field": "authToken", "value": SECRET}),
                  Operation("login", {"token": SECRET}))
    verify(program(one), strategy=RandomSchedules(executions=1), check=subject.welcome, check_path="subject:welcome")


@pytest.mark.promise("A1")
def test_crash():
    one = process(Operation("set", {"key": "main", "field": "authToken", "value": SECRET}))
    found = crashes.find(program(one), file="sessions.json", title=f"authToken {SECRET} is lost")
    error = AssertionError(f"after a power loss: {found}")
    error.counterexample = found
    raise error


@pytest.mark.promise("A1")
def test_needs_its_secret():
    """A bug that only this value has: no placeholder fails."""
    one = process(Operation("set", {"key": "main", "field": "authToken", "value": SECRET}))
    verify(program(one), strategy=RandomSchedules(executions=1), check=needs, check_path="test_leaks:needs")


def needs(execution):
    return "stored as it is" if SECRET.encode() in execution.files()["sessions.json"] else None


class Machine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.lines, self.kept = [], {}

    @rule(field=st.just("authToken"), value=st.sampled_from([SECRET, SECRET + "-2"]))
    def set(self, field, value):
        self.lines.append(spell("set", field, value))
        print("set", field, value)
        self.kept.setdefault(field, value)
        error = AssertionError(f"{field} is {self.kept[field]!r}, not {value!r}")
        if self.kept[field] != value:
            attach(error, player="subject:play", lines=self.lines)
            raise error


test_machine = Machine.TestCase
test_machine.settings = settings(max_examples=50, derandomize=True, database=None)


def alone(number):
    return "sword" + f"fish-{number}-alone"


def load(number):
    return {"authToken": alone(number), "model": "opus"}


def test_plain_comparison():
    print("captured", alone(1))
    assert load(1) == {"authToken": "sesame"}


def test_plain_value():
    assert load(2)["authToken"] == "other"


def test_plain_lines():
    assert load(3)["authToken"] + " and a long text that pytest cuts" == "other and another long text that is cut"


def test_plain_error():
    entry = load(4)
    raise RuntimeError("cannot use " + entry["authToken"])


class Settings:
    def __init__(self):
        self.token = alone(5)


def test_plain_attribute():
    used = Settings()
    assert used.token.startswith("other"), f"seen {used.token}"


def test_bytes():
    assert {"authToken": alone(6).encode()} == {}


@pytest.mark.parametrize("token", [alone(7)])
def test_with_an_id(token):
    assert token is None


@settings(max_examples=5, derandomize=True, database=None)
@given(st.fixed_dictionaries({"authToken": st.just(alone(8)), "n": st.integers(5)}))
def test_drawn(entry):
    raise ValueError(f"cannot store it: {list(entry.values())}")


@pytest.mark.xfail(reason=f"token={alone(9)}")
def test_known():
    assert load(9) == 1
'''
