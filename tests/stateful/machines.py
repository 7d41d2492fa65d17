"""State machines over real files: each draws sequences of operations and checks every step against the models.

Each machine knows one area well and draws little from the others, because a machine that can do everything does
nothing often. `run` turns a machine and a seed into a test.
"""

from __future__ import annotations

from typing import Any

from hypothesis import event, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from models import strategies
from models.caches import NS_PER_MS, Limits
from models.specification import DAY_MS, Entry, Maintenance
from models.workloads import (
    MANNERS,
    Change,
    FailAfter,
    Manner,
    Nothing,
    PutEntry,
    SetField,
)
from storecheck.report.told import attach
from storecheck.searched import tell
from tests.stateful.checker import STORE, Taken, Target, Way
from tests.stateful.telling import PLAYER, TellingChecker, TellingWorld
from tests.stateful.world import SETTLE_NS

ALIASES = ("absolute", "relative", "dots", "linked directory", "linked file")
MS = NS_PER_MS

aliases = st.sampled_from(ALIASES)
ways: st.SearchStrategy[Way] = st.sampled_from(("update", "edit"))
changes = strategies.changes()
keys = strategies.spelled_keys()
entries = strategies.entries()
files = strategies.store_files()
valid_manners = strategies.manners()
pick = st.integers(min_value=0, max_value=11)
"""Which of the things at hand, counted modulo how many there are."""


def run(machine: type[StoreMachine], *, number: int, evidence: Any) -> None:
    """Run a machine as a test; `number` tells its repetitions apart where the search is otherwise fixed."""
    steps = longest = 0
    lines: list[str] = []
    first_steps: int | None = None

    class Counted(machine):  # type: ignore[misc, valid-type]
        def teardown(self) -> None:
            nonlocal steps, longest, lines, first_steps
            steps += self.steps_done()
            longest = max(longest, self.steps_done())
            if self.checker is not None and self.checker.broken:
                lines = self.checker.lines
                first_steps = first_steps or len(lines)
            super().teardown()

    Counted.__name__ = Counted.__qualname__ = machine.__name__
    # `derandomize` alone would draw the same for every number; an explicit seed would make `search` repeat itself.
    seeded = seed(number)(Counted) if settings().derandomize else Counted
    try:
        run_state_machine_as_test(seeded)
    except Exception as error:
        # What failed last is the minimal example: Hypothesis ends with it.
        if lines:
            attach(error, player=PLAYER, lines=lines, first_steps=first_steps)
        raise
    finally:
        evidence.add(steps=steps)
        tell(rule_steps_max=longest)


class StoreMachine(RuleBasedStateMachine):
    """What all machines share: a world that is made at the start and removed at the end."""

    images = 1

    def __init__(self) -> None:
        super().__init__()
        self.checker: TellingChecker | None = None

    def start(self, **options: Any) -> TellingChecker:
        """Make the world; the first rule of every machine."""
        self.checker = TellingChecker(TellingWorld([], images=self.images, **options))
        return self.checker

    @property
    def check(self) -> TellingChecker:
        """The checker of this example."""
        assert self.checker is not None, "a machine starts with its world"
        return self.checker

    def steps_done(self) -> int:
        """Operations performed on the store."""
        return 0 if self.checker is None else self.checker.steps

    def target(self, number: int = 0, alias: str = "absolute", name: str = STORE) -> Target:
        """A target in one of the machine's images."""
        return Target(number % self.images, name, alias)

    def base_for(self, target: Target, number: int | None) -> Taken | None:
        """The newest, the one before, … of the snapshots that this image has taken of that file."""
        own = [
            taken
            for taken in self.check.taken
            if (taken.target.image, taken.target.name) == (target.image, target.name)
        ]
        return None if number is None or not own else own[-1 - number % len(own)]

    @invariant()
    def everything_agrees(self) -> None:
        """Files, caches and held bytes are what the models say."""
        if self.checker is not None:
            self.checker.check()

    def teardown(self) -> None:
        """Remove the world."""
        if self.checker is not None:
            self.checker.world.close()


