"""The module `_thread` of a simulated process; the standard library's `threading.py` is executed on top of it.

Threads are greenlets of the executor. Locks are plain records: taking or freeing one is a scheduling point only while
the process has more than one live thread, and a thread that waits for one is not runnable until it is freed (it then
competes for it again, as with real locks). `threading.local` keeps a real `__dict__`, exchanged when another thread of
the process gets the processor, so that the usual case, one thread, costs nothing.

The locks by which `threading` keeps its own books are *quiet*: no scheduling point. Nothing but dictionaries is changed
under them, and CPython takes others from version to version: a schedule of threads replays on all of them.
"""

from __future__ import annotations

import sys
import weakref
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, NoReturn

from storecheck.schedule.executor import ProcessKilled, SameInCopies, Task
from storecheck.schedule.remembering import AGAIN_NS, NO_TIMEOUT_NS
from storecheck.syscalls.context import MAIN_IDENT, Context, as_built_in
from storecheck.syscalls.posix import refusing

TIMEOUT_MAX: Final = 9_223_372_036.0


class LockWait(SameInCopies):
    """A thread waits for a lock of its own process."""

    def __init__(self, lock: Lock | RLock) -> None:
        self._lock = lock

    def describe(self) -> str:
        """What kind of lock."""
        return "a lock in its own process"

    def holders(self) -> list[Task]:
        """The thread that took it, if it is still there."""
        holder = self._lock.holder
        return [holder] if isinstance(holder, Task) and not holder.done else []


def _check_arguments(blocking: bool, timeout: float) -> None:
    if not blocking and timeout != -1:
        raise ValueError("can't specify a timeout for a non-blocking call")
    if timeout < 0 and timeout != -1:
        raise ValueError("timeout value must be a non-negative number")
    if timeout > TIMEOUT_MAX:
        raise OverflowError("timeout value is too large")


def _misuse(context: Context, message: str) -> BaseException:
    """What a wrong release raises. In frames that unwind it is not wrong: the lock was given up while they waited."""
    return ProcessKilled() if context.is_unwinding() else RuntimeError(message)


class Lock:
    """`threading.Lock` of a simulated process."""

    __slots__ = ("__weakref__", "_context", "holder", "quiet", "waiting")

    def __init__(self, context: Context, *, quiet: bool = False) -> None:
        self._context = context
        self.quiet = quiet
        self.holder: object = None
        self.waiting: deque[Task] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock, waiting for it if need be."""
        context = self._context
        if not self.quiet and context.live_threads() > 1:
            context.lock_point("lock")
        if self.holder is None:
            self.holder = context.task() or context
            return True
        if not blocking:
            return False
        return self._wait(timeout)

    def _wait(self, timeout: float) -> bool:
        _check_arguments(True, timeout)
        context = self._context
        context.running()
        timeout_ns = NO_TIMEOUT_NS if timeout < 0 else round(timeout * 1e9)
        task = context.task()
        if task is None:
            # The run is over, and a `finally` of a thread that never ended wants the lock.
            raise ProcessKilled
        while self.holder is not None:
            self.waiting.append(task)
            woken = context.wait_for(LockWait(self), timeout_ns)
            if not woken and self.holder is not None:
                if task in self.waiting:
                    self.waiting.remove(task)
                return False
            timeout_ns = AGAIN_NS
        self.holder = task
        return True

    def release(self) -> None:
        """Free the lock; those who wait compete for it."""
        if self.holder is None:
            raise _misuse(self._context, "release unlocked lock")
        context = self._context
        if not self.quiet and context.live_threads() > 1:
            context.lock_point("unlock")
        self.holder = None
        if self.waiting:
            _wake_all(context, self.waiting)

    def locked(self) -> bool:
        """Whether somebody holds it."""
        return self.holder is not None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _at_fork_reinit(self) -> None:
        self.holder = None
        self.waiting.clear()

    acquire_lock, release_lock, locked_lock = acquire, release, locked

    def __repr__(self) -> str:
        return f"<{'locked' if self.holder is not None else 'unlocked'} simulated lock>"


def _wake_all(context: Context, waiting: deque[Task]) -> None:
    while waiting:
        context.wake(waiting.popleft())


class RLock:
    """`threading.RLock` of a simulated process."""

    __slots__ = ("__weakref__", "_context", "_count", "_lock", "owner")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = Lock(context)
        self.owner = 0
        self._count = 0

    @property
    def holder(self) -> object:
        """The thread that holds it."""
        return self._lock.holder

    @property
    def inner(self) -> Lock:
        """The lock that threads wait for."""
        return self._lock

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock once more, waiting for it if another thread has it."""
        ident = self._context.ident
        if self.owner == ident:
            self._count += 1
            return True
        if self._lock.acquire(blocking, timeout):
            self.owner = ident
            self._count = 1
            return True
        return False

    def release(self) -> None:
        """Give it back once."""
        if self.owner != self._context.ident:
            raise _misuse(self._context, "cannot release un-acquired lock")
        self._count -= 1
        if self._count == 0:
            self.owner = 0
            self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def locked(self) -> bool:
        """Whether somebody holds it."""
        return self.owner != 0

    def _is_owned(self) -> bool:
        return self.owner == self._context.ident

    def _release_save(self) -> tuple[int, int]:
        if self.owner != self._context.ident:
            raise _misuse(self._context, "cannot release un-acquired lock")
        state = (self._count, self.owner)
        self._count = self.owner = 0
        self._lock.release()
        return state

    def _acquire_restore(self, state: tuple[int, int]) -> None:
        self._lock.acquire()
        self._count, self.owner = state

    def _recursion_count(self) -> int:
        return self._count if self.owner == self._context.ident else 0

    def _at_fork_reinit(self) -> None:
        self._lock._at_fork_reinit()
        self.owner = self._count = 0


