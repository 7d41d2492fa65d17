"""The specification of the store says what it should: known answers, written out by hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import specification, strategies
from models.specification import DAY_MS, Maintenance, normalise
from models.workloads import (
    FailAfter,
    Nothing,
    PutEntry,
    ReassignEntry,
    RecordHeartbeat,
    RemoveEntry,
    SetField,
    SweepCron,
    Together,
)

NOW_MS = strategies.NOW_MS
TWO = b'{\n  "a": {\n    "n": 1\n  },\n  "b": {\n    "n": 2\n  }\n}'


@pytest.mark.parametrize("kind", sorted(strategies.CORRUPT_FILES))
def test_corrupt_files_are_seen_as_corrupt(kind: str) -> None:
    """Every file of the catalogue is refused by every operation of the specification, and stays."""
    content = strategies.CORRUPT_FILES[kind]
    for outcome in (
        specification.load(content),
        specification.read(content, "a"),
        specification.update(content, PutEntry("a", {})),
        specification.save(content, {}),
    ):
        assert (outcome.failure, outcome.content, outcome.wrote) == ("corrupt", content, False)


@given(st.data())
def test_rendered_files_are_valid_in_every_layout(data: st.DataObject) -> None:
    """What the strategies render reads back as the same sessions in every layout."""
    sessions = data.draw(strategies.foreign_sessions())
    loaded = {
        layout: [(raw.key, raw.value()) for raw in specification.parse(strategies.render(sessions, layout))]
        for layout in strategies.LAYOUTS
    }
    assert [key for key, _ in loaded["ours"]] == [key for key, _ in sessions]
    assert all(json.dumps(entries) == json.dumps(loaded["ours"]) for entries in loaded.values())


@given(st.dictionaries(strategies.session_keys(), strategies.entries(), max_size=4))
def test_the_frame_is_what_json_writes(sessions: dict[str, specification.Entry]) -> None:
    """A file saved from nothing is two-space JSON, except that lone surrogates are escaped."""
    saved = specification.save(None, sessions).content
    assert saved is not None
    sessions = json.loads(json.dumps(sessions))  # two surrogates in a row are one character to whoever reads
    assert saved == strategies.render(list(sessions.items()), "ours")
    assert json.dumps(json.loads(saved)) == json.dumps(sessions)


def test_a_write_touches_one_entry_only() -> None:
    """Untouched entries keep key and value as they were spelled, in a frame of our own."""
    content = b'{"\\u0061": {"n": 1e2,\r\n"big": 9007199254740993}, "b":{}}\n'
    outcome = specification.update(content, SetField("b", "x", 1))
    assert outcome.content == (b'{\n  "\\u0061": {"n": 1e2,\r\n"big": 9007199254740993},\n  "b": {\n    "x": 1\n  }\n}')
    assert outcome.wrote


def test_values_that_compare_equal_in_python_differ() -> None:
    """1, 1.0 and True are three values: replacing one by another is a change."""
    for value in (1, 1.0, True):
        content = specification.save(None, {"a": {"n": value}}).content
        others = [other for other in (1, 1.0, True) if type(other) is not type(value)]
        assert not specification.update(content, SetField("a", "n", value)).wrote
        assert all(specification.update(content, SetField("a", "n", other)).wrote for other in others)


def test_nothing_changed_is_nothing_written() -> None:
    """Looking, putting equal values and reverting edits leave any layout alone, and create no file."""
    content = b'{"a":{"n":1}}\r\n'
    for change in (Nothing(), PutEntry("a", {"n": 1}), RemoveEntry("z"), ReassignEntry("A ")):
        assert specification.update(content, change).content == content
    assert specification.update(None, Nothing()).content is None
    assert specification.save(content, {"a": {"n": 1}}).content == content
    assert specification.save(None, {}).content == b"{}"


def test_order_is_a_change() -> None:
    """The order of sessions given to `save`, and of members in an entry, is kept."""
    assert specification.save(TWO, {"b": {"n": 2}, "a": {"n": 1}}).content == (
        b'{\n  "b": {\n    "n": 2\n  },\n  "a": {\n    "n": 1\n  }\n}'
    )
    pair = b'{"a": {"x": 1, "y": 2}}'
    assert specification.update(pair, PutEntry("a", {"y": 2, "x": 1})).wrote


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("  Agent:Main\n", "agent:main"), ("\ufeffA\u00a0", "a"), ("\x1ca\x85", "\x1ca\x85"), ("STRASSE", "strasse")],
)
def test_keys_are_normalised_as_in_javascript(spelling: str, name: str) -> None:
    """Trimmed of what JavaScript's `trim` removes, and lower-cased."""
    assert normalise(spelling) == name


def test_the_newest_spelling_wins_and_a_write_folds() -> None:
    """Lookup takes the newest; a write leaves one entry under the normalised key, where the first spelling was."""
    content = strategies.render(
        [("A", {"updatedAt": 2, "v": "new"}), ("b", {}), ("a", {"updatedAt": 1}), (" a", {"updatedAt": True})], "ours"
    )
    assert specification.read(content, " A ").result == {"updatedAt": 2, "v": "new"}
    loaded = specification.load(content).result
    assert isinstance(loaded, dict)
    assert set(loaded) == {"A", "b"}
    assert specification.update(content, Nothing()).content == content
    written = specification.update(content, SetField("a", "v", "newer")).content
    assert [(raw.key, raw.value()) for raw in specification.parse(written)] == [
        ("a", {"updatedAt": 2, "v": "newer"}),
        ("b", {}),
    ]
    assert [raw.key for raw in specification.parse(specification.update(content, RemoveEntry("A")).content)] == ["b"]


