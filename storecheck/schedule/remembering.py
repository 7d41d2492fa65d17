"""Remembers what processes did, so that their code runs only where something new happens to it.

A simulated process is a deterministic function of the answers it got from the machine: that is what replaying a
schedule rests on. So a tree is kept per process, from run to run: from each answer to what the process did next. While
the answers of a run are known, the executor takes the process's next call from the tree and performs it on the machine;
the code is not executed. At the first new answer the code is started from the beginning, is given the answers it got
so far in the order in which its threads got them, and goes on by itself; the tree grows.

What is taken from the tree is compared with what the code does whenever it is executed: call by call, argument by
argument. A difference ends the search with `NotDeterministic`. See `Runner.run` for when code is executed all the same.

Not remembered: answers that are written into an argument (`readv`) and arguments that are no plain values. A process
that uses them is executed in every run.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

from greenlet import getcurrent, greenlet

if TYPE_CHECKING:
    from storecheck.schedule.executor import Executor, Member, Task, Wait

MOMENTS_MAX: Final = 120_000
"""Moments remembered of all processes of a program, so that memory ends. What comes after is executed every time."""

NOTICED: Final = 0
UNNOTICED: Final = 1
DEPENDS: Final = 2
SILENT: Final = 3
LOCK: Final = 4
BLOCK: Final = 5
DONE: Final = 6
"""Kinds of requests. Calls: a scheduling point, none, one if others can notice it, no step at all. Then: a lock of the
process is taken or freed, the thread waits for such a lock, the thread is over."""

STARTED: Final = "started"
"""What a thread is answered before it does anything."""

AGAIN_NS: Final = -1
"""Wait on, until when the same thread's last wait would have ended."""

NO_TIMEOUT_NS: Final = -2

_PLAIN: Final = frozenset({int, str, bytes, type(None), bool, float})

Arguments = tuple[Any, ...]
Options = Mapping[str, Any]
Effect = tuple[Any, ...]
Outcome = Literal["returned", "raised", "unknown"]

_NO_OPTIONS: Final[Options] = MappingProxyType({})


class NotDeterministic(RuntimeError):  # noqa: N818 - it says what the program is
    """A process did something else after the same answers: no schedule of it can be replayed, none proves anything."""


class Blocked(BaseException):
    """A call of a process whose code does not run has to wait: there is no stack that could be left standing."""


class Gone(BaseException):
    """A call has ended the process that made it, whose code does not run."""


class Raised(NamedTuple):
    """An answer that is an exception."""

    kind: type[BaseException]
    arguments: Arguments

    @classmethod
    def of(cls, error: BaseException) -> Raised:
        """What can be raised again."""
        if isinstance(error, OSError) and error.errno is not None:
            arguments: Arguments = (error.errno, error.strerror)
            if error.filename is not None:
                arguments += (error.filename,)
            if error.filename2 is not None:
                arguments += (None, error.filename2)
            return cls(type(error), arguments)
        return cls(type(error), _plain(error.args) or (str(error),))

    def error(self) -> BaseException:
        """A new exception like the one that was raised."""
        return self.kind(*self.arguments)


class Site:
    """An intercepted function.

    Args:
        name: as the code calls it.
        call: does it on the machine, and answers with a plain value.
        kind: of requests for it.
        shared: for DEPENDS, whether others can notice it, given its first argument.
        decode: makes what the code gets from the plain value; None if that is the same.
        remembered: False if the answer is not all that the call does for the code.
    """

    __slots__ = ("call", "decode", "kind", "name", "remembered", "shared")

    def __init__(
        self,
        name: str,
        call: Callable[..., Any],
        *,
        kind: int,
        shared: Callable[[object], bool] | None = None,
        decode: Callable[..., Any] | None = None,
        remembered: bool = True,
    ) -> None:
        self.name = name
        self.call = call
        self.kind = kind
        self.shared = shared
        self.decode = decode
        self.remembered = remembered

    def is_shared(self, arguments: Arguments) -> bool:
        """Whether others can notice a call of kind DEPENDS, as things are."""
        assert self.shared is not None
        return self.shared(arguments[0])


def _is_not() -> bool:
    return False


