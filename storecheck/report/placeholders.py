"""Counterexamples without secrets: placeholders of the same length stand for them, and the failure stays the same.

What looks like a secret (see `masking`) is replaced everywhere in the document, the same value by the same placeholder,
so that what is equal stays equal and every write has its size. Then the document is run: it is kept only if it fails as
the original did. A placeholder is numbered, and derived from nothing of the secret but its length and whether it is a
number: from a hash, short secrets could be guessed. Values that have no key and no known form are not found.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from storecheck import counterexample as counterexamples
from storecheck.program import Json, ProgramError
from storecheck.report import crashes, histories, told
from storecheck.report.examples import transform_of
from storecheck.report.masking import (
    BASE64,
    MIN_SECRET_CHARACTERS,
    any_of,
    as_content,
    as_text,
    content_of,
    is_pair,
    mask_text,
    members,
    secret_values,
    spellings,
    texts,
)
from storecheck.report.spots import MASK, NO_SECRETS, spots
from storecheck.runner import Execution, NoEvidence
from storecheck.schedule import ReplayDiverged

MAX_PLACEHOLDERS_TRIED: Final = 1_000
"""For one secret: of short ones there are few, and no two secrets may have the same."""

_NUMBER: Final = re.compile(r"(-?)(\d+)((?:\.\d+)?)((?:[eE][+-]?\d+)?)")
_BY_BYTES: Final = {2: "é", 3: "あ", 4: "😀"}
_KEPT: Final = frozenset({"format", "version", "schedule", "faults", "check", "transform", "transform_argument"}) | {
    "player", "model", "event", "digest", "kind", "adapter", "machine", "kills", "private", "shared", "workload",
}  # fmt: skip
"""Members of the document that say how it is run. A secret in one of them cannot be replaced."""


_PROSE: Final = frozenset({"title", "verdict", "finding", "message"})
"""Members that are for people: nothing replays them, so what stands after a key there is masked."""


class SecretsNeededError(ValueError):
    """A counterexample does not fail in the same way without its secrets; the message says what came instead."""


def without_secrets(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The document with placeholders for what looks like a secret; the same object if nothing does.

    Executes the document once or twice, if there is something to replace.

    Raises:
        SecretsNeededError: it fails in another way then, or not at all, or a secret is left.
    """
    substitution = Substitution(document)
    candidate = substitution.document(document)
    if candidate == document:
        return document
    try:
        verified = _verified(document, candidate, substitution)
    except (ProgramError, NoEvidence, ReplayDiverged) as error:
        raise SecretsNeededError(mask_text(str(error), substitution.secrets)) from error
    if substitution.left_in(verified):
        raise SecretsNeededError("a value that looks like a secret also stands where it cannot be replaced")
    return verified


