"""Paths of the simulated machine: resolution and the calls that work on names.

Follows path_resolution(7) and the Linux manual pages of each call, errors included; `tests/storecheck` compares every
result with a real disk. Not modelled: mount points, ACLs, extended attributes, file types other than regular files,
directories and symbolic links.
"""

from __future__ import annotations

import errno
from typing import Final

from storecheck.machine.disk import COMMUTE, KIND_NAMES, READ, TREE, WRITE, Disk
from storecheck.machine.errors import Named, fail
from storecheck.machine.events import AttributesChanged, Created, Linked, Renamed, Unlinked
from storecheck.machine.inode import DIRECTORY, REGULAR, SYMLINK, Inode, OpenFile, Process

NAME_BYTES_MAX: Final = 255
PATH_BYTES_MAX: Final = 4096
SYMLINKS_MAX: Final = 40
STICKY: Final = 0o1000
_SPECIAL: Final = frozenset({"", ".", ".."})


def _check_length(text: str, shown: object) -> None:
    if not text:
        fail(errno.ENOENT, shown)
    if len(text) >= PATH_BYTES_MAX // 4 and len(text.encode("utf-8", "surrogateescape")) >= PATH_BYTES_MAX:
        fail(errno.ENAMETOOLONG, shown)


def _components(text: str) -> list[str]:
    """The parts of a path, last first."""
    return [part for part in reversed(text.split("/")) if part]


