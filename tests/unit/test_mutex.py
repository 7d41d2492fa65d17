"""The mutex: free again whenever a `with` statement is interrupted, by whatever raises there."""

from __future__ import annotations

import threading

import pytest

from sessionstore.mutex import Mutex


class InterruptedAfterwards(Mutex):
    """As in CPython 3.14, where a signal handler can run right after the lock was taken."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it, and raise."""
        super().acquire(blocking, timeout)
        raise KeyboardInterrupt


class InterruptedWaiting(Mutex):
    """Ctrl-C while another thread has it."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Raise, and take nothing."""
        raise KeyboardInterrupt


def is_free(mutex: Mutex) -> bool:
    """Whether another thread can have it."""
    found: list[bool] = []
    other = threading.Thread(target=lambda: found.append(_try(mutex)))
    other.start()
    other.join(10)
    return found == [True]


def _try(mutex: Mutex) -> bool:
    taken = super(Mutex, mutex).acquire(blocking=False)
    if taken:
        mutex.release()
    return taken


@pytest.mark.promise("LOCK5")
def test_an_interruption_right_after_taking_it_leaves_it_free() -> None:
    """LOCK5: the block is not entered, and other threads are not kept out."""
    mutex = InterruptedAfterwards()
    with pytest.raises(KeyboardInterrupt), mutex:
        pytest.fail("the block was entered")
    assert is_free(mutex)


@pytest.mark.promise("LOCK5")
def test_an_interruption_while_waiting_is_what_comes_out() -> None:
    """LOCK5: nothing was taken, so nothing is given back, and the error is the interruption."""
    with pytest.raises(KeyboardInterrupt), InterruptedWaiting():
        pytest.fail("the block was entered")


@pytest.mark.promise("LOCK5")
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_a_block_raises_leaves_it_free(error: type[BaseException]) -> None:
    """LOCK5: inside the block others are kept out; afterwards they are not, whatever it raised."""
    mutex = Mutex()

    def use() -> None:
        with mutex:
            assert not is_free(mutex)
            raise error

    with pytest.raises(error):
        use()
    assert is_free(mutex)
