"""Hypothesis strategies for what a session store meets in real life, and the real-shaped big store.

Entries look like the gateway's (ids, timestamps, delivery context, long prompts) with the oddities that have damaged
stores: unknown fields, huge integers, unusual number spellings, odd Unicode, lone surrogates, legacy spellings of
keys. Files come in every layout that a foreign program may leave, and broken in every way that must be refused.

Floats are drawn from 0 and 0.0001 <= |x| < 10**16: outside it encoders disagree about the shortest spelling, and
which one a rewritten entry gets is not promised. Spellings outside that range are drawn with `any_range=True`, for
entries that no write touches.
"""

from __future__ import annotations

import json
import random
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Literal

from hypothesis import strategies as st

from models.specification import BOM, DAY_MS, JS_WHITE_SPACE, MAX_DEPTH, MAX_INT_DIGITS, MAX_SETTING, Entry
from models.workloads import (
    MANNERS,
    Change,
    DropField,
    EditAndRevert,
    Manner,
    Nothing,
    PutEntry,
    ReassignEntry,
    RecordHeartbeat,
    RecordReply,
    RemoveEntry,
    SetField,
    SweepCron,
    Together,
)

NOW_MS = 1_774_000_000_000
"""The middle of the timestamps that strategies draw: March 2026."""

Layout = Literal["ours", "compact", "crlf", "tabs", "four spaces", "bom", "final newline", "escaped"]
LAYOUTS: tuple[Layout, ...] = ("ours", "compact", "crlf", "tabs", "four spaces", "bom", "final newline", "escaped")

SESSION_KEYS = (
    "agent:main:main",
    "agent:main:telegram:group:-1001234567890",
    "agent:main:whatsapp:dm:+43 660 1234567",
    "agent:ops:discord:channel:987654321098765432",
    "cron:daily-report",
    "cron:straße",
    "hook:gmail:19a2",
    "агент:основной",
    "agent:絵文字:🧵",
    "constructor",
    "__proto__",
    "",
)

_LONE_SURROGATES = ("\ud800", "\udfff", "text \udc9d end")
_ODD_TEXTS = (
    "",
    "line\nbreak\ttab",
    'quotes " and \\ and / and </script>',
    "\u0000\u001f\u007f\u0080",
    "\u2028\u2029",
    "e\u0301 against \u00e9",
    "👩‍👩‍👧‍👦 🇦🇹 \U0010ffff",
    "مرحبا \u202e right to left",
    "\ufeffbyte order mark",
    *_LONE_SURROGATES,
    "\ud83d\ude00 in two halves",
)
_FIELDS = ("label", "model", "note", "lastHeartbeatText", "deliveryContext", "x-vendor", "ünbekannt", "totalTokens")

_NUMBER = re.compile(r'"@number ([^"]*)@"')


# --- values -----------------------------------------------------------------------------------------------------


def texts() -> st.SearchStrategy[str]:
    """Short texts, often odd ones; lone surrogates included."""
    return st.one_of(
        st.sampled_from(_ODD_TEXTS),
        st.text(alphabet=st.characters(max_codepoint=0x7E, min_codepoint=0x20), max_size=20),
        st.text(max_size=8),
    )


def prompts() -> st.SearchStrategy[str]:
    """Texts of several kilobytes, cheap to draw: what a session's skill prompt looks like."""
    return st.builds(
        lambda word, count: f"{word}: answer in full sentences, cite the file. " * count,
        st.sampled_from(("Briefing", "Zusammenfassung: größer", "指示", "Überblick 🧭")),
        st.integers(min_value=20, max_value=80),
    )


def integers() -> st.SearchStrategy[int]:
    """Small ones, those around 2**53 and 2**64 where other languages round, and far larger ones."""
    return st.one_of(
        st.integers(min_value=-5, max_value=200),
        st.sampled_from((2**53, 2**53 + 1, -(2**63), 2**63, 2**64 - 1, 2**64, 12345678901234567890123, 10**400)),
    )


def floats() -> st.SearchStrategy[float]:
    """Floats whose shortest spelling every encoder agrees on (see the module's header)."""
    return st.one_of(
        st.sampled_from((0.0, -0.0, 1.0, 0.1, 1e15, -2.5, 3.141592653589793)),
        st.floats(min_value=1e-4, max_value=9e15, allow_nan=False),
    )


def values() -> st.SearchStrategy[object]:
    """Any JSON value of modest size."""
    scalars = st.one_of(st.none(), st.booleans(), integers(), floats(), texts())
    return st.recursive(
        scalars,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts(), inner, max_size=3)),
        max_leaves=6,
    )