class Request:
    """What a thread wants next from the executor."""

    __slots__ = ("act", "arguments", "is_shared", "kind", "name", "options", "site", "timeout_ns")

    def __init__(
        self,
        kind: int,
        name: str,
        *,
        site: Site | None = None,
        arguments: Arguments = (),
        options: Options | None = None,
        timeout_ns: int = 0,
    ) -> None:
        self.kind = kind
        self.name = name
        self.site = site
        self.arguments = arguments
        self.options = options or _NO_OPTIONS
        self.timeout_ns = timeout_ns
        self.act: Callable[[], Any] | None = None
        self.is_shared: Callable[[], bool] = _is_not

    def complete(self) -> Callable[[], Any]:
        """`act` and `is_shared`, which the executor then only has to call. Most requests are never met again."""
        site = self.site
        assert site is not None
        if site.shared is not None:
            self.is_shared = functools.partial(site.shared, self.arguments[0])
        self.act = functools.partial(site.call, *self.arguments, **self.options)
        return self.act

    def same_as(self, other: Request) -> bool:
        """Whether the two ask for the same."""
        return (
            self.site is other.site
            and self.name == other.name
            and self.arguments == other.arguments
            and self.options == other.options
            and self.timeout_ns == other.timeout_ns
        )

    def __str__(self) -> str:
        options = [f"{name}={value!r}" for name, value in self.options.items()]
        timeout = [f"timeout_ns={self.timeout_ns}"] if self.kind == BLOCK else []
        return f"{self.name}({', '.join([*map(repr, self.arguments), *options, *timeout])})"


class Moment:
    """A process after one more answer: what its code then did (`effects`) until it made the next request."""

    __slots__ = ("answer", "effects", "main", "others", "parent", "request", "thread")

    def __init__(self, parent: Moment | None, thread: int, answer: Any) -> None:
        self.parent = parent
        self.thread = thread
        self.answer = answer
        self.effects: tuple[Effect, ...] = ()
        self.request: Request | None = None
        self.main: dict[Any, Moment] = {}
        self.others: dict[tuple[int, Any], Moment] | None = None

    def after(self, thread: int, answer: Any) -> Moment | None:
        """The moment after the thread has got the answer, if it is known."""
        if thread == 0:
            return self.main.get(answer)
        return None if self.others is None else self.others.get((thread, answer))

    def add(self, thread: int, answer: Any) -> Moment:
        """A new moment."""
        moment = Moment(self, thread, answer)
        if thread == 0:
            self.main[answer] = moment
        else:
            if self.others is None:
                self.others = {}
            self.others[thread, answer] = moment
        return moment

    def way(self) -> list[Moment]:
        """The moments from the first answer to this one."""
        found: list[Moment] = []
        moment: Moment | None = self
        while moment is not None and moment.parent is not None:
            found.append(moment)
            moment = moment.parent
        found.reverse()
        return found


class Memory:
    """What is known of one process of a program, kept from run to run: up to `moments_max` moments."""

    __slots__ = ("_requests", "beginning", "is_usable", "moments", "moments_max")

    def __init__(self, *, moments_max: int) -> None:
        self.moments_max = moments_max
        self.beginning = Moment(None, 0, None)
        self.moments = 0
        self.is_usable = True
        self._requests: dict[tuple[Site, Arguments, tuple[type, ...]], Request] = {}

    def clear(self) -> None:
        """Forget everything."""
        self.beginning = Moment(None, 0, None)
        self.moments = 0
        self._requests.clear()

    def request(self, site: Site, arguments: Arguments) -> Request:
        """The request for a call: one for all moments in which it is made."""
        # What is equal need not be the same to a call: 1 and 1.0.
        kinds = tuple(map(type, arguments))
        request = self._requests.get((site, arguments, kinds))
        if request is None:
            request = Request(site.kind, site.name, site=site, arguments=arguments)
            if self.moments < self.moments_max and tuple not in kinds:
                self._requests[site, arguments, kinds] = request
        return request