class Substitution:
    """Which placeholder stands for which secret of a document. Short secrets are replaced at their keys only."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        # The trace is recorded anew, and what it shows is cut off.
        self.secrets = _in_order(secret_values({**document, "trace": []}), document)
        self._placeholders: dict[str, str] = {}
        self._known = any_of(self.secrets)
        self._spelled: dict[str, str] = {}
        for secret in self.secrets:
            stand_in = self.placeholder(secret)
            self._spelled |= {spelling(secret): spelling(stand_in) for spelling in spellings(secret)}
        self._in_lower_case = {spelled.lower(): stand_in for spelled, stand_in in self._spelled.items()}

    def placeholder(self, secret: str) -> str:
        """What stands for a secret: as many bytes in UTF-8, in JSON and in Python, and no two the same."""
        known = self._placeholders.get(secret)
        if known is not None:
            return known
        taken = {*self._placeholders.values(), *self._placeholders, *self.secrets, secret}
        first = len(self._placeholders) + 1
        for number in range(first, first + MAX_PLACEHOLDERS_TRIED):
            stand_in = _number_like(secret, number) or _text_like(secret, number)
            if stand_in not in taken:
                self._placeholders[secret] = stand_in
                return stand_in
        raise SecretsNeededError(f"there is no other value of {len(secret)} characters for each of its secrets")

    def document(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """A counterexample of any format with placeholders."""
        return {name: self._member(name, value) for name, value in document.items()}

    def _member(self, name: str, value: Any) -> Any:
        if name in _KEPT:
            return value
        if name in ("program", "finding", "violation", "race") and isinstance(value, dict):
            return {inner: self._member(inner, each) for inner, each in value.items()}
        if name == "processes":
            return self._processes(value)
        if name == "teams":
            return [{inner: self._member(inner, each) for inner, each in team.items()} for team in value]
        return self.prose(value) if name in _PROSE else self.value(value)

    def _processes(self, processes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {
                **process,
                "operations": self._operations(process["operations"]),
                **({"threads": [*map(self._operations, process["threads"])]} if "threads" in process else {}),
            }
            for process in processes
        ]

    def _operations(self, operations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**operation, "arguments": self.value(operation["arguments"])} for operation in operations]

    def value(self, value: Any) -> Any:
        """A JSON value with placeholders."""
        if isinstance(value, dict):
            content = content_of(value)
            if content is not None:
                return {BASE64: base64.b64encode(self.content(content)).decode("ascii")}
            return {
                self.text(key): self._all(each) if secret else self.value(each) for key, each, secret in members(value)
            }
        if isinstance(value, list | tuple):
            return [value[0], self._all(value[1])] if is_pair(value) else [self.value(each) for each in value]
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and str(value) in self._placeholders:
            return self._number(value)
        return value

    def _all(self, value: Any) -> Any:
        """Placeholders for every text and number."""
        if isinstance(value, dict):
            content = content_of(value)
            if content is not None:
                return {BASE64: base64.b64encode(as_content(self.placeholder(as_text(content)))).decode("ascii")}
            return {key: self._all(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._all(each) for each in value]
        if isinstance(value, str):
            return value if value in NO_SECRETS else self.placeholder(value)
        return self._number(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    def _number(self, value: float) -> Any:
        return type(value)(self.placeholder(str(value)))

    def content(self, content: bytes) -> bytes:
        """The content of a file with placeholders."""
        return as_content(self.text(as_text(content)))

    def text(self, text: str) -> str:
        """A text with placeholders for all secrets, however they are spelled in it."""
        if self._known is not None:
            text = self._known.sub(self._stand_in, text)
        parts, at = [], 0
        for spot in spots(text):
            found = text[spot.start : spot.end]
            if not self._is_placeholder(found):
                parts += [text[at : spot.start], self.placeholder(found)]
                at = spot.end
        return "".join((*parts, text[at:]))

    def prose(self, text: str) -> str:
        """A text for people: a number in the place of another would be taken for the one that was found."""
        return mask_text(text if self._known is None else self._known.sub(self._stand_in, text))

    def _stand_in(self, match: re.Match[str]) -> str:
        # Beside the spellings, the pattern finds them in other letters, and cut off: of that no length is known.
        return self._spelled.get(match[0]) or self._in_lower_case.get(match[0].lower(), MASK)

    def _is_placeholder(self, text: str) -> bool:
        return any(text == spelling(each) for each in self._placeholders.values() for spelling in spellings(each))

    def left_in(self, value: Any) -> bool:
        """Whether any of the secrets stands anywhere in a JSON value, in whatever spelling."""
        if self._known is None:
            return False
        everything = itertools.chain(
            texts(value), _keys(value), [json.dumps(value), json.dumps(value, ensure_ascii=False)]
        )
        return any(self._known.search(text) is not None for text in everything)

    def added_in(self, text: str) -> bool:
        """Whether a text has a secret that the document has not, such as a constant of the check that made the text."""
        begun = [stand_in[:MIN_SECRET_CHARACTERS] for stand_in in self._placeholders.values()]
        return any(not any(each in found for each in begun) for found in secret_values(text))


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        for each in value.values():
            yield from _keys(each)
    elif isinstance(value, list):
        for each in value:
            yield from _keys(each)


def _in_order(secrets: set[str], document: Mapping[str, Any]) -> list[str]:
    """In the order in which they stand in the document, so that the same document has the same placeholders."""
    text = json.dumps(document, ensure_ascii=False)
    return sorted(secrets, key=lambda secret: (text.find(secret) % (len(text) + 1), secret))


def _number_like(secret: str, number: int) -> str:
    """Other digits, if it is a number, with its sign, point and exponent; else empty."""
    match = _NUMBER.fullmatch(secret)
    if match is None:
        return ""
    digits = itertools.cycle(str(number))
    return match[1] + "".join(next(digits) if each.isdigit() else each for each in match[2] + match[3]) + match[4]


def _text_like(secret: str, number: int) -> str:
    """Letters and digits; what is escaped somewhere stays, and other characters become one of as many bytes."""
    filling = itertools.cycle(f"{number}masked")
    return "".join(_character_like(each, filling) for each in secret)


def _character_like(character: str, filling: Iterator[str]) -> str:
    if "!" <= character <= "~" and character not in "\"'\\":
        return next(filling)
    if character.isascii() or "\ud800" <= character <= "\udfff":
        return character
    return _BY_BYTES[len(character.encode("utf-8"))]


# The same failure


def _verified(
    document: Mapping[str, Any], candidate: Mapping[str, Any], substitution: Substitution
) -> Mapping[str, Any]:
    """The candidate with what came of running it, if it is what came of the original.

    Raises:
        SecretsNeededError: it is not.
        ProgramError, NoEvidence, ReplayDiverged: the candidate cannot be run.
    """
    verify: Callable[[Mapping[str, Any], Mapping[str, Any], Substitution], Mapping[str, Any]] = _verified_schedule
    if document.get("format") == told.FORMAT:
        verify = _verified_told
    elif document.get("format") == crashes.FORMAT:
        verify = _verified_crash
    elif document.get("format") == histories.FORMAT:
        verify = _verified_history
    return verify(document, candidate, substitution)


def _verified_schedule(
    document: Mapping[str, Any], candidate: Mapping[str, Any], substitution: Substitution
) -> Mapping[str, Any]:
    before, after = counterexamples.from_json(document), counterexamples.from_json(candidate)
    played = counterexamples.replay(after)
    finding = played.finding
    if before.check is None and before.finding.kind == "check":
        # No check can be asked: the outcome is what the test judged, so it must be the same but for the secrets.
        outcome = _outcome(counterexamples.replay(before).execution)
        if substitution.value(outcome) != _outcome(played.execution):
            raise SecretsNeededError("what its operations return and leave differs in more than the secrets")
        finding = after.finding
    if finding is None:
        raise SecretsNeededError("it does not fail then")
    _check_messages(before.finding.message, finding.message, substitution)
    digest = counterexamples.digest_of(played.execution)
    return replace(after, digest=digest, finding=finding, trace=played.trace).to_json()


def _outcome(execution: Execution) -> Json:
    """What operations answered, how processes ended, and what is on disk."""
    answers: list[Json] = [
        [str(record.operation), record.outcome, record.result, record.error, record.message]
        for record in execution.operations
    ]
    files: dict[str, Json] = {path: as_text(content) for path, content in execution.files().items()}
    return [answers, [str(end) for end in execution.ends], files]


def _verified_crash(
    document: Mapping[str, Any], candidate: Mapping[str, Any], substitution: Substitution
) -> Mapping[str, Any]:
    before, after = crashes.from_json(document), crashes.from_json(candidate)
    run, state, _ = crashes.replay(after, transform=transform_of(after))
    violation = None if state is None else run.oracle.judge(state)
    if violation is None:
        raise SecretsNeededError("no disk that the power loss leaves breaks the promise then")
    _check_messages(str(before.violation), str(violation), substitution)
    return replace(after, violation=violation).to_json()


def _verified_told(
    document: Mapping[str, Any], candidate: Mapping[str, Any], substitution: Substitution
) -> Mapping[str, Any]:
    before, after = told.from_json(document).play(), told.from_json(candidate).play()
    if before.finding is None or after.finding is None:
        raise SecretsNeededError("nothing fails when its calls are done again")
    if (before.finding.about, len(before.steps)) != (after.finding.about, len(after.steps)):
        raise SecretsNeededError("it fails in another step then, or by something else")
    _check_messages(before.finding.message, after.finding.message, substitution)
    return candidate


def _verified_history(
    document: Mapping[str, Any], candidate: Mapping[str, Any], substitution: Substitution
) -> Mapping[str, Any]:
    """A record is judged and not run: with placeholders it must contradict itself in the same way."""
    before, after = (histories.told_history(histories.from_json(each)) for each in (document, candidate))
    if before.cause != after.cause or len(before.race.points) != len(after.race.points):
        raise SecretsNeededError("the record is judged otherwise then")
    _check_messages(before.title, after.title, substitution)
    return candidate


def _check_messages(before: str, after: str, substitution: Substitution) -> None:
    if substitution.added_in(after):
        raise SecretsNeededError("what it says of its failure holds a value that looks like a secret")
    if substitution.prose(before) != substitution.prose(after):
        raise SecretsNeededError("it fails in another way then")
