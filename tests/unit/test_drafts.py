"""What a draft says and comes to when sessions are deleted, set again and spelled in several ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sessionstore import Draft, SessionStore, Settings, StoreError

SETTINGS = Settings(maintenance_mode="off", lock_timeout_s=0.0)

SPELLINGS = b'{"A ": {"updatedAt": 1, "n": 1}, "x": {}, "a": {"updatedAt": 2, "n": 2}, "A": {"updatedAt": 3, "n": 3}}'


def delete_and_set(draft: Draft) -> None:
    """Delete a session and set it again."""
    del draft["a"]
    draft["a"] = {"n": 5}


def touch_and_delete(draft: Draft) -> None:
    """Change a session, then delete it."""
    draft["a"]["n"] = 7
    del draft["a"]


def add_and_delete(draft: Draft) -> None:
    """Add a session, then delete it."""
    draft["new"] = {}
    del draft["new"]


def delete_twice(draft: Draft) -> None:
    """Delete a session that is deleted already."""
    del draft["a"]
    assert "a" not in draft
    assert "a" not in list(draft)
    with pytest.raises(KeyError):
        del draft["a"]
    with pytest.raises(KeyError):
        draft["a"]


EDITS: dict[str, tuple[Callable[[Draft], None], dict[str, object]]] = {
    "delete and set": (delete_and_set, {"a": {"n": 5}, "b": {}}),
    "touch and delete": (touch_and_delete, {"b": {}}),
    "add and delete": (add_and_delete, {"a": {"n": 1}, "b": {}}),
    "delete twice": (delete_twice, {"b": {}}),
}


@pytest.mark.promise("SNAP3")
@pytest.mark.parametrize("name", EDITS)
def test_the_last_word_about_a_session_counts(store_path: Path, name: str) -> None:
    """Whatever was done to a session before, a deletion removes it and an assignment puts it in its place."""
    mutator, expected = EDITS[name]
    store = SessionStore(store_path, SETTINGS)
    store.save({"a": {"n": 1}, "b": {}})
    store.update(mutator)
    assert list(json.loads(store_path.read_bytes()).items()) == list(expected.items())


@pytest.mark.promise("KEY1")
def test_a_changed_session_stands_where_its_first_spelling_stood(store_path: Path) -> None:
    """A write through one of several spellings leaves one entry, normalised, at the first one's place."""
    store_path.write_bytes(SPELLINGS)
    SessionStore(store_path, SETTINGS).update(lambda draft: draft["a"].update(m=1))
    assert list(json.loads(store_path.read_bytes()).items()) == [("a", {"updatedAt": 3, "n": 3, "m": 1}), ("x", {})]


@pytest.mark.promise("KEY1")
def test_snapshots_and_drafts_list_the_spelling_that_counts(store_path: Path) -> None:
    """Iteration yields one key per session: that of the entry with the newest time, as the file spells it."""
    store_path.write_bytes(SPELLINGS)
    store = SessionStore(store_path, SETTINGS)
    assert list(store.load()) == ["A", "x"]
    with store.edit() as draft:
        assert list(draft) == ["A", "x"]
        assert len(draft) == 2
    assert not store.stats().writes


@pytest.mark.promise("WRITE7")
def test_the_key_of_a_changed_entry_keeps_its_bytes(store_path: Path) -> None:
    """A normalised key that is spelled with escapes stays spelled so when its entry is changed."""
    store_path.write_bytes(b'{"\\u00e9/\\/": {"n": 1}}')
    SessionStore(store_path, SETTINGS).update(lambda draft: draft["é//"].update(n=2))
    assert store_path.read_bytes() == b'{\n  "\\u00e9/\\/": {\n    "n": 2\n  }\n}'


@pytest.mark.promise("SNAP6")
@pytest.mark.parametrize(
    "use",
    [lambda draft: draft["a"], lambda draft: draft.update({"b": {}}), list, lambda draft: "a" in draft, Draft.clear],
)
def test_a_draft_is_closed_when_its_edit_is_over(store_path: Path, use: Callable[[Draft], object]) -> None:
    """Reading or writing a draft after its edit raises instead of losing the change."""
    store = SessionStore(store_path, SETTINGS)
    store.save({"a": {}})
    with store.edit() as draft:
        pass
    with pytest.raises(StoreError, match="closed"):
        use(draft)


@pytest.mark.promise("WRITE6")
def test_a_save_in_another_order_with_less_writes_just_that(store_path: Path) -> None:
    """Of sessions that stay equal, a save keeps those that it was given, in the order given, and no other."""
    store = SessionStore(store_path, SETTINGS)
    store.save({"a": {"n": 1}, "b": {"n": 2}, "c": {"n": 3}, "d": {"n": 4}})
    for keys in ("acd", "adc", "ad", "da", "d", ""):
        wanted = {key: {"n": "abcd".index(key) + 1} for key in keys}
        store.save(wanted)
        assert list(json.loads(store_path.read_bytes()).items()) == list(wanted.items())