class Ending:
    """How an operation ended: outcome, result (a JSON value), name of the error and message."""

    __slots__ = ("error", "message", "outcome", "result")

    def __init__(
        self, outcome: Outcome, *, result: Any = None, error: str | None = None, message: str | None = None
    ) -> None:
        self.outcome = outcome
        self.result = result
        self.error = error
        self.message = message

    def copy(self) -> Ending:
        """The same, to be kept whatever becomes of a result that can be changed."""
        result = self.result
        if type(result) in _PLAIN:
            return self
        return Ending(self.outcome, result=copy.deepcopy(result), error=self.error, message=self.message)

    def __eq__(self, other: object) -> bool:
        # Messages are for people, and may hold addresses.
        return isinstance(other, Ending) and (
            (self.outcome, self.result, self.error) == (other.outcome, other.result, other.error)
        )

    def __hash__(self) -> int:
        return hash((self.outcome, self.error))

    def __repr__(self) -> str:
        return f"{self.outcome} {self.error or repr(self.result)}"


class Journal(Protocol):
    """Where the beginnings and ends of operations are noted."""

    def operation_begins(self, member: Member, thread: int, number: int) -> None:
        """Operation `number` of a thread begins."""

    def operation_ends(self, member: Member, thread: int, ending: Ending) -> None:
        """The thread's operation is over."""


