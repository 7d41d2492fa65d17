"""Does an operation on a real store and the same one in the models, and compares everything that can be seen.

For each operation: result or error, the file byte for byte, the snapshot, every counter, what is cached, what was
logged. Afterwards it scribbles over everything that the call returned or was given: none of it may come back.
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from models import specification
from models.caches import MAX_PATHS, Base, CacheModel, File, Instant, Limits, Work
from models.specification import FailureKind, Maintenance, Outcome
from models.workloads import Change, Manner, MutatorFailedError, rewrite
from tests.stateful.world import WARNING_TEXT, World, held_contents

Way = Literal["update", "edit"]

STORE = "sessions.json"
OBJECT_CACHE_VARIABLE = "OPENCLAW_SESSION_OBJECT_CACHE_MAX_BYTES"
CACHE_TTL_VARIABLE = "OPENCLAW_SESSION_CACHE_TTL_MS"
SERIALIZED_CACHE_VARIABLE = "OPENCLAW_SESSION_SERIALIZED_CACHE_MAX_BYTES"
VARIABLES = (OBJECT_CACHE_VARIABLE, CACHE_TTL_VARIABLE, SERIALIZED_CACHE_VARIABLE)

MAX_TAKEN = 12
_COUNTERS = ("file_reads", "parses", "snapshot_reuses", "writes", "noop_writes", "object_hits", "object_misses")
_MAINTENANCE_DUE = "session store maintenance is due"
CHORE_INTERVAL_NS = 60_000_000_000  # maintenance that is due is logged at most this often, for each file and process


@dataclass(frozen=True, slots=True)
class Target:
    """Who does it, to which file, and how that process spells the path."""

    image: int = 0
    name: str = STORE
    alias: str = "absolute"


HERE = Target()


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot that a call returned, and what the file held then."""

    target: Target
    snapshot: Any
    content: bytes | None


