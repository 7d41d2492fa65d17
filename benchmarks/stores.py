"""Session stores of a given size, shaped like the ones a gateway leaves behind, the same on every machine.

An entry carries ids, a delivery context, token counts and a prompt report of several hundred words; every fourth one
is mostly text outside ASCII, because decoders take a slower path there. One entry is the counter that concurrent
writers increment. Not random in the statistical sense, and not meant to find bugs: the strategies in `models` do that.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

COUNTER_KEY = "agent:main:counter"
CHANNELS = ("telegram", "whatsapp", "discord", "slack", "signal", "cron", "webchat")
_ASCII_TEXT = (
    "You are a careful assistant that answers in plain words and never invents a source when asked about "
    'memory, tools, cron jobs or "heartbeat" messages; paths like C:\\agents\\main stay as they are'
)
_UNICODE_TEXT = (
    "Ты внимательный помощник отвечаешь простыми словами 你是一个细心的助手 請用簡單的話回答 注意深いアシスタントです "
    "café naïve Übergröße señal działać ✅ 🚀 👩‍👩‍👧 🇩🇪 مساعد دقيق עוזר"
)
ASCII_WORDS = _ASCII_TEXT.split()
UNICODE_WORDS = _UNICODE_TEXT.split()
UNICODE_EVERY = 4
PROMPT_PARTS = 4
# Spread over the month that default maintenance keeps, so that neither pruning nor keeping is the special case.
UPDATED_SPREAD_MS = 20 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class StoreShape:
    """How large a benchmark store is: `entries` entries that fill about `size_bytes` bytes of indented JSON."""

    name: str
    entries: int
    size_bytes: int


LARGE = StoreShape("7.6 MB", entries=3_500, size_bytes=7_600_000)
MEDIUM = StoreShape("220 KB", entries=100, size_bytes=220_000)
SMALL = StoreShape("2 KB", entries=1, size_bytes=2_000)


@dataclass(frozen=True, slots=True)
class GeneratedStore:
    """A store ready to be handed to every peer: the same entries, and their file form with two-space indentation."""

    shape: StoreShape
    sessions: dict[str, dict[str, object]]
    file_bytes: bytes

    def keys_spread(self, *, count: int, start: int) -> list[str]:
        """`count` keys from all over the file; another `start` gives other keys."""
        keys = list(self.sessions)
        # A step that shares no divisor with common sizes walks the whole file before it repeats.
        return [keys[(start * count + turn) * 1_237 % len(keys)] for turn in range(count)]


def generate_store(shape: StoreShape, *, newest_updated_at_ms: int, seed: int = 51_567) -> GeneratedStore:
    """Make the store of this shape; equal arguments give equal bytes on every machine and Python version."""
    source = random.Random(seed)
    sessions: dict[str, dict[str, object]] = {}
    written_bytes = 2
    for index in range(shape.entries):
        key = COUNTER_KEY if index == shape.entries // 2 else f"agent:main:{CHANNELS[index % 7]}:direct:{index:06d}"
        updated_at_ms = newest_updated_at_ms - index * UPDATED_SPREAD_MS // shape.entries
        entry_bytes = (shape.size_bytes - written_bytes) // (shape.entries - index)
        sessions[key] = _entry(source, index=index, updated_at_ms=updated_at_ms, room_bytes=entry_bytes)
        written_bytes += _indented_bytes({key: sessions[key]})
    return GeneratedStore(shape, sessions, indented(sessions))


def indented(sessions: dict[str, dict[str, object]]) -> bytes:
    """The file form that sessionstore itself writes: two-space indentation, UTF-8, no trailing newline."""
    return json.dumps(sessions, indent=2, ensure_ascii=False).encode()


def _entry(source: random.Random, *, index: int, updated_at_ms: int, room_bytes: int) -> dict[str, object]:
    words = UNICODE_WORDS if index % UNICODE_EVERY == 0 else ASCII_WORDS
    entry: dict[str, object] = {
        "sessionId": f"{source.getrandbits(128):032x}",
        "updatedAt": updated_at_ms,
        "counter": 0,
        "label": f"session {index}",
        "chatType": "direct",
        "deliveryContext": {
            "channel": CHANNELS[index % 7],
            "to": f"+49{source.getrandbits(34)}",
            "accountId": "default",
        },
        "inputTokens": source.getrandbits(16),
        "outputTokens": source.getrandbits(14),
        "totalTokens": source.getrandbits(17),
        "cost": round(source.random(), 6),
        "systemSent": True,
        "abortedLastRun": False,
        "modelOverride": None,
        "skills": [{"name": name, "size": source.getrandbits(10)} for name in ("weather", "calendar")],
    }
    # The prompt takes what room the fixed fields leave; a store too small for any still gets one word per part.
    part_bytes = (room_bytes - _indented_bytes({"": entry})) // PROMPT_PARTS - 30
    entry["systemPromptReport"] = {
        f"part{number}": _text(source, words=words, room_bytes=part_bytes) for number in range(PROMPT_PARTS)
    }
    return entry


def _text(source: random.Random, *, words: Sequence[str], room_bytes: int) -> str:
    chosen: list[str] = []
    used_bytes = 0
    while used_bytes < room_bytes or not chosen:
        word = source.choice(words)
        chosen.append(word)
        used_bytes += len(word.encode()) + 1
    return " ".join(chosen)


def _indented_bytes(sessions: dict[str, dict[str, object]]) -> int:
    # Without the braces, with the comma and newline that joins it to the next entry.
    return len(indented(sessions)) - 2
