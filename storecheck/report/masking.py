"""Masks what looks like a secret, before a document is written or shown in any format.

A value is masked if its key reads like that of a secret (`apiKey`, `auth_token`, `Cookie`), in JSON, in Python's
spelling and in `name=value`; wherever the same value stands again, it is masked there too, also escaped, or cut off.
Well-known forms of tokens are masked without a key. A filter for accidents, not a protection against somebody who
wants to print a secret. `placeholders` does the same for counterexamples, which must still replay.
"""

from __future__ import annotations

import ast
import base64
import binascii
import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, get_args
from urllib.parse import quote

from storecheck.report.codec import decode, encode, members_of
from storecheck.report.document import Allowed, CutKind, Importance, Kind, Persisted, Run
from storecheck.report.spots import MASK, NO_SECRETS, is_secret_key, is_secret_name, spots
from storecheck.verdict import PromiseOutcome

MIN_SECRET_CHARACTERS: Final = 4
"""Shorter values are masked at their key only: replacing every `1` of a report would hide the failure itself."""

_NO_KEY: Final = 1e300
"""No secret is as large a number; Python refuses to show much larger ones."""

MIN_CUT_CHARACTERS: Final = 8
"""So many characters of a secret before or after an ellipsis are masked as the secret itself."""

BASE64: Final = "base64"
"""Member that holds content which is no text, in programs."""

_VALUES: Final = frozenset({"value", "values", "expected", "found"})
"""Members that hold the value of what `field`, `name` or `key` beside them names."""

_OWN_WORDS: Final = frozenset(
    word for closed in (Kind, Importance, Persisted, Allowed, CutKind, PromiseOutcome) for word in get_args(closed)
)
"""Words that members of run documents are limited to: a secret that happens to be one must not break the document."""

_OWN_MEMBERS: Final = members_of(Run)

_CUT_OFF: Final = re.compile(r"\.\.\.|…")
_NO_WORD: Final = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w./+=~-]+")
_KNOWN_FORMS: Final = re.compile(
    r"\b(?:sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|xox[abpr]-[A-Za-z0-9-]{10,}|AKIA[0-9A-Z]{16}"
    r"|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*)"
    r"|(?<=Bearer )[A-Za-z0-9._~+/=-]{16,}"
    r"|(?<=PRIVATE KEY-----)[A-Za-z0-9+/=\\\s]{16,10000}"
)


# Secrets in values


def secret_values(value: object) -> set[str]:
    """Texts that stand under secret-like keys anywhere in a JSON value, also in JSON and calls that are held as text.

    An object with a member `field` (or `name`, `key`) whose value reads like a secret's key has its `value` taken
    (also `values`, `expected`, `found`), and a pair its second part. Content in base64 is looked into.
    """
    found: set[str] = set()
    _collect(value, found)
    return {text for text in found if len(text) >= MIN_SECRET_CHARACTERS and text not in NO_SECRETS}


def _collect(value: object, found: set[str]) -> None:
    if isinstance(value, Mapping):
        for key, each, secret in members(value):
            if secret:
                found.update(texts(each))
            _collect(key, found)
            _collect(each, found)
        found.update(secret_values(content_of(value)))
    elif isinstance(value, list | tuple):
        if is_pair(value):
            found.update(texts(value[1]))
        for each in value:
            _collect(each, found)
    elif isinstance(value, bytes):
        _collect(as_text(value), found)
    elif isinstance(value, str):
        _collect_in_text(value, found)


def _collect_in_text(text: str, found: set[str]) -> None:
    for spot in spots(text):
        said = _unescaped(text[spot.start : spot.end])
        found.update(each for each in said if not _CUT_OFF.search(each) and (not spot.bare or _is_no_word(each)))
    found.update(match[0] for match in _KNOWN_FORMS.finditer(text))
    if text.lstrip()[:1] in ("{", "["):
        with contextlib.suppress(ValueError, RecursionError):
            _collect(json.loads(text), found)