@dataclass(slots=True)
class Checker:
    """One world, its models, and the settings that the operations run under."""

    world: World
    limits: Limits = field(default_factory=Limits)
    rules: Maintenance = field(default_factory=Maintenance)
    by_environment: bool = False
    contents: dict[str, bytes | None] = field(default_factory=dict)
    taken: list[Taken] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)
    stores: dict[tuple[object, ...], Any] = field(default_factory=dict)
    backups: dict[str, list[bytes]] = field(default_factory=dict)
    misread: set[tuple[int, str]] = field(default_factory=set)
    looked_ns: dict[tuple[int, str], int] = field(default_factory=dict)
    steps: int = 0

    # --- operations

    def load(self, target: Target = HERE, *, skip_cache: bool = False) -> None:
        """Load everything; the snapshot is kept as a base and to be looked at again."""
        file, at = self._now(target)
        outcome = specification.load(self._content(target))
        caches, path = self._caches(target), self._path(target)
        look = caches.load_past_cache if skip_cache else caches.load
        work = look(path, file, limits=self.limits, at=at)
        snapshot = self._perform(target, outcome, lambda store: store.load(skip_cache=skip_cache), lambda: work)
        if outcome.failure is None:
            self._take(target, snapshot, outcome.content)

    def read(self, key: str, target: Target = HERE) -> None:
        """Read one session."""
        file, at = self._now(target)
        outcome = specification.read(self._content(target), key)
        work = self._caches(target).read(self._path(target), file, key=key, limits=self.limits, at=at)
        entry = self._perform(target, outcome, lambda store: store.read(key), lambda: work)
        same(f"read({key!r})", entry, outcome.result)
        scribble(entry)

    def update(
        self,
        change: Change,
        target: Target = HERE,
        *,
        base: Taken | None = None,
        active_session: str | None = None,
        way: Way = "update",
    ) -> None:
        """Run a change, by `update` or `edit`, with a base or without."""
        file, at = self._now(target)
        content = self._content(target)
        outcome = specification.update(
            content, change, rules=self.rules, now_ms=at.wall_ns // 1_000_000, active_session=active_session
        )
        options: dict[str, Any] = {
            "base": None if base is None else base.snapshot,
            "active_session": active_session,
        }
        handed_out: list[Any] = []

        def call(store: Any) -> tuple[object, Any, tuple[bool, bool] | None]:
            if way == "update":
                done = store.update(change, **options)
                return done.result, done.snapshot, (done.reused, done.written)
            with store.edit(**options) as draft:
                result = change(draft)
                handed_out.extend(draft.values())
            return result, draft.snapshot, None

        model_base = None if base is None else Base(base.content)
        done = self._perform(target, outcome, call, lambda: self._written(target, file, at, outcome, base=model_base))
        if done is not None:
            result, snapshot, told = done
            same("result of the mutator", result, outcome.result)
            if told is not None:
                same("reused and written", told, (base is not None and base.content == content, outcome.wrote))
            self._take(target, snapshot, outcome.content)
        for entry in handed_out:
            scribble(entry)

    def save(self, sessions: Mapping[Any, Any], target: Target = HERE, *, active_session: str | None = None) -> None:
        """Replace everything."""
        file, at = self._now(target)
        outcome = specification.save(
            self._content(target),
            sessions,
            rules=self.rules,
            now_ms=at.wall_ns // 1_000_000,
            active_session=active_session,
        )
        handed_in = copy.deepcopy(dict(sessions))

        def work() -> Work:
            # What cannot be stored is refused before the operation begins.
            return Work() if outcome.failure == "unstorable" else self._written(target, file, at, outcome)

        snapshot = self._perform(
            target, outcome, lambda store: store.save(handed_in, active_session=active_session), work
        )
        if outcome.failure is None:
            self._take(target, snapshot, outcome.content)
        scribble(handed_in)

    def rewrite(self, content: bytes, manner: Manner, *, name: str = STORE) -> None:
        """A foreign program changes the file."""
        rewrite(self.world.path(name), content=content, manner=manner)
        self._expect(name, None if manner == "delete" else content)
        self.world.file(self.world.path(name))  # its stamps are of this moment
        self.check()

    def restart(self, image: int) -> None:
        """The process ends and another begins: it knows nothing, and may warn again."""
        self.world.restart(image)
        self.misread = {(number, variable) for number, variable in self.misread if number != image}
        self.looked_ns = {who: when for who, when in self.looked_ns.items() if who[0] != image}

    # --- what is known of a target

    def store(self, target: Target) -> Any:
        """The `SessionStore` for that spelling of the path; long-lived, one for each combination of settings."""
        key = (target, None if self.by_environment else (self.limits, self.rules))
        if key not in self.stores:
            settings: dict[str, Any] = {}
            if not self.by_environment:
                rules = asdict(self.rules)
                settings = {"maintenance_mode": rules.pop("mode"), **rules, **asdict(self.limits)}
            alias = self.world.alias(target.alias, target.name)
            self.stores[key] = self.world.store(target.image, alias, **settings)
        return self.stores[key]

    def _path(self, target: Target) -> str:
        return str(self.world.path(target.name))

    def _caches(self, target: Target) -> CacheModel:
        return self.world.caches[target.image]

    def _content(self, target: Target) -> bytes | None:
        return self.contents.get(target.name)

    def _now(self, target: Target) -> tuple[File | None, Instant]:
        self.steps += 1
        return self.world.file(self.world.path(target.name)), self.world.now()

    def _expect(self, name: str, content: bytes | None) -> None:
        self.contents[name] = content
        if content is not None:
            self.seen.add(content)

    def _written(
        self, target: Target, before: File | None, at: Instant, outcome: Outcome, *, base: Base | None = None
    ) -> Work:
        """What the cache model says of a write that has just been done."""
        return self._caches(target).write(
            self._path(target),
            before,
            self.world.file(self.world.path(target.name)),
            limits=self.limits,
            at=at,
            base=base,
            wrote=outcome.wrote,
            failure=outcome.failure,
        )

    # --- comparing

    def _perform(self, target: Target, outcome: Outcome, call: Callable[[Any], Any], work: Callable[[], Work]) -> Any:
        """Do it on the store and compare all that the models predict. `work` is asked after the call."""
        store = self.store(target)
        before = store.stats()
        result, failure = attempt(self.world.images[target.image].package, lambda: call(store))
        same("failure", failure, outcome.failure)
        self._expect(target.name, outcome.content)
        if outcome.backup is not None:
            self.backups.setdefault(target.name, []).append(outcome.backup)
        self.check_files()
        expected = work()
        after = store.stats()
        same(
            "work done",
            {counter: getattr(after, counter) - getattr(before, counter) for counter in _COUNTERS},
            {counter: getattr(expected, counter) for counter in _COUNTERS},
        )
        self._check_log(target, outcome, expected, writing=expected.writes + expected.noop_writes > 0)
        assert after.cached_bytes <= self.limits.object_cache_max_bytes, f"{after.cached_bytes} bytes are cached"
        assert after.cached_paths <= MAX_PATHS, f"{after.cached_paths} paths are cached"
        self.check()
        return result

    def _looks_for_maintenance(self, target: Target) -> bool:
        """Whether a write looks for what is due, which it does once in a while under `warn`."""
        if self.rules.mode != "warn":
            return False
        who, now_ns = (target.image, target.name), self.world.now().monotonic_ns
        if who in self.looked_ns and now_ns - self.looked_ns[who] < CHORE_INTERVAL_NS:
            return False
        self.looked_ns[who] = now_ns
        return True

    def _check_log(self, target: Target, outcome: Outcome, work: Work, *, writing: bool) -> None:
        expected: Counter[str] = Counter()
        expected[WARNING_TEXT] = int(work.warns)
        expected[_MAINTENANCE_DUE] = int(
            writing and self._looks_for_maintenance(target) and outcome.maintenance.something
        )
        if self.by_environment:
            for variable in VARIABLES:
                malformed = specification.is_malformed_setting(os.environ.get(variable))
                expected[variable] = int(malformed and (target.image, variable) not in self.misread)
                self.misread |= {(target.image, variable)} if malformed else set()
        records = self.world.logged()
        found: Counter[str] = Counter()
        for record in records:
            message = record.getMessage()
            found[next((start for start in expected if message.startswith(start)), message)] += 1
            assert record.levelname == "WARNING", f"logged at {record.levelname}: {message}"
            if message.startswith(WARNING_TEXT):
                self._check_warning(record, target)
        same("log", sorted(found.elements()), sorted(expected.elements()))

    def _check_warning(self, record: Any, target: Target) -> None:
        limit_bytes = self.limits.object_cache_max_bytes
        same(
            "attributes of the warning",
            (record.store_path, record.limit_bytes, record.env_var),
            (self._path(target), limit_bytes, OBJECT_CACHE_VARIABLE),
        )
        assert record.size_bytes > limit_bytes
        for told in (record.store_path, record.size_bytes, limit_bytes, OBJECT_CACHE_VARIABLE):
            assert str(told) in record.getMessage(), f"{told} is not in {record.getMessage()!r}"

    def _take(self, target: Target, snapshot: Any, content: bytes | None) -> None:
        self._check_snapshot(snapshot, content)
        self.taken = [*self.taken[-(MAX_TAKEN - 1) :], Taken(target, snapshot, content)]

    def _check_snapshot(self, snapshot: Any, content: bytes | None) -> None:
        found = {key: snapshot[key] for key in snapshot}
        same("snapshot", found, specification.load(content).result)
        scribble(found)

    def check_taken(self, number: int) -> None:
        """An old snapshot still says what it said, whatever happened since."""
        if self.taken:
            taken = self.taken[number % len(self.taken)]
            self._check_snapshot(taken.snapshot, taken.content)

    def check(self) -> None:
        """Every invariant that holds between operations."""
        self.check_files()
        for number, (image, model) in enumerate(zip(self.world.images, self.world.caches, strict=True)):
            stats = self.store(Target(number)).stats()
            same(
                f"cached_bytes and cached_paths of image {number}",
                (stats.cached_bytes, stats.cached_paths),
                (model.cached_bytes, model.cached_paths),
            )
            # Not `{}`: that is one constant of the code, however many files hold it.
            expected = sum(size for size in model.held_sizes_bytes if size > len(b"{}"))
            held = held_contents(image.process, self.seen - {b"{}"})
            same(f"bytes of files really held by image {number}", held, expected)

    def check_files(self) -> None:
        """Every file is what the specification says, and there are no others."""
        for name, content in self.contents.items():
            same(f"content of {name}", self.world.content(self.world.path(name)), content)
        names = self.world.names()
        backups = {name for name in names if ".bak." in name}
        known = {name for name, content in self.contents.items() if content is not None}
        same("stray files", names - known - backups - {f"{name}.flock" for name in self.contents}, set())
        same(
            "backups",
            sorted(self.world.path(name).read_bytes() for name in backups),
            sorted(content for made in self.backups.values() for content in made[-specification.KEPT_BACKUPS :]),
        )


def attempt(package: Any, call: Callable[[], Any]) -> tuple[Any, FailureKind | None]:
    """The result, or what kind of failure the package reports; any other exception is a failure of the test."""
    try:
        return call(), None
    except package.CorruptStoreError:
        return None, "corrupt"
    except package.UnstorableValueError:
        return None, "unstorable"
    except MutatorFailedError:
        return None, "mutator"


class DisagreementError(AssertionError):
    """The store and the model differ, and in what."""

    def __init__(self, what: str, *, found: object, expected: object) -> None:
        super().__init__(f"{what}:\n  the store: {found!r}\n  the model: {expected!r}")
        self.what = what
        self.found = found
        self.expected = expected


def same(what: str, found: object, expected: object) -> None:
    """Raise DisagreementError unless they are the same: `repr` tells 1 and True apart, and sees the order of dicts."""
    if repr(found) != repr(expected):
        raise DisagreementError(what, found=found, expected=expected)


def scribble(value: Any) -> None:
    """Spoil a JSON value in place, as a careless caller does."""
    if isinstance(value, dict):
        for inner in value.values():
            scribble(inner)
        value["scribbled"] = "over"
    elif isinstance(value, list):
        for inner in value:
            scribble(inner)
        value.append("scribbled")
