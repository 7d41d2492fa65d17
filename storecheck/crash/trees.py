"""What is on a disk, as plain values: the disk before a recorded run, and the trees that a power loss may leave.

`Disk` names inodes by serial, as the events of a trace do; a tree is what somebody sees who mounts the disk: an `Entry`
per path. Times, link counts and extended attributes are left out: no promise is about them after a power loss.
"""

from __future__ import annotations

import stat as stat_bits
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from storecheck.machine import Machine, MachineParameters
from storecheck.machine.disk import KIND_NAMES
from storecheck.machine.inode import DIRECTORY, REGULAR, SYMLINK
from storecheck.machine.inode import Inode as MachineInode

EntryKind = Literal["file", "directory", "symlink"]
_KINDS: Final = {"file": REGULAR, "directory": DIRECTORY, "symlink": SYMLINK}


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory or symbolic link.

    Attributes:
        kind: which of them.
        content: bytes of a file; empty for the others.
        mode: permission bits.
        uid: owner.
        gid: group.
        target: where a symbolic link points.
    """

    kind: str
    content: bytes = b""
    mode: int = 0o644
    uid: int = 1000
    gid: int = 1000
    target: str = ""

    def __str__(self) -> str:
        if self.kind == "file":
            return f"{len(self.content)} bytes, mode {self.mode:o}"
        return f"-> {self.target}" if self.kind == "symlink" else "directory"


Tree = Mapping[str, Entry]
"""Entry by path, relative to the root of the disk; parents come before what they hold."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk, all of it durable.

    Attributes:
        root: serial of the directory that paths are relative to.
        inodes: entry by serial.
        names: serial by directory and name.
    """

    root: int
    inodes: Mapping[int, Entry]
    names: Mapping[tuple[int, str], int]

    @classmethod
    def of(cls, machine: Machine) -> Disk:
        """What is on the machine's disk below its mount now."""
        inodes: dict[int, Entry] = {machine.mount.serial: _entry_of(machine.mount)}
        names: dict[tuple[int, str], int] = {}
        pending = [machine.mount]
        while pending:
            directory = pending.pop()
            for name, inode in directory.entries.items():
                names[directory.serial, name] = inode.serial
                if inode.serial not in inodes:
                    inodes[inode.serial] = _entry_of(inode)
                    if inode.kind == DIRECTORY:
                        pending.append(inode)
        return cls(machine.mount.serial, inodes, names)

    @classmethod
    def from_tree(cls, tree: Tree) -> Disk:
        """The disk that shows this tree; serials are given in the order of the paths. Parents may be left out."""
        inodes: dict[int, Entry] = {1: Entry("directory", mode=0o755)}
        names: dict[tuple[int, str], int] = {}
        for path, entry in sorted(tree.items()):
            *parents, name = path.split("/")
            directory = 1
            for parent in parents:
                found = names.get((directory, parent))
                if found is None:
                    found = names[directory, parent] = len(inodes) + 1
                    inodes[found] = Entry("directory", mode=0o755)
                directory = found
            serial = len(inodes) + 1
            inodes[serial] = entry
            names[directory, name] = serial
        return cls(1, inodes, names)

    def tree(self) -> dict[str, Entry]:
        """The disk as a tree."""
        return {path: self.inodes[serial] for path, serial in listing(self.root, self.names)}


@dataclass(frozen=True, slots=True)
class Scanned:
    """A real directory as a disk.

    Attributes:
        disk: what is in it.
        serials: by absolute path, the directory's own included.
    """

    disk: Disk
    serials: Mapping[str, int]


def scan(directory: Path) -> Scanned:
    """What is below a real directory now. Names of one file share its inode."""
    inodes = {1: Entry("directory", mode=0o755)}
    names: dict[tuple[int, str], int] = {}
    serials = {str(directory): 1}
    known: dict[tuple[int, int], int] = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        serial = known.setdefault((status.st_dev, status.st_ino), len(inodes) + 1)
        serials[str(path)] = names[serials[str(path.parent)], path.name] = serial
        if serial not in inodes:
            kind = "symlink" if path.is_symlink() else "directory" if path.is_dir() else "file"
            content = path.read_bytes() if kind == "file" else b""
            target = str(path.readlink()) if kind == "symlink" else ""
            inodes[serial] = Entry(
                kind, content, stat_bits.S_IMODE(status.st_mode), status.st_uid, status.st_gid, target
            )
    return Scanned(Disk(1, inodes, names), serials)


def listing(root: int, names: Mapping[tuple[int, str], int]) -> tuple[tuple[str, int], ...]:
    """Path and serial of everything reachable from `root`, parents first, otherwise in the order of names."""
    by_directory: dict[int, list[tuple[str, int]]] = {}
    for (directory, name), serial in names.items():
        by_directory.setdefault(directory, []).append((name, serial))
    found: list[tuple[str, int]] = []
    pending = [("", root)]
    while pending:
        prefix, directory = pending.pop()
        for name, serial in sorted(by_directory.get(directory, ())):
            path = prefix + name
            found.append((path, serial))
            if serial in by_directory:
                pending.append((f"{path}/", serial))
    return tuple(found)


def _entry_of(inode: MachineInode) -> Entry:
    return Entry(
        KIND_NAMES[inode.kind],
        bytes(inode.content),
        inode.mode,
        inode.uid,
        inode.gid,
        inode.target,
    )


def machine_with(tree: Tree, parameters: MachineParameters | None = None) -> Machine:
    """A machine that has just been switched on, with this tree on its disk."""
    machine = Machine(parameters)
    directories = {"": machine.mount}
    for path, entry in tree.items():
        prefix, _, name = path.rpartition("/")
        directory = directories[prefix]
        inode = machine.new_inode(kind=_KINDS[entry.kind], mode=entry.mode, uid=entry.uid, gid=entry.gid)
        inode.target = entry.target
        inode.parent = directory
        directory.entries[name] = inode
        if entry.kind == "directory":
            inode.links = 2
            directory.links += 1
            directories[path] = inode
        elif entry.content:
            inode.content[:] = entry.content
            machine.used_bytes += len(entry.content)
    return machine
