"""The crash states that each model allows: counts that were measured independently, and the rules one by one."""

from __future__ import annotations

import pytest

from storecheck.crash import (
    ALICE,
    EXT4_NOAUTO,
    EXT4_NOLOCK,
    EXT4_ORDERED,
    MODELS,
    POSIX_STRICT,
    Disk,
    Entry,
    Recording,
    crash_states,
)
from storecheck.crash.calibration import count_states, record_saver
from storecheck.crash.changes import Order, SyncFailed, pieces_of
from storecheck.crash.models import PersistenceModel
from storecheck.crash.oracle import Window, windows
from storecheck.crash.savers import SAVERS
from storecheck.machine.events import (
    AttributesChanged,
    Created,
    DiskEvent,
    Renamed,
    Synced,
    Truncated,
    Unlinked,
    Written,
)

CUTS = (0, 1, 2, None)

MEASURED = {
    "correct": ("11/15/15/15", "11/15/15/15", "11/21/33/37", "11/23/35/39"),
    "no fsync": ("11/15/15/15", "11/*35/*41/*41", "11/*62/*145/*314", "11/*64/*158/*341"),
    "no directory fsync": ("11/*18/*18/*18", "11/*18/*18/*18", "11/*33/*57/*77", "11/*36/*68/*103"),
    "no sync at all": ("11/*35/*35/*35", "11/*43/*66/*75", "11/*74/*228/*1079", "11/*77/*250/*2501"),
    "in place, truncating": ("*9/*13/*13/*13", "*9/*13/*13/*13", "*9/*19/*31/*35", "*9/*19/*31/*35"),
    "in place": ("7/*15/*25/*27", "7/*15/*25/*27", "7/*15/*27/*35", "7/*15/*27/*35"),
    "fsync after rename": ("11/15/15/15", "11/*21/*21/*21", "11/*33/*57/*65", "11/*35/*71/*95"),
    "unlink first": ("*13/*17/*17/*17", "*13/*17/*17/*17", "*13/*25/*37/*41", "*13/*27/*39/*43"),
    "fsync before last write": ("13/17/17/17", "13/*33/*37/*37", "13/*57/*105/*141", "13/*59/*115/*155"),
    "directory fsync before rename": ("11/*18/*18/*18", "11/*18/*18/*18", "11/*26/*43/*55", "11/*33/*60/*93"),
    "backup by rename first": ("*13/*17/*17/*17", "*13/*17/*17/*17", "*13/*25/*37/*41", "*13/*35/*51/*55"),
    "acknowledged before directory fsync": ("11/*17/*17/*17", "11/*17/*17/*17", "11/*25/*37/*41", "11/*27/*41/*45"),
}
"""Distinct states with no, one, two and any number of cuts, per model; * where one of them is a violation. Found by a
throw-away program that shares no line with this one, for two saves of 9000 bytes."""


@pytest.mark.parametrize("name", SAVERS)
def test_savers_have_the_crash_states_that_were_counted_independently(name: str) -> None:
    """For every saver, model and number of cuts, both the number of states and whether one is wrong are as measured."""
    recording, oracle = record_saver(name)
    found = tuple(
        "/".join(str(count_states(recording, model, cuts=cuts, judge=oracle.judge)) for cuts in CUTS)
        for model in MODELS
    )
    assert found == MEASURED[name]


def test_every_saver_is_counted() -> None:
    """No saver is added without its counts."""
    assert MEASURED.keys() == SAVERS.keys()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_correct_saver_survives_every_legal_state(model: PersistenceModel) -> None:
    """With any number of cuts, also for the first save, the correct saver leaves nothing but whole versions."""
    for first in (False, True):
        recording, oracle = record_saver("correct", first=first, saves=3)
        assert count_states(recording, model, cuts=None, judge=oracle.judge).violations == ()


def test_missing_fsync_over_an_existing_file_passes_on_default_ext4() -> None:
    """Negative control: auto_da_alloc flushes what replaces an existing file, so a checker that complains is wrong."""
    recording, oracle = record_saver("no fsync")
    assert count_states(recording, EXT4_ORDERED, cuts=None, judge=oracle.judge).violations == ()
    assert "corrupt: empty" in count_states(recording, EXT4_NOAUTO, cuts=1, judge=oracle.judge).violations


def test_the_default_mount_of_ext4_may_show_zeros_and_nothing_that_alice_does_not() -> None:
    """With unwritten extents a rename waits for the size only: full of zeros, never empty; ALICE allows all of it."""
    recording, oracle = record_saver("no fsync")
    nolock = {frozenset(state.tree.items()) for state in crash_states(recording, EXT4_NOLOCK, cuts=None)}
    alice = {frozenset(state.tree.items()) for state in crash_states(recording, ALICE, cuts=None)}
    assert nolock < alice
    assert count_states(recording, EXT4_NOLOCK, cuts=None, judge=oracle.judge).violations == ("corrupt: zeros",)