@pytest.mark.promise("READ1")
def test_saving_nothing_creates_the_file_once(store_path: Path) -> None:
    """`save({})` makes an empty store of a missing file, and is a no-op the second time."""
    store = SessionStore(store_path, SETTINGS)
    store.save({})
    assert store_path.read_bytes() == b"{}"
    store.save({})
    assert (store.stats().writes, store.stats().noop_writes) == (1, 1)


@pytest.mark.promise("KEY1")
def test_of_equally_new_legacy_spellings_the_first_counts(store_path: Path) -> None:
    """Where no spelling is the normalised one and the times are equal, the first entry in the file wins."""
    store_path.write_bytes(b'{"A": {"updatedAt": 1, "n": 1}, "a ": {"updatedAt": 1, "n": 2}, " A": {"n": 3}}')
    store = SessionStore(store_path, SETTINGS)
    assert store.read("a") == {"updatedAt": 1, "n": 1}
    assert list(store.load()) == ["A"]


@pytest.mark.promise("SNAP6")
def test_a_draft_is_closed_when_its_edit_has_failed(store_path: Path) -> None:
    """Whoever kept the draft of a write that was given up learns that it leads nowhere."""
    store = SessionStore(store_path)
    store.save({"a": {"n": 1}})
    kept: list[Draft] = []

    def failing(draft: Draft) -> None:
        kept.append(draft)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.update(failing)
    with pytest.raises(ZeroDivisionError), store.edit() as draft:
        failing(draft)
    for draft in kept:
        with pytest.raises(StoreError, match="closed"):
            draft["a"] = {}
        with pytest.raises(StoreError, match="not been published"):
            _ = draft.snapshot


@pytest.mark.promise("WRITE6", "WRITE7")
@pytest.mark.parametrize("by_save", [False, True], ids=["update", "save"])
def test_another_order_of_members_is_a_change(store_path: Path, *, by_save: bool) -> None:
    """What a reader of the file could see is written: also the order inside an entry, at any depth."""
    store = SessionStore(store_path)
    store.save({"k": {"a": 1, "b": {"c": 2, "d": 3}}})
    for entry in ({"b": {"c": 2, "d": 3}, "a": 1}, {"b": {"d": 3, "c": 2}, "a": 1}):
        if by_save:
            store.save({"k": entry})
        else:
            with store.edit() as draft:
                draft["k"] = entry
            assert store.stats().noop_writes == 0
        assert list(store.load(skip_cache=True).items()) == [("k", entry)]
        assert repr(store.load(skip_cache=True)["k"]) == repr(entry)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, BaseException])
def test_whatever_leaves_the_block_gives_the_edit_up(store_path: Path, error: type[BaseException]) -> None:
    """Nothing is written and the same exception comes out, also one that is no `Exception`."""
    store = SessionStore(store_path, Settings(maintenance_mode="off", lock_timeout_s=0.0))
    store.save({"a": {"n": 1}})

    def failing(draft: Draft) -> None:
        draft["a"]["n"] = 2
        raise error

    with pytest.raises(error), store.edit() as draft:
        failing(draft)
    with pytest.raises(error):
        store.update(failing)
    assert store.update(lambda draft: draft["a"]["n"]).result == 1


@pytest.mark.promise("KEY1")
@pytest.mark.parametrize("spelling", ["k", " K "])
def test_deleting_a_session_deletes_all_its_spellings(store_path: Path, spelling: str) -> None:
    """KEY1: no older spelling comes back when the one that counted is gone; nor when the session is set anew."""
    store_path.write_bytes(b'{"K": {"updatedAt": 2}, "a": {}, "k ": {"updatedAt": 1}, "k": {"updatedAt": 3}}')
    store = SessionStore(store_path, Settings(maintenance_mode="off"))

    def delete(draft: Draft) -> None:
        del draft[spelling]
        assert spelling not in draft
        assert list(draft) == ["a"]

    store.update(delete)
    assert list(json.loads(store_path.read_bytes())) == ["a"]
    store_path.write_bytes(b'{"K": {"updatedAt": 2}, "a": {}, "k ": {"updatedAt": 1}}')

    def renew(draft: Draft) -> None:
        del draft[spelling]
        draft[spelling] = {"n": 1}

    store.update(renew)
    assert json.loads(store_path.read_bytes()) == {"k": {"n": 1}, "a": {}}
