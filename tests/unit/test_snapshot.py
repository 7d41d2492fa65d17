"""Parsing, parsing only what changed, composing and digests agree with each other.

Goal: whatever way an index or a digest came about, it is the one that a look at the whole bytes gives. Method: random
stores in random layouts, random edits of their bytes, against a parse from scratch and the standard library.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import threading
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st

from sessionstore import CorruptStoreError, Snapshot, digest
from sessionstore.content import MIN_CHUNK_BYTES, Content, Slice, common_prefix, common_suffix
from sessionstore.digest import ContentDigest
from sessionstore.encoding import encode_entry, encode_key
from sessionstore.snapshot import Change, Index, compose, normalise_key, parse, parse_changed, parts_of

keys = st.one_of(
    st.sampled_from(["a", "b", "agent:main:main", " A", "B ", "ä", 'quo"te', "back\\slash", "{", "}", "é,", "\ud800"]),
    st.text(max_size=6),
)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=8),
        st.sampled_from(["}", "{", '"', "\\", "},\n  ", "👍", "\udfff"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)
entries = st.builds(
    lambda fields, time: fields if time is None else {**fields, "updatedAt": time},
    st.dictionaries(st.text(max_size=4), values, max_size=3),
    st.one_of(st.none(), st.integers(0, 2**53), st.just("soon"), st.just(10**400)),
)
stores = st.dictionaries(keys, entries, max_size=6)


def canonical(sessions: dict[str, Any]) -> bytes:
    """The bytes that the store would write."""
    if not sessions:
        return b"{}"
    members = [b"\n  " + encode_key(key) + b": " + encode_entry(entry) for key, entry in sessions.items()]
    return b"{" + b",".join(members) + b"\n}"


def foreign(sessions: dict[str, Any], indent: int | None, ensure_ascii: bool, around: str) -> bytes:
    """The bytes that another program would write."""
    text = around + json.dumps(sessions, indent=indent, ensure_ascii=ensure_ascii) + around
    return text.encode("utf-8", "backslashreplace")


def json_of(sessions: dict[str, Any]) -> bytes:
    """The bytes that the standard library would write."""
    return foreign(sessions, None, True, "")


layouts = st.one_of(
    st.just(canonical),
    st.builds(
        lambda *how: lambda sessions: foreign(sessions, *how),
        st.sampled_from([None, 0, 2, 4]),
        st.booleans(),
        st.sampled_from(["", "\n", "\r\n \t"]),
    ),
)


def described(raw: bytes, index: Index) -> list[tuple[str, bytes, bytes, object]]:
    """An index in terms that do not depend on how it is kept."""
    return [
        (
            key,
            raw[index.key_start(n) : index.key_start(n) + index.key_lengths[n]],
            raw[slice(*index.span(n))],
            "none" if math.isnan(index.updated_at[n]) else index.updated_at[n],
        )
        for n, key in enumerate(index.table.keys)
    ]


@pytest.mark.promise("WRITE9", "WRITE7")
@given(stores, layouts)
def test_every_layout_is_read_as_the_standard_library_reads_it(sessions: dict[str, Any], layout: Any) -> None:
    """Any valid layout is read, and each entry's bytes are found exactly."""
    raw = layout(sessions)
    index = parse("s", raw)
    expected = json.loads(raw)
    assert list(index.table.keys) == list(expected)
    for ordinal, (key, entry) in enumerate(expected.items()):
        start, end = index.span(ordinal)
        assert json.loads(raw[start:end]) == entry
        key_start = index.key_start(ordinal)
        assert json.loads(raw[key_start : key_start + index.key_lengths[ordinal]]) == key
    assert (index.frame is None) == (raw == canonical_frame(raw, index))


def snapshot_of(raw: bytes) -> Snapshot:
    """The snapshot of a file with these bytes."""
    content = Content.of(raw)
    return Snapshot("s", content, parse("s", content), ContentDigest.of(content))


def canonical_frame(raw: bytes, index: Index) -> bytes:
    """The file with the same keys and entries, but the store's own frame around them."""
    members = [b"".join((b"\n  ", key_bytes, b": ", value)) for _, key_bytes, value, _ in described(raw, index)]
    return b"{" + b",".join(members) + b"\n}" if members else b"{}"


