"""Is there one order of all operations, compatible with real time, that a sequential specification allows?

The search is Wing and Gong's ("Testing and verifying concurrent objects", 1993) with Lowe's memo on the set of
operations done and the state ("Testing for linearizability", 2017), over partitions that are checked apart (Horn and
Kroening, "Faster linearizability checking via P-compositionality", 2015). Sets of operations are bitmasks in one int;
operations are numbered by response, so the first one that has to come next is the lowest bit not yet set. On top:

- an operation that cannot change the state is done as soon as it fits: doing it later can allow nothing more;
- of equal calls that could come next, only the one with the earliest response is tried;
- an operation of unknown outcome may be left out: it is tried only if something could come next that depends on what
  it left, and of two ways to the same place the one that used fewer such operations is enough;
- a specification may say what an operation still needs, so that a hopeless order is given up before it is walked.

Not for consistency models other than linearizability. The problem is NP-complete: a search has a cap, and a history
that exceeds it is `undecided`, never guessed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, TypeAlias, TypeVar

from storecheck.history import Call, History, Json, Operation

S = TypeVar("S")

Status: TypeAlias = Literal["ok", "illegal", "undecided"]

CAP_CONFIGURATIONS = 1_000_000
"""Configurations visited over all partitions before a check gives up: some seconds, and some hundred MB at most."""

_FIRST_SLICE_CONFIGURATIONS = 256
"""What each partition may visit in the first round. Doubled every round: easy partitions end, and a hard one neither
starves the others nor pays for many rounds."""

_CHAIN_STATES = 8
"""States looked at to find out whether an operation of unknown outcome can serve one that must come."""


class UndecidedError(RuntimeError):
    """A search met its cap: the history is neither right nor wrong, and whoever asked has no answer."""


class Need(NamedTuple):
    """What operations that have not fitted yet depend on, as bitmasks of operations.

    While any of `readers` is left, all of `all_of` and one of each of `any_of` must be left, else it can never fit.
    """

    readers: int
    all_of: int
    any_of: tuple[int, ...]


Needs: TypeAlias = Callable[[S], Iterable[Need]]


class Distinct(NamedTuple):
    """Equal calls of a partition, and the bitmask of the operations that made them."""

    call: Call
    operations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Specification(Generic[S]):
    """What a sequential object allows. A value: write one for any object.

    `step(state, call)` gives the states that `call`, with the outcome it had, may leave behind: none if it does not
    fit, several if the object may choose. States are immutable. A call of unknown outcome gives what it may leave
    behind if it takes effect. Calls that raised promised no effect and never reach `step`.

    `key(state)` is hashable, and equal for states that no later call can tell apart.
    `partition(call)` names the part of the object that the call touches; None, if it touches more than one: then the
    history is checked as one. Sound only if parts are independent.
    `read_only(call)` promises that the call leaves every state in which it fits as it is.
    `blind(call)` promises that the call fits in every state and leaves the same behind whatever was there.
    `needs(calls)` is looked at once for a partition; what it returns is asked once for each state met there, and says
    what the operations that have not fitted yet depend on. It may say too little, never too much.

    Calls are told apart by the `repr` of argument and result. JSON values are safe.
    """

    name: str
    initial: S
    step: Callable[[S, Call], Sequence[S]]
    key: Callable[[S], Hashable] = field(default=lambda state: state)
    partition: Callable[[Call], Hashable] = field(default=lambda _: None)
    read_only: Callable[[Call], bool] = field(default=lambda _: False)
    blind: Callable[[Call], bool] = field(default=lambda _: False)
    needs: Callable[[Sequence[Distinct]], Needs[S]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionVerdict:
    """The verdict on one partition.

    If ok, `order` is an order of all its operations that fits (operations of unknown outcome only where they were
    needed). If illegal, `refused` is the first operation, by response, that fits in no order together with all
    that were answered before it, and `order` is the longest order without it: it holds everything answered before, and
    perhaps operations that were still open. If the cap was met while looking for the first, `refused` is one that
    certainly fits in no order, and `first_refused` is False.
    """

    key: Hashable
    status: Status
    configurations: int
    order: tuple[Operation, ...] = ()
    refused: Operation | None = None
    first_refused: bool = True
    final_state: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The verdict on a history: illegal if a partition is, else undecided if a partition is, else ok."""

    specification: str
    status: Status
    operations: int
    configurations: int
    partitions: tuple[PartitionVerdict, ...]

    @property
    def illegal(self) -> PartitionVerdict | None:
        """The partition found illegal, if any. The search stops at the first."""
        return next((each for each in self.partitions if each.status == "illegal"), None)

    def require_decided(self) -> None:
        """For whoever knows only right and wrong.

        Raises:
            UndecidedError: the verdict is undecided.
        """
        if self.status == "undecided":
            raise UndecidedError(str(self))

    def __str__(self) -> str:
        head = f"{self.status}: {self.operations} operations against {self.specification}"
        searched = f"configurations: {self.configurations}, partitions: {len(self.partitions)}"
        if self.status == "undecided":
            return f"{head}: gave up ({searched}). Raise cap_configurations, or check a shorter history."
        culprit = self.illegal
        if culprit is None:
            return f"{head} ({searched})"
        place = "" if culprit.key is None else f" on {culprit.key!r}"
        first = "first operation that does not fit" if culprit.first_refused else "operation that does not fit"
        return "\n".join(
            [
                f"{head} ({searched})",
                f"longest order that fits{place} ({len(culprit.order)} operations):",
                *(f"  {operation}" for operation in culprit.order),
                f"state after it: {culprit.final_state}",
                f"{first}: {culprit.refused}",
            ]
        )