class Namespace(Disk):
    """Everything a process does with paths. `at` is an open directory (dir_fd) or None for the working directory."""

    def text_of(self, path: object) -> str:
        """The path as text; bytes are decoded as `os.fsdecode` does."""
        if isinstance(path, str):
            text = path
        elif isinstance(path, bytes):
            text = path.decode("utf-8", "surrogateescape")
        else:
            raise TypeError(f"expected str, bytes or os.PathLike object, not {type(path).__name__}")
        if "\0" in text:
            raise ValueError("embedded null byte")
        return text

    # Resolution

    def _search(self, process: Process, directory: Inode, name: str, shown: Named) -> Inode | None:
        """One component: the entry of that name, or None; fails if the directory may not be searched."""
        if directory.kind != DIRECTORY:
            fail(errno.ENOTDIR, shown)
        if not self.may(process, directory, 1):
            fail(errno.EACCES, shown)
        if name == ".":
            return directory
        if name == "..":
            return directory.parent
        if len(name) > NAME_BYTES_MAX // 4 and len(name.encode("utf-8", "surrogateescape")) > NAME_BYTES_MAX:
            fail(errno.ENAMETOOLONG, shown)
        self.touch(("name", directory.serial, name), READ)
        return directory.entries.get(name)

    def locate(
        self,
        process: Process,
        text: str,
        *,
        shown: Named,
        at: Inode | None = None,
        follow: bool = True,
        creates: bool = False,
    ) -> tuple[Inode, str, Inode | None]:
        """Where a path leads: (directory, last name, inode or None if there is no such entry).

        The last component is followed if it is a symbolic link and `follow`, or if the path ends in a slash. `creates`:
        for an open(2) that may create a file; a last link that ends in a slash is EISDIR then, whatever is there.
        """
        base = self.root if text[:1] == "/" else (process.cwd if at is None else at)
        prefix, _, name = text.rpartition("/")
        if name not in _SPECIAL:
            # Nearly all calls name a file in a directory that was named before: one look-up instead of a walk.
            directory = self._directories.get((base.serial, process.uid, prefix))
            if directory is not None and len(name) <= NAME_BYTES_MAX // 4:
                if self.footprint is not None:
                    self.footprint += ((TREE, READ), (("name", directory.serial, name), READ))
                inode = directory.entries.get(name)
                if inode is None or inode.kind != SYMLINK or not follow:
                    return directory, name, inode
        return self._walk_path(process, text, base=base, shown=shown, follow=follow, creates=creates)

    def _walk_path(
        self, process: Process, text: str, *, base: Inode, shown: Named, follow: bool, creates: bool
    ) -> tuple[Inode, str, Inode | None]:
        """The whole way, component by component: path_resolution(7)."""
        _check_length(text, shown)
        self.touch(TREE, READ)
        pending = _components(text)
        must_be_directory = text.endswith("/")
        directory, links_followed = base, 0
        while pending:
            name = pending.pop()
            inode = self._search(process, directory, name, shown)
            if creates and must_be_directory and not pending:
                fail(errno.EISDIR, shown)  # also of a link that leads back to itself: it is not followed any more
            if inode is not None and inode.kind == SYMLINK and (pending or follow or must_be_directory):
                links_followed += 1
                if links_followed > SYMLINKS_MAX:
                    fail(errno.ELOOP, shown)
                directory = self.root if inode.target.startswith("/") else directory
                must_be_directory = must_be_directory or (not pending and inode.target.endswith("/"))
                pending += _components(inode.target)
            elif not pending:
                if must_be_directory and inode is not None and inode.kind != DIRECTORY:
                    fail(errno.ENOTDIR, shown)
                if links_followed == 0:
                    self._remember_directory(process, base, text, name, directory)
                return directory, name, inode
            elif inode is None:
                fail(errno.ENOENT, shown)
            else:
                directory = inode
        # Nothing but slashes, or a link to the root.
        return directory, ".", directory

    def _remember_directory(self, process: Process, base: Inode, text: str, name: str, directory: Inode) -> None:
        prefix, _, last = text.rpartition("/")
        if last == name and "." not in prefix:
            self._directories[base.serial, process.uid, prefix] = directory

    def existing(self, process: Process, path: object, *, at: Inode | None = None, follow: bool = True) -> Inode:
        """The inode a path leads to; ENOENT if there is none."""
        inode = self.locate(process, self.text_of(path), shown=path, at=at, follow=follow)[2]  # type: ignore[arg-type]
        if inode is None:
            fail(errno.ENOENT, path)
        return inode

    # Changing directories

    def _forget_directories(self) -> None:
        self.touch(TREE, WRITE)
        self._directories.clear()

    def _check_may_change(self, process: Process, directory: Inode, *shown: object) -> None:
        if not self.may(process, directory, 3):
            fail(errno.EACCES, *shown)

    def _check_may_remove(self, process: Process, directory: Inode, inode: Inode, *shown: object) -> None:
        self._check_may_change(process, directory, *shown)
        if directory.mode & STICKY and process.uid not in (0, inode.uid, directory.uid):
            fail(errno.EPERM, *shown)

    def _enter(self, directory: Inode, name: str, inode: Inode) -> None:
        directory.entries[name] = inode
        directory.mtime_ns = directory.ctime_ns = self.stamp_ns()
        if self.footprint is not None:
            self.touch(("name", directory.serial, name), WRITE)
            self.touch(("entries", directory.serial), COMMUTE)

    def _leave(self, directory: Inode, name: str) -> None:
        del directory.entries[name]
        directory.mtime_ns = directory.ctime_ns = self.stamp_ns()
        if self.footprint is not None:
            self.touch(("name", directory.serial, name), WRITE)
            self.touch(("entries", directory.serial), COMMUTE)

    def create(
        self, process: Process, directory: Inode, name: str, *, kind: int, mode: int, shown: object, target: str = ""
    ) -> Inode:
        """A new inode under a new name."""
        if directory.links == 0:
            fail(errno.ENOENT, shown)
        self._check_may_change(process, directory, shown)
        inode = self.new_inode(kind=kind, mode=mode, uid=process.uid, gid=process.gid)
        inode.target = target
        inode.parent = directory
        if kind == DIRECTORY:
            inode.links = 2
            directory.links += 1
            self._forget_directories()
        elif kind == SYMLINK:
            self._forget_directories()
        self._enter(directory, name, inode)
        if self.trace is not None:
            self.trace.append(
                Created(
                    step=self.step,
                    process=process.index,
                    directory=directory.serial,
                    name=name,
                    serial=inode.serial,
                    kind=KIND_NAMES[kind],
                    mode=mode,
                    target=target,
                )
            )
        return inode

    def mkdir(self, process: Process, path: object, mode: int, *, at: Inode | None = None) -> None:
        """mkdir(2)."""
        text = self.text_of(path)
        directory, name, inode = self.locate(process, text.rstrip("/") or text, shown=path, at=at, follow=False)  # type: ignore[arg-type]
        if inode is not None:
            fail(errno.EEXIST, path)
        self.create(process, directory, name, kind=DIRECTORY, mode=mode & 0o1777 & ~process.umask, shown=path)

    def symlink(self, process: Process, target: object, path: object, *, at: Inode | None = None) -> None:
        """symlink(2)."""
        pointing = self.text_of(target)
        if not pointing:
            fail(errno.ENOENT, target, path)
        text = self.text_of(path)
        directory, name, inode = self.locate(process, text.rstrip("/") or text, shown=path, at=at, follow=False)  # type: ignore[arg-type]
        if inode is not None:
            fail(errno.EEXIST, target, path)
        if text.endswith("/"):
            fail(errno.ENOENT, target, path)
        self.create(process, directory, name, kind=SYMLINK, mode=0o777, shown=path, target=pointing)

    def link(
        self,
        process: Process,
        source: object,
        path: object,
        *,
        source_at: Inode | None = None,
        at: Inode | None = None,
        follow: bool = False,
    ) -> None:
        """link(2) (the source is not followed) or linkat(2) with AT_SYMLINK_FOLLOW."""
        text = self.text_of(source)
        inode = self.locate(process, text, shown=source, at=source_at, follow=follow)[2]  # type: ignore[arg-type]
        if inode is None:
            fail(errno.ENOENT, source, path)
        target = self.text_of(path)
        directory, name, present = self.locate(process, target.rstrip("/") or target, shown=path, at=at, follow=False)  # type: ignore[arg-type]
        if present is not None:
            fail(errno.EEXIST, source, path)
        if target.endswith("/"):
            fail(errno.ENOENT, source, path)
        self._check_may_change(process, directory, source, path)
        if inode.kind == DIRECTORY:
            fail(errno.EPERM, source, path)
        inode.private_to = None
        inode.links += 1
        inode.ctime_ns = self.stamp_ns()
        self.touch(("inode", inode.serial), WRITE)
        self._enter(directory, name, inode)
        if self.trace is not None:
            self.trace.append(
                Linked(
                    step=self.step, process=process.index, directory=directory.serial, name=name, serial=inode.serial
                )
            )

    def unlink(self, process: Process, path: object, *, at: Inode | None = None) -> None:
        """unlink(2)."""
        text = self.text_of(path)
        directory, name, inode = self.locate(process, text.rstrip("/") or text, shown=path, at=at, follow=False)  # type: ignore[arg-type]
        if name in (".", ".."):
            fail(errno.EISDIR, path)
        if inode is None:
            fail(errno.ENOENT, path)
        if text.endswith("/"):
            fail(errno.EISDIR if inode.kind == DIRECTORY else errno.ENOTDIR, path)
        self._check_may_remove(process, directory, inode, path)
        if inode.kind == DIRECTORY:
            fail(errno.EISDIR, path)
        self._leave(directory, name)
        self._lose_name(process, directory, name, inode)
        if inode.kind == SYMLINK:
            self._forget_directories()

    def _lose_name(self, process: Process, directory: Inode, name: str, inode: Inode) -> None:
        inode.links -= 1
        inode.ctime_ns = self.stamp_ns()
        self.touch(("inode", inode.serial), WRITE)
        if self.trace is not None:
            self.trace.append(
                Unlinked(
                    step=self.step, process=process.index, directory=directory.serial, name=name, serial=inode.serial
                )
            )
        self.drop_if_unused(inode)

    def rmdir(self, process: Process, path: object, *, at: Inode | None = None) -> None:
        """rmdir(2)."""
        text = self.text_of(path)
        directory, name, inode = self.locate(process, text.rstrip("/") or text, shown=path, at=at, follow=False)  # type: ignore[arg-type]
        if name == "." and text.strip("/"):
            fail(errno.EINVAL, path)
        if name == "..":
            fail(errno.ENOTEMPTY, path)
        if inode is None:
            fail(errno.ENOENT, path)
        if inode is self.root or inode is self.mount:
            fail(errno.EBUSY, path)
        self._check_may_remove(process, directory, inode, path)
        if inode.kind != DIRECTORY:
            fail(errno.ENOTDIR, path)
        self.touch(("entries", inode.serial), READ)
        if inode.entries:
            fail(errno.ENOTEMPTY, path)
        self._leave(directory, name)
        directory.links -= 1
        inode.links -= 1
        self._forget_directories()
        self._lose_name(process, directory, name, inode)

    # Rename

    def rename(
        self,
        process: Process,
        source: object,
        path: object,
        *,
        source_at: Inode | None = None,
        at: Inode | None = None,
    ) -> None:
        """rename(2): an atomic change of one name, replacing what was there."""
        old_text, new_text = self.text_of(source), self.text_of(path)
        shown = (source, path)
        # As Linux does it: both directories first, then what the names mean.
        old_directory, old_name = self._parent_for_rename(process, old_text, source_at, shown)
        new_directory, new_name = self._parent_for_rename(process, new_text, at, shown)
        if old_name in (".", "..", "") or new_name in (".", "..", ""):
            fail(errno.EBUSY, *shown)
        inode = self._entry_for_rename(process, old_directory, old_name, shown)
        if inode is None:
            fail(errno.ENOENT, *shown)
        present = self._entry_for_rename(process, new_directory, new_name, shown)
        if inode.kind != DIRECTORY and (old_text.endswith("/") or new_text.endswith("/")):
            fail(errno.ENOTDIR, *shown)
        self._check_tree(inode, old_directory, new_directory, present, shown)
        if inode is present:
            return
        self._check_rename_allowed(process, inode, old_directory, new_directory, present, shown)
        self._move(process, inode, (old_directory, old_name), (new_directory, new_name), present)

    def _parent_for_rename(
        self, process: Process, text: str, at: Inode | None, shown: tuple[object, object]
    ) -> tuple[Inode, str]:
        if not text:
            fail(errno.ENOENT, *shown)
        prefix, slash, name = text.rstrip("/").rpartition("/")
        base = process.cwd if at is None else at
        if not slash:
            return (self.root if text.startswith("/") else base), name
        if self.footprint is None:
            known = self._directories.get(((self.root if text[0] == "/" else base).serial, process.uid, prefix))
            if known is not None:
                return known, name
        try:
            directory = self.locate(process, f"{prefix}/", shown=None, at=at)[2]
        except OSError as error:
            fail(error.errno or errno.EIO, *shown)
        if directory is None:
            fail(errno.ENOENT, *shown)
        return directory, name

    def _entry_for_rename(
        self, process: Process, directory: Inode, name: str, shown: tuple[object, object]
    ) -> Inode | None:
        try:
            return self._search(process, directory, name, None)
        except OSError as error:
            fail(error.errno or errno.EIO, *shown)

    def _check_tree(
        self,
        inode: Inode,
        old_directory: Inode,
        new_directory: Inode,
        present: Inode | None,
        shown: tuple[object, object],
    ) -> None:
        """A directory must not move below itself, nor replace one of its ancestors."""
        if inode.kind == DIRECTORY and self._is_below(new_directory, inode):
            fail(errno.EINVAL, *shown)
        if present is not None and present.kind == DIRECTORY and self._is_below(old_directory, present):
            fail(errno.ENOTEMPTY, *shown)

    def _is_below(self, directory: Inode, ancestor: Inode) -> bool:
        while directory is not ancestor:
            if directory is self.root:
                return False
            directory = directory.parent
        return True

    def _check_rename_allowed(
        self,
        process: Process,
        inode: Inode,
        old_directory: Inode,
        new_directory: Inode,
        present: Inode | None,
        shown: tuple[object, object],
    ) -> None:
        self._check_may_remove(process, old_directory, inode, *shown)
        if present is None:
            self._check_may_change(process, new_directory, *shown)
            if new_directory.links == 0:
                fail(errno.ENOENT, *shown)
        else:
            self._check_may_remove(process, new_directory, present, *shown)
            if inode.kind == DIRECTORY and present.kind != DIRECTORY:
                fail(errno.ENOTDIR, *shown)
            if inode.kind != DIRECTORY and present.kind == DIRECTORY:
                fail(errno.EISDIR, *shown)
        if inode.kind == DIRECTORY and old_directory is not new_directory and not self.may(process, inode, 2):
            fail(errno.EACCES, *shown)
        if present is not None and present.kind == DIRECTORY:
            self.touch(("entries", present.serial), READ)
            if present.entries:
                fail(errno.ENOTEMPTY, *shown)

    def _move(
        self,
        process: Process,
        inode: Inode,
        old: tuple[Inode, str],
        new: tuple[Inode, str],
        present: Inode | None,
    ) -> None:
        (old_directory, old_name), (new_directory, new_name) = old, new
        self._leave(old_directory, old_name)
        self._enter(new_directory, new_name, inode)
        inode.parent = new_directory
        inode.private_to = None
        inode.ctime_ns = self.stamp_ns()
        self.touch(("inode", inode.serial), WRITE)
        if inode.kind == DIRECTORY:
            old_directory.links -= 1
            new_directory.links += 1
        if inode.kind != REGULAR or (present is not None and present.kind != REGULAR):
            self._forget_directories()
        if self.trace is not None:
            self.trace.append(
                Renamed(
                    step=self.step,
                    process=process.index,
                    source=old_directory.serial,
                    source_name=old_name,
                    directory=new_directory.serial,
                    name=new_name,
                    serial=inode.serial,
                    replaced=None if present is None else present.serial,
                )
            )
        if present is not None:
            if present.kind == DIRECTORY:
                new_directory.links -= 1
                present.links -= 1
            present.links -= 1
            present.ctime_ns = inode.ctime_ns
            self.touch(("inode", present.serial), WRITE)
            self.drop_if_unused(present)

    # Attributes

    def _attributes_changed(self, process: Process, inode: Inode) -> None:
        inode.ctime_ns = self.stamp_ns()
        self.touch(("inode", inode.serial), WRITE)
        if inode.kind == DIRECTORY:
            self._forget_directories()
        if self.trace is not None:
            self.trace.append(
                AttributesChanged(
                    step=self.step,
                    process=process.index,
                    serial=inode.serial,
                    mode=inode.mode,
                    uid=inode.uid,
                    gid=inode.gid,
                )
            )

    def chmod(self, process: Process, inode: Inode, mode: int, *, shown: object = None) -> None:
        """chmod(2) and fchmod(2)."""
        if process.uid not in (0, inode.uid):
            fail(errno.EPERM, shown)
        if process.uid != 0 and inode.gid != process.gid:
            mode &= ~0o2000
        inode.mode = mode & 0o7777
        self._attributes_changed(process, inode)

    def chown(self, process: Process, inode: Inode, uid: int, gid: int, *, shown: object = None) -> None:
        """chown(2) and fchown(2); -1 leaves the user or group."""
        if process.uid != 0:
            changes_owner = uid not in (-1, inode.uid)
            changes_group = gid != -1 and (process.uid != inode.uid or gid not in (inode.gid, process.gid))
            if changes_owner or changes_group:
                fail(errno.EPERM, shown)
        inode.uid = inode.uid if uid == -1 else uid
        inode.gid = inode.gid if gid == -1 else gid
        if (uid, gid) != (-1, -1) and inode.kind == REGULAR:
            # A new owner must not inherit the old one's powers: chown(2), "the set-user-ID and set-group-ID mode bits".
            inode.mode &= ~0o4000
            if inode.mode & 0o010:
                inode.mode &= ~0o2000
        self._attributes_changed(process, inode)

    def set_times(
        self, process: Process, inode: Inode, times_ns: tuple[int, int] | None, *, shown: object = None
    ) -> None:
        """utimensat(2): access and modification time, or None for now. The change time is always now."""
        if process.uid not in (0, inode.uid):
            if times_ns is not None:
                fail(errno.EPERM, shown)
            if not self.may(process, inode, 2):
                fail(errno.EACCES, shown)
        if times_ns is None:
            inode.atime_ns = inode.mtime_ns = self.stamp_ns()
        else:
            # Only a file system whose stamps are coarse (1 s, 2 s) cuts given times too; a coarse tick does not.
            unit_ns = self.granularity_ns if self.granularity_ns >= 1_000_000_000 else 1
            inode.atime_ns, inode.mtime_ns = (value - value % unit_ns for value in times_ns)
        if inode.kind == DIRECTORY:
            # Names that come and go stamp a directory, too.
            self.touch(("entries", inode.serial), WRITE)
        self._attributes_changed(process, inode)

    def access(
        self, process: Process, path: object, mode: int, *, at: Inode | None = None, follow: bool = True
    ) -> bool:
        """access(2) as `os.access` shows it: whether all of `mode` is allowed."""
        try:
            inode = self.existing(process, path, at=at, follow=follow)
        except OSError:
            return False
        self.touch(("inode", inode.serial), READ)
        return mode == 0 or self.may(process, inode, mode)

    def readlink(self, process: Process, path: object, *, at: Inode | None = None) -> str:
        """readlink(2)."""
        inode = self.existing(process, path, at=at, follow=False)
        if inode.kind != SYMLINK:
            fail(errno.EINVAL, path)
        return inode.target

    def names_in(self, process: Process, directory: Inode, *, shown: object = None) -> list[str]:
        """The names in a directory, sorted: as on a real disk, the order does not tell which was made first."""
        if directory.kind != DIRECTORY:
            fail(errno.ENOTDIR, shown)
        if not self.may(process, directory, 4):
            fail(errno.EACCES, shown)
        self.touch(("entries", directory.serial), READ)
        return sorted(directory.entries)

    def path_of(self, directory: Inode) -> str:
        """The absolute path of a directory (for getcwd); fails with ENOENT if it was removed."""
        parts: list[str] = []
        while directory is not self.root:
            if directory.links == 0:
                fail(errno.ENOENT)
            parent = directory.parent
            parts.append(next(name for name, inode in parent.entries.items() if inode is directory))
            directory = parent
        return "/" + "/".join(reversed(parts))

    def directory_of(self, opened: OpenFile) -> Inode:
        """The directory an open descriptor names (for dir_fd); ENOTDIR if it names something else."""
        if opened.inode.kind != DIRECTORY:
            fail(errno.ENOTDIR)
        return opened.inode