def test_missing_fsync_of_a_first_save_fails_on_default_ext4() -> None:
    """auto_da_alloc does nothing for a new name: the first save without fsync can come back with 0 bytes."""
    recording, oracle = record_saver("no fsync", first=True, saves=1)
    assert "corrupt: empty" in count_states(recording, EXT4_ORDERED, cuts=1, judge=oracle.judge).violations


# The rules, on traces written by hand. Inode 1 is the root directory, 2 the file "f" in it.

OLD = b"o" * 100
DISK = Disk.from_tree({"f": Entry("file", OLD)})


def created(serial: int, name: str, *, directory: int = 1, kind: str = "file") -> Created:
    """`name` came up for the new inode `serial`."""
    return Created(step=0, process=0, directory=directory, name=name, serial=serial, kind=kind, mode=0o600)


def written(serial: int, content: bytes, offset: int = 0) -> Written:
    """A write into inode `serial`."""
    return Written(step=0, process=0, serial=serial, offset=offset, content=content)


def synced(serial: int, *, directory: bool = False, content_only: bool = False) -> Synced:
    """An fsync that returned."""
    return Synced(step=0, process=0, serial=serial, directory=directory, content_only=content_only)


def renamed(name: str, new_name: str, serial: int, replaced: int | None) -> Renamed:
    """A rename inside the root directory."""
    return Renamed(
        step=0, process=0, source=1, source_name=name, directory=1, name=new_name, serial=serial, replaced=replaced
    )


def trees(*events: DiskEvent, model: PersistenceModel, at_end: bool = True) -> list[dict[str, Entry]]:
    """All legal trees, by default only those for a loss after the last event."""
    recording = Recording(disk=DISK, events=events)
    first_event = len(events) if at_end else 0
    return [dict(state.tree) for state in crash_states(recording, model, cuts=None, first_event=first_event)]


def contents(found: list[dict[str, Entry]], path: str) -> set[bytes | None]:
    """What can be found at `path`; None for no file."""
    return {tree[path].content if path in tree else None for tree in found}


def test_writes_are_torn_on_block_boundaries_into_at_most_three_pieces() -> None:
    """Any write gives one to three pieces that join without gap, cut where blocks begin."""
    assert pieces_of(0, 10) == [(0, 10)]
    assert pieces_of(0, 4097) == [(0, 4096), (4096, 4097)]
    assert pieces_of(4000, 200) == [(4000, 4096), (4096, 4200)]
    assert pieces_of(0, 9000) == [(0, 4096), (4096, 8192), (8192, 9000)]
    large = pieces_of(100, 65_536)
    assert len(large) == 3
    assert [start % 4096 for start, _ in large[1:]] == [0, 0]
    assert [end for _, end in large[:-1]] == [start for start, _ in large[1:]]


def test_a_size_without_content_reads_as_zeros_where_the_model_allows_it() -> None:
    """ALICE and POSIX let the size arrive before the content; ext4 does not."""
    events = (created(3, "n"), synced(1, directory=True), written(3, b"new"))
    assert contents(trees(*events, model=ALICE), "n") == {b"", b"\0\0\0", b"new"}
    assert contents(trees(*events, model=EXT4_ORDERED), "n") == {b"", b"new"}


def test_content_beyond_the_size_is_not_seen() -> None:
    """Content that arrived without its size changes nothing that a reader sees."""
    events = (written(2, b"n" * 200, 50),)
    assert contents(trees(*events, model=ALICE), "f") == {
        OLD,
        OLD[:50] + b"n" * 50,
        OLD[:50] + b"n" * 200,
        OLD + bytes(150),
    }


def test_content_after_a_truncation_rests_on_it() -> None:
    """What is written after a truncation never shows up in the file as it was before."""
    events = (Truncated(step=0, process=0, serial=2, size=0), written(2, b"new"))
    for model in MODELS:
        assert contents(trees(*events, model=model), "f") <= {OLD, b"", b"new", b"\0\0\0"}


def test_truncation_without_effect_is_no_change() -> None:
    """Cutting a file to the size it has leaves a single state."""
    assert len(trees(Truncated(step=0, process=0, serial=2, size=100), model=ALICE)) == 1


def test_extending_a_file_shows_zeros() -> None:
    """Ftruncate to a larger size is one change of the size."""
    found = trees(Truncated(step=0, process=0, serial=2, size=103), model=EXT4_ORDERED)
    assert contents(found, "f") == {OLD, OLD + bytes(3)}


def test_a_journal_keeps_the_order_of_names_and_posix_does_not() -> None:
    """Of two new names ext4 never shows the later without the earlier; ALICE does."""
    events = (created(3, "a"), created(4, "b"))
    shown = [{path for path in tree if path != "f"} for tree in trees(*events, model=ALICE)]
    assert {"b"} in shown
    assert {"b"} not in [{path for path in tree if path != "f"} for tree in trees(*events, model=EXT4_NOAUTO)]