def check(
    history: History | Iterable[Operation],
    specification: Specification[S],
    *,
    cap_configurations: int = CAP_CONFIGURATIONS,
    partitioned: bool = True,
) -> Verdict:
    """Decide whether `history` is linearizable with respect to `specification`.

    Deterministic. Visits at most `cap_configurations`, and, if the history is illegal and the specification has
    `needs`, as many again to find the first operation refused. `partitioned=False` gives the same verdict, slower.

    Raises:
        ValueError: the cap is not positive.
    """
    if cap_configurations < 1:
        raise ValueError(f"cap_configurations is {cap_configurations}. Give at least 1.")
    operations = history.operations if isinstance(history, History) else tuple(history)
    groups = _partition(operations, specification.partition if partitioned else None)
    searches = [_Search(_Prepared(specification, group), key) for key, group in groups.items()]
    _round_robin(searches, cap_configurations)
    illegal = next((search for search in searches if search.status == "illegal"), None)
    undecided = any(search.status == "undecided" for search in searches)
    return Verdict(
        specification=specification.name,
        status="illegal" if illegal else "undecided" if undecided else "ok",
        operations=len(operations),
        configurations=sum(search.configurations for search in searches),
        partitions=tuple(
            _explained(search, cap_configurations) if search is illegal else search.verdict() for search in searches
        ),
    )


def _partition(
    operations: Sequence[Operation], partition: Callable[[Call], Hashable] | None
) -> Mapping[Hashable, list[Operation]]:
    groups: dict[Hashable, list[Operation]] = {}
    if partition is not None:
        for operation in operations:
            key = partition(operation.call)
            if key is None:
                break
            groups.setdefault(key, []).append(operation)
        else:
            return groups
    return {None: list(operations)}


def _round_robin(searches: Sequence[_Search[S]], cap_configurations: int) -> None:
    """Advance all searches in turn until one is illegal, all have ended, or the cap is met."""
    running = list(searches)
    slice_configurations = _FIRST_SLICE_CONFIGURATIONS
    left = cap_configurations
    while running and left > 0:
        for search in running:
            before = search.configurations
            search.advance(min(slice_configurations, left))
            left -= search.configurations - before
            if search.status == "illegal":
                return
            if left <= 0:
                return
        running = [search for search in running if search.status == "undecided"]
        slice_configurations *= 2


def _explained(search: _Search[S], cap_configurations: int) -> PartitionVerdict:
    """The verdict on an illegal partition, with the first operation refused and the longest order before it.

    The plain search meets both on its way. One that gave up hopeless orders early has not walked the longest, so
    the first refusal is found by bisection: if the operations answered by some moment fit, those answered earlier do.
    """
    prepared = search.prepared
    if prepared.needs is None:
        return search.verdict()
    fitting: _Search[S] | None = None
    # Fits: the first `low` responses. Does not: the first `high`.
    low, high = 0, len(prepared.returned)
    left = cap_configurations
    while high - low > 1:
        middle = (low + high) // 2
        probe = _Search(prepared, search.key, required=middle)
        probe.advance(left)
        left -= probe.configurations
        if probe.status == "undecided":
            break
        if probe.status == "ok":
            low, fitting = middle, probe
        else:
            high = middle
    shown = fitting.verdict() if fitting else PartitionVerdict(key=search.key, status="ok", configurations=0)
    return PartitionVerdict(
        key=search.key,
        status="illegal",
        configurations=search.configurations,
        order=shown.order,
        refused=prepared.returned[high - 1],
        first_refused=high - low == 1,
        final_state=shown.final_state or repr(prepared.specification.initial),
    )


