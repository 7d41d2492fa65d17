"""Masks what looks like a secret, before a document is written or shown in any format.

A value is masked if its key reads like that of a secret (`apiKey`, `auth_token`, `Cookie`), in JSON, in Python's
spelling and in `name=value`; wherever the same value stands again, it is masked there too. Well-known forms of tokens
are masked without a key. A filter for accidents, not a protection against somebody who wants to print a secret.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Iterable
from typing import Any, Final, get_args

from storecheck.report.codec import decode, encode
from storecheck.report.document import Allowed, Importance, Kind, Persisted, Run
from storecheck.verdict import PromiseOutcome

MASK: Final = "••••"

MIN_SECRET_CHARACTERS: Final = 4
"""Shorter values are masked at their key only: replacing every `1` of a report would hide the failure itself."""

_WORDS: Final = frozenset(
    {"secret", "password", "passwd", "passphrase", "token", "apikey", "authorization", "cookie", "credential"}
    | {"credentials", "bearer", "jwt"}
)
_PAIRS: Final = frozenset({("api", "key"), ("private", "key"), ("access", "key"), ("signing", "key"), ("auth", "key")})
_CAMEL: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_KEY_VALUE: Final = re.compile(
    r"(?P<key>[A-Za-z_][\w.-]*)(?P<close>\\*[\"']?)(?P<sep>\s*[:=]\s*)"
    r"(?P<value>(?P<quote>\\*[\"']).*?(?<!\\)(?P=quote)|\\*[\"'].*$|(?:Bearer|Basic) \S+|[^\s,;}\])\"']+)",
    re.MULTILINE,
)
_OWN_WORDS: Final = frozenset(
    word for closed in (Kind, Importance, Persisted, Allowed, PromiseOutcome) for word in get_args(closed)
)
"""Words that members of run documents are limited to: a secret that happens to be one must not break the document."""

_ADJOINING: Final = re.compile(
    r"(?P<start>\\*(?P<quote>[\"'])(?P<key>[A-Za-z_][\w.-]*)\\*(?P=quote)\s*[,:]\s*\\*(?P<open>[\"']))"
    r"(?P<value>(?:\\.|(?!(?P=open))[^\\])*)",
)
"""A quoted key and the quoted text after it, as in `{"apiKey": "…"}` and `SetField("main", "apiKey", "…")`."""

_KNOWN_FORMS: Final = re.compile(
    r"\b(?:sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|xox[abpr]-[A-Za-z0-9-]{10,}|AKIA[0-9A-Z]{16}"
    r"|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*)"
)


def is_secret_key(key: str) -> bool:
    """Whether a key reads like that of a secret. `totalTokens` does not: a count of tokens is none."""
    words = [word.lower() for word in _CAMEL.findall(key)]
    return not _WORDS.isdisjoint(words) or any(pair in _PAIRS for pair in itertools.pairwise(words))


def secret_values(value: object) -> set[str]:
    """Texts that stand under secret-like keys anywhere in a JSON value, also in JSON and calls that are held as text.

    An object with a member `field` (or `name`, `key`) whose value reads like a secret's key has its `value` taken.
    """
    found: set[str] = set()
    _collect(value, found)
    return {text for text in found if len(text) >= MIN_SECRET_CHARACTERS}


def _collect(value: object, found: set[str]) -> None:
    if isinstance(value, dict):
        names = [value.get(part) for part in ("field", "name", "key")]
        named = any(isinstance(name, str) and is_secret_key(name) for name in names)
        for key, each in value.items():
            if is_secret_key(str(key)) or (named and key == "value"):
                found.update(_texts(each))
            _collect(each, found)
    elif isinstance(value, list | tuple):
        for each in value:
            _collect(each, found)
    elif isinstance(value, str):
        found.update(match["value"] for match in _ADJOINING.finditer(value) if is_secret_key(match["key"]))
        if value.lstrip()[:1] in ("{", "["):
            with contextlib.suppress(ValueError):
                _collect(json.loads(value), found)


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)


def mask(value: Any, *, secrets: Iterable[str] = ()) -> Any:
    """A JSON value with everything masked that looks like a secret, or is one of `secrets`."""
    longest_first = sorted({*secret_values(value), *secrets}, key=len, reverse=True)
    return _mask(value, longest_first)


def _mask(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, dict):
        masked = {
            key: MASK if is_secret_key(str(key)) and isinstance(each, str | int | float) else _mask(each, secrets)
            for key, each in value.items()
        }
        if "loose" in masked and any(masked.get(name) != value.get(name) for name in ("call", "what")):
            masked["loose"] = []  # they count characters of the text as it was
        return masked
    if isinstance(value, list | tuple):
        return [_mask(each, secrets) for each in value]
    if not isinstance(value, str) or value in _OWN_WORDS:
        return value
    return mask_text(value, secrets)


def mask_text(text: str, secrets: Iterable[str] = ()) -> str:
    """The same for running text."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    text = _KNOWN_FORMS.sub(MASK, text)
    text = _ADJOINING.sub(lambda match: f"{match['start']}{MASK}" if is_secret_key(match["key"]) else match[0], text)
    return _KEY_VALUE.sub(_masked_pair, text)


def _masked_pair(match: re.Match[str]) -> str:
    if not is_secret_key(match["key"]):
        return match[0]
    quote = match["quote"] or ""
    return f"{match['key']}{match['close']}{match['sep']}{quote}{MASK}{quote}"


def mask_run(run: Run, *, secrets: Iterable[str] = ()) -> Run:
    """A run in which nothing that looks like a secret is left, nor any of `secrets`: what all formats are made from."""
    return decode(Run, mask(encode(run), secrets=secrets))
