"""The checker is itself checked: against every permutation, against executions known to be legal, and by mutation.

The reference below follows the definition of Herlihy and Wing word for word and shares no code with the search.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import TypeVar

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from storecheck.history import Call, History, Json, Operation, Outcome, from_jepsen_edn_lines, from_porcupine_kv_lines
from storecheck.linearizability import (
    KEY_VALUE,
    MUTEX,
    REGISTER,
    Distinct,
    Need,
    PartitionVerdict,
    Specification,
    UndecidedError,
    Verdict,
    check,
    register,
    versioned_map,
)

S = TypeVar("S")

EXAMPLES_FACTOR = 2
"""Small histories cost a millisecond each: these properties look at more of them than the profile asks for."""

AT_LEAST_OF_EACH_VERDICT = 10
"""Of the examples of one property, how many must have had each verdict: else it compared nothing."""


# -- the reference ----------------------------------------------------------------------------------------------------


def in_real_time(order: Sequence[Operation]) -> bool:
    """Whether no operation of `order` stands before one that was answered before it was invoked."""
    return not any(
        later.call.outcome == "returned" and later.responded_at is not None and later.responded_at < earlier.invoked_at
        for earlier, later in itertools.combinations(order, 2)
    )


def states_after(order: Sequence[Operation], specification: Specification[S]) -> list[S]:
    """The states that `order` may leave behind; none if it does not fit."""
    states = [specification.initial]
    for operation in order:
        states = [after for state in states for after in specification.step(state, operation.call)]
    return states


def fitting_orders(
    required: Sequence[Operation], optional: Sequence[Operation], specification: Specification[S]
) -> Iterator[tuple[Operation, ...]]:
    """Every order, of all of `required` and any of `optional`, that fits."""
    for size in range(len(optional) + 1):
        for chosen in itertools.combinations(optional, size):
            for order in itertools.permutations([*required, *chosen]):
                if in_real_time(order) and states_after(order, specification):
                    yield order


def answered(operations: Sequence[Operation]) -> list[Operation]:
    """The operations with a result, by response; equal stamps in the order given."""
    returned = [operation for operation in operations if operation.call.outcome == "returned"]
    return sorted(returned, key=lambda operation: (operation.responded_at or 0, operations.index(operation)))


def fits_until(count: int, operations: Sequence[Operation], specification: Specification[S]) -> bool:
    """Whether the first `count` answers can be explained, with operations invoked before the last of them."""
    returned = answered(operations)
    required = returned[:count]
    until = max((operation.responded_at or 0 for operation in required), default=0)
    optional = [
        operation
        for operation in operations
        if operation not in required and operation.call.outcome != "raised" and operation.invoked_at <= until
    ]
    return next(fitting_orders(required, optional, specification), None) is not None


# -- histories --------------------------------------------------------------------------------------------------------

values = st.integers(0, 2)


def numbered(operations: Sequence[tuple[Call, int, int]]) -> tuple[Operation, ...]:
    """Operations of one process each, from (call, invocation, duration); some unknown ones have no response."""
    return tuple(
        Operation(
            process=f"p{number}",
            task="main",
            identifier=number,
            call=call,
            invoked_at=invoked_at,
            responded_at=None if call.outcome == "unknown" and duration % 2 else invoked_at + duration,
        )
        for number, (call, invoked_at, duration) in enumerate(operations)
    )


def histories(calls: st.SearchStrategy[Call], *, most: int = 5) -> st.SearchStrategy[tuple[Operation, ...]]:
    """Small histories with overlaps and equal stamps; results are drawn, so many are illegal."""
    return st.lists(st.tuples(calls, st.integers(0, 9), st.integers(0, 6)), min_size=2, max_size=most).map(numbered)


@st.composite
def answers(draw: st.DrawFn, name: str, argument: Json, results: st.SearchStrategy[Json]) -> Call:
    """A call with some outcome: mostly a result."""
    outcome: Outcome = draw(st.sampled_from(("returned", "returned", "returned", "returned", "unknown", "raised")))
    result = draw(results) if outcome == "returned" else None
    return Call(name=name, argument=argument, outcome=outcome, result=result)


def register_calls() -> st.SearchStrategy[Call]:
    """Calls of a register of three values."""
    return st.one_of(
        answers("read", None, st.none() | values),
        values.flatmap(lambda value: answers("write", value, st.none())),
        st.tuples(values, values).flatmap(lambda pair: answers("cas", list(pair), st.booleans())),
    )


def key_value_calls() -> st.SearchStrategy[Call]:
    """Calls with few, overlapping and empty texts: several operations can explain one read."""
    keys = st.sampled_from(["a", "a", "b"])
    texts = st.sampled_from(["x", "y", "xy", ""])
    longer = st.text("xy", min_size=1, max_size=3)
    return st.one_of(
        keys.flatmap(lambda key: answers("get", [key], longer)),
        st.tuples(keys, texts).flatmap(lambda pair: answers("put", list(pair), st.none())),
        st.tuples(keys, texts).flatmap(lambda pair: answers("append", list(pair), st.none())),
        st.tuples(keys, texts).flatmap(lambda pair: answers("append", list(pair), st.none())),
    )


def mutex_calls() -> st.SearchStrategy[Call]:
    """Calls of two owners."""
    owners = st.sampled_from(["p", "q"])
    granted = st.sampled_from([True, True, False])
    return st.tuples(st.sampled_from(["acquire", "release"]), owners).flatmap(lambda c: answers(c[0], c[1], granted))


def session_calls() -> st.SearchStrategy[Call]:
    """Calls on two sessions and on the whole store."""
    sessions = st.sampled_from(["a", "a", "b"])
    entries = st.none() | st.just(1)
    stores = st.dictionaries(sessions, st.just(1), max_size=2)
    return st.one_of(
        stores.flatmap(lambda store: answers("load", None, st.just(store))),
        stores.flatmap(lambda store: answers("save", store, st.none())),
        sessions.flatmap(lambda session: answers("get", [session], entries)),
        sessions.flatmap(lambda session: answers("set", [session, 1], entries)),
        sessions.flatmap(lambda session: answers("remove", [session], entries)),
    )


def bag_step(state: frozenset[int], call: Call) -> Sequence[frozenset[int]]:
    """A bag that chooses which element `take` gives, and does not always tell."""
    assert isinstance(call.argument, int) or call.argument is None
    if call.name == "add":
        return (state | {call.argument},) if isinstance(call.argument, int) else ()
    if call.result is None:
        return tuple(state - {element} for element in sorted(state))
    return (state - {call.result},) if call.result in state else ()


BAG: Specification[frozenset[int]] = Specification(name="a bag", initial=frozenset(), step=bag_step)


def bag_calls() -> st.SearchStrategy[Call]:
    """Calls of `BAG`."""
    return st.one_of(
        values.flatmap(lambda value: answers("add", value, st.none())), answers("take", None, st.none() | values)
    )


def names(operations: Sequence[Operation]) -> list[tuple[str, int]]:
    """What tells operations apart; arguments may not be hashable."""
    return [(operation.process, operation.identifier) for operation in operations]


def assert_explained(
    verdict: Verdict, operations: Sequence[Operation], specification: Specification[S], *, partitioned: bool = True
) -> None:
    """What a verdict shows is true: its orders fit, and what it refuses is the first answer that cannot fit."""
    for part in verdict.partitions:
        mine = [
            operation
            for operation in operations
            if not partitioned or part.key is None or specification.partition(operation.call) == part.key
        ]
        if part.status != "undecided" and (part.status == "ok" or part is verdict.illegal):
            assert_order_fits(part, mine, specification)


def assert_order_fits(part: PartitionVerdict, operations: Sequence[Operation], specification: Specification[S]) -> None:
    """The order shown is one of `operations`, fits, and is as long as it is said to be."""
    assert in_real_time(part.order)
    final = states_after(part.order, specification)
    assert part.final_state in [repr(state) for state in final]
    shown = names(part.order)
    assert len(set(shown)) == len(shown)
    assert set(shown) <= set(names(operations))
    returned = answered(operations)
    if part.status == "ok":
        assert set(names(returned)) <= set(shown)
        return
    assert part.refused is not None
    assert part.first_refused
    # Answers with one stamp have no order of their own: any of those that arrived first may be blamed.
    before = [each for each in returned if (each.responded_at or 0) < (part.refused.responded_at or 0)]
    until = [each for each in returned if (each.responded_at or 0) <= (part.refused.responded_at or 0)]
    assert part.refused not in part.order
    assert set(names(before)) <= set(shown)
    assert fits_until(len(before), operations, specification)
    assert not fits_until(len(until), operations, specification)


SPECIFICATIONS = [
    pytest.param(REGISTER, register_calls(), id="register"),
    pytest.param(KEY_VALUE, key_value_calls(), id="key-value"),
    pytest.param(MUTEX, mutex_calls(), id="mutex"),
    pytest.param(versioned_map(), session_calls(), id="versioned map"),
    pytest.param(BAG, bag_calls(), id="bag"),
]


# -- properties -------------------------------------------------------------------------------------------------------


class TestAgainstEveryPermutation:
    """Small histories, decided by trying everything."""

    @pytest.mark.parametrize(("specification", "calls"), SPECIFICATIONS)
    def test_the_verdict_is_that_of_the_definition(
        self, specification: Specification[Hashable], calls: st.SearchStrategy[Call]
    ) -> None:
        """Both verdicts equal those of trying every order of every subset, and what is shown with them is true."""
        met: Counter[str] = Counter()

        @settings(max_examples=EXAMPLES_FACTOR * settings().max_examples)
        @given(operations=histories(calls))
        def compare(operations: tuple[Operation, ...]) -> None:
            verdict = check(operations, specification)
            expected = fits_until(len(answered(operations)), operations, specification)
            assert verdict.status == ("ok" if expected else "illegal"), str(verdict)
            assert_explained(verdict, operations, specification)
            met[verdict.status] += 1
            event(verdict.status)

        compare()
        assert min(met["ok"], met["illegal"]) >= AT_LEAST_OF_EACH_VERDICT, met

    @pytest.mark.parametrize(("specification", "calls"), SPECIFICATIONS)
    def test_partitions_change_nothing(
        self, specification: Specification[Hashable], calls: st.SearchStrategy[Call]
    ) -> None:
        """A history checked as one gets the verdict of its partitions checked apart."""
        met: Counter[str] = Counter()

        @settings(max_examples=EXAMPLES_FACTOR * settings().max_examples)
        @given(operations=histories(calls, most=9))
        def compare(operations: tuple[Operation, ...]) -> None:
            apart = check(operations, specification)
            together = check(operations, specification, partitioned=False)
            assert apart.status == together.status
            assert [part.key for part in together.partitions] == [None]
            met[apart.status] += 1

        compare()
        assert min(met["ok"], met["illegal"]) >= AT_LEAST_OF_EACH_VERDICT, met

    @pytest.mark.parametrize(("specification", "calls"), SPECIFICATIONS)
    def test_promises_of_a_specification_only_save_work(
        self, specification: Specification[Hashable], calls: st.SearchStrategy[Call]
    ) -> None:
        """Without read-only, blind and needs, a specification gives the same verdict."""
        plain = Specification(
            name="plain", initial=specification.initial, step=specification.step, key=specification.key
        )

        @settings(max_examples=EXAMPLES_FACTOR * settings().max_examples)
        @given(operations=histories(calls, most=8))
        def compare(operations: tuple[Operation, ...]) -> None:
            helped = check(operations, specification, partitioned=False)
            unhelped = check(operations, plain)
            assert helped.status == unhelped.status

        compare()

    @pytest.mark.parametrize(("specification", "calls"), SPECIFICATIONS)
    def test_a_cap_never_turns_a_verdict(
        self, specification: Specification[Hashable], calls: st.SearchStrategy[Call]
    ) -> None:
        """With any cap the verdict is the true one or undecided, and the cap is kept."""
        met: Counter[str] = Counter()

        @settings(max_examples=EXAMPLES_FACTOR * settings().max_examples)
        @given(operations=histories(calls, most=7), cap=st.integers(1, 6))
        def compare(operations: tuple[Operation, ...], cap: int) -> None:
            capped = check(operations, specification, cap_configurations=cap)
            assert capped.status in ("undecided", check(operations, specification).status)
            assert capped.configurations <= cap
            if capped.illegal is not None and not capped.illegal.first_refused:
                assert in_real_time(capped.illegal.order)
                assert states_after(capped.illegal.order, specification)
            met[capped.status] += 1

        compare()
        assert min(met["undecided"], met["ok"]) >= AT_LEAST_OF_EACH_VERDICT, met


# -- executions -------------------------------------------------------------------------------------------------------


def execute(specification: Specification[S], *, seed: int, tasks: int, operations: int, draw: str) -> list[Operation]:
    """A legal concurrent execution: every operation takes effect at one moment between invocation and response."""
    rng = random.Random(seed)
    state = specification.initial
    history: list[Operation] = []
    # task -> (index in history, its call with the result it got, or None as long as it had no effect)
    running: dict[int, tuple[int, Call | None]] = {}
    for now in itertools.count(1):
        task = rng.randrange(tasks)
        if task not in running:
            if len(history) == operations:
                break
            call = WORKLOADS[draw](rng)
            running[task] = (len(history), None)
            history.append(Operation(process=f"p{task}", task="t", identifier=len(history), call=call, invoked_at=now))
            continue
        index, done = running[task]
        if done is None:
            state, done = effect(specification, state, history[index].call)
            running[task] = (index, done)
        else:
            del running[task]
            before = history[index]
            history[index] = Operation(
                process=before.process,
                task="t",
                identifier=index,
                call=done,
                invoked_at=before.invoked_at,
                responded_at=now,
            )
    return history


def effect(specification: Specification[S], state: S, call: Call) -> tuple[S, Call]:
    """The state after `call`, and the call with its result: found by asking the specification which result fits."""
    candidates = RESULTS[specification.name](state, call)
    for result in candidates:
        answer = Call(name=call.name, argument=call.argument, result=result)
        after = specification.step(state, answer)
        if after:
            return after[0], answer
    raise AssertionError(f"{specification.name}: no result of {call} fits in {state!r}")


def _any_register_call(rng: random.Random) -> Call:
    name = rng.choice(("read", "write", "cas"))
    argument: Json = None if name == "read" else rng.randrange(5)
    if name == "cas":
        argument = [rng.randrange(5), rng.randrange(5)]
    return Call(name=name, argument=argument, outcome="unknown")


def _any_key_value_call(rng: random.Random) -> Call:
    name = rng.choice(("get", "get", "put", "append", "append", "append"))
    key = rng.choice("abc")
    # Some values repeat, as in logs of real clients: several operations can then explain one read.
    return Call(name=name, argument=[key] if name == "get" else [key, f"<{rng.randrange(40)}>"], outcome="unknown")


def _any_session_call(rng: random.Random) -> Call:
    name = rng.choice(("load", "save", "get", "set", "set", "remove"))
    session = rng.choice("abc")
    argument: Json = [session]
    if name == "load":
        argument = None
    elif name == "save":
        argument = {session: rng.randrange(1000)}
    elif name == "set":
        argument = [session, rng.randrange(1000)]
    return Call(name=name, argument=argument, outcome="unknown")


WORKLOADS = {"register": _any_register_call, "key-value": _any_key_value_call, "sessions": _any_session_call}


def _register_results(state: object, call: Call) -> list[Json]:
    assert isinstance(state, int | None)
    return [state] if call.name == "read" else [True, False] if call.name == "cas" else [None]


def _session_results(state: object, call: Call) -> list[Json]:
    assert isinstance(state, tuple)
    found = {session: int(entry) for session, entry in state}
    return [found] if call.name == "load" else [None, *found.values()]


def _key_value_results(state: object, call: Call) -> list[Json]:
    assert isinstance(state, tuple)
    return ["", *(value for _, value in state)] if call.name == "get" else [None]


RESULTS = {
    "a register": _register_results,
    "a key-value store": _key_value_results,
    "a versioned map": _session_results,
}

EXECUTIONS = [
    pytest.param(register(), "register", id="register"),
    pytest.param(KEY_VALUE, "key-value", id="key-value"),
    pytest.param(versioned_map(), "sessions", id="versioned map"),
]

READS = {"read", "get", "load"}


def with_result(operation: Operation, result: Json) -> Operation:
    """`operation`, had it returned `result`."""
    call = Call(name=operation.call.name, argument=operation.call.argument, result=result)
    return Operation(
        process=operation.process,
        task=operation.task,
        identifier=operation.identifier,
        call=call,
        invoked_at=operation.invoked_at,
        responded_at=operation.responded_at,
    )


class TestExecutions:
    """Histories too long to try everything, whose verdict is known from how they were made."""

    @pytest.mark.parametrize(("specification", "draw"), EXECUTIONS)
    @pytest.mark.parametrize("seed", range(10))
    def test_a_legal_execution_is_ok(self, specification: Specification[Hashable], draw: str, seed: int) -> None:
        """Operations that each took effect at one moment are linearizable, also when killed ones are open for ever."""
        operations = execute(specification, seed=seed, tasks=6, operations=120, draw=draw)
        assert any(operation.call.outcome == "unknown" for operation in operations)
        verdict = check(operations, specification)
        assert verdict.status == "ok", str(verdict)
        for part in verdict.partitions:
            assert in_real_time(part.order)
            assert states_after(part.order, specification)

    @pytest.mark.parametrize(("specification", "draw"), EXECUTIONS)
    @pytest.mark.parametrize("seed", range(10))
    def test_a_result_from_nowhere_is_illegal(
        self, specification: Specification[Hashable], draw: str, seed: int
    ) -> None:
        """A read of something that nobody wrote is refused, and is the first operation refused."""
        operations = execute(specification, seed=seed, tasks=6, operations=120, draw=draw)
        reads = [index for index, each in enumerate(operations) if each.call.name in READS and each.responded_at]
        chosen = reads[len(reads) // 2]
        foreign: Json = {"nobody": 1} if operations[chosen].call.name == "load" else "from nowhere"
        operations[chosen] = with_result(operations[chosen], foreign)
        verdict = check(operations, specification)
        assert verdict.illegal is not None
        assert verdict.illegal.refused == operations[chosen]
        assert verdict.illegal.first_refused

    @pytest.mark.parametrize(("specification", "draw"), EXECUTIONS)
    @pytest.mark.parametrize("seed", range(10))
    def test_a_mutated_execution_gets_the_plain_search_s_verdict(
        self, specification: Specification[Hashable], draw: str, seed: int
    ) -> None:
        """Swapped results, a lost write, a delayed invocation: helped and unhelped searches agree on each."""
        rng = random.Random(seed)
        plain = Specification(
            name="plain", initial=specification.initial, step=specification.step, key=specification.key
        )
        for operations in mutations(execute(specification, seed=seed, tasks=4, operations=40, draw=draw), rng):
            helped, unhelped = check(operations, specification), check(operations, plain)
            assert helped.status == unhelped.status != "undecided"
            if helped.illegal is not None:
                assert in_real_time(helped.illegal.order)
                assert states_after(helped.illegal.order, specification)

    def test_mutations_have_both_verdicts(self) -> None:
        """Mutating legal executions gives illegal histories, and some that are still legal."""
        met: Counter[str] = Counter()
        for seed in range(10):
            execution = execute(register(), seed=seed, tasks=4, operations=40, draw="register")
            for operations in mutations(execution, random.Random(seed)):
                met[check(operations, REGISTER).status] += 1
        assert min(met["ok"], met["illegal"]) >= AT_LEAST_OF_EACH_VERDICT, met


def mutations(operations: Sequence[Operation], rng: random.Random) -> Iterator[list[Operation]]:
    """Histories that differ in one thing: two reads swap results, a write is gone, an operation starts later."""
    reads = [index for index, each in enumerate(operations) if each.call.name in READS and each.responded_at]
    for _ in range(3):
        first, second = rng.sample(reads, 2)
        swapped = list(operations)
        if swapped[first].call.name == swapped[second].call.name:
            swapped[first] = with_result(operations[first], operations[second].call.result)
            swapped[second] = with_result(operations[second], operations[first].call.result)
            yield swapped
        writes = [index for index, each in enumerate(operations) if each.call.name not in READS]
        lost = rng.choice(writes)
        yield [each for index, each in enumerate(operations) if index != lost]
        late = rng.randrange(len(operations))
        responded_at = operations[late].responded_at
        if responded_at is not None:
            delayed = Operation(
                process="late",
                task="t",
                identifier=late,
                call=operations[late].call,
                invoked_at=responded_at,
                responded_at=responded_at,
            )
            yield [*operations[:late], delayed, *operations[late + 1 :]]


# -- rules one at a time ----------------------------------------------------------------------------------------------


def sequence(*calls: Call) -> tuple[Operation, ...]:
    """Operations one after the other."""
    return tuple(
        Operation(
            process="p",
            task="t",
            identifier=number,
            call=call,
            invoked_at=2 * number,
            responded_at=None if call.outcome == "unknown" else 2 * number + 1,
        )
        for number, call in enumerate(calls)
    )


def wrote(value: Json) -> Call:
    """A write."""
    return Call(name="write", argument=value)


def read(value: Json) -> Call:
    """A read."""
    return Call(name="read", result=value)


class TestRules:
    """What counts as linearizable, one rule at a time."""

    def test_real_time_order_counts(self) -> None:
        """A read that starts after a write was answered must see it."""
        assert check(sequence(wrote(1), read(1)), REGISTER).status == "ok"
        assert check(sequence(wrote(1), read(None)), REGISTER).status == "illegal"

    def test_equal_stamps_order_nothing(self) -> None:
        """An invocation at the stamp of a response counts as overlapping: a coarse clock never invents an error."""
        write, stale = sequence(wrote(1), read(None))
        touching = Operation(
            process="q", task="t", identifier=9, call=stale.call, invoked_at=write.responded_at or 0, responded_at=9
        )
        assert check((write, touching), REGISTER).status == "ok"

    def test_an_unknown_write_may_take_effect_at_any_time_or_never(self) -> None:
        """A write of unknown outcome may be seen late, be overwritten, or be left out, but not act twice."""
        unknown = Call(name="write", argument=1, outcome="unknown")
        assert check(sequence(unknown, read(None), wrote(2), read(2), read(1)), REGISTER).status == "ok"
        assert check(sequence(unknown, read(None), read(None)), REGISTER).status == "ok"
        assert check(sequence(unknown, read(1), wrote(2), read(1)), REGISTER).status == "illegal"
        assert check(sequence(read(1), unknown), REGISTER).status == "illegal"

    def test_an_unknown_outcome_with_a_response_is_still_open(self) -> None:
        """Being told "outcome unknown" ends the call, not its effect."""
        told = Operation(
            process="p",
            task="t",
            identifier=0,
            call=Call(name="write", argument=1, outcome="unknown", error="EIO"),
            invoked_at=0,
            responded_at=1,
        )
        later = Operation(process="q", task="t", identifier=1, call=read(None), invoked_at=2, responded_at=3)
        latest = Operation(process="q", task="t", identifier=2, call=read(1), invoked_at=4, responded_at=5)
        assert check((told, later, latest), REGISTER).status == "ok"

    def test_what_raised_had_no_effect(self) -> None:
        """A write that raised is never seen, and a read that raised says nothing."""
        raised = Call(name="write", argument=1, outcome="raised", error="LockTimeoutError")
        assert check(sequence(raised, read(None)), REGISTER).status == "ok"
        assert check(sequence(raised, read(1)), REGISTER).status == "illegal"
        assert check(sequence(Call(name="read", outcome="raised", error="EIO")), REGISTER).status == "ok"

    def test_chains_of_unknown_operations_explain_a_read(self) -> None:
        """A read may need several operations of unknown outcome, one on the other."""
        unknown = [
            Call(name="cas", argument=[2, 3], outcome="unknown"),
            Call(name="cas", argument=[1, 2], outcome="unknown"),
            Call(name="write", argument=1, outcome="unknown"),
        ]
        assert check(sequence(*unknown, read(None), read(3)), REGISTER).status == "ok"
        assert check(sequence(*unknown[:2], read(None), read(3)), REGISTER).status == "illegal"

    def test_long_chains_of_unknown_operations_are_followed(self) -> None:
        """The look-ahead for unknown operations ends after some states, and then assumes that they can serve."""
        chain = [Call(name="cas", argument=[step, step + 1], outcome="unknown") for step in range(30)]
        unknown = [Call(name="write", argument=0, outcome="unknown"), *chain]
        assert check(sequence(*unknown, read(None), read(30)), REGISTER).status == "ok"
        assert check(sequence(*unknown, read(None), read(31)), REGISTER).status == "illegal"

    def test_each_unknown_operation_is_judged_by_what_it_leaves(self) -> None:
        """Of several unknown writes, the one that explains a read is found, wherever it stands."""
        unknown = [Call(name="write", argument=value, outcome="unknown") for value in range(4)]
        for value in range(4):
            assert check(sequence(*unknown, read(None), read(value)), REGISTER).status == "ok"
            assert check(sequence(wrote(9), *unknown, read(value), read(9)), REGISTER).status == "illegal"
        assert check(sequence(*unknown, read(2), read(0), read(3), read(1)), REGISTER).status == "ok"

    def test_an_unknown_operation_that_starts_late_is_judged_then(self) -> None:
        """A long read may be explained by an unknown write that started when others had been looked at already."""
        unknown = [Call(name="write", argument=value, outcome="unknown") for value in (5, 1)]
        operations = [
            Operation(process=str(number), task="t", identifier=number, call=call, invoked_at=at, responded_at=until)
            for number, (call, at, until) in enumerate(
                [(wrote(9), 0, 1), (unknown[0], 2, None), (read(1), 3, 20), (wrote(9), 4, 5), (unknown[1], 6, None)]
            )
        ]
        assert check(operations, REGISTER).status == "ok"
        assert check(operations[:-1], REGISTER).status == "illegal"

    def test_an_unknown_operation_is_not_spent_where_another_order_saves_it(self) -> None:
        """The same writes in another order may need the unknown write less early: both ways must be walked."""
        first = Operation(process="p", task="t", identifier=0, call=wrote(1), invoked_at=0, responded_at=10)
        second = Operation(process="q", task="t", identifier=1, call=wrote(2), invoked_at=0, responded_at=11)
        spare = Operation(
            process="r", task="t", identifier=2, call=Call(name="write", argument=1, outcome="unknown"), invoked_at=0
        )
        rest = [
            Operation(process="s", task="t", identifier=number, call=call, invoked_at=number, responded_at=number)
            for number, call in ((20, read(1)), (21, wrote(3)), (22, read(1)))
        ]
        assert check((first, second, spare, *rest), REGISTER).status == "ok"
        assert check((first, second, *rest), REGISTER).status == "illegal"
        again = [
            Operation(process="s", task="t", identifier=number, call=call, invoked_at=number, responded_at=number)
            for number, call in ((23, wrote(3)), (24, read(1)))
        ]
        assert check((first, second, spare, *rest, *again), REGISTER).status == "illegal"

    def test_a_value_read_may_have_begun_in_several_ways(self) -> None:
        """A put of the whole explains a read, although a put of its beginning is over; and the other way round."""

        def of(name: str, text: str) -> Call:
            return Call(name=name, argument=["k", text])

        late = Operation(process="late", task="t", identifier=0, call=of("append", "y"), invoked_at=0, responded_at=99)
        got = Call(name="get", argument=["k"], result="xy")
        again = (of("put", "xy"), of("put", "x"), of("put", "q"))
        assert check((late, *sequence(*again, of("put", "xy"), got)), KEY_VALUE).status == "ok"
        assert check((late, *sequence(*again, of("put", "x"), got)), KEY_VALUE).status == "ok"
        assert check((late, *sequence(*again, got)), KEY_VALUE).status == "illegal"

    @given(
        drawn=st.lists(
            st.tuples(
                st.sampled_from(["get", "put", "append", "append"]),
                st.sampled_from(["x", "y", "xy", "q", ""]),
                st.integers(0, 30),
                st.integers(0, 30),
            ),
            min_size=6,
            max_size=14,
        )
    )
    def test_an_execution_with_texts_that_begin_alike_is_legal(self, drawn: list[tuple[str, str, int, int]]) -> None:
        """However many ways there are to a value that was read, the one that it took is not given up."""
        value = ""
        operations = []
        for number, (name, text, before, after) in enumerate(drawn):
            value = {"get": value, "put": text, "append": value + text}[name]
            call = Call(
                name=name,
                argument=["k"] if name == "get" else ["k", text],
                result=value if name == "get" else None,
            )
            # Takes effect at its moment; ten moments apart, so that some overlap.
            moment = 100 + 10 * number
            operations.append((call, moment - before, before + after))
        assert check(numbered(operations), KEY_VALUE).status == "ok"

    def test_an_object_may_choose(self) -> None:
        """Of the states that a call may leave behind, each is followed."""
        added = [Call(name="add", argument=0), Call(name="add", argument=1), Call(name="take")]
        for taken in (0, 1):
            assert check(sequence(*added, Call(name="take", result=taken)), BAG).status == "ok"
        both = [Call(name="take", result=0), Call(name="take", result=1)]
        assert check(sequence(*added, *both), BAG).status == "illegal"

    def test_values_of_different_types_differ(self) -> None:
        """1, 1.0 and True are different values."""
        assert check(sequence(wrote(1), read(1)), REGISTER).status == "ok"
        assert check(sequence(wrote(1), read(True)), REGISTER).status == "illegal"
        assert check(sequence(wrote(1), read(1.0)), REGISTER).status == "illegal"
        assert check(sequence(wrote({"a": [1], "b": 2}), read({"b": 2, "a": [1]})), REGISTER).status == "ok"

    def test_an_empty_history_is_ok(self) -> None:
        """Nothing done, nothing wrong."""
        verdict = check(History(operations=()), KEY_VALUE)
        assert (verdict.status, verdict.operations, verdict.configurations) == ("ok", 0, 0)

    def test_a_lost_update_is_shown(self) -> None:
        """Two updates of a session that both found the same entry are refused."""
        session = versioned_map({"main": 1})
        updates = sequence(
            Call(name="set", argument=["main", 2], result=1), Call(name="set", argument=["main", 3], result=1)
        )
        verdict = check(updates, session)
        assert verdict.illegal is not None
        assert verdict.illegal.refused == updates[1]

    def test_a_whole_store_operation_joins_the_partitions(self) -> None:
        """A torn whole-store read is seen, though each session alone looks right."""
        writes = (Call(name="set", argument=["a", 1]), Call(name="set", argument=["b", 1]))
        torn = Call(name="load", result={"b": 1})
        assert check(sequence(*writes), versioned_map()).status == "ok"
        verdict = check(sequence(*writes, torn), versioned_map())
        assert verdict.status == "illegal"
        assert len(verdict.partitions) == 1

    def test_an_easy_partition_decides_beside_a_hard_one(self) -> None:
        """Partitions are searched in turn: one that would use up the cap does not hide another's violation."""
        hard = [
            Operation(
                process=f"p{number}",
                task="t",
                identifier=number,
                call=Call(name="append", argument=["hard", f"<{number % 3}{number}>"]),
                invoked_at=0,
                responded_at=100,
            )
            for number in range(12)
        ]
        hopeless = Specification(
            name="plain",
            initial=KEY_VALUE.initial,
            step=KEY_VALUE.step,
            partition=KEY_VALUE.partition,
            read_only=KEY_VALUE.read_only,
        )
        never = Operation(
            process="r",
            task="t",
            identifier=0,
            call=Call(name="get", argument=["hard"], result="never"),
            invoked_at=0,
            responded_at=100,
        )
        easy = sequence(Call(name="get", argument=["easy"], result="never"))
        assert check([*hard, never], hopeless, cap_configurations=2000).status == "undecided"
        verdict = check([*hard, never, *easy], hopeless, cap_configurations=2000)
        assert verdict.illegal is not None
        assert verdict.illegal.key == "easy"

    @pytest.mark.parametrize(
        ("specification", "call"),
        [
            (REGISTER, Call(name="raed")),
            (REGISTER, Call(name="cas", argument=3, result=True)),
            (MUTEX, Call(name="lock", argument="p")),
            (MUTEX, Call(name="acquire")),
            (KEY_VALUE, Call(name="delete", argument=["a", "b"])),
            (KEY_VALUE, Call(name="get", argument="a")),
            (KEY_VALUE, Call(name="append", argument=["a", 3])),
            (versioned_map(), Call(name="update", argument=["a"])),
            (versioned_map(), Call(name="save", argument=[1])),
        ],
        ids=lambda value: value.name.replace(" ", "-"),
    )
    def test_operations_that_a_specification_does_not_know_are_errors(
        self, specification: Specification[Hashable], call: Call
    ) -> None:
        """A misspelt operation, or an argument of the wrong shape, is an error and no verdict."""
        with pytest.raises(ValueError, match=call.name):
            check(sequence(call), specification)

    def test_the_cap_must_allow_something(self) -> None:
        """A cap below one is refused."""
        with pytest.raises(ValueError, match="cap_configurations is 0"):
            check((), REGISTER, cap_configurations=0)

    def test_a_need_that_cannot_be_met_ends_the_search(self) -> None:
        """A specification's needs are believed: the search ends where they cannot be met."""

        def never(calls: Sequence[Distinct]) -> object:
            return lambda _: [Need(calls[0].operations, 0, (0,))]

        doomed = Specification(name="doomed", initial=None, step=REGISTER.step, needs=never)  # type: ignore[arg-type]
        verdict = check(sequence(wrote(1), wrote(2)), doomed)
        assert verdict.status == "illegal"
        assert verdict.configurations == 1