class ContentMachine(StoreMachine):
    """What is in the file: keys and their spellings, values, layouts, no-ops, mutators that fail."""

    @initialize(content=st.none() | files, alias=aliases)
    def begin(self, content: bytes | None, alias: str) -> None:
        self.start()
        self.alias = alias
        if content is not None:
            self.check.rewrite(content, "rename")

    @rule(change=changes, way=ways)
    def update(self, change: Change, way: Way) -> None:
        self.check.update(change, self.target(alias=self.alias), way=way)

    @rule(change=changes, base=pick, way=ways)
    def update_with_base(self, change: Change, base: int, way: Way) -> None:
        target = self.target(alias=self.alias)
        self.check.update(change, target, base=self.base_for(target, base), way=way)

    @rule(change=changes, way=ways)
    def failing_update(self, change: Change, way: Way) -> None:
        self.check.update(FailAfter((change,)), way=way)

    @rule(key=keys, poisoned=strategies.unstorable_entries(), way=ways)
    def unstorable_update(self, key: str, poisoned: tuple[Entry, str], way: Way) -> None:
        self.check.update(PutEntry(key, poisoned[0]), way=way)

    @rule(sessions=st.dictionaries(keys, entries, max_size=3))
    def save(self, sessions: dict[str, Entry]) -> None:
        self.check.save(sessions, self.target(alias=self.alias))

    @rule(
        field=st.sampled_from(("n", "m")),
        value=st.sampled_from((1, 1.0, True, 0, 0.0, -0.0, False, [1], [True], "1")),
        by_save=st.booleans(),
    )
    def equal_in_python_only(self, field: str, value: object, by_save: bool) -> None:
        """1, 1.0 and True are three values to the file, and two orders of members are two entries."""
        if by_save:
            self.check.save({"agent:main:main": {field: value}}, self.target(alias=self.alias))
        else:
            self.check.update(SetField("agent:main:main", field, value), self.target(alias=self.alias))

    @rule(number=pick, key=keys, entry=entries, again=st.booleans())
    def save_what_was_loaded(self, number: int, key: str, entry: Entry, again: bool) -> None:
        """A caller that loads, edits its copy and saves it all; or saves it as it was."""
        if self.check.taken:
            sessions = dict(self.check.taken[number % len(self.check.taken)].snapshot)
            if not again:
                sessions[key] = entry
            self.check.save(sessions)

    @rule(key=keys)
    def read(self, key: str) -> None:
        self.check.read(key, self.target(alias=self.alias))

    @rule()
    def load(self) -> None:
        self.check.load(self.target(alias=self.alias))

    @rule(content=files, manner=valid_manners)
    def foreign_rewrite(self, content: bytes, manner: Manner) -> None:
        self.check.rewrite(content, manner)

    @rule(number=pick)
    def look_at_old_snapshot(self, number: int) -> None:
        self.check.check_taken(number)


SIZES = (200, 999, 1000, 1001, 3000)
"""Bytes of files, around the limits below."""