def timestamps() -> st.SearchStrategy[object]:
    """`updatedAt`: mostly plausible milliseconds (few different ones, so that ties happen), sometimes nonsense."""
    plausible = st.sampled_from(
        [NOW_MS - days * DAY_MS for days in (0, 1, 7, 8, 29, 30, 31, 365)] + [NOW_MS - 30 * DAY_MS - 1, NOW_MS + 5]
    )
    return st.one_of(plausible, plausible, st.sampled_from((True, "yesterday", None, 0, 1.5, float(NOW_MS))))


def session_keys() -> st.SearchStrategy[str]:
    """Normalised keys from a small pool, so that operations meet."""
    return st.sampled_from(SESSION_KEYS)


def _spell(key: str, case: int, before: str, after: str) -> str:
    cased = (key, key, key.upper(), key.title())[case]
    # A few characters do not come back from upper case: then it would be another session.
    return before + (cased if cased.lower() == key else key) + after


def spelled_keys() -> st.SearchStrategy[str]:
    """Keys as callers write them: normalised, in other cases, with white space around."""
    return _SPELLED_KEYS


# Built once: Hypothesis validates and caches every strategy object that is made, which costs more than drawing.
_BOOLEANS = st.booleans()
_TEXTS = texts()
_PROMPTS = prompts()
_VALUES = values()
_TIMESTAMPS = timestamps()
_SESSION_KEYS = session_keys()
_SPELLED_KEYS = st.builds(
    _spell,
    _SESSION_KEYS,
    st.integers(min_value=0, max_value=3),
    st.sampled_from(("", "", " ", "\t", "\u00a0")),
    st.sampled_from(("", "", " ", "\r\n", "\ufeff", "\u2028")),
)
_UUIDS = st.integers(min_value=0, max_value=2**32).map(lambda number: str(uuid.UUID(int=number)))
_CONTEXTS = st.fixed_dictionaries(
    {
        "channel": st.sampled_from(("telegram", "whatsapp", "discord")),
        "to": _TEXTS,
        "accountId": st.sampled_from((None, "default")),
    }
)
_SOME_FIELDS = st.dictionaries(st.sampled_from(_FIELDS), _VALUES, max_size=2)


@st.composite
def entries(draw: st.DrawFn, *, long_prompts: bool = False) -> Entry:
    """A session entry: real fields with a few odd ones."""
    entry: Entry = {}
    if draw(_BOOLEANS):
        entry["sessionId"] = draw(_UUIDS)
    if draw(_BOOLEANS):
        entry["updatedAt"] = draw(_TIMESTAMPS)
    if draw(_BOOLEANS):
        entry["deliveryContext"] = draw(_CONTEXTS)
    if long_prompts and draw(_BOOLEANS):
        entry["skillsSnapshot"] = {"prompt": draw(_PROMPTS), "skills": [{"name": "search"}, {"name": "calendar"}]}
    entry.update(draw(_SOME_FIELDS))
    return entry


# --- what JSON cannot carry -------------------------------------------------------------------------------------


_POISON = st.one_of(
    st.sampled_from(
        (float("nan"), float("inf"), float("-inf"), b"bytes", {1, 2}, print, object, 1j, 10**MAX_INT_DIGITS)
    ),
    # A key that is not a string: the path leads to the dict that has it.
    st.sampled_from((1, None, True, 1.5, (1,))).map(lambda key: {key: "value"}),
)
_STEPS: st.SearchStrategy[list[int | str]] = st.lists(
    st.one_of(st.integers(min_value=-3, max_value=2), st.sampled_from(("a", "deliveryContext", 'with "quotes"'))),
    max_size=3,
)


@st.composite
def unstorable_entries(draw: st.DrawFn) -> tuple[object, str]:
    """An entry that must be refused, with the path of the offending value in it (READ4)."""
    poison: object = draw(_POISON)
    path = ""
    for place in draw(_STEPS):
        if isinstance(place, str):
            poison = {"fine": 1, place: poison}
        else:
            # The position in a list or, below zero, in a tuple.
            poison = [*([0] * place), poison] if place >= 0 else (*([0] * ~place), poison)
        path = f"[{json.dumps(place if isinstance(place, str) or place >= 0 else ~place)}]{path}"
    return {"sessionId": "x", "field": poison}, f'["field"]{path}'


# --- files ------------------------------------------------------------------------------------------------------