def test_fsync_of_a_file_commits_earlier_names_on_ext4_only() -> None:
    """On ext4 the journal commit of any fsync takes all earlier names along; POSIX says nothing of them."""
    events = (created(3, "a"), written(2, b"x"), synced(2))
    assert all("a" in tree for tree in trees(*events, model=EXT4_NOAUTO))
    assert not all("a" in tree for tree in trees(*events, model=ALICE))


def test_fdatasync_forces_content_and_no_names() -> None:
    """Syncing content only makes content and size durable, and promises nothing else."""
    events = (created(3, "a"), written(2, b"n" * 200), synced(2, content_only=True))
    for model in MODELS:
        found = trees(*events, model=model)
        assert contents(found, "f") == {b"n" * 200}
        assert not all("a" in tree for tree in found)


def test_fsync_of_a_directory_forces_its_names_and_not_its_files() -> None:
    """After a directory's fsync its names are there; the content behind them need not be."""
    events = (created(3, "a"), written(3, b"new"), synced(1, directory=True))
    for model in MODELS:
        found = trees(*events, model=model)
        assert all("a" in tree for tree in found)
        assert b"" in contents(found, "a")


def test_a_rename_is_atomic_but_in_strict_posix() -> None:
    """Only strict POSIX shows both names, or neither, of a rename that power loss cut in two."""
    events = (created(3, "n"), written(3, b"new"), synced(3), synced(1, directory=True), renamed("n", "f", 3, 2))
    for model in MODELS:
        found = trees(*events, model=model)
        shown = {frozenset((path, entry.content) for path, entry in tree.items()) for tree in found}
        expected = {frozenset({("f", OLD), ("n", b"new")}), frozenset({("f", b"new")})}
        if model is POSIX_STRICT:
            expected |= {frozenset({("f", OLD)}), frozenset({("f", b"new"), ("n", b"new")})}
        assert shown == expected


def test_a_new_directory_that_was_never_synced_into_its_parent_takes_everything_with_it() -> None:
    """A file synced in a new directory is lost with the directory's own name, except where a journal orders names."""
    events = (
        created(3, "d", kind="directory"),
        created(4, "n", directory=3),
        written(4, b"new"),
        synced(4),
        synced(3, directory=True),
    )
    for model in (ALICE, POSIX_STRICT):
        assert any("d" not in tree and "d/n" not in tree for tree in trees(*events, model=model))
    for model in (EXT4_NOAUTO, EXT4_ORDERED):
        assert all(tree["d/n"].content == b"new" for tree in trees(*events, model=model))


def test_modes_are_changes_of_their_own() -> None:
    """A chmod after the rename can be lost while the rename is durable; fsync of the file forces it."""
    changed = AttributesChanged(step=0, process=0, serial=2, mode=0o640, uid=1000, gid=1000)
    assert {tree["f"].mode for tree in trees(changed, model=EXT4_ORDERED)} == {0o640, 0o644}
    assert {tree["f"].mode for tree in trees(changed, synced(2), model=ALICE)} == {0o640}


def test_links_and_removals_are_changes_of_names() -> None:
    """A removed name may come back, and with it the content it led to."""
    removed = Unlinked(step=0, process=0, directory=1, name="f", serial=2)
    assert contents(trees(removed, model=ALICE), "f") == {OLD, None}
    assert contents(trees(removed, synced(1, directory=True), model=ALICE), "f") == {None}


def test_a_second_fsync_does_not_bring_back_what_the_first_gave_up() -> None:
    """After a failed fsync a successful one proves nothing about the content written before."""
    events = (
        created(3, "n"),
        synced(1, directory=True),
        written(3, b"new"),
        SyncFailed(step=0, process=0, serial=3),
        synced(3),
    )
    for model in MODELS:
        assert b"" in contents(trees(*events, model=model), "n")
        again = trees(*events, written(3, b"NEW"), synced(3), model=model)
        assert contents(again, "n") <= {b"NEW", b"", b"new", bytes(3)}


def test_states_say_what_was_lost() -> None:
    """A state names the model, the moment and the changes that are missing."""
    recording = Recording(disk=DISK, events=(created(3, "n"), written(3, b"new")))
    states = list(crash_states(recording, ALICE, cuts=1))
    shown = [str(state) for state in states]
    assert "alice: power lost after event 0, lost: nothing" in shown
    assert any("lost: bytes 0-2 of inode 3" in text for text in shown)


def test_order_is_a_partial_order_closed_over_its_steps() -> None:
    """What must come before something includes what must come before that, and nothing comes before itself."""
    recording, _ = record_saver("no sync at all")
    for model in MODELS:
        order = Order(recording.disk, recording.events, model)
        for index, before in enumerate(order.before):
            assert not before >> index & 1
            for other in range(len(order.changes)):
                if before >> other & 1:
                    assert order.before[other] & ~before == 0
                    assert order.after[other] >> index & 1


def test_windows_follow_the_marks() -> None:
    """The last acknowledged and the last begun operation are known after every mark."""
    assert windows(["begin 1", "ack 1", "note", "begin 2"]) == [
        Window(0, 0),
        Window(0, 1),
        Window(1, 1),
        Window(1, 1),
        Window(1, 2),
    ]