class Recollection:
    """One process in one run: where in its memory it is, and whether its code runs.

    The code of the process calls the methods under "What the code asks". They do what is asked if the code leads, and
    answer from memory while the code is being brought to where the process is.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        executor: Executor,
        member: Member,
        journal: Journal,
        begin: Callable[[Recollection], Callable[[], None]],
    ) -> None:
        self.moment: Moment | None = memory.beginning
        self._memory = memory
        self._executor = executor
        self._member = member
        self._journal = journal
        self._begin = begin
        self._feeder: greenlet | None = None
        self._fed = memory.beginning
        self._way: list[Moment] = []
        self._fed_to = 0
        self._effects_met = 0
        self._fed_live = 0
        self._fed_started = 0
        self._failure: NotDeterministic | None = None

    def no_body(self) -> None:
        """The body of a thread whose code does not run."""
        raise AssertionError(f"{self._member.name} is executed before its code was brought to where it is")

    # Bringing the code to life

    def lead(self) -> None:
        """The code leads from the beginning of the run."""
        self._member.known = None
        self._member.tasks[0].body = self._begin(self)

    def awaken(self) -> None:
        """Execute the code up to where the process is. Afterwards it leads.

        Raises:
            NotDeterministic: the code does something else than before after the same answers.
        """
        executor, member, moment = self._executor, self._member, self.moment
        assert moment is not None
        current = executor.current
        self.lead()
        self._feeder = getcurrent()
        self._fed_live = self._fed_started = 1
        self._way = moment.way()
        self._fed_to = 0
        try:
            while self._fed_to < len(self._way):
                step = self._way[self._fed_to]
                self._feed(member.tasks[step.thread], step)
        finally:
            self._feeder = None
            self._way = []
            executor.current = current
            for task in member.tasks:
                if task.greenlet is not None:
                    executor.adopt(task.greenlet)
        self._effects_met = 0

    def _feed(self, task: Task, moment: Moment) -> None:
        executor, member = self._executor, self._member
        executor.current = task
        if member.active is not task:
            if member.active is not None:
                member.activate(member.active, task)
            member.active = task
        self._fed = moment
        self._fed_to += 1
        self._effects_met = 0
        if moment.answer is STARTED:
            task.greenlet = executor.new_greenlet(getcurrent())
            task.greenlet.switch()
        else:
            assert task.greenlet is not None
            task.greenlet.switch(moment)
        if self._failure is not None:
            raise self._failure

    def _hand_back(self, request: Request) -> Any:
        """While being fed: the code came to its next request. Returns the answer to it."""
        if self._differs(self._fed, request):
            self._failure = self._failure or self._difference(self._fed, request)
        assert self._feeder is not None
        if self._failure is None and self._fed_to < len(self._way):
            following = self._way[self._fed_to]
            if following.thread == self._fed.thread:
                # As `_feed` would do it after two switches.
                self._fed = following
                self._fed_to += 1
                self._effects_met = 0
                return _decoded(request, following.answer)
        try:
            given = self._feeder.switch()
        except BaseException:
            self.moment = None
            raise
        if type(given) is Moment:
            return _decoded(request, given.answer)
        return self._take_over(request)

    def _take_over(self, request: Request) -> Any:
        """The executor goes on with a thread that came to its request while it was fed."""
        executor = self._executor
        task = executor.current
        assert task is not None
        try:
            if task.has_answer:
                answer, task.answer, task.has_answer = task.answer, None, False
            elif task.is_blocked:
                task.is_blocked = False
                woken = executor.end_block(task)
                answer = woken if request.kind == BLOCK else None
            else:
                executor.go_on_after_point(task, is_call=request.site is not None)
                if request.site is not None:
                    return self._perform(request.site, request.arguments, request.options)
                answer = None
        except BaseException:
            self.moment = None
            raise
        self._answered(answer)
        return _decoded(request, answer)

    # What the code asks

    def ask(self, site: Site, arguments: Arguments, options: Options) -> Any:
        """Make a call."""
        plain = _plain(arguments) if site.remembered else None
        if plain is None or (options and _plain(tuple(options.values())) is None):
            self._memory.is_usable = False
            self.moment = None
            plain = arguments
        if self._feeder is not None:
            if self.moment is not None:
                return self._hand_back(self._request(site, plain, options))
        elif self.moment is not None:
            self._requests(self._request(site, plain, options))
        executor, kind = self._executor, site.kind
        try:
            if kind == NOTICED or (kind == DEPENDS and site.is_shared(plain)):
                executor.enter(site.name, plain)
            elif kind != SILENT:
                executor.enter_unnoticed(site.name, plain)
        except BaseException:
            self.moment = None
            raise
        return self._perform(site, plain, options)

    def _request(self, site: Site, arguments: Arguments, options: Options) -> Request:
        if options:
            return Request(site.kind, site.name, site=site, arguments=arguments, options=options)
        return self._memory.request(site, arguments)

    def _perform(self, site: Site, arguments: Arguments, options: Options) -> Any:
        try:
            answer = site.call(*arguments, **options)
        except Exception as error:
            self._answered(Raised.of(error))
            raise
        except BaseException:
            self.moment = None
            raise
        self._answered(answer)
        return answer if site.decode is None else site.decode(answer)

    def lock_point(self, name: str) -> None:
        """Take or free a lock of the process."""
        request = Request(LOCK, name)
        if self._feeder is not None:
            self._hand_back(request)
            return
        self._requests(request)
        try:
            self._executor.enter_lock(name)
        except BaseException:
            self.moment = None
            raise
        self._answered(None)

    def wait_for(self, wait: Wait, timeout_ns: int) -> bool:
        """Wait for a lock of the process; False if the time ran out."""
        request = Request(BLOCK, "wait for a lock", timeout_ns=timeout_ns)
        if self._feeder is not None:
            return bool(self._hand_back(request))
        self._requests(request)
        executor = self._executor
        try:
            woken = executor.block(wait, deadline_ns=executor.deadline_of(timeout_ns))
        except BaseException:
            self.moment = None
            raise
        self._answered(woken)
        return woken

    def live_threads(self) -> int:
        """How many threads the process has."""
        return self._member.live if self._feeder is None else self._fed_live

    def wake(self, task: Task) -> None:
        """What a thread waited for has come."""
        self._has_effect(("wake", task.number))
        if self._feeder is None:
            self._executor.wake(task)

    def start_thread(self, body: Callable[[], None], *, ident: int) -> None:
        """A new thread."""
        self._has_effect(("start", ident))
        if self._feeder is None:
            self._executor.add_task(self._member, body, ident=ident)
        elif self._failure is None:
            self._member.tasks[self._fed_started].body = body
            self._fed_started += 1
            self._fed_live += 1

    def operation_begins(self, thread: int, number: int) -> None:
        """An operation begins."""
        self._has_effect(("begins", thread, number))
        if self._feeder is None:
            self._journal.operation_begins(self._member, thread, number)

    def operation_ends(self, thread: int, ending: Ending) -> None:
        """An operation is over."""
        self._has_effect(("ends", thread, ending.copy()))
        if self._feeder is None:
            self._journal.operation_ends(self._member, thread, ending)

    def thread_starts(self) -> None:
        """The running thread is about to execute its body."""
        if self._feeder is None:
            self._answered(STARTED)

    def thread_ends(self) -> bool:
        """The body is through; False if that was long ago."""
        request = Request(DONE, "end of the thread")
        if self._feeder is None:
            self._requests(request)
            return True
        if self._differs(self._fed, request):
            self._failure = self._failure or self._difference(self._fed, request)
        self._fed_live -= 1
        return False

    def process_ends(self) -> None:
        """The process is through with its operations."""
        self._has_effect(("exit",))
        self._requests(Request(DONE, "end of the thread"))
        self.moment = None
        self._executor.end_process(self._member)

    # What memory does in the place of the code

    def apply(self, effect: Effect) -> None:
        """Do what the code did between two requests."""
        kind, member = effect[0], self._member
        if kind == "wake":
            self._executor.wake(member.tasks[effect[1]])
        elif kind == "begins":
            self._journal.operation_begins(member, effect[1], effect[2])
        elif kind == "ends":
            self._journal.operation_ends(member, effect[1], effect[2].copy())
        elif kind == "start":
            self._executor.add_task(member, self.no_body, ident=effect[1])
        else:
            self._executor.end_process(member)

    # Keeping and comparing

    def _answered(self, answer: Any) -> None:
        """The running thread got an answer."""
        moment = self.moment
        if moment is None:
            return
        task = self._executor.current
        assert task is not None
        following = moment.after(task.number, answer)
        if following is None and self._memory.moments < self._memory.moments_max:
            following = moment.add(task.number, answer)
            self._memory.moments += 1
        if following is not None and following.request is None:
            following.effects = ()
        self.moment = following
        self._effects_met = 0

    def _requests(self, request: Request) -> None:
        moment = self.moment
        if moment is None:
            return
        if moment.request is None:
            moment.request = request
        elif self._differs(moment, request):
            self._fail(self._difference(moment, request))

    def _has_effect(self, effect: Effect) -> None:
        moment = self.moment if self._feeder is None else self._fed
        if moment is None:
            return
        at = self._effects_met
        if moment.request is None:
            moment.effects = (*moment.effects, effect)
        elif at >= len(moment.effects) or moment.effects[at] != effect:
            difference = self._difference(moment, effect)
            if self._feeder is None:
                self._fail(difference)
            self._failure = self._failure or difference
        self._effects_met = at + 1

    def _fail(self, failure: NotDeterministic) -> None:
        self.moment = None
        self._executor.fail(failure)

    def _differs(self, moment: Moment, request: Request) -> bool:
        known = moment.request
        if known is None or self._effects_met != len(moment.effects):
            return True
        return known is not request and not known.same_as(request)

    def _difference(self, moment: Moment, did: object) -> NotDeterministic:
        left = moment.effects[self._effects_met :]
        return NotDeterministic(
            f"{self._member.name} is not deterministic: after the same answers it first came to "
            f"{left[0] if left else moment.request}, another time to {did}. Look for what it takes from outside the "
            "simulated machine: hash order, id(), a real clock or file, state that outlives a process (`reset_image`)"
        )


def _decoded(request: Request, answer: Any) -> Any:
    if type(answer) is Raised:
        raise answer.error()
    site = request.site
    return answer if site is None or site.decode is None else site.decode(answer)


def _plain(values: Arguments) -> Arguments | None:
    """The arguments as values that can be kept and compared, or None."""
    for value in values:
        if type(value) not in _PLAIN:
            break
    else:
        return values
    found = []
    for value in values:
        if type(value) in _PLAIN:
            found.append(value)
        elif isinstance(value, memoryview | bytearray):
            found.append(bytes(value))
        elif isinstance(value, tuple | list):
            members = _plain(tuple(value))
            if members is None:
                return None
            found.append(members)
        else:
            said = said_of_itself(value)
            if said is None:
                return None
            found.append(said)
    return tuple(found)


def said_of_itself(value: Any) -> str | bytes | int | None:
    """The path or the descriptor for which an object stands, or None."""
    try:
        said = os.fspath(value) if isinstance(value, os.PathLike) else value.fileno()
    except Exception:  # noqa: BLE001 - a closed file has no number: that is for the call to say, when it is made
        return None
    return said if isinstance(said, str | bytes | int) else None