def number_spellings(*, any_range: bool = False) -> st.SearchStrategy[str]:
    """Numbers as other programs spell them."""
    everywhere = ("-0", "1.50", "1e5", "1E+2", "0.10", "100e-2", "1.0", "-0.0", "9007199254740993", "1" + "0" * 400)
    extreme = ("1e300", "1E-300", "0.00001", "1e-7", "5e-324", "1e-999", "123456789012345678901234567890.5")
    return st.sampled_from(everywhere + extreme if any_range else everywhere)


def render(sessions: Sequence[tuple[str, Mapping[str, object]]], layout: Layout) -> bytes:
    """A store file with these members, in the given layout. Members are pairs: a broken file may repeat a key.

    A string `@number 1e5@` becomes the number token `1e5`.
    """
    ascii_only = layout == "escaped"
    indent = {"compact": None, "tabs": "\t", "four spaces": 4}.get(layout, 2)
    separators = (",", ":") if layout == "compact" else (",", ": ")

    def dumped(value: object) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=ascii_only, separators=separators)

    pad = "" if indent is None else "\n" + (indent if isinstance(indent, str) else " " * indent)
    members = [
        f"{pad}{_escaped_key(key) if layout == 'escaped' else dumped(key)}{separators[1]}"
        f"{dumped(entry).replace(chr(10), pad) if pad else dumped(entry)}"
        for key, entry in sessions
    ]
    text = "{" + ",".join(members) + ("\n}" if members and pad else "}")
    text = _NUMBER.sub(lambda matched: matched[1], text)
    text = re.sub("[\ud800-\udfff]", lambda matched: f"\\u{ord(matched[0]):04x}", text)
    if layout == "crlf":
        text = text.replace("\n", "\r\n")
    encoded = text.encode("utf-8")
    if layout == "bom":
        return BOM + encoded
    return encoded + b"\n" if layout == "final newline" else encoded


def _escaped_key(key: str) -> str:
    """Every UTF-16 unit as an escape, in the upper-case hex that our own encoders never write."""
    units = key.encode("utf-16-be", "surrogatepass")
    return '"' + "".join(f"\\u{units[at] << 8 | units[at + 1]:04X}" for at in range(0, len(units), 2)) + '"'


@st.composite
def foreign_sessions(
    draw: st.DrawFn, *, legacy_keys: bool = True, any_range: bool = False, long_prompts: bool = False
) -> list[tuple[str, Entry]]:
    """The members of a file that another program wrote: distinct keys, perhaps several spellings of one session."""
    sessions = []
    for key in draw(_LEGACY_KEY_LISTS if legacy_keys else _KEY_LISTS):
        entry = draw(_LONG_ENTRIES if long_prompts else _ENTRIES)
        spelling = draw(_ANY_SPELLINGS if any_range else _SPELLINGS)
        if spelling is not None:
            entry["spelled"] = f"@number {spelling}@"
        sessions.append((key, entry))
    return sessions


_ENTRIES = entries()
_LONG_ENTRIES = entries(long_prompts=True)
_SPELLINGS = st.none() | number_spellings()
_ANY_SPELLINGS = st.none() | number_spellings(any_range=True)
_KEY_LISTS = st.lists(_SESSION_KEYS, unique=True, max_size=5)
_LEGACY_KEY_LISTS = st.lists(_SPELLED_KEYS, unique=True, max_size=5)


def store_files(
    *, legacy_keys: bool = True, any_range: bool = False, long_prompts: bool = False
) -> st.SearchStrategy[bytes]:
    """Valid store files in any layout."""
    return st.builds(
        render,
        foreign_sessions(legacy_keys=legacy_keys, any_range=any_range, long_prompts=long_prompts),
        st.sampled_from(LAYOUTS),
    )


def manners() -> st.SearchStrategy[Manner]:
    """How a foreign program changes the file, deleting aside."""
    return st.sampled_from([manner for manner in MANNERS if manner != "delete"])


_GOOD = b'{\n  "agent:main:main": {\n    "sessionId": "a",\n    "updatedAt": 1774000000000\n  }\n}'