def sized_file(size_bytes: int, *, variant: int = 0, sessions: int = 2) -> bytes:
    """A store file of exactly that many bytes; variants of one size differ in content only.

    Half of the padding is characters of two bytes, so that bytes and characters differ.
    """
    members: list[tuple[str, Entry]] = [(f"session-{number}", {"n": number}) for number in range(sessions - 1)]
    room = size_bytes - len(strategies.render([*members, ("padded", {"v": variant, "pad": ""})], "ours"))
    padding = "ü" * (room // 4) + "x" * (room - room // 4 * 2)
    return strategies.render([*members, ("padded", {"v": variant, "pad": padding})], "ours")


class CacheMachine(StoreMachine):
    """What is held, served and warned about: limits, lifetimes, sizes, many paths, aliases, restarts."""

    images = 2
    names = (STORE, "second.json", "third.json")

    @initialize()
    def begin(self) -> None:
        self.start()
        self.check.limits = Limits(object_cache_max_bytes=1000, cache_ttl_ms=100, serialized_cache_max_bytes=5000)

    @rule(
        object_bytes=st.sampled_from((0, 60, 150, 999, 1000, 1001, 2500, 100_000)),
        serialized_bytes=st.sampled_from((0, 900, 2500, 100_000)),
        ttl_ms=st.sampled_from((0, 1, 100, 100, 100)),
    )
    def new_limits(self, object_bytes: int, serialized_bytes: int, ttl_ms: int) -> None:
        self.check.limits = Limits(object_bytes, ttl_ms, serialized_bytes)

    @rule(duration_ns=st.sampled_from((1, 1 * MS, 50 * MS, 99 * MS, 100 * MS, 100 * MS + 1, SETTLE_NS)))
    def time_passes(self, duration_ns: int) -> None:
        self.check.world.advance(duration_ns)

    @rule(difference_ns=st.sampled_from((-3_600_000_000_007, -30 * MS - 1, 86_400_000_000_013)))
    def wall_clock_is_set(self, difference_ns: int) -> None:
        """Ages do not follow the wall clock."""
        self.check.world.step_wall(difference_ns)

    @rule(number=pick, name=st.sampled_from(names), alias=aliases, skip_cache=st.sampled_from((False, False, True)))
    def load(self, number: int, name: str, alias: str, skip_cache: bool) -> None:
        self.check.load(self.target(number, alias, name), skip_cache=skip_cache)

    @rule(
        number=pick, name=st.sampled_from(names), alias=aliases, key=st.sampled_from(("session-0", " PADDED", "none"))
    )
    def read(self, number: int, name: str, alias: str, key: str) -> None:
        self.check.read(key, self.target(number, alias, name))

    @rule(size=st.sampled_from(SIZES), variant=pick, name=st.sampled_from(names), manner=valid_manners)
    def foreign_rewrite(self, size: int, variant: int, name: str, manner: Manner) -> None:
        self.check.rewrite(sized_file(size, variant=variant), manner, name=name)

    @rule(name=st.sampled_from(names))
    def delete(self, name: str) -> None:
        self.check.rewrite(b"", "delete", name=name)

    @rule(
        number=pick,
        name=st.sampled_from(names),
        alias=aliases,
        size=st.sampled_from((0, *SIZES)),
        base=st.none() | pick,
        way=ways,
    )
    def grow_or_shrink(self, *, number: int, name: str, alias: str, size: int, base: int | None, way: Way) -> None:
        """An update that makes one entry about that large; 0 only looks."""
        target = self.target(number, alias, name)
        change: Change = SetField("padded", "pad", "ü" * (size // 2)) if size else Nothing()
        self.check.update(change, target, base=self.base_for(target, base), way=way)

    @rule(number=pick, name=st.sampled_from(names), size=st.sampled_from((0, 400, 2000)))
    def save(self, number: int, name: str, size: int) -> None:
        self.check.save({"padded": {"pad": "ü" * (size // 2)}} if size else {}, self.target(number, name=name))

    @rule(number=pick, name=st.sampled_from(names))
    def failing_update(self, number: int, name: str) -> None:
        self.check.update(FailAfter((SetField("padded", "pad", "x" * 3000),)), self.target(number, name=name))

    @rule(number=pick)
    def restart(self, number: int) -> None:
        self.check.restart(number % self.images)

    @rule(number=pick, count=st.integers(min_value=62, max_value=70))
    @precondition(lambda self: "many-0.json" not in self.check.contents)
    def many_paths(self, number: int, count: int) -> None:
        """More files than may be kept, and the limits to keep them."""
        self.check.limits = Limits(100_000, 60_000, 100_000)
        for at in range(count):
            self.check.rewrite(sized_file(200, variant=at), "rename", name=f"many-{at}.json")
            self.check.load(self.target(number, name=f"many-{at}.json"))
        event("more than 64 paths" if count > 64 else "up to 64 paths")


class FreshnessMachine(StoreMachine):
    """Foreign programs rewrite the file in every manner, on file systems with coarse stamps and reused inodes."""

    images = 2

    @initialize(
        granularity_ns=st.sampled_from((1, 4 * MS, 1000 * MS, 2000 * MS)),
        reused_inodes=st.booleans(),
        object_bytes=st.sampled_from((700, 100_000)),
    )
    def begin(self, granularity_ns: int, reused_inodes: bool, object_bytes: int) -> None:
        self.start(granularity_ns=granularity_ns, reused_inodes=reused_inodes)
        # A long lifetime, so that what is stale would be served; a small limit, so that positions are used.
        self.check.limits = Limits(object_cache_max_bytes=object_bytes, cache_ttl_ms=3_600_000)
        self.check.rewrite(sized_file(800), "rename")

    @rule(variant=pick, manner=st.sampled_from(MANNERS), size=st.sampled_from((800, 800, 800, 600)))
    def foreign_rewrite(self, variant: int, manner: Manner, size: int) -> None:
        self.check.rewrite(sized_file(size, variant=variant), manner)

    @rule(variants=st.lists(pick, min_size=2, max_size=3), manner=valid_manners, number=pick)
    def rewrite_around_a_load(self, variants: list[int], manner: Manner, number: int) -> None:
        """Rewrites of the same size with a load between them, all within one tick."""
        for variant in variants:
            self.check.rewrite(sized_file(800, variant=variant), manner)
            self.check.load(self.target(number))

    @rule(duration_ns=st.sampled_from((1, 3 * MS, 19 * MS, 21 * MS, 230 * MS, 999 * MS, 2001 * MS, SETTLE_NS)))
    def time_passes(self, duration_ns: int) -> None:
        self.check.world.advance(duration_ns)

    @rule(difference_ns=st.sampled_from((-3_600_000_000_007, 86_400_000_000_013)))
    @precondition(lambda self: self.check.world.granularity_ns == 1)
    def wall_clock_is_set(self, difference_ns: int) -> None:
        """With coarse stamps a clock set back makes files indistinguishable on purpose; so only with fine ones."""
        self.check.world.step_wall(difference_ns)

    @rule(number=pick, alias=aliases)
    def load(self, number: int, alias: str) -> None:
        self.check.load(self.target(number, alias))

    @rule(number=pick, key=st.sampled_from(("padded", "session-0", "none")))
    def read(self, number: int, key: str) -> None:
        self.check.read(key, self.target(number))

    @rule(number=pick, value=pick, base=st.none() | pick)
    def update(self, number: int, value: int, base: int | None) -> None:
        target = self.target(number)
        self.check.update(SetField("padded", "v", value), target, base=self.base_for(target, base))


class SnapshotMachine(StoreMachine):
    """Bases old and new, of three processes, with other writers between; also oversized."""

    images = 3

    @initialize(object_bytes=st.sampled_from((0, 300, 100_000)), granularity_ns=st.sampled_from((1, 1000 * MS)))
    def begin(self, object_bytes: int, granularity_ns: int) -> None:
        self.start(granularity_ns=granularity_ns, reused_inodes=True)
        self.check.limits = Limits(object_cache_max_bytes=object_bytes, cache_ttl_ms=60_000)

    @rule(number=pick, alias=aliases, skip_cache=st.booleans())
    def load(self, number: int, alias: str, skip_cache: bool) -> None:
        self.check.load(self.target(number, alias), skip_cache=skip_cache)

    @rule(number=pick, change=changes, base=pick, way=ways, alias=aliases)
    def update_with_base(self, number: int, change: Change, base: int, way: Way, alias: str) -> None:
        target = self.target(number, alias)
        self.check.update(change, target, base=self.base_for(target, base), way=way)

    @rule(number=pick, change=changes, way=ways)
    def update_without_base(self, number: int, change: Change, way: Way) -> None:
        self.check.update(change, self.target(number), way=way)

    @rule(number=pick, count=st.integers(min_value=2, max_value=4), key=keys)
    def chain(self, number: int, count: int, key: str) -> None:
        """Updates that each start from the snapshot that the one before left."""
        target = self.target(number)
        self.check.load(target)
        for step in range(count):
            self.check.update(SetField(key, "step", step), target, base=self.base_for(target, 0))

    @rule(number=pick, change=changes, base=st.none() | pick, way=ways)
    def failing_update(self, number: int, change: Change, base: int | None, way: Way) -> None:
        target = self.target(number)
        self.check.update(FailAfter((change,)), target, base=self.base_for(target, base), way=way)

    @rule(content=files, manner=valid_manners)
    def foreign_rewrite(self, content: bytes, manner: Manner) -> None:
        self.check.rewrite(content, manner)

    @rule()
    def delete(self) -> None:
        self.check.rewrite(b"", "delete")

    @rule(number=pick, manner=valid_manners)
    def put_an_old_content_back(self, number: int, manner: Manner) -> None:
        """A, B, A: an old base matches again."""
        if self.check.taken:
            content = self.check.taken[number % len(self.check.taken)].content
            if content is not None:
                self.check.rewrite(content, manner)

    @rule(number=pick)
    def look_at_old_snapshot(self, number: int) -> None:
        self.check.check_taken(number)

    @rule(duration_ns=st.sampled_from((1 * MS, SETTLE_NS)))
    def time_passes(self, duration_ns: int) -> None:
        self.check.world.advance(duration_ns)


class CorruptionMachine(StoreMachine):
    """The file breaks, in every way, and is mended by someone else; the store refuses and touches nothing."""

    images = 2

    @initialize(object_bytes=st.sampled_from((40, 100_000)))
    def begin(self, object_bytes: int) -> None:
        self.start()
        self.check.limits = Limits(object_cache_max_bytes=object_bytes, cache_ttl_ms=60_000)

    @rule(broken=strategies.corrupt_files(), manner=valid_manners)
    def breaks(self, broken: tuple[str, bytes], manner: Manner) -> None:
        event(broken[0].split(" after ")[0])
        self.check.rewrite(broken[1], manner)

    @rule(content=files, manner=valid_manners)
    def mended(self, content: bytes, manner: Manner) -> None:
        self.check.rewrite(content, manner)

    @rule()
    def delete(self) -> None:
        self.check.rewrite(b"", "delete")

    @rule(number=pick, skip_cache=st.booleans())
    def load(self, number: int, skip_cache: bool) -> None:
        self.check.load(self.target(number), skip_cache=skip_cache)

    @rule(number=pick, key=keys)
    def read(self, number: int, key: str) -> None:
        self.check.read(key, self.target(number))

    @rule(number=pick, change=changes, base=st.none() | pick, way=ways)
    def update(self, number: int, change: Change, base: int | None, way: Way) -> None:
        target = self.target(number)
        self.check.update(change, target, base=self.base_for(target, base), way=way)

    @rule(number=pick, sessions=st.dictionaries(keys, entries, max_size=2))
    def save(self, number: int, sessions: dict[str, Entry]) -> None:
        self.check.save(sessions, self.target(number))

    @rule(duration_ns=st.sampled_from((1 * MS, SETTLE_NS)))
    def time_passes(self, duration_ns: int) -> None:
        self.check.world.advance(duration_ns)


dated_sessions = st.lists(
    st.tuples(
        keys,
        st.builds(
            lambda stamp, pad: {"updatedAt": stamp, "pad": pad},
            strategies.timestamps(),
            st.sampled_from(("", "x" * 300)),
        ),
    ),
    max_size=6,
    unique_by=lambda session: session[0],
)


class MaintenanceMachine(StoreMachine):
    """Pruning, capping and backups, with the active session and time that passes."""

    @initialize(
        mode=st.sampled_from(("enforce", "enforce", "warn", "off")),
        sessions=dated_sessions,
        layout=st.sampled_from(strategies.LAYOUTS),
    )
    def begin(self, mode: Any, sessions: list[tuple[str, Entry]], layout: strategies.Layout) -> None:
        self.start()
        self.check.rules = Maintenance(mode=mode, max_entries=3, rotate_bytes=600)
        self.check.rewrite(strategies.render(sessions, layout), "rename")

    @rule(
        mode=st.sampled_from(("enforce", "warn", "off")),
        max_entries=st.sampled_from((0, 1, 2, 3, 500)),
        prune_after_ms=st.sampled_from((0, 7 * DAY_MS, 30 * DAY_MS)),
        rotate_bytes=st.sampled_from((0, 100, 600, 10_000)),
    )
    def new_rules(self, mode: Any, max_entries: int, prune_after_ms: int, rotate_bytes: int) -> None:
        self.check.rules = Maintenance(mode, prune_after_ms, max_entries, rotate_bytes)

    def target(self, number: int = 0, alias: str = "absolute", name: str = STORE) -> Target:
        """A millisecond later, so that the names of backups differ as they do in life."""
        self.check.world.advance(MS)
        return super().target(number, alias, name)

    @rule(change=changes, active=st.none() | keys, base=st.none() | pick, way=ways)
    def update(self, change: Change, active: str | None, base: int | None, way: Way) -> None:
        target = self.target()
        self.check.update(change, target, base=self.base_for(target, base), active_session=active, way=way)

    @rule(key=keys, stamp=strategies.timestamps(), active=st.none() | keys)
    def date_a_session(self, key: str, stamp: object, active: str | None) -> None:
        self.check.update(SetField(key, "updatedAt", stamp), self.target(), active_session=active)

    @rule(sessions=dated_sessions, active=st.none() | keys)
    def save(self, sessions: list[tuple[str, Entry]], active: str | None) -> None:
        self.check.save(dict(sessions), self.target(), active_session=active)

    @rule(sessions=dated_sessions, layout=st.sampled_from(strategies.LAYOUTS))
    def foreign_rewrite(self, sessions: list[tuple[str, Entry]], layout: strategies.Layout) -> None:
        self.check.rewrite(strategies.render(sessions, layout), "rename")

    @rule(days=st.sampled_from((1, 29, 31)))
    def time_passes(self, days: int) -> None:
        self.check.world.advance(days * DAY_MS * MS)

    @rule()
    def load(self) -> None:
        self.check.load()
