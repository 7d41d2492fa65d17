"""Worker processes: each subject is measured in a process of its own, and every wait for one is bounded.

A subject that shared a process with another would pay for the other's heap in garbage collections. The worker builds
one object and calls its methods on request; arguments and results travel by pickle. Not a pool: a worker stays until
it is closed, and a call that fails or takes too long is an error of the turn, not of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Concatenate, Generic, ParamSpec, TypeVar

import multiprocess

from benchmarks.rounds import TurnFailedError

Subject = TypeVar("Subject")
Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")

CALL_TIMEOUT_S = 120.0
"""Several times the slowest turn (an unfair lock held by eight writers). Longer is a hang."""
START_TIMEOUT_S = 60.0
EXIT_TIMEOUT_S = 10.0

# fork would hand each worker a copy of this process's heap and its threads.
_CONTEXT = multiprocess.get_context("forkserver" if "forkserver" in multiprocess.get_all_start_methods() else "spawn")


class Worker(Generic[Subject]):
    """A process that holds one `Subject`. Use it as a context manager, or call `close`."""

    def __init__(self, build: Callable[[], Subject]) -> None:
        self._connection, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(theirs, build), daemon=True)
        self._process.start()
        theirs.close()
        self._started = False

    def call(
        self,
        method: Callable[Concatenate[Subject, Parameters], Result],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """Run `method` there and wait for its result.

        Raises:
            TurnFailedError: it raised, the process died, or it took longer than `CALL_TIMEOUT_S`.
        """
        self.begin(method, *args, **kwargs)
        return self.finish(method)

    def begin(self, method: Callable[..., object], *args: object, **kwargs: object) -> None:
        """Start `method` there without waiting; `finish` collects the result."""
        self.wait_until_started()
        try:
            self._connection.send((method.__name__, args, kwargs))
        except OSError as error:
            raise TurnFailedError(f"the worker for {method.__name__} is gone: {error}") from error

    def wait_until_started(self) -> None:
        """Wait until the process has built its subject."""
        if not self._started:
            self._receive("the start", START_TIMEOUT_S)
            self._started = True

    def finish(self, method: Callable[..., Result]) -> Result:
        """The result of the call that `begin` started; `method` is the one given there."""
        return self._receive(method.__name__, CALL_TIMEOUT_S)  # type: ignore[return-value]  # it came through a pipe

    def _receive(self, what: str, timeout_s: float) -> object:
        if not self._connection.poll(timeout_s):
            self.close()
            raise TurnFailedError(f"{what} took longer than {timeout_s:g} s in a worker; it was ended")
        try:
            worked, result = self._connection.recv()
        except EOFError as error:
            self.close()
            raise TurnFailedError(f"the worker died during {what}") from error
        if not worked:
            raise TurnFailedError(f"{what} failed: {result}")
        return result

    @property
    def usable(self) -> bool:
        """False once the process died or was ended."""
        return self._process.is_alive() and not self._connection.closed

    def close(self) -> None:
        """End the process; may be called twice."""
        self._connection.close()
        self._process.join(EXIT_TIMEOUT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(EXIT_TIMEOUT_S)

    def __enter__(self) -> Worker[Subject]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Crew(Generic[Subject]):
    """Several workers that act at the same time. One that was lost is replaced before the next turn."""

    def __init__(self, build: Callable[[], Subject], *, size: int) -> None:
        self._build = build
        self.workers = [Worker(build) for _ in range(size)]

    def restore(self) -> None:
        """Replace workers that died or were ended, and wait until all are there to begin at the same time."""
        for number, worker in enumerate(self.workers):
            if not worker.usable:
                worker.close()
                self.workers[number] = Worker(self._build)
        for worker in self.workers:
            worker.wait_until_started()

    def together(self, method: Callable[..., Result], arguments: Sequence[dict[str, object]]) -> list[Result]:
        """Have every worker run `method` with its own keyword arguments at the same time; wait for all of them.

        Raises:
            TurnFailedError: at least one could not; the others' results were still collected, and are dropped.
        """
        failures: list[TurnFailedError] = []
        begun: list[Worker[Subject]] = []
        results: list[Result] = []
        for worker, keywords in zip(self.workers, arguments, strict=True):
            try:
                worker.begin(method, **keywords)
                begun.append(worker)
            except TurnFailedError as failure:  # noqa: PERF203  # those that have begun have to be waited for
                failures.append(failure)
        for worker in begun:
            try:
                results.append(worker.finish(method))
            except TurnFailedError as failure:  # noqa: PERF203
                failures.append(failure)
        if failures:
            raise failures[0]
        return results

    def __enter__(self) -> Crew[Subject]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.close()


def _serve(connection, build) -> None:  # type: ignore[no-untyped-def]  # multiprocess ships no types
    try:
        subject = build()
    except Exception as error:  # noqa: BLE001  # reported to the caller, whatever it is
        connection.send((False, f"{type(error).__name__}: {error}"))
        return
    connection.send((True, None))
    while True:
        try:
            name, args, kwargs = connection.recv()
        except EOFError:
            return
        try:
            reply = (True, getattr(subject, name)(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  # reported to the caller, whatever it is
            reply = (False, f"{type(error).__name__}: {error}"[:500])
        try:
            connection.send(reply)
        except BrokenPipeError:
            return  # the caller has given up on this call
