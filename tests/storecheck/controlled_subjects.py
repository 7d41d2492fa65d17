"""Adapters whose calls say what the kernel holds behind a descriptor."""

from __future__ import annotations

import fcntl
import os


class Descriptors:
    """One file and what a process can ask of its descriptors."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._path = os.path.join(root, "file")

    def flags(self) -> list[int]:
        """Status flags of a file, before and after a change through a copy of its descriptor, and of a directory."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW)
        copy = os.dup(descriptor)
        directory = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            found = [fcntl.fcntl(each, fcntl.F_GETFL) for each in (descriptor, copy, directory)]
            fcntl.fcntl(copy, fcntl.F_SETFL, os.O_APPEND)
            os.set_blocking(copy, False)
            found += [fcntl.fcntl(each, fcntl.F_GETFL) for each in (descriptor, copy)]
            os.pwrite(descriptor, b"12", 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, b"3")
        finally:
            for each in (descriptor, copy, directory):
                os.close(each)
        return found

    def copies(self) -> list[int]:
        """Numbers of copies: the lowest free, the same, one that was another's; and what is left open in the end."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT)
        other = os.open(self._path, os.O_RDONLY)
        fcntl.flock(other, fcntl.LOCK_EX)
        numbers = [os.dup(descriptor), os.dup2(descriptor, descriptor), os.dup2(descriptor, other)]
        # Nobody holds the lock that was the other's.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.close(descriptor)
        os.write(other, b"through the copy")
        numbers.append(os.dup(other))
        for each in {*numbers, other} - {descriptor}:
            os.close(each)
        return [number - descriptor for number in numbers]

    def locks_closed(self) -> str:
        """Lock a file that is closed."""
        with open(self._path, "rb") as stream:
            pass
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except ValueError as error:
            return str(error)
        return "locked"

    def records(self) -> bool:
        """Lock a range of the file and free it again."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX, 4)
            fcntl.lockf(descriptor, fcntl.LOCK_UN, 4)
        finally:
            os.close(descriptor)
        return True