OWN_LOCKS: Final = ("_active_limbo_lock", "_shutdown_locks_lock")
"""Globals of `threading`; not each version has each."""


def quieten_own_locks(threading: ModuleType) -> None:
    """Make the locks of the module's own books quiet."""
    for name in OWN_LOCKS:
        lock = vars(threading).get(name)
        if isinstance(lock, RLock):
            lock = lock.inner
        if isinstance(lock, Lock):
            lock.quiet = True


def build_local(context: Context) -> type:
    """The class `threading.local` of one image."""

    class local:
        """Attributes of which every thread of the simulated process has its own."""

        def __new__(cls, *arguments: object, **options: object) -> local:
            self = super().__new__(cls)
            context.locals.append(weakref.ref(self, context.locals.remove))
            # Kept outside the instance, whose `__dict__` belongs to the running thread.
            initial[id(self)] = (arguments, options)
            weakref.finalize(self, initial.pop, id(self), None).atexit = False
            return self

        def __init_subclass__(cls, **options: object) -> None:
            super().__init_subclass__(**options)

    initial: dict[int, tuple[tuple[object, ...], dict[str, object]]] = {}
    local.__module__, local.__qualname__ = "_thread", "local"

    def exchange(leaving: Task, arriving: Task) -> None:
        for reference in list(context.locals):
            instance = reference()  # type: ignore[operator]
            if instance is None:
                continue
            key = id(instance)
            leaving.locals[key] = dict(instance.__dict__)
            instance.__dict__.clear()
            own = arriving.locals.pop(key, None)
            if own is not None:
                instance.__dict__.update(own)
            elif type(instance).__init__ is not object.__init__:
                arguments, options = initial[key]
                instance.__init__(*arguments, **options)
        context.ident = arriving.ident

    local._exchange = staticmethod(exchange)  # type: ignore[attr-defined]
    return local