class TestReport:
    """What people read."""

    def test_an_illegal_verdict_shows_the_order_and_the_operation_that_does_not_fit(self) -> None:
        """The text has the verdict, the longest order that fits, the state after it, and the first misfit."""
        log = [
            "INFO  jepsen.util - 0\t:invoke\t:write\t1",
            "INFO  jepsen.util - 1\t:invoke\t:write\t2",
            "INFO  jepsen.util - 0\t:ok\t:write\t1",
            "INFO  jepsen.util - 0\t:invoke\t:read\tnil",
            "INFO  jepsen.util - 0\t:ok\t:read\t3",
        ]
        assert str(check(from_jepsen_edn_lines(log), REGISTER)) == (
            "illegal: 3 operations against a register (configurations: 2, partitions: 1)\n"
            "longest order that fits (1 operations):\n"
            "  0/0 write(1) -> None [1..3]\n"
            "state after it: 1\n"
            "first operation that does not fit: 0/0 read() -> 3 [4..5]"
        )

    def test_other_verdicts_say_what_was_searched(self) -> None:
        """An ok verdict gives its extent; an undecided one says what to do."""
        log = ['{:process 0, :type :invoke, :f :put, :key "k", :value "v"}'] * 2
        log.append('{:process 0, :type :ok, :f :put, :key "k", :value "v"}')
        history = from_porcupine_kv_lines(log)
        assert str(check(history, KEY_VALUE)) == (
            "ok: 2 operations against a key-value store (configurations: 2, partitions: 1)"
        )
        assert str(check(history, KEY_VALUE, cap_configurations=1)) == (
            "undecided: 2 operations against a key-value store: gave up (configurations: 1, partitions: 1). "
            "Raise cap_configurations, or check a shorter history."
        )

    def test_who_knows_only_right_and_wrong_is_told_that_it_is_neither(self) -> None:
        """A verdict that is required raises if the search gave up, and only then."""
        check(sequence(wrote(1), read(1)), REGISTER).require_decided()
        check(sequence(wrote(1), read(None)), REGISTER).require_decided()
        with pytest.raises(UndecidedError, match="Raise cap_configurations"):
            check(sequence(wrote(1), read(1)), REGISTER, cap_configurations=1).require_decided()
