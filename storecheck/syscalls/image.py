"""Process images: the modules of one simulated process.

An image has its own module table. Modules by which Python reaches the system are simulated; standard modules that
captured them (`os`, `tempfile`, `pathlib`, `threading`, …) and all code under test are executed privately on top of
those, unmodified, straight from their ordinary source; the rest (C extensions, pure standard modules, test tools) is
shared with the real interpreter. Nothing in the real interpreter is patched: a function belongs to the process whose
image it was loaded into, wherever it is called from.

Fail closed: a module that is shared although it reaches the system finds no simulated file, because the mount does not
exist on the real disk and simulated descriptors are no real ones.
"""

from __future__ import annotations

import builtins as real_builtins
import contextlib
import functools
import importlib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any, Final

from storecheck.machine import MOUNT
from storecheck.schedule.executor import Executor, Member, Task
from storecheck.schedule.remembering import Recollection
from storecheck.syscalls.clock import build_datetime, build_refused, build_time
from storecheck.syscalls.context import Context, Recorder
from storecheck.syscalls.files import build_io
from storecheck.syscalls.posix import build_calls, build_fcntl, build_posix, refusing
from storecheck.syscalls.randomness import Randomness
from storecheck.syscalls.restore import Pristine
from storecheck.syscalls.threads import build_thread, quieten_own_locks

Transform = Callable[[str, str], str]
"""Given a module's name and source, the source to execute instead: how a bug is planted."""

PRIVATE_STANDARD: Final = frozenset(
    {
        "_threading_local", "bz2", "concurrent", "dbm", "filecmp", "fileinput", "genericpath", "getpass", "glob",
        "gzip", "logging", "lzma", "netrc", "ntpath", "os", "pathlib", "posixpath", "queue", "random", "sched",
        "secrets", "shelve", "shutil", "tarfile", "tempfile", "threading", "uuid", "zipfile",
    }
)  # fmt: skip
"""Standard modules written in Python that capture functions of the system when they are imported."""

REFUSED: Final = frozenset(
    {
        "socket",
        "_socket",
        "select",
        "selectors",
        "subprocess",
        "_posixsubprocess",
        "mmap",
        "multiprocessing",
        "pty",
        "ssl",
    }
)
"""Modules that lead out of the simulated computer: they can be imported, not used."""

WITHOUT: Final = {"_queue": "SimpleQueue", "_uuid": ""}
"""C accelerators that block or read the clock behind the machine's back, with what to leave out ("" for all)."""

TEST_TOOLS: Final = frozenset(
    {"_pytest", "click", "coverage", "greenlet", "hypothesis", "pluggy", "pytest", "rich", "storecheck"}
)
"""Packages that never are the code under test."""

UNDER_TEST: Final = frozenset({"storecheck.adapters"})
"""Modules of test tools that are code under test all the same: adapters inherit from them."""

SIMULATED_HOME: Final = f"{MOUNT}/home"
SIMULATED_TEMPORARY: Final = f"{MOUNT}/tmp"  # noqa: S108 - a path on the simulated machine

_code_cache: dict[tuple[str, str, Transform | None], CodeType] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """How an image is loaded.

    Attributes:
        private: further packages or modules to execute privately, although they contain C extensions or are tools.
        shared: packages to share although they are plain Python: they then see the real system.
        transform: changes the source of private modules, or None.
        left_out: names of `os` that are not intercepted: for tests that interception fails closed.
    """

    private: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    transform: Transform | None = None
    left_out: tuple[str, ...] = ()


