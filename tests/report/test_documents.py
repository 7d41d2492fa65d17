"""Run documents and their schemas.

Goal: what is shown comes from one document, which survives writing and reading, and the schema that ships describes it.
Method: golden documents, made by running the verifier on planted bugs (`tests.report.making`).
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from storecheck.report import document
from storecheck.report.codec import DocumentError
from tests.report.making import GOLDEN, NAMES

RUNS = [GOLDEN / f"{name}.json" for name in NAMES]
by_name = pytest.mark.parametrize("path", RUNS, ids=[path.stem for path in RUNS])


def schema(name: str) -> Any:
    """A shipped schema."""
    return json.loads((resources.files("storecheck.report") / "schemas" / name).read_text(encoding="utf-8"))


def test_there_are_golden_documents_of_different_kinds() -> None:
    """Ten planted bugs, among them races, sequences and crashes, and failing tests of this project."""
    kinds = [document.load(path).examples[0].kind for path in RUNS]
    assert len(RUNS) == 21
    assert set(kinds) == {"race", "sequence", "crash"}


@by_name
def test_a_golden_document_fits_the_shipped_schema(path: Path) -> None:
    """Each document is valid against the schema in the wheel."""
    jsonschema.validate(json.loads(path.read_text(encoding="utf-8")), schema("run.schema.json"))


@by_name
def test_a_counterexample_fits_the_shipped_schema(path: Path) -> None:
    """So is the counterexample that it was made from."""
    text = path.with_suffix(".counterexample.json").read_text(encoding="utf-8")
    jsonschema.validate(json.loads(text), schema("counterexample.schema.json"))


@by_name
def test_a_document_survives_reading_and_writing(path: Path) -> None:
    """What is read and written again is the same text."""
    assert document.dumps(document.load(path)) == path.read_text(encoding="utf-8")


def test_the_shipped_schema_is_that_of_the_code() -> None:
    """The schema file says what the dataclasses say."""
    assert schema("run.schema.json") == document.run_schema()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("format",), "other", "format is 'other'; expected 'storecheck-run'"),
        (("version",), 9, "version is 9; this storecheck reads version 1"),
        (("duration_s",), "long", r"document\.duration_s is 'long'; expected a number"),
        (("examples", 0, "kind"), "luck", r"document\.examples\[0\]\.kind is 'luck'; expected one of"),
        (("examples", 0, "colour"), "blue", r"document\.examples\[0\] has the unknown member 'colour'"),
        (("shards", 0, "failed"), True, r"document\.shards\[0\]\.failed is True; expected a whole number"),
    ],
)
def test_a_damaged_document_is_refused_with_the_place(
    place: tuple[str | int, ...], value: object, message: str
) -> None:
    """Every member is checked, and the error names it; the schema refuses the same."""
    damaged = json.loads(RUNS[0].read_text(encoding="utf-8"))
    target = damaged
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    with pytest.raises(DocumentError, match=message):
        document.from_json(damaged)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(damaged, schema("run.schema.json"))


def test_a_missing_member_is_named() -> None:
    """An incomplete document is no document."""
    damaged = json.loads(RUNS[0].read_text(encoding="utf-8"))
    del damaged["shards"][0]["seed"]
    with pytest.raises(DocumentError, match=r"shards\[0\] has no member 'seed'"):
        document.from_json(damaged)