class _Prepared(Generic[S]):
    """One partition, ready to be searched: operations as bits, equal calls joined, states numbered.

    Bit i is the operation with the i-th response; those of unknown outcome follow, by invocation. Shared by the
    searches over different prefixes of the partition, so that each state is stepped once.
    """

    def __init__(self, specification: Specification[S], operations: Sequence[Operation]) -> None:
        self.specification = specification
        self.returned = [each for each in operations if each.call.outcome == "returned"]
        self.returned.sort(key=_responded_at)
        read_only = specification.read_only
        # What changes nothing and is not known to have been answered constrains nothing.
        unknown = [each for each in operations if each.call.outcome == "unknown" and not read_only(each.call)]
        unknown.sort(key=_invoked_at)
        self.operations = self.returned + unknown
        self.callable_before = _callable_before(self.operations, len(self.returned))
        classes: dict[str, int] = {}
        self.calls: list[Call] = []
        self.members: list[int] = []
        self.class_of: list[int] = []
        bit = 1
        for operation in self.operations:
            call = operation.call
            name = f"{call.name}|{call.argument!r}|{call.result!r}|{call.outcome}"
            number = classes.setdefault(name, len(classes))
            if number == len(self.calls):
                self.calls.append(call)
                self.members.append(0)
            self.members[number] |= bit
            self.class_of.append(number)
            bit <<= 1
        self.read_only = 0
        self.blind = 0
        for call, mask in zip(self.calls, self.members, strict=True):
            if read_only(call):
                self.read_only |= mask
            elif specification.blind(call):
                self.blind |= mask
        distinct = [Distinct(call, mask) for call, mask in zip(self.calls, self.members, strict=True)]
        self.needs = None if specification.needs is None else specification.needs(distinct)
        self.states: list[S] = []
        self.state_numbers: dict[Hashable, int] = {}
        # For each state: the operations that fit, of those that have been judged. Judged when they may come: most
        # operations never meet most states.
        self.fitting: list[int] = []
        self.judged: list[int] = []
        self.needs_of: list[tuple[Need, ...]] = []
        self.steps: list[dict[int, tuple[int, ...]]] = [{} for _ in self.calls]
        self.number(specification.initial)

    def number(self, state: S) -> int:
        """The number of `state`: equal for states with equal keys."""
        numbers = self.state_numbers
        key = self.specification.key(state)
        number = numbers.get(key)
        if number is None:
            number = numbers[key] = len(self.states)
            self.states.append(state)
            self.fitting.append(0)
            self.judged.append(0)
            self.needs_of.append(() if self.needs is None else tuple(self.needs(state)))
        return number

    def serving(self, unknown: int, state: int, wanted: int, more: int) -> int:
        """Those of `unknown` that take state number `state` to another one from which `wanted` can be served."""
        serving = 0
        while unknown:
            call = self.class_of[(unknown & -unknown).bit_length() - 1]
            equal = self.members[call]
            unknown &= ~equal
            if any(after != state and self._serves(after, wanted, more) for after in self.step(call, state)):
                serving |= equal
        return serving

    def _serves(self, state: int, wanted: int, more: int) -> bool:
        """Whether one of `wanted` fits in state number `state`, or after some of `more`, which may be left out.

        True also if that would take too long to find out.
        """
        reached = [state]
        for each in reached:
            unjudged = (wanted | more) & ~self.judged[each]
            if unjudged:
                self.judge(each, unjudged)
            if wanted & self.fitting[each] or len(reached) > _CHAIN_STATES:
                return True
            steps = more & self.fitting[each]
            while steps:
                call = self.class_of[(steps & -steps).bit_length() - 1]
                steps &= ~self.members[call]
                reached += [after for after in self.step(call, each) if after not in reached]
        return False

    def judge(self, state: int, operations: int) -> None:
        """Find out which of `operations`, and of the calls equal to them, fit in state number `state`."""
        while operations:
            call = self.class_of[(operations & -operations).bit_length() - 1]
            equal = self.members[call]
            operations &= ~equal
            self.judged[state] |= equal
            if self.step(call, state):
                self.fitting[state] |= equal

    def step(self, call: int, state: int) -> tuple[int, ...]:
        """The numbers of the states that call number `call` may leave behind, computed once."""
        known = self.steps[call].get(state)
        if known is not None:
            return known
        after = self.specification.step(self.states[state], self.calls[call])
        numbers = self.steps[call][state] = tuple(dict.fromkeys(self.number(each) for each in after))
        return numbers