@pytest.mark.promise("SNAP5", "WRITE1")
@given(stores, stores, st.data())
@example({"a": {}, "b": {}}, {"a": {}, "c": {}, "b": {}}, None)
@example({"a": {"x": 1}}, {"a": {"x": 12}}, None)
@example({"a": {"x": "}"}}, {}, None)
def test_parsing_only_what_changed_finds_what_parsing_all_finds(
    before: dict[str, Any], after: dict[str, Any], data: Any
) -> None:
    """The index of a file of which only a part was read again is the index of the whole file."""
    if data is not None and data.draw(st.booleans(), label="related"):
        chosen = {key: data.draw(st.sampled_from([entry, {}, {"x": 1}])) for key, entry in before.items()}
        after = {**chosen, **after} if data.draw(st.booleans()) else {**after, **chosen}
    old_raw, new_raw = canonical(before), canonical(after)
    new = parse_changed("s", Content.of(new_raw), snapshot_of(old_raw))
    assert new.raw == new_raw
    assert new.digest is not None
    assert new.digest.matches(Content.of(new_raw))
    changed = new.index
    assert described(new_raw, changed) == described(new_raw, parse("s", new_raw))
    assert changed.table == parse("s", new_raw).table


@pytest.mark.promise("SNAP5", "READ2")
@given(stores.filter(bool), st.data())
def test_parsing_only_what_changed_refuses_what_parsing_all_refuses(before: dict[str, Any], data: Any) -> None:
    """Damage anywhere in a file is found, also if only the changed part is read."""
    old_raw = canonical(before)
    start = data.draw(st.integers(0, len(old_raw)), label="start")
    end = data.draw(st.integers(start, min(len(old_raw), start + 8)), label="end")
    piece = data.draw(
        st.sampled_from(
            [b"", b"\0", b'"', b"}", b"{", b",", b"\xff", b'"a": {},', b'"a": {"b": 1, "b": 2}', b"1e999", b"\n"]
        )
    )
    raw = old_raw[:start] + piece + old_raw[end:]
    try:
        expected: Index | None = parse("s", raw)
    except CorruptStoreError:
        expected = None
    event("refused" if expected is None else "accepted")
    if expected is None:
        with pytest.raises(CorruptStoreError):
            parse_changed("s", Content.of(raw), snapshot_of(old_raw))
    else:
        changed = parse_changed("s", Content.of(raw), snapshot_of(old_raw))
        assert changed.raw == raw
        assert described(raw, changed.index) == described(raw, expected)


@pytest.mark.promise("WRITE7")
@given(stores, layouts, st.data())
def test_composing_keeps_untouched_bytes_and_knows_where_everything_is(
    sessions: dict[str, Any], layout: Any, data: Any
) -> None:
    """Places that are not named keep their bytes; the new index and digest are those of the new bytes."""
    raw = layout(sessions)
    old = snapshot_of(raw)
    count = len(old.index)
    changes = data.draw(
        st.dictionaries(st.integers(0, max(0, count - 1)), st.one_of(st.none(), entries), max_size=3)
        if count
        else st.just({})
    )
    fresh = data.draw(st.dictionaries(keys.filter(lambda key: key not in sessions), entries, max_size=2))
    named: dict[int, Change | None] = {
        n: None if entry is None else Change.of(old.index.table.keys[n], entry) for n, entry in changes.items()
    }
    new = compose(old, parts_of(old, named, [Change.of(key, entry) for key, entry in fresh.items()]))
    assert new.raw is not None
    assert described(new.raw, new.index) == described(new.raw, parse("s", new.raw))
    assert new.index.frame is None
    assert new.digest is None or new.digest.matches(Content.of(new.raw))
    for ordinal, key in enumerate(old.index.table.keys):
        if ordinal not in changes:
            assert new.entry_bytes(new.index.table.keys.index(key)) == old.entry_bytes(ordinal)