def members(value: Mapping[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    """Key, value, and whether what stands there is a secret."""
    named = any(is_secret_name(value.get(part)) for part in ("field", "name", "key"))
    for key, each in value.items():
        yield key, each, is_secret_key(str(key)) or (named and key in _VALUES)


def is_pair(value: list[Any] | tuple[Any, ...]) -> bool:
    """Whether it is a secret's key with its value."""
    return len(value) == 2 and is_secret_name(value[0])


def content_of(value: Mapping[str, Any]) -> bytes | None:
    """The content that an object holds in base64, or None if it holds none."""
    if list(value) == [BASE64] and isinstance(value[BASE64], str):
        with contextlib.suppress(binascii.Error, ValueError):
            return base64.b64decode(value[BASE64], validate=True)
    return None


def as_text(content: bytes) -> str:
    """Content as text, whatever it is; `as_content` makes the same content of it."""
    return content.decode("utf-8", "surrogateescape")


def as_content(text: str) -> bytes:
    """The inverse of `as_text`."""
    return text.encode("utf-8", "surrogateescape")


def texts(value: object) -> Iterable[str]:
    """All texts and numbers in a JSON value, as text."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield as_text(value)
    elif isinstance(value, Mapping):
        content = content_of(value)
        for each in value.values() if content is None else (content,):
            yield from texts(each)
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from texts(each)
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _NO_KEY:
        yield str(value)


def _unescaped(text: str) -> Iterator[str]:
    """A text as it stands between quotes, and what it says."""
    yield text
    if "\\" in text:
        for literal in (f'"{text}"', f"'{text}'", f'b"{text}"'):
            with contextlib.suppress(ValueError, SyntaxError):
                said = ast.literal_eval(literal)
                yield as_text(said) if isinstance(said, bytes) else said


def _is_no_word(text: str) -> bool:
    """Whether a value without quotes is a secret in other places, too: `hunter2-abc`, not `expected` and not `f(1)`."""
    return len(text) >= MIN_CUT_CHARACTERS and _NO_WORD.fullmatch(text) is not None


def spellings(text: str) -> tuple[Callable[[str], str], ...]:
    """The ways to write a text that differ for this one: in JSON, Python, twice so, in addresses, in base64."""
    chosen: dict[str, Callable[[str], str]] = {}
    for spelling in _SPELLINGS:
        with contextlib.suppress(UnicodeError):
            chosen.setdefault(spelling(text), spelling)
    return tuple(chosen.values())


def _as_it_is(text: str) -> str:
    return text


def _in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def _in_wide_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _in_python(text: str) -> str:
    return repr(text)[1:-1]


def _in_bytes(text: str) -> str:
    return repr(as_content(text))[2:-1]


def _in_address(text: str) -> str:
    return quote(text, safe="")


def _in_base64(text: str) -> str:
    return base64.b64encode(as_content(text)).decode().rstrip("=")


_ESCAPES: Final = (_in_json, _in_wide_json, _in_python, _in_bytes)


def _twice(inner: Callable[[str], str], outer: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: outer(inner(text))


_SPELLINGS: Final[tuple[Callable[[str], str], ...]] = (
    _as_it_is,
    *_ESCAPES,
    *(_twice(inner, outer) for inner in _ESCAPES for outer in _ESCAPES),
    _in_address,
    _in_base64,
)


def any_of(secrets: Iterable[str]) -> re.Pattern[str] | None:
    """What finds each of `secrets` however it is spelled, the longest first; None if there are none."""
    spelled = {spelling(secret) for secret in secrets for spelling in spellings(secret)}
    # A number is no part of a longer one: that is another number.
    whole = [
        rf"(?<!\d){text}(?!\d)" if text.isdecimal() else re.escape(text)
        for text in sorted(spelled, key=lambda text: (-len(text), text))
        if text
    ]
    if not whole:
        return None
    cut = [part for text in sorted(spelled) if len(text) > MIN_CUT_CHARACTERS for part in _cut(text)]
    return re.compile("|".join((*whole, *cut)), re.IGNORECASE)


def _cut(text: str) -> tuple[str, str]:
    """The beginning of a text before an ellipsis, and its end after one."""
    head, tail = text[:MIN_CUT_CHARACTERS], text[-MIN_CUT_CHARACTERS:]
    return rf"{re.escape(head)}[^\s\"']*?(?=\.\.\.|…)", rf"(?:(?<=\.\.\.)|(?<=…))[^\s\"']*?{re.escape(tail)}"


# Masking


def mask(value: Any, *, secrets: Iterable[str] = ()) -> Any:
    """A JSON value with everything masked that looks like a secret, or is one of `secrets`."""
    return _mask(value, any_of({*secret_values(value), *secrets}))


def _mask(value: Any, known: re.Pattern[str] | None) -> Any:
    if isinstance(value, dict):
        if (content := content_of(value)) is not None and _shows(as_text(content), known):
            return {BASE64: MASK}
        masked = {_masked_key(key, known): _all(each) if secret else _mask(each, known)
                  for key, each, secret in members(value)}  # fmt: skip
        if "loose" in masked and any(masked.get(name) != value.get(name) for name in ("call", "what")):
            masked["loose"] = []  # they count characters of the text as it was
        return masked
    if isinstance(value, list | tuple):
        if is_pair(value):
            return [value[0], _all(value[1])]
        return [_mask(each, known) for each in value]
    if not isinstance(value, str) or value in _OWN_WORDS:
        return value
    return _masked_text(value, known)


def _masked_key(key: str, known: re.Pattern[str] | None) -> str:
    return key if known is None or key in _OWN_MEMBERS else known.sub(MASK, key)


def _all(value: Any) -> Any:
    """Every text and number of a value masked."""
    if isinstance(value, dict):
        return {key: _all(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_all(each) for each in value]
    return MASK if isinstance(value, str | int | float) and not isinstance(value, bool) else value


def mask_text(text: str, secrets: Iterable[str] = ()) -> str:
    """The same for running text."""
    return masker(secrets)(text)


def masker(secrets: Iterable[str]) -> Callable[[str], str]:
    """The same for many texts."""
    known = any_of(secrets)
    return lambda text: _masked_text(text, known)


def _shows(text: str, known: re.Pattern[str] | None) -> bool:
    return (
        (known is not None and known.search(text) is not None) or bool(spots(text)) or bool(_KNOWN_FORMS.search(text))
    )


def _masked_text(text: str, known: re.Pattern[str] | None) -> str:
    if known is not None:
        text = known.sub(MASK, text)
    text = _KNOWN_FORMS.sub(MASK, text)
    parts, at = [], 0
    for spot in spots(text):
        parts += [text[at : spot.start], MASK]
        at = spot.end
    return "".join((*parts, text[at:]))


def mask_run(run: Run, *, secrets: Iterable[str] = ()) -> Run:
    """A run in which nothing that looks like a secret is left, nor any of `secrets`: what all formats are made from."""
    return decode(Run, mask(encode(run), secrets=secrets))