def _responded_at(operation: Operation) -> int:
    assert operation.responded_at is not None, f"{operation} returned without a stamp"
    return operation.responded_at


def _invoked_at(operation: Operation) -> int:
    return operation.invoked_at


def _callable_before(operations: Sequence[Operation], returned: int) -> list[int]:
    """For each response, the operations that may come before it: those invoked no later than it."""
    by_invocation = sorted(range(len(operations)), key=lambda index: operations[index].invoked_at)
    masks, mask, position = [], 0, 0
    for operation in operations[:returned]:
        until = _responded_at(operation)
        while position < len(by_invocation) and operations[by_invocation[position]].invoked_at <= until:
            mask |= 1 << by_invocation[position]
            position += 1
        masks.append(mask)
    return masks


# An order under construction: (operations done in one go, the order before them). Shared tails make a copy free.
_Order: TypeAlias = "tuple[int, _Order | None]"


class _Search(Generic[S]):
    """A search of one partition that can be continued. `required` limits the obligation to the first responses.

    A configuration is (operations done, state, order). `left` is what is required and not done; `may_come` is what was
    not invoked after the first response in `left`, and so may come next.
    """

    def __init__(self, prepared: _Prepared[S], key: Hashable, *, required: int | None = None) -> None:
        self.prepared = prepared
        self.key = key
        self.status: Status = "undecided"
        self.configurations = 0
        self._required = (1 << (len(prepared.returned) if required is None else required)) - 1
        self._optional = ((1 << len(prepared.operations)) - 1) ^ self._required
        # For each set of required operations done, and state: the sets of optional ones it was reached with.
        self._seen: dict[int, list[int]] = {}
        # For each state, and what may come next and depends on it: the operations judged, and those worth being done.
        self._served: dict[tuple[int, int], tuple[int, int]] = {}
        self._best_order: _Order | None = None
        self._best_state = 0
        self._best_response = -1
        self._walk = self._configurations()

    def advance(self, configurations: int) -> None:
        """Visit up to so many configurations more, or until the partition is decided."""
        walk = self._walk
        for _ in range(configurations):
            if next(walk, None) is None:
                return

    def verdict(self) -> PartitionVerdict:
        """What is known now."""
        decided = self.status != "undecided"
        return PartitionVerdict(
            key=self.key,
            status=self.status,
            configurations=self.configurations,
            order=tuple(self._operations_in_order()) if decided else (),
            refused=self.prepared.returned[self._best_response] if self.status == "illegal" else None,
            final_state=repr(self.prepared.states[self._best_state]) if decided else "",
        )

    def _operations_in_order(self) -> Iterator[Operation]:
        order, steps = self._best_order, []
        while order is not None:
            step, order = order
            steps.append(step)
        for step in reversed(steps):
            rest = step
            while rest:
                low = rest & -rest
                yield self.prepared.operations[low.bit_length() - 1]
                rest ^= low

    def _configurations(self) -> Generator[Literal[True], None, None]:
        """Walk depth first; yield after each configuration, and end with `status` set."""
        prepared, required = self.prepared, self._required
        members, class_of, steps = prepared.members, prepared.class_of, prepared.steps
        # What is left to try: a configuration with the operations that may come next; or, with 0, one to be entered.
        stack: list[tuple[int, int, int, _Order | None]] = [(0, 0, 0, None)]
        while stack:
            done, state, choices, order = stack.pop()
            if not choices:
                self.configurations += 1
                done, order = self._with_fitting_reads(done, state, order)
                left = required & ~done
                if not left:
                    self.status, self._best_order, self._best_state = "ok", order, state
                    return
                choices = self._choices(done, state, left, order)
                yield True
            while choices:
                chosen = choices & -choices
                call = class_of[chosen.bit_length() - 1]
                choices &= ~members[call]
                after = steps[call].get(state)
                if after is None:
                    after = prepared.step(call, state)
                if after:
                    if choices:
                        stack.append((done, state, choices, order))
                    following = (chosen, order)
                    stack.extend((done | chosen, each, 0, following) for each in reversed(after))
                    break
        self.status = "illegal"

    def _with_fitting_reads(self, done: int, state: int, order: _Order | None) -> tuple[int, _Order | None]:
        """Do everything that may come, fits and changes nothing; again, as long as that lets more come."""
        prepared, required = self.prepared, self._required
        callable_before, candidates = prepared.callable_before, prepared.read_only & required
        while True:
            left = required & ~done
            if not left:
                return done, order
            reads = callable_before[(left & -left).bit_length() - 1] & ~done & candidates
            if not reads:
                return done, order
            unjudged = reads & ~prepared.judged[state]
            if unjudged:
                prepared.judge(state, unjudged)
            reads &= prepared.fitting[state]
            if not reads:
                return done, order
            done |= reads
            order = (reads, order)

    def _choices(self, done: int, state: int, left: int, order: _Order | None) -> int:
        """The operations to be tried next: none, if nothing new can come of this configuration."""
        prepared, required = self.prepared, self._required
        response = (left & -left).bit_length() - 1
        if response > self._best_response:
            self._best_response, self._best_order, self._best_state = response, order, state
        place = done & required | state << len(prepared.operations)
        spent = done & self._optional
        ways = self._seen.setdefault(place, [])
        for way in ways:
            if not way & ~spent:
                return 0
        ways.append(spent)
        if prepared.needs is not None and _hopeless(prepared.needs_of[state], left, ~done, prepared.callable_before):
            return 0
        may_come = prepared.callable_before[response] & ~done
        choices = may_come & required & ~prepared.read_only
        unknown = may_come & self._optional
        dependent = may_come & ~prepared.blind
        # What may be left out must serve what has to come and depends on the state: a blind call leaves nothing of it.
        if unknown and dependent & required:
            choices |= self._serving(unknown & ~prepared.read_only, state, dependent)
        return choices

    def _serving(self, unknown: int, state: int, dependent: int) -> int:
        """Those of `unknown`, operations that may be left out, that are worth being done in `state`.

        `dependent` is what may come next and depends on the state.
        """
        question = (state, dependent)
        judged, serving = self._served.get(question, (0, 0))
        if unknown & ~judged:
            wanted, more = dependent & self._required, dependent & self._optional
            serving |= self.prepared.serving(unknown & ~judged, state, wanted, more)
            self._served[question] = (judged | unknown, serving)
        return unknown & serving


