"""What a failing test held: secrets that pytest shows without their keys are known all the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from storecheck.report.held import MAX_OBJECTS, secrets_of_error

SECRET = "correct-horse-battery"
BELOW = Path(__file__).parent


@dataclass
class Settings:
    """Has a secret attribute."""

    token: str = SECRET
    names: list[str] = field(default_factory=list)


class Client:
    """An ordinary object with another in it."""

    def __init__(self) -> None:
        self.settings = Settings()


def stored() -> dict[str, Any]:
    """What a test might get from what it tests."""
    return {"authToken": SECRET, "model": "opus"}


def raised(failing: Callable[[], None]) -> BaseException:
    """What it raises."""
    try:
        failing()
    except (AssertionError, RuntimeError, ValueError) as error:
        return error
    raise LookupError(f"{failing.__name__} raises nothing")


def in_a_variable() -> None:
    """A local variable with a telling name."""
    token = SECRET
    raise ValueError(len(token))


def in_a_mapping() -> None:
    """A mapping with a telling key, deep in another."""
    entries = {"main": [stored()]}
    raise ValueError(len(entries))


def in_an_object() -> None:
    """An attribute of a dataclass in an object."""
    client = Client()
    raise ValueError(client.settings.names)


def in_a_cause() -> None:
    """Another error was first."""
    try:
        in_a_variable()
    except ValueError as error:
        raise RuntimeError("it failed") from error


class Sessions(dict[str, Any]):
    """A dict with a method of its own."""

    def __iter__(self) -> Any:
        raise AssertionError("iterated")


def in_a_kind_of_dict() -> None:
    """What inherits from dict is looked through as one."""
    sessions = Sessions(main=stored())
    raise ValueError(len(sessions))


def in_bytes() -> None:
    """The content of a file."""
    content = b'\xff{"apiKey": "' + SECRET.encode() + b'"}'
    raise ValueError(len(content))


def compared_by_key() -> None:
    """The mapping is in no variable."""
    assert stored()["authToken"] == "other"


def compared_by_attribute() -> None:
    """Nor is the object."""
    assert Settings().token == "other"


def compared_by_lookup() -> None:
    """A statement of several lines."""
    assert (
        stored().get("authToken")
        == "other"
    )  # fmt: skip


def compared_in_a_text() -> None:
    """Part of a longer text."""
    assert f"<{stored()['authToken']}>" + " is so long that pytest cuts it" == "other and nothing alike in this one"


@pytest.mark.parametrize(
    "failing",
    [
        in_a_variable, in_a_mapping, in_an_object, in_a_cause, in_a_kind_of_dict, in_bytes, compared_by_key,
        compared_by_attribute, compared_by_lookup, compared_in_a_text,
    ],
    ids=lambda failing: failing.__name__,
)  # fmt: skip
def test_what_a_failing_test_held_is_known(failing: Callable[[], None]) -> None:
    """By name, by key, by attribute, in causes, in bytes, and as what an assertion compared."""
    found = secrets_of_error(raised(failing), below=BELOW)
    assert any(SECRET in each for each in found)
    assert not found & {"other", "opus", "main"}


def test_code_of_others_is_not_looked_into() -> None:
    """The local variables of libraries say nothing about the project, and would mask words of the report."""
    assert not secrets_of_error(raised(in_a_variable), below=BELOW / "elsewhere")


class Asking(Mapping[str, str]):
    """Code under test that must not run for a report."""

    def __getitem__(self, key: str) -> str:
        raise AssertionError("asked for " + key)

    def __iter__(self) -> Any:
        raise AssertionError("iterated")

    def __len__(self) -> int:
        raise AssertionError("measured")

    def __repr__(self) -> str:
        raise AssertionError("shown")


class Proxy:
    """Stands for something that is not there now."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("working outside of a request")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("working outside of a request")


class UnprintableError(ValueError):
    """An error that cannot even say what it is."""

    def __str__(self) -> str:
        raise TypeError("no text")


def with_much() -> None:
    """Objects in a circle, many of them, and one that must not be touched."""
    circle: list[Any] = []
    circle.append(circle)
    token = 10**5000
    by_number = {1: stored(), b"2": 3}
    many = [{"x": number} for number in range(10 * MAX_OBJECTS)]
    asking, proxy = Asking(), Proxy()
    raise UnprintableError(id(asking), id(proxy), len(many), len(by_number), token)


def test_looking_is_bounded_and_runs_no_code_of_the_project() -> None:
    """No circle, no size and no object with methods of its own makes a failing test worse."""
    assert secrets_of_error(raised(with_much), below=BELOW) == {SECRET}