@pytest.mark.promise("SNAP2", "CACHE3")
@given(st.lists(st.one_of(st.binary(max_size=60), st.tuples(st.integers(0, 400), st.integers(0, 400))), max_size=12))
def test_content_put_together_from_slices_is_what_the_slices_say(parts: list[bytes | tuple[int, int]]) -> None:
    """Chunks are shared, never empty, too long or needlessly small, and say exactly what was put together."""
    with (
        mock.patch("sessionstore.content.CHUNK_BYTES", 32),
        mock.patch("sessionstore.content.MIN_CHUNK_BYTES", 8),
    ):
        raw = bytes(range(200)) * 2
        old = Content.of(raw)
        digest = ContentDigest.of(old)
        new = Content.assembled(part if isinstance(part, bytes) else Slice(old, min(part), max(part)) for part in parts)
        expected = b"".join(part if isinstance(part, bytes) else raw[min(part) : max(part)] for part in parts)
        assert new.joined() == expected
        assert new.size_bytes == len(expected)
        assert all(0 < len(chunk) <= 32 for chunk in new.chunks)
        assert len(new.chunks) <= 2 * (len(expected) // 16 + 1)
        middle = len(expected) // 3
        assert new.slice(0, middle) + new.slice(middle, len(expected)) == expected
        again = Content.of(expected)
        assert new.is_same(again)
        follows = ContentDigest.of(new, like=(old, digest))
        assert follows == ContentDigest.of(new)
        assert follows.matches(again)
        if expected:
            flipped = bytearray(expected)
            flipped[middle] ^= 1
            assert not follows.matches(Content.of(bytes(flipped)))
            assert not new.is_same(Content.of(bytes(flipped)))


@pytest.mark.promise("SNAP5")
@given(st.binary(max_size=200), st.binary(max_size=40), st.binary(max_size=200), st.binary(max_size=40))
def test_what_two_contents_have_in_common_is_found_to_the_byte(
    head: bytes, one: bytes, tail: bytes, two: bytes
) -> None:
    """The common prefix and suffix are the longest ones, wherever the chunks lie."""
    first, second = head + one + tail, head + two + tail
    with mock.patch("sessionstore.content.CHUNK_BYTES", 16):
        a, b = Content.of(first), Content.assembled((b"", *(second[i : i + 7] for i in range(0, len(second), 7))))
        prefix = common(first, second)
        assert common_prefix(a, b) == prefix
        limit = min(len(first), len(second)) - prefix
        assert common_suffix(a, b, limit) == min(limit, common(first[::-1], second[::-1]))


def common(one: bytes, other: bytes) -> int:
    """How many bytes are the same at the beginning."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@pytest.mark.promise("CACHE3")
def test_a_file_that_grows_by_crumbs_does_not_become_crumbs() -> None:
    """Appending a thousand times leaves few chunks, so that a digest stays small."""
    content = Content.of(b"")
    for number in range(3000):
        content = Content.assembled((Slice(content, 0, content.size_bytes), b"%05d," % number * 3))
    assert content.joined() == b"".join(b"%05d," % number * 3 for number in range(3000))
    assert len(content.chunks) <= content.size_bytes // MIN_CHUNK_BYTES + 1


@pytest.mark.promise("KEY1")
def test_of_several_spellings_the_newest_counts_and_the_normal_one_wins_a_tie() -> None:
    """The newest `updatedAt` wins; on a tie the normalised spelling; a boolean is no time."""
    raw = json.dumps(
        {
            "A": {"updatedAt": 2, "n": 0},
            "a": {"updatedAt": 1, "n": 1},
            " b": {"updatedAt": 5, "n": 2},
            "b": {"updatedAt": 5, "n": 3},
            "C": {"updatedAt": True, "n": 4},
            "c ": {"updatedAt": -1, "n": 5},
            "\ufeffD": {"n": 6},
            "\x1cd": {"n": 7},
        }
    ).encode()
    snapshot = Snapshot("s", Content.of(raw), parse("s", raw))
    assert {key: snapshot[key]["n"] for key in ("a", "B", "c", "d")} == {"a": 0, "B": 3, "c": 5, "d": 6}
    assert list(snapshot) == [
        "A",
        "b",
        "c ",
        "\ufeffD",
        "\x1cd",
    ]  # U+001C is white space for Python, not for JavaScript
    assert normalise_key("\u2003X\u00a0") == "x"


@pytest.mark.promise("WRITE7", "SNAP4")
@given(
    stores.filter(bool),
    st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), entries), st.booleans()), min_size=1, max_size=30),
)
def test_a_chain_of_changes_gives_the_bytes_that_writing_all_would_give(
    sessions: dict[str, Any], steps: list[tuple[int, dict[str, Any] | None, bool]]
) -> None:
    """However many changes a version is away from a whole buffer, its bytes, index and digest are exact."""
    with mock.patch("sessionstore.content.CHUNK_BYTES", 64), mock.patch("sessionstore.content.MIN_CHUNK_BYTES", 16):
        follow_chain(sessions, steps)


def follow_chain(sessions: dict[str, Any], steps: list[tuple[int, dict[str, Any] | None, bool]]) -> None:
    """Make the changes one after the other and compare each version with one written from scratch."""
    raw = canonical(sessions)
    snapshot = snapshot_of(raw)
    expected = {key: encode_entry(entry) for key, entry in sessions.items()}
    for number, (place, entry, append) in enumerate(steps):
        old_keys = snapshot.index.table.keys
        changes: dict[int, Change | None] = {}
        if old_keys:
            key = old_keys[place % len(old_keys)]
            changes[place % len(old_keys)] = None if entry is None else Change.of(key, entry)
            if entry is None:
                del expected[key]
            else:
                expected[key] = encode_entry(entry)
        appended = [Change.of(f"new{number}", {"n": number})] if append else []
        expected.update({change.key: change.value for change in appended})
        snapshot = compose(snapshot, parts_of(snapshot, changes, appended))
        assert snapshot.content is not None
        assert len(snapshot.content.chunks) <= snapshot.content.size_bytes // 16 + 1
        size, middle = snapshot.content.size_bytes, snapshot.content.size_bytes // 2
        assert snapshot.content.slice(0, middle) + snapshot.content.slice(middle, size) == written(expected)
        assert snapshot.digest is None or snapshot.digest.matches(Content.of(written(expected)))
        for ordinal, key in enumerate(snapshot.index.table.keys):
            assert snapshot.entry_bytes(ordinal) == expected[key]
            # Two spaces exactly: an entry may hold a member of the same name and value, indented deeper.
            member = b"\n  " + encode_key(key) + b": " + expected[key]
            assert snapshot.index.key_start(ordinal) == written(expected).index(member) + len(b"\n  ")
    assert snapshot.raw == written(expected)


def written(members: dict[str, bytes]) -> bytes:
    """The file that holds these entries."""
    if not members:
        return b"{}"
    return b"{" + b",".join(b"\n  " + encode_key(key) + b": " + value for key, value in members.items()) + b"\n}"


@pytest.mark.promise("SNAP2", "CACHE3")
@given(st.data())
def test_the_digest_of_a_large_file_follows_every_kind_of_change(data: Any) -> None:
    """Also over many segments, a digest brought up to date is the digest of the new bytes."""
    sessions = {f"s{number}": {"n": number, "pad": chr(97 + number) * 40_000} for number in range(12)}
    raw = canonical(sessions)
    snapshot = snapshot_of(raw)
    for number in range(data.draw(st.integers(1, 4), label="changes")):
        count = len(snapshot.index)
        first = data.draw(st.integers(0, count - 1), label="first")
        others = data.draw(st.lists(st.integers(0, count - 1), max_size=2), label="others")
        entry = data.draw(st.sampled_from([None, {}, {"pad": "z" * 40_000}, {"pad": "y" * 100_000}]), label="entry")
        keys_before = snapshot.index.table.keys
        changes = {place: None if entry is None else Change.of(keys_before[place], entry) for place in [first, *others]}
        appended = (
            [Change.of(f"new{number}", {"pad": "x" * 70_000})] if data.draw(st.booleans(), label="append") else []
        )
        snapshot = compose(snapshot, parts_of(snapshot, changes, appended))
        if len(snapshot.index) == 0:
            return
        assert snapshot.digest is not None
        assert snapshot.digest.matches(Content.of(snapshot.raw or b""))


@pytest.mark.promise("WRITE7")
@given(st.sampled_from([canonical, json_of]), st.lists(st.tuples(st.integers(0, 39), st.integers(0, 300)), max_size=4))
def test_places_are_known_in_a_store_of_many_entries(
    layout: Callable[[dict[str, Any]], bytes], grown: list[tuple[int, int]]
) -> None:
    """After entries became longer or shorter, every entry and key is found where a fresh parse finds it."""
    sessions = {f"s{number}": {"pad": "x" * (number * 7 % 40)} for number in range(40)}
    snapshot = snapshot_of(layout(sessions))
    for place, length in grown:
        change = Change.of(f"s{place}", {"pad": "y" * length})
        snapshot = compose(snapshot, parts_of(snapshot, {place: change}))
        assert snapshot.raw is not None
        assert described(snapshot.raw, snapshot.index) == described(snapshot.raw, parse("s", snapshot.raw))


@pytest.mark.promise("WRITE7", "CACHE3")
@pytest.mark.parametrize("changed", [0, 17, 39])
def test_a_version_shares_the_chunks_that_a_change_did_not_touch(changed: int) -> None:
    """Of many chunks, the first and the last included, only those that a changed entry lies in are made anew."""
    sessions = {f"s{number}": {"pad": chr(65 + number) * 20_000} for number in range(40)}
    old = snapshot_of(canonical(sessions))
    new = compose(old, parts_of(old, {changed: Change.of(f"s{changed}", {"pad": "!" * 20_000})}))
    assert old.content is not None
    assert new.content is not None
    shared = {id(chunk) for chunk in old.content.chunks} & {id(chunk) for chunk in new.content.chunks}
    start, end = old.index.span(changed)
    chunk_starts = itertools.accumulate(map(len, old.content.chunks), initial=0)
    touched = sum(first < end and start < last for first, last in itertools.pairwise(chunk_starts))
    assert len(shared) == len(old.content.chunks) - touched


MANY = Content(bytes([number]) * 90_000 for number in range(25))
"""So many bytes that two threads digest them."""


def sha256_of_each(content: Content) -> ContentDigest:
    """The digest of a content as one loop makes it."""
    return ContentDigest(tuple((len(chunk), hashlib.sha256(chunk).digest()) for chunk in content.chunks))


@pytest.mark.promise("SNAP2", "CACHE3")
def test_the_digest_of_many_chunks_has_each_one_in_its_place() -> None:
    """Two threads make the digest that one would make."""
    assert ContentDigest.of(MANY) == sha256_of_each(MANY)


@pytest.mark.promise("SNAP2", "CACHE3")
def test_a_digest_needs_no_second_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, the digest is made without."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert ContentDigest.of(MANY) == sha256_of_each(MANY)


@pytest.mark.promise("SNAP2", "CACHE3")
def test_what_a_second_thread_leaves_undone_is_digested_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that fails in the middle leaves no gap in the digest."""
    expected = sha256_of_each(MANY)
    real = digest._sha256
    here = threading.get_ident()

    def fail_elsewhere(chunk: bytes) -> bytes:
        if threading.get_ident() != here and chunk[0] == 3:
            raise MemoryError
        return real(chunk)

    monkeypatch.setattr(digest, "_sha256", fail_elsewhere)
    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    assert ContentDigest.of(MANY) == expected
    assert len(failed) == 1


@pytest.mark.promise("READ2")
@pytest.mark.parametrize("offset", [2, 8190, 8192, 16_385, 99_990])
@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f\x91"])
def test_a_byte_that_is_not_utf8_is_found_wherever_it_is(offset: int, bad: bytes) -> None:
    """Not UTF-8 means corrupt, with the offset of the first wrong byte, also deep inside a large value."""
    text = bytearray(b'{"a": {"p": "' + "é".encode() * 50_000 + b'"}}')
    begin = text.index("é".encode()) + 2 * (offset // 2)
    text[begin : begin + 2 * len(bad)] = bad + b" " * len(bad)
    with pytest.raises(CorruptStoreError, match="not UTF-8") as caught:
        parse("s", bytes(text))
    assert caught.value.offset == begin


@pytest.mark.promise("READ3")
@pytest.mark.parametrize(
    ("entry", "is_duplicate"),
    [
        (b'{"\xc3\xa9": 1, "\\u00e9": 2}', True),  # the same key, spelled in UTF-8 and as an escape
        (b'{"\xc3\xa9": 1, "\\u00c3\\u00a9": 2}', False),  # alike only when bytes are taken for characters
        (b'{"x": {"a": 1, "\\u0061": 2}}', True),
        (b'{"x": [{"a": 1}, {"a": 1}]}', False),
    ],
)
def test_duplicate_keys_are_judged_by_what_they_say(entry: bytes, is_duplicate: bool) -> None:
    """Two spellings of one key are duplicates; two keys that only look alike in bytes are not."""
    raw = b'{"k": ' + entry + b"}"
    if is_duplicate:
        with pytest.raises(CorruptStoreError, match="duplicate key"):
            parse("s", raw)
    else:
        assert list(parse("s", raw).table.keys) == ["k"]


@pytest.mark.promise("READ2", "SNAP5")
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_file_cut_or_bitten_anywhere_is_judged_as_if_it_were_new(count: int) -> None:
    """Every prefix, every suffix and every gap of a known file is accepted or refused as a first look at it would."""
    old_raw = canonical({f"k{number}": {"n": number} if number else {} for number in range(count)})
    old = snapshot_of(old_raw)
    size = len(old_raw)
    cuts = {old_raw[:start] + old_raw[end:] for start in range(size + 1) for end in range(start, size + 1)}
    for raw in sorted(cuts):
        try:
            expected: Index | None = parse("s", raw)
        except CorruptStoreError:
            expected = None
        if expected is None:
            with pytest.raises(CorruptStoreError):
                parse_changed("s", Content.of(raw), old)
        else:
            assert described(raw, parse_changed("s", Content.of(raw), old).index) == described(raw, expected)
