"""Where the values of secret-like keys stand in a text: in JSON, in Python, in `name=value`, in what pytest prints.

Regular expressions, for a text may be cut off, escaped, or no language at all. What they miss is not masked; what they
take too much is masked for nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

MASK: Final = "••••"

_WORDS: Final = frozenset(
    {"secret", "password", "passwd", "passphrase", "token", "apikey", "authorization", "cookie", "credential"}
    | {"credentials", "bearer", "jwt", "pwd", "secrets", "passwords", "cookies", "apikeys"}
)
_PAIRS: Final = frozenset(
    {("api", "key"), ("api", "keys"), ("private", "key"), ("access", "key"), ("signing", "key"), ("auth", "key")}
    | {("encryption", "key"), ("account", "key")}
)
_NAME: Final = re.compile(r"-{0,2}[A-Za-z_][\w.-]{0,80}")
_CAMEL: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
NO_SECRETS: Final = frozenset({"", "None", "True", "False", "null", "true", "false", MASK})
"""What a key may hold that hides nothing."""

# How a key is followed by its value. What comes first is matched alone, and the value only after a secret-like key:
# every other word of a long text would be tried as one.
_TYPE: Final = r"(?:\w{1,20}\.)?(?:str|bytes|int|object|Any|Secret\w*|Final|Optional)(?:\[[\w.]*\])?(?: ?\| ?None)?"
_IS: Final = rf"\s{{0,40}}(?:===?|!==?|:=|[=-]>|:\s{{0,4}}{_TYPE}\s{{0,4}}=(?!=)|[:=])"
_KEY: Final = re.compile(
    # In a text that is escaped, `\n` may stand right before the key. A quoted one that is compared is no key.
    r"(?<![A-Za-z0-9_])(?P<newline>(?<=\\)[nrt])?(?P<key>[A-Za-z_][\w.-]{0,80})"
    rf"(?:\\{{0,32}}[\"'](?:\s{{0,40}}(?::|=>)|[\])]{{1,2}}{_IS})|(?:\(\)|[\])]{{1,2}})?{_IS})\s{{0,40}}"
)
"""`token = "…"`, `"token": …`, `token: str = …`, `entry["token"] == …`."""

_QUOTED_KEY: Final = re.compile(
    r"\\{0,32}(?P<around>[\"'])-{0,2}(?P<key>[A-Za-z_][\w.-]{0,80})\\{0,32}(?P=around)"
    r"\s{0,40},\s{0,40}(?P<named>\\{0,32}[\"']?value\\{0,32}[\"']?\s{0,4}[:=]\s{0,4})?(?=[bBrRuUfF]{0,2}\\{0,32}[\"'])"
)
"""A quoted key and the quoted text after it: `SetField("main", "apiKey", "…")`, `field="apiKey", value="…"`."""

_IS_VALUE: Final = re.compile(r"[:=]\s{0,4}[bBrRuUfF]{0,2}\Z")
BEFORE_CHARACTERS: Final = 8
"""So far before a quoted text there may be what makes it a value."""

_OPTION: Final = re.compile(r"--(?P<key>[A-Za-z][\w-]{0,80}) +(?![\s-])")

_QUOTE: Final = r"[bBrRuUfF]{0,2}(?P<quote>\\{0,32}(?:\"{3}|'{3}|[\"']))"
_CLOSED: Final = r"(?:(?<!\\)(?P=quote)|$)"
_VALUE: Final = re.compile(
    # A quote is closed by the same, as much escaped. A text that was cut off has none: then to the end of the line.
    rf"{_QUOTE}(?P<quoted>.*?){_CLOSED}"
    r"|(?P<nested>[({\[]|[\w.]{0,80}\((?=\s*(?:[bBrRuUfF]{0,2}\\{0,32}[\"']|[({\[])))"
    r"|(?P<bare>(?:Bearer|Basic|Digest) [^\s\"'\\]+|[^\s,;}\])\"'\\]+)",
    re.MULTILINE,
)
_PIECE: Final = re.compile(
    rf"{_QUOTE}(?P<quoted>.*?){_CLOSED}(?P<colon>\s{{0,40}}:)?"
    r"|(?<![\w.])(?P<number>\d[\d.]*)|(?P<open>[({\[])|(?P<close>[)}\]])",
    re.MULTILINE,
)
MAX_NESTED_CHARACTERS: Final = 10_000
"""So far after its bracket a value ends at the latest."""

_HEADERS: Final = frozenset({"cookie", "authorization"})
"""Their values go on to the end of the line: `Cookie: a=b; c=d`."""

_REST_OF_LINE: Final = re.compile(r"[^\n\r\"'\\]*")
_WHERE: Final = re.compile(rf"where {_QUOTE}(?P<quoted>.{{0,500}}?){_CLOSED} = (?P<expression>.{{0,500}})")
"""How pytest tells what was compared: `where 'abc' = Settings(…).token`."""

_ADDRESS: Final = re.compile(r"://[^/\s:@\"']{0,80}:(?P<quoted>[^/\s@\"']{1,200})(?=@)")
"""`redis://user:password@host`."""


def is_secret_key(key: str) -> bool:
    """Whether a key reads like that of a secret. `totalTokens` does not: a count of tokens is none."""
    words = _words(key)
    return not _WORDS.isdisjoint(words) or any(pair in _PAIRS for pair in itertools.pairwise(words))


def is_secret_name(value: object) -> bool:
    """Whether a value is the name of a secret: one word, and not a text in which such a word stands."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None and is_secret_key(value)