CORRUPT_FILES: Mapping[str, bytes] = {
    "zero bytes": b"",
    "only white space": b" \n\t\r\n",
    "only a byte order mark": BOM,
    "two byte order marks": BOM + BOM + _GOOD,
    "NUL bytes": b"\x00" * 512,
    "NUL bytes at the end": _GOOD[:-20] + b"\x00" * 20,
    "truncated": _GOOD[:-9],
    "truncated inside a character": '{"a": {"label": "ü'.encode()[:-1],
    "something after the end": _GOOD + b"}",
    "two documents": _GOOD + b"\n" + _GOOD,
    "UTF-16": _GOOD.decode().encode("utf-16"),
    "Latin-1": '{"a": {"label": "ü"}}'.encode("latin-1"),
    "encoded surrogate": b'{"a": {"label": "\xed\xa0\x80"}}',
    "overlong encoding": b'{"a": {"label": "\xc0\xaf"}}',
    "not JSON": b"sessions: none",
    "HTML": b"<!doctype html><title>502</title>",
    "single quotes": b"{'a': {}}",
    "comma at the end": b'{"a": {},}',
    "comma at the start": b'{,"a": {}}',
    "comma missing": b'{"a": {} "b": {}}',
    "colon missing": b'{"a" {}}',
    "key without quotes": b"{a: {}}",
    "comment": b'{"a": {} /* x */}',
    "raw line break in a string": b'{"a": {"label": "x\ny"}}',
    "bad escape": b'{"a": {"label": "\\x41"}}',
    "leading zero": b'{"a": {"n": 007}}',
    "plus sign": b'{"a": {"n": +7}}',
    "bare point": b'{"a": {"n": 1.}}',
    "root is a list": b"[]",
    "root is null": b"null",
    "root is a number": b"42",
    "root is a string": b'"store"',
    "entry is null": b'{"a": null}',
    "entry is a number": b'{"a": {}, "b": 7}',
    "entry is a string": b'{"a": "x"}',
    "entry is a list": b'{"a": [], "b": {}}',
    "entry is true": b'{"a": true}',
    "key twice": b'{"a": {"n": 1}, "b": {}, "a": {"n": 1}}',
    "key twice in two spellings": b'{"a": {}, "\\u0061": {}}',
    "key twice in an entry": b'{"a": {"n": 1, "n": 2}}',
    "key twice deep inside": b'{"a": {"list": [{"n": 1, "m": 0, "n": 1}]}}',
    "NaN": b'{"a": {"n": NaN}}',
    "Infinity": b'{"a": {"n": Infinity}}',
    "-Infinity": b'{"a": {"n": [-Infinity]}}',
    "number overflows": b'{"a": {"n": 1e999}}',
    "negative number overflows": b'{"a": {"n": -1e999}}',
    "integer too long": b'{"a": {"n": ' + b"9" * (MAX_INT_DIGITS + 1) + b"}}",
    "too deep": b'{"a": ' + b'{"x":' * MAX_DEPTH + b"{}" + b"}" * MAX_DEPTH + b"}",
    "absurdly deep": b'{"a": {"n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    "absurdly deep and open": b"[" * 100_000,
}
"""Every kind of file that must be refused (READ2, READ3), by name."""


def corrupt_files() -> st.SearchStrategy[tuple[str, bytes]]:
    """A kind of corruption and a file that has it: the catalogue, and good files cut short at any byte."""
    cut = st.integers(min_value=0, max_value=len(_GOOD) - 1).map(lambda size: (f"cut after {size} bytes", _GOOD[:size]))
    return st.one_of(st.sampled_from(sorted(CORRUPT_FILES.items())), cut)


# --- changes ----------------------------------------------------------------------------------------------------


def changes() -> st.SearchStrategy[Change]:
    """What a mutator may do, on keys that often exist."""
    key = _SPELLED_KEYS
    now = st.integers(min_value=NOW_MS - 2 * DAY_MS, max_value=NOW_MS)
    single: st.SearchStrategy[Change] = st.one_of(
        st.builds(PutEntry, key, _ENTRIES),
        st.builds(SetField, key, st.sampled_from(_FIELDS), _VALUES),
        st.builds(DropField, key, st.sampled_from(_FIELDS)),
        st.builds(RemoveEntry, key),
        st.builds(ReassignEntry, key),
        st.builds(EditAndRevert, key),
        st.builds(
            RecordReply,
            key=key,
            session_id=st.just("00000000-0000-0000-0000-000000000001"),
            now_ms=now,
            channel=st.just("telegram"),
            to=_TEXTS,
            tokens=st.integers(min_value=1, max_value=9),
        ),
        st.builds(RecordHeartbeat, key=key, text=st.sampled_from(("alert", "all well")), now_ms=now),
        st.builds(SweepCron, now_ms=now),
        st.builds(Nothing),
    )
    several = st.lists(single, min_size=2, max_size=3).map(lambda steps: Together(tuple(steps)))
    return st.one_of(single, single, several)