class ThreadHandle:
    """`_thread._ThreadHandle` (3.13 and later): what `threading.Thread` joins."""

    def __init__(self, context: Context) -> None:
        self.ident = 0
        self._ended = Lock(context, quiet=True)
        self._is_done = False

    def is_done(self) -> bool:
        """Whether the thread has ended."""
        return self._is_done

    def _set_done(self) -> None:
        if not self._is_done:
            self._is_done = True
            if self._ended.holder is not None:
                self._ended.release()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of the thread."""
        if self._is_done:
            return
        if self._ended.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
            self._ended.release()


class _Threads:
    """The functions of `_thread` of one image."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def get_ident(self) -> int:
        return self._context.ident

    def start_new_thread(
        self, function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, /
    ) -> int:
        return self._start(function, args, kwargs or {}, None)

    def start_joinable_thread(
        self, function: Callable[[], object], handle: ThreadHandle | None = None, daemon: bool = True
    ) -> ThreadHandle:
        handle = handle or ThreadHandle(self._context)
        handle._ended.acquire()
        handle.ident = self._start(function, (), {}, handle)
        return handle

    def _start(
        self,
        function: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        handle: ThreadHandle | None,
    ) -> int:
        context = self._context
        context.running()
        ident = context.next_ident
        context.next_ident += 1

        def body() -> None:
            try:
                function(*args, **kwargs)
            except SystemExit:
                pass
            except ProcessKilled:
                raise
            except Exception as error:
                if context.is_unwinding():
                    # No instruction of an ended process runs: its `finally` blocks do only to free the frames.
                    raise ProcessKilled from error
                # As `_thread` does: told, and the thread is over.
                sys.stderr.write(f"Exception ignored in simulated thread: {error!r}\n")
            sentinel = context.sentinels.pop(ident, None)
            if isinstance(sentinel, Lock) and sentinel.holder is not None:
                sentinel.release()
            if handle is not None:
                handle._set_done()

        context.start_thread(body, ident=ident)
        return ident

    def set_sentinel(self) -> Lock:
        lock = Lock(self._context, quiet=True)
        self._context.sentinels[self._context.ident] = lock
        return lock

    def make_thread_handle(self, ident: int, /) -> ThreadHandle:
        handle = ThreadHandle(self._context)
        handle.ident = ident
        return handle

    def exit(self) -> NoReturn:
        raise SystemExit

    def count(self) -> int:
        return self._context.live_threads() - 1

    def stack_size(self, size: int = 0, /) -> int:
        return 0

    def excepthook(self, details: Any, /) -> None:
        import _thread as real_thread

        if not issubclass(details.exc_type, ProcessKilled | SystemExit) and not self._context.is_unwinding():
            real_thread._excepthook(details)


def build_thread(context: Context) -> ModuleType:
    """The module `_thread` of one image."""
    import _thread as real_thread

    module = ModuleType("_thread", real_thread.__doc__)
    threads = _Threads(context)

    class rlock(RLock):
        """The type of reentrant locks, which programs may derive from."""

        __slots__ = ()

        def __init__(self) -> None:
            super().__init__(context)

    rlock.__module__, rlock.__qualname__ = "_thread", "RLock"

    class lock(Lock):
        """The type of locks. Up to CPython 3.12 nobody can make one by it; since then `threading.Lock` is this."""

        __slots__ = ()

        def __init__(self) -> None:
            super().__init__(context)

    lock.__module__, lock.__qualname__ = "_thread", "lock"

    def new_lock() -> Lock:
        return lock()

    module.__dict__.update(
        {
            "LockType": lock,
            "lock": lock,
            "RLock": rlock,
            "TIMEOUT_MAX": TIMEOUT_MAX,
            "_ExceptHookArgs": getattr(real_thread, "_ExceptHookArgs", None),
            "_excepthook": threads.excepthook,
            "_count": threads.count,
            "_local": build_local(context),
            "_set_sentinel": threads.set_sentinel,
            "_ThreadHandle": lambda: ThreadHandle(context),
            "_get_main_thread_ident": lambda: MAIN_IDENT,
            "_is_main_interpreter": lambda: True,
            "_make_thread_handle": threads.make_thread_handle,
            "_shutdown": lambda: None,
            "allocate": new_lock,
            "allocate_lock": new_lock,
            "daemon_threads_allowed": lambda: True,
            "error": RuntimeError,
            "exit": threads.exit,
            "exit_thread": threads.exit,
            "get_ident": threads.get_ident,
            "get_native_id": threads.get_ident,
            "interrupt_main": refusing(context, "_thread.interrupt_main"),
            "set_name": lambda name: None,
            "stack_size": threads.stack_size,
            "start_joinable_thread": threads.start_joinable_thread,
            "start_new": threads.start_new_thread,
            "start_new_thread": threads.start_new_thread,
        }
    )
    as_built_in(module.__dict__)
    return module