def _hopeless(needs: Iterable[Need], left: int, available: int, callable_before: Sequence[int]) -> bool:
    """Whether an operation that has to come yet can no longer fit. `available` holds what has not been done."""
    for readers, all_of, any_of in needs:
        waiting = readers & left
        if waiting:
            # The one with the earliest response has the fewest operations that may still come before it.
            usable = available & callable_before[(waiting & -waiting).bit_length() - 1]
            if all_of & ~usable:
                return True
            for one_of in any_of:
                if not one_of & usable:
                    return True
    return False


# --- specifications -----------------------------------------------------------------------------------------------


def _identity(value: Json) -> Hashable:
    """Equal for equal JSON values only: 1, 1.0 and True differ, the order of an object's keys does not count."""
    if value is None or isinstance(value, (str, int, float)):
        return (type(value), value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _pair(call: Call) -> tuple[Json, Json]:
    argument = call.argument
    if not isinstance(argument, (list, tuple)) or len(argument) != 2:
        raise ValueError(f"{call.name} has the argument {argument!r}. Give a list of two values.")
    return argument[0], argument[1]


def _text(value: Json, *, call: Call) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"{call} has {value!r} where the specification wants a string.")


def _unspecified(call: Call, *, specification: str, known: str) -> ValueError:
    return ValueError(f"{call} is no operation of {specification}. Use {known}.")