class ProcessImage:
    """The module table of one simulated process, and the state of its globals right after import."""

    def __init__(self, options: ImageOptions | None = None) -> None:
        self.options = options or ImageOptions()
        self.context = Context()
        self.modules: dict[str, ModuleType] = {}
        self._executing: dict[str, ModuleType | None] = {}
        self._private: list[ModuleType] = []
        self._pristine: Pristine | None = None
        self._randomness = Randomness(self.context)
        self._has_begun = False
        self._build_base()

    def _build_base(self) -> None:
        context = self.context
        context.environment.update(
            {
                b"HOME": os.fsencode(SIMULATED_HOME),
                b"TMPDIR": os.fsencode(SIMULATED_TEMPORARY),
                b"PATH": b"/usr/bin:/bin",
                b"LANG": b"C.UTF-8",
            }
        )
        calls = build_calls(context)
        posix = build_posix(context, calls)
        import posix as real_posix

        for name in self.options.left_out:
            posix.__dict__[name] = getattr(real_posix, name)
        self.modules["posix"] = posix
        self.modules["fcntl"] = build_fcntl(context, calls)
        self.modules["_thread"] = build_thread(context)
        self.modules["time"] = build_time(context)
        self.modules["datetime"] = build_datetime(context, self.modules["time"])
        self.modules["_io"] = build_io("_io", context, posix)
        self.modules["io"] = build_io("io", context, posix)
        self.modules["io"].__dict__.update(
            {name: vars(self.modules["_io"])[name] for name in ("FileIO", "open", "open_code")}
        )
        self.modules["atexit"] = self._build_atexit()
        self.modules["importlib"] = self._build_importlib()
        self.builtins = ModuleType("builtins", real_builtins.__doc__)
        self.builtins.__dict__.update(vars(real_builtins))
        self.builtins.__dict__["open"] = self.modules["io"].__dict__["open"]
        self.builtins.__dict__["__import__"] = self.import_statement
        self.modules["builtins"] = self.builtins
        # `os` also enters `os.path` into the real table; what was there is put back by `_entered`.
        self.load("os")
        quieten_own_locks(self.load("threading"))

    def _build_atexit(self) -> ModuleType:
        """Handlers are accepted and never run: a simulated process ends by `_exit` once its operations are done."""
        module = ModuleType("atexit")
        module.__dict__.update({"register": lambda call, *_, **__: call, "unregister": lambda call: None})
        return module

    def _build_importlib(self) -> ModuleType:
        module = ModuleType("importlib", importlib.__doc__)
        module.__dict__.update({name: value for name, value in vars(importlib).items() if name != "__spec__"})

        def import_module(name: str, package: str | None = None) -> ModuleType:
            return self.load(importlib.util.resolve_name(name, package) if name.startswith(".") else name)

        module.__dict__["import_module"] = import_module
        module.__dict__["reload"] = refusing(self.context, "importlib.reload")
        return module

    # Importing

    def import_statement(
        self,
        name: str,
        globals: dict[str, Any] | None = None,
        locals: object = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """`__import__` of the image."""
        if level:
            assert globals is not None
            package = globals.get("__package__") or globals["__name__"].rpartition(".")[0]
            base = package.rsplit(".", level - 1)[0]
            name = f"{base}.{name}" if name else base
        module = self.modules.get(name) or self.load(name)
        if not fromlist:
            return self.modules[name.partition(".")[0]] if not level else module
        if hasattr(module, "__path__"):
            for attribute in fromlist:
                if attribute == "*":
                    self._load_all(module)
                elif not hasattr(module, attribute):
                    with contextlib.suppress(ModuleNotFoundError):
                        self.load(f"{name}.{attribute}")
        return module

    def _load_all(self, module: ModuleType) -> None:
        for attribute in getattr(module, "__all__", ()):
            if not hasattr(module, attribute):
                with contextlib.suppress(ModuleNotFoundError):
                    self.load(f"{module.__name__}.{attribute}")

    def load(self, name: str) -> ModuleType:
        """The module of that name as this process sees it."""
        found = self.modules.get(name)
        if found is not None:
            return found
        parent_name = name.rpartition(".")[0]
        parent = self.load(parent_name) if parent_name else None
        found = self.modules.get(name)
        if found is not None:
            return found
        head = name.partition(".")[0]
        if name == "os.path":
            # An entry that `os` makes in the table while it is executed; no finder knows that name before CPython 3.11.
            module = self.modules[name] = self.load("posixpath")
        elif head in REFUSED:
            module = self._share(name)
            module = self.modules[name] = build_refused(self.context, module)
        elif head == "asyncio":
            module = self.modules[name] = self._without_loops(self._share(name))
        elif name in WITHOUT:
            module = self._load_without(name, WITHOUT[name])
        elif self._is_private(name):
            module = self._execute(name, parent)
        else:
            module = self.modules[name] = self._share(name)
            if any(chosen.startswith(f"{name}.") for chosen in (*UNDER_TEST, *self.options.private)):
                module = self.modules[name] = self._view_of(module)
        # While the parent is executed, the real table shows it in the place of the real one.
        if parent is not None and parent is not self._executing.get(parent_name, sys.modules.get(parent_name)):
            setattr(parent, name.rpartition(".")[2], module)
        return module

    def _view_of(self, real: ModuleType) -> ModuleType:
        """A shared package some of whose modules are private: the image must not find the real ones in it."""
        package = real.__name__
        view = ModuleType(package, real.__doc__)
        view.__dict__.update(
            {
                name: value
                for name, value in vars(real).items()
                if name != "__spec__" and not self._is_private(f"{package}.{name}")
            }
        )

        def __getattr__(name: str) -> object:
            if self._is_private(f"{package}.{name}"):
                try:
                    return self.load(f"{package}.{name}")
                except ModuleNotFoundError as error:
                    raise AttributeError(f"module {package!r} has no attribute {name!r}") from error
            return getattr(real, name)

        view.__dict__["__getattr__"] = __getattr__
        return view

    def _without_loops(self, real: ModuleType) -> ModuleType:
        """Asyncio can be imported and its types used, but no loop runs: it would wait in the real system."""
        module = ModuleType(real.__name__, real.__doc__)
        module.__dict__.update({key: value for key, value in vars(real).items() if key != "__spec__"})
        for name in ("run", "new_event_loop", "get_event_loop", "Runner"):
            if hasattr(real, name):
                module.__dict__[name] = refusing(self.context, f"asyncio.{name}")
        return module

    def _load_without(self, name: str, missing: str) -> ModuleType:
        if not missing:
            raise ModuleNotFoundError(f"No module named {name!r} in a simulated process", name=name)
        real = self._share(name)
        module = ModuleType(name, real.__doc__)
        module.__dict__.update({key: value for key, value in vars(real).items() if key not in (missing, "__spec__")})
        self.modules[name] = module
        return module

    def _is_private(self, name: str) -> bool:
        options = self.options
        head = name.partition(".")[0]
        if head in options.shared or name in options.shared:
            return False
        if name in UNDER_TEST or any(name == chosen or name.startswith(f"{chosen}.") for chosen in options.private):
            return True
        if head in sys.stdlib_module_names:
            return head in PRIVATE_STANDARD
        return head not in TEST_TOOLS and not _has_extensions(head)

    def sees_real_system(self, kind: type) -> bool:
        """Whether a class is the real interpreter's without anybody having asked for it, standard library aside."""
        name = kind.__module__
        head = name.partition(".")[0]
        if head in self.options.shared or name in self.options.shared or head in sys.stdlib_module_names:
            return False
        real = sys.modules.get(name)
        return not self._is_private(name) or getattr(real, kind.__qualname__, None) is kind

    def _share(self, name: str) -> ModuleType:
        with self._real_table():
            return importlib.import_module(name)

    def _execute(self, name: str, parent: ModuleType | None) -> ModuleType:
        spec = _find_spec(name, getattr(parent, "__path__", None))
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if spec.origin == "built-in" or isinstance(spec.loader, importlib.machinery.ExtensionFileLoader):
            module = self.modules[name] = self._share(name)
            return module
        module = ModuleType(name)
        module.__spec__ = spec
        module.__loader__ = spec.loader
        module.__package__ = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
        if spec.submodule_search_locations is not None:
            module.__path__ = list(spec.submodule_search_locations)
        if spec.origin is not None and spec.has_location:
            module.__file__ = spec.origin
        module.__dict__["__builtins__"] = self.builtins.__dict__
        self.modules[name] = module
        code = _code_of(name, spec, self.options.transform)
        if code is not None:
            try:
                with self._entered(name, module):
                    exec(code, module.__dict__)  # noqa: S102 - this is what an import does
            except BaseException:
                self.modules.pop(name, None)
                raise
        self._private.append(module)
        if name == "random":
            self._randomness.install(module)
        return module

    @contextlib.contextmanager
    def _entered(self, name: str, module: ModuleType) -> Iterator[None]:
        """While a module is executed, `sys.modules` shows it: `dataclasses` and `typing` look there for its names."""
        before = sys.modules.get(name)
        path_before = sys.modules.get("os.path")
        sys.modules[name] = module
        self._executing[name] = before
        try:
            yield
        finally:
            self._executing.pop(name, None)
            if before is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = before
            if path_before is not None:
                sys.modules["os.path"] = path_before

    @contextlib.contextmanager
    def _real_table(self) -> Iterator[None]:
        """While a shared module is imported, `sys.modules` shows the real modules only."""
        hidden = {name: sys.modules[name] for name in self._executing if name in sys.modules}
        for name, before in self._executing.items():
            if before is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = before
        try:
            yield
        finally:
            sys.modules.update(hidden)

    # Runs

    def seal(self) -> None:
        """All that runs need is imported: from now on `finish` puts the globals back to what they are now."""
        restored = [
            module
            for module in self._private
            if module.__name__.partition(".")[0] not in sys.stdlib_module_names
            or module.__name__ in ("threading", "tempfile", "logging")
        ]
        self._pristine = Pristine(restored)
        self._locals = list(self.context.locals)
        self._known = set(self.modules)
        self._randomness.seal()
        self._environment = dict(vars(self.modules["os"])["environ"]._data)

    def begin(
        self,
        executor: Executor,
        member: Member,
        recorder: Recorder | None = None,
        memory: Recollection | None = None,
    ) -> None:
        """Become a fresh process of a run."""
        if self._pristine is None:
            self.seal()
        self._has_begun = True
        context = self.context
        if len(context.locals) != len(self._locals):
            context.locals[:] = self._locals
        context.begin(executor, member, recorder, memory)
        self._randomness.begin()
        member.on_end = context.end

    def set_environment(self, variables: dict[bytes, bytes]) -> None:
        """Environment variables of the process that begins, beside the usual ones."""
        vars(self.modules["os"])["environ"]._data.update(variables)

    def finish(self) -> None:
        """The run is over: put the globals back, while the finalizers of what they held can reach no machine."""
        self.context.end()
        if self._pristine is not None and self._has_begun:
            self._has_begun = False
            self._pristine.restore()
            environment = vars(self.modules["os"])["environ"]._data
            if environment != self._environment:
                environment.clear()
                environment.update(self._environment)
            if len(self.modules) != len(self._known):
                # The run imported further modules. They stay, and their state from now on counts as pristine.
                self.seal()
        self.context.idle()

    def activate(self, leaving: Task, arriving: Task) -> None:
        """Another thread of this process gets the processor."""
        vars(self.modules["_thread"])["_local"]._exchange(leaving, arriving)

    def join_threads(self) -> None:
        """What the interpreter does at the end of the main thread: wait for threads that are no daemons."""
        threading = vars(self.modules["threading"])
        main = threading["main_thread"]()
        # In limbo: started, but not entered among the active ones yet.
        for thread in [*threading["_active"].values(), *threading["_limbo"].values()]:
            if thread is not main and not thread.daemon:
                thread.join()


def _find_spec(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """As the import system finds it, planted bugs' import hooks included, but only what has code to execute."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec: ModuleSpec | None = None if find is None else find(name, path)
        if spec is None:
            continue
        if spec.loader is None or hasattr(spec.loader, "get_code"):
            return spec
    return importlib.machinery.PathFinder.find_spec(name, path)


def _code_of(name: str, spec: ModuleSpec, transform: Transform | None) -> CodeType | None:
    loader = spec.loader
    if loader is None:
        return None
    key = (name, f"{spec.origin} {type(loader).__qualname__} {id(type(loader))}", transform)
    code = _code_cache.get(key)
    if code is None:
        code = _compile(name, spec, transform)
        _code_cache[key] = code
    return code


def _compile(name: str, spec: ModuleSpec, transform: Transform | None) -> CodeType:
    loader: Any = spec.loader
    if transform is not None and name.partition(".")[0] not in sys.stdlib_module_names:
        source = loader.get_source(name)
        if source is not None:
            changed = transform(name, source)
            if changed != source:
                return compile(changed, spec.origin or name, "exec", dont_inherit=True)
    code = loader.get_code(name)
    if code is None:
        raise ImportError(f"{name} has no code that could be executed in a simulated process", name=name)
    return code  # type: ignore[no-any-return]


@functools.cache
def _has_extensions(package: str) -> bool:
    """Whether a top-level package has C extensions: their types cannot exist twice, so it is shared."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return False
    if spec.submodule_search_locations is None:
        return isinstance(spec.loader, importlib.machinery.ExtensionFileLoader)
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    return any(
        entry.endswith(suffixes)
        for location in spec.submodule_search_locations
        for _, _, entries in os.walk(location)
        for entry in entries
    )