def test_a_tie_goes_to_the_normalised_spelling_else_to_the_first() -> None:
    """Equal or missing `updatedAt`: the normalised spelling wins, without one the first in the file."""
    with_normal = strategies.render([("A", {"n": 1}), ("a", {"n": 2}), ("a ", {"n": 3})], "ours")
    without = strategies.render([("A", {"n": 1, "updatedAt": "5"}), ("a ", {"n": 3})], "ours")
    assert specification.read(with_normal, "a").result == {"n": 2}
    assert specification.read(without, "a").result == {"n": 1, "updatedAt": "5"}


def test_a_mutator_that_raises_leaves_everything() -> None:
    """The failure is reported and the content is what it was."""
    outcome = specification.update(TWO, FailAfter((RemoveEntry("a"), SetField("b", "n", 0))))
    assert (outcome.failure, outcome.content, outcome.wrote) == ("mutator", TWO, False)


@given(strategies.unstorable_entries())
def test_unstorable_values_are_refused_by_place(poisoned: tuple[object, str]) -> None:
    """The session and the path to the value are named; nothing is written."""
    entry, value_path = poisoned
    for outcome in (
        specification.save(TWO, {"a": {}, "k": entry}),
        specification.update(TWO, PutEntry("k", entry)),  # type: ignore[arg-type]
    ):
        assert (outcome.failure, outcome.content) == ("unstorable", TWO)
        assert (outcome.session_key, outcome.value_path) == ("k", value_path)


def test_maintenance_prunes_and_caps() -> None:
    """Strictly older than the limit is pruned; then the newest are kept; the active and undated sessions stay."""
    content = strategies.render(
        [
            ("old", {"updatedAt": NOW_MS - 30 * DAY_MS - 1}),
            ("edge", {"updatedAt": NOW_MS - 30 * DAY_MS}),
            ("undated", {}),
            ("Active", {"updatedAt": 0}),
            ("new", {"updatedAt": NOW_MS}),
        ],
        "ours",
    )
    write = SetField("new", "n", 1)

    def left(rules: Maintenance) -> list[str]:
        outcome = specification.update(content, write, rules=rules, now_ms=NOW_MS, active_session="active")
        return [raw.key for raw in specification.parse(outcome.content)]

    assert left(Maintenance(mode="enforce")) == ["edge", "undated", "Active", "new"]
    assert left(Maintenance(mode="enforce", max_entries=3)) == ["undated", "Active", "new"]
    assert left(Maintenance(mode="enforce", max_entries=0)) == ["undated", "Active"]
    assert left(Maintenance(mode="warn", max_entries=0)) == ["old", "edge", "undated", "Active", "new"]
    assert specification.update(
        content, write, rules=Maintenance(mode="warn", max_entries=3), now_ms=NOW_MS, active_session="ACTIVE"
    ).maintenance == specification.MaintenanceReport(pruned=("old",), capped=("edge",))


def test_maintenance_backs_up_what_it_replaces() -> None:
    """Only under `enforce`, only above the size, only when something is written."""
    rules = Maintenance(mode="enforce", rotate_bytes=len(TWO) - 1)
    assert specification.update(TWO, SetField("a", "n", 5), rules=rules).backup == TWO
    assert specification.update(TWO, Nothing(), rules=rules).backup is None
    at_limit = Maintenance(mode="enforce", rotate_bytes=len(TWO))
    assert specification.update(TWO, SetField("a", "n", 5), rules=at_limit).backup is None
    warned = specification.update(TWO, SetField("a", "n", 5), rules=Maintenance(mode="warn", rotate_bytes=1))
    assert (warned.backup, warned.maintenance.backup) == (None, True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (None, 7),
        ("2048", 2048),
        (" 2048\n", 2048),
        ("\ufeff5", 5),
        ("+5", 5),
        ("007", 7),
        ("-0", 0),
        ("9007199254740991", 2**53 - 1),
        ("0" * 5000 + "5", 5),
        ("9007199254740992", 7),
        ("", 7),
        ("-1", 7),
        ("+-5", 7),
        ("1e3", 7),
        ("1.0", 7),
        ("1_000", 7),
        ("0x10", 7),
        ("١٢", 7),
        ("5\x1c", 7),
    ],
)
def test_settings_are_parsed_strictly(text: str | None, value: int) -> None:
    """The grammar of the environment variables, example by example; anything else means the default."""
    assert specification.parse_setting(text, default=7) == value
    assert specification.is_malformed_setting(text) == (text is not None and value == 7 and text != "007")


def test_workload_changes_do_what_their_names_say() -> None:
    """Heartbeats repeat only after a day, the cron sweep spares recent jobs, results come back."""
    content = strategies.render([("a", {}), ("cron:x", {"updatedAt": NOW_MS - 8 * DAY_MS})], "ours")
    first = specification.update(content, RecordHeartbeat("a", "alert", NOW_MS))
    again = specification.update(first.content, RecordHeartbeat("a", "alert", NOW_MS + DAY_MS - 1))
    next_day = specification.update(first.content, RecordHeartbeat("a", "alert", NOW_MS + DAY_MS))
    assert [outcome.wrote for outcome in (first, again, next_day)] == [True, False, True]
    swept = specification.update(content, Together((SweepCron(NOW_MS), Nothing())))
    assert swept.result == [["cron:x"], 1]


def test_the_big_store_is_exact_and_repeatable() -> None:
    """`realistic_store` has the size asked for, is valid, and depends on its arguments only."""
    content = strategies.realistic_store(100_000, seed=3)
    assert len(content) == 100_000
    assert content == strategies.realistic_store(100_000, seed=3)
    assert content != strategies.realistic_store(100_000, seed=4)
    members = specification.parse(content)
    assert specification.frame(members) == content
    assert 40 <= len(members) <= 55
    with pytest.raises(ValueError, match="at least"):
        strategies.realistic_store(100, seed=0)