def _register_step(state: Json, call: Call) -> Sequence[Json]:
    if call.name == "read":
        return (state,) if _identity(call.result) == _identity(state) else ()
    if call.name == "write":
        return (call.argument,)
    if call.name == "cas":
        expected, new = _pair(call)
        if _identity(expected) == _identity(state):
            return () if call.result is False else (new,)
        return () if call.result is True else (state,)
    raise _unspecified(call, specification="a register", known="read, write or cas")


def _register_read_only(call: Call) -> bool:
    return call.name == "read" or (call.name == "cas" and call.result is False)


def register(initial: Json = None) -> Specification[Json]:
    """One value. `read()` returns it, `write(value)` replaces it, `cas([expected, new])` returns whether it did.

    A cas of unknown outcome replaces the value if it takes effect where the expected value is.
    """
    return Specification(
        name="a register",
        initial=initial,
        step=_register_step,
        key=_identity,
        read_only=_register_read_only,
        blind=lambda call: call.name == "write",
    )


REGISTER = register()


def _mutex_step(holder: Json, call: Call) -> Sequence[Json]:
    if call.argument is None:
        raise ValueError(f"{call} names no owner. Give the owner as the argument.")
    if call.name == "acquire":
        if call.result is False:
            return () if holder is None else (holder,)
        return (call.argument,) if holder is None else ()
    if call.name == "release":
        mine = _identity(holder) == _identity(call.argument)
        if call.result is False:
            return () if mine else (holder,)
        return (None,) if mine else ()
    raise _unspecified(call, specification="a mutex", known="acquire or release")


MUTEX: Specification[Json] = Specification(
    name="a mutex",
    initial=None,
    step=_mutex_step,
    key=_identity,
    read_only=lambda call: call.result is False,
)
"""A lock, not re-entrant. `acquire(owner)` takes a free one, and returned False if it was not free; `release(owner)`
frees what the owner holds, and returned False if it did not hold it."""


_Values: TypeAlias = "tuple[tuple[str, str], ...]"


def _key_value_step(state: _Values, call: Call) -> Sequence[_Values]:
    key, values = _first_argument(call), dict(state)
    if call.name == "get":
        return (state,) if call.result == values.get(key, "") else ()
    value = _text(_pair(call)[1], call=call)
    if call.name == "put":
        values[key] = value
    elif call.name == "append":
        values[key] = values.get(key, "") + value
    else:
        raise _unspecified(call, specification="a key-value store", known="get, put or append")
    return (tuple(sorted((name, value) for name, value in values.items() if value)),)


def _first_argument(call: Call) -> str:
    if not isinstance(call.argument, (list, tuple)) or not call.argument:
        raise ValueError(f"{call} names no key. Give the key as the first of a list of arguments.")
    return _text(call.argument[0], call=call)


def _key_value_needs(calls: Sequence[Distinct]) -> Needs[_Values]:
    """What reads need: a value that was read is one put, or nothing, with appends after it.

    So each of its characters needs an operation that can supply it, and all operations that supply what the state does
    not have yet must still be to come. Where values are unique, as a good workload makes them, that leaves one order.
    """
    puts: dict[str, dict[str, int]] = {}
    appends: dict[str, dict[str, int]] = {}
    for call, operations in calls:
        if call.name != "get":
            supply = (puts if call.name == "put" else appends).setdefault(_first_argument(call), {})
            value = _text(_pair(call)[1], call=call)
            supply[value] = supply.get(value, 0) | operations
    reads: dict[str, list[_ReadValue]] = {}
    for call, operations in calls:
        if call.name == "get":
            key = _first_argument(call)
            read = _read_value(call, operations, puts=puts.get(key, {}), appends=appends.get(key, {}))
            reads.setdefault(key, []).append(read)

    def needs(state: _Values) -> Iterable[Need]:
        values = dict(state)
        for key, reads_of_key in reads.items():
            value = values.get(key, "")
            for read in reads_of_key:
                if read.value != value:
                    yield read.after[len(value)] if read.value.startswith(value) else read.anew

    return needs


@dataclass(frozen=True, slots=True, kw_only=True)
class _ReadValue:
    """A value that was read: what is needed after its first n characters, and to make it anew from something else."""

    value: str
    after: Sequence[Need]
    anew: Need