def _words(key: str) -> list[str]:
    return [word.lower() for word in _CAMEL.findall(key)]


@dataclass(frozen=True, slots=True)
class Spot:
    """Where the value of a secret-like key stands in a text. `bare`: without quotes, so that it may be any word."""

    start: int
    end: int
    bare: bool


def spots(text: str) -> list[Spot]:
    """The values of secret-like keys in a text, in order, none within another."""
    found = [spot for keyed in (_KEY, _QUOTED_KEY, _OPTION) for spot in _after(keyed, text)]
    found += [Spot(*match.span("quoted"), bare=False) for match in _ADDRESS.finditer(text)]
    for match in _WHERE.finditer(text):
        if any(map(is_secret_key, re.findall(r"[A-Za-z_]\w*", match["expression"]))):
            found.append(Spot(*match.span("quoted"), bare=False))
    apart: list[Spot] = []
    for spot in sorted(found, key=lambda each: (each.start, -each.end)):
        if text[spot.start : spot.end] in NO_SECRETS:
            continue
        if apart and spot.start < apart[-1].end:
            apart[-1] = replace(apart[-1], end=max(spot.end, apart[-1].end))
        else:
            apart.append(spot)
    return apart


def _after(keyed: re.Pattern[str], text: str) -> Iterator[Spot]:
    """What stands after each key that `keyed` finds."""
    done = 0
    for match in keyed.finditer(text):
        groups = match.groupdict()
        names = (match["key"], (groups.get("newline") or "") + match["key"])
        if match.start() < done or not any(map(is_secret_key, names)):
            continue
        if (
            "named" in groups
            and groups["named"] is None
            and _IS_VALUE.search(text, max(0, match.start() - BEFORE_CHARACTERS), match.start())
        ):
            continue  # {"label": "token", "model": "…"}: what follows is another member
        value = _VALUE.match(text, match.end())
        if value is None:
            continue
        if value["nested"] is not None:
            nested, done = _nested(text, value.end())
            yield from nested
        elif value["bare"] is not None:
            end = value.end()
            if _HEADERS.intersection(_words(names[0])) and (rest := _REST_OF_LINE.match(text, end)) is not None:
                end = rest.end()
            yield Spot(value.start("bare"), end, bare=True)
        else:
            yield Spot(*value.span("quoted"), bare=False)


def _nested(text: str, start: int) -> tuple[list[Spot], int]:
    """Texts and numbers, no keys, between the bracket before `start` and the one that closes it; and where that is."""
    found: list[Spot] = []
    depth = 1
    for match in _PIECE.finditer(text, start, start + MAX_NESTED_CHARACTERS):
        depth += (match["open"] is not None) - (match["close"] is not None)
        if depth == 0:
            return found, match.end()
        if match["number"] is not None:
            found.append(Spot(*match.span("number"), bare=True))
        elif match["quoted"] is not None and match["colon"] is None:
            found.append(Spot(*match.span("quoted"), bare=False))
    # Nothing closes it: a text that was cut off, or code that was taken for a value. Elsewhere these words are others.
    return [replace(spot, bare=True) for spot in found], start + MAX_NESTED_CHARACTERS