# --- settings ---------------------------------------------------------------------------------------------------

_SPACES = st.text(alphabet=st.sampled_from(JS_WHITE_SPACE), max_size=2)


def environment_strings() -> st.SearchStrategy[str]:
    """Values of the numeric environment variables: good, bad, and those that a lenient parser would take."""
    digits = st.one_of(
        st.integers(min_value=0, max_value=10**7).map(str),
        st.sampled_from((str(MAX_SETTING), str(MAX_SETTING + 1), "0" * 30 + "12", "0" * 5000 + "5", "9" * 5000)),
    )
    numbers = st.builds(
        lambda before, sign, number, after: before + sign + number + after,
        _SPACES,
        st.sampled_from(("", "", "", "+", "-", "--", "+-", "- ")),
        digits,
        _SPACES,
    )
    lenient = st.sampled_from(
        (
            "",
            " ",
            "-1",
            "-0",
            "+0",
            "1e3",
            "1.0",
            "1_000",
            "0x10",
            "0o7",
            "abc",
            "Infinity",
            "NaN",
            "80abc",
            "1 000",
            "١٢",
            "\uff19",
            "²",
            "5\x1c",
            "\x855",
            "true",
            "1000000;",
            "\uff11\uff10",
            "+",
            "-",
            "1,000",
            "12\ud800",
        )
    )
    return st.one_of(numbers, lenient, st.text(max_size=5)).filter(lambda text: "\x00" not in text)


# --- the big store ----------------------------------------------------------------------------------------------

_WORDS = (
    "briefing",
    "calendar",
    "Antwort",
    "größer",
    "session",
    "gateway",
    "delivery",
    "heute",
    "report",
    "指示",
    "merge",
    "review",
    "Überblick",
    "deploy",
    "status",
    "морозно",
    "reply",
    "thread",
    "summary",
    "search",
    "🧵",
    "naïve",
)


def realistic_store(target_bytes: int, *, seed: int) -> bytes:
    """A store file of exactly `target_bytes` in the store's own layout, the same for the same arguments.

    Entries have the fields of production ones and about 2 KB, so 7.6 MB are some 3,500 of them.

    Raises:
        ValueError: `target_bytes` is too small for one entry.
    """
    rng = random.Random(seed)
    members: list[str] = []
    size_bytes = len("{\n}")
    while True:
        number = len(members)
        member = f"\n  {json.dumps(_realistic_key(number))}: " + json.dumps(
            _realistic_entry(rng, number), indent=2, ensure_ascii=False
        ).replace("\n", "\n  ")
        added = len(member.encode()) + (1 if members else 0)
        if size_bytes + added > target_bytes:
            break
        members.append(member)
        size_bytes += added
    if not members:
        raise ValueError(f"target_bytes is {target_bytes}. Give at least {size_bytes + added}, the size of one entry.")
    # The last entry's prompt takes up the rest, so that the size is exact.
    last = members[-1]
    at = last.index('"prompt": "') + len('"prompt": "')
    members[-1] = last[:at] + "x" * (target_bytes - size_bytes) + last[at:]
    return ("{" + ",".join(members) + "\n}").encode()


def _realistic_key(number: int) -> str:
    kinds = ("agent:main:telegram:dm", "agent:main:whatsapp:group", "agent:ops:discord:channel", "cron:job")
    return "agent:main:main" if number == 0 else f"{kinds[number % len(kinds)]}:{100_000 + number}"


def _realistic_entry(rng: random.Random, number: int) -> Entry:
    prompt = " ".join(rng.choices(_WORDS, k=rng.randint(130, 212)))
    return {
        "sessionId": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        "updatedAt": NOW_MS - number * 60_000,
        "systemSent": True,
        "chatType": rng.choice(("direct", "group", "channel")),
        "deliveryContext": {"channel": "telegram", "to": f"chat:{rng.randrange(10**9)}", "accountId": "default"},
        "lastChannel": "telegram",
        "model": "opus-4",
        "inputTokens": rng.randrange(200_000),
        "totalTokens": rng.randrange(2_000_000),
        "telegramUpdateId": rng.getrandbits(63),
        "skillsSnapshot": {
            "prompt": prompt,
            "skills": [{"name": word} for word in rng.sample(_WORDS, 4)],
        },
        "lastHeartbeatText": " ".join(rng.choices(_WORDS, k=8)),
    }