def _read_value(call: Call, readers: int, *, puts: Mapping[str, int], appends: Mapping[str, int]) -> _ReadValue:
    value = _text(call.result, call=call)
    starts = {len(put): mask for put, mask in puts.items() if value.startswith(put)}
    pieces = _pieces(value, starts, appends)
    begins = {begin for begin, _, _ in pieces} | {len(value)}
    starts = {end: mask for end, mask in starts.items() if end in begins}
    suppliers = [0] * len(value)
    for begin, end, mask in [*pieces, *((0, end, mask) for end, mask in starts.items())]:
        for position in range(begin, end):
            suppliers[position] |= mask
    # From the end: what all characters from a position on need.
    all_of = 0
    any_of: tuple[int, ...] = ()
    tails = []
    for supplier, next_supplier in zip(reversed(suppliers), [None, *reversed(suppliers)], strict=False):
        if supplier != next_supplier:
            if supplier and not supplier & (supplier - 1):
                all_of |= supplier
            else:
                any_of = (*any_of, supplier)
        tails.append(Need(readers, all_of, any_of))
    tails.reverse()
    restart = 0
    for mask in starts.values():
        restart |= mask
    anew = Need(readers, tails[0].all_of, (restart, *tails[0].any_of)) if tails else Need(readers, 0, (restart,))
    after = [tails[position] if position in begins else anew for position in range(len(value))]
    return _ReadValue(value=value, after=after, anew=anew)


def _pieces(value: str, starts: Iterable[int], appends: Mapping[str, int]) -> list[tuple[int, int, int]]:
    """All (begin, end, operations) in which an append can have supplied value[begin:end], on some way to the end."""
    lengths = sorted({len(append) for append in appends if append})
    reached = {0, *starts}
    forward: list[tuple[int, int, int]] = []
    for begin in range(len(value)):
        if begin in reached:
            for length in lengths:
                mask = appends.get(value[begin : begin + length], 0)
                if mask and begin + length <= len(value):
                    reached.add(begin + length)
                    forward.append((begin, begin + length, mask))
    useful = {len(value)}
    pieces = []
    for begin, end, mask in reversed(forward):
        if end in useful:
            useful.add(begin)
            pieces.append((begin, end, mask))
    return pieces


KEY_VALUE: Specification[_Values] = Specification(
    name="a key-value store",
    initial=(),
    step=_key_value_step,
    partition=_first_argument,
    read_only=lambda call: call.name == "get",
    blind=lambda call: call.name == "put",
    needs=_key_value_needs,
)
"""Strings by key, each empty at first. `get([key])` returns one, `put([key, value])` replaces it, and
`append([key, value])` adds to its end."""


_Sessions: TypeAlias = "tuple[tuple[str, str], ...]"


def _encoded(value: Json) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _sessions(value: Json, *, call: Call) -> _Sessions:
    if isinstance(value, Mapping):
        return tuple(sorted((session, _encoded(entry)) for session, entry in value.items()))
    raise ValueError(f"{call} has {value!r} where the specification wants an object of sessions.")


def _versioned_map_step(state: _Sessions, call: Call) -> Sequence[_Sessions]:
    if call.name == "load":
        return (state,) if call.outcome == "unknown" or _sessions(call.result, call=call) == state else ()
    if call.name == "save":
        return (_sessions(call.argument, call=call),)
    session = _first_argument(call)
    entries = dict(state)
    found = entries.pop(session, "null")
    if call.outcome == "returned" and _encoded(call.result) != found:
        return ()
    if call.name == "get":
        return (state,)
    if call.name == "set":
        entries[session] = _encoded(_pair(call)[1])
    elif call.name != "remove":
        raise _unspecified(call, specification="a versioned map", known="load, save, get, set or remove")
    return (tuple(sorted(entries.items())),)


def versioned_map(initial: Mapping[str, Json] | None = None) -> Specification[_Sessions]:
    """A store of sessions: each entry is a JSON value that is not null, best a version that no two writes share.

    `load()` returns all entries and `save(entries)` replaces them; `get([session])` returns one entry, or None,
    `set([session, entry])` and `remove([session])` change one and return what they found there. It is what they found
    that shows a lost update. Histories without load and save are checked by session.
    """
    return Specification(
        name="a versioned map",
        initial=tuple(sorted((session, _encoded(entry)) for session, entry in (initial or {}).items())),
        step=_versioned_map_step,
        partition=lambda call: None if call.name in ("load", "save") else _first_argument(call),
        read_only=lambda call: call.name in ("load", "get"),
        blind=lambda call: call.name == "save",
    )
