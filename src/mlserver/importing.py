"""Imports runtime classes by path, also from the folder of a model.

Two models may each ship a `models.py`, with a `helpers.py` beside it. Python has one module per name, so each
folder gets a namespace here: the modules that were found directly in it. To import from a folder, its
namespace is put into `sys.modules` and those of other folders are taken out; all stay alive, for the classes
refer to their own. Where two folders have the same name, `sys.modules` shows the one imported last, which is
where pickle looks.

Only what lies in the folder itself is treated so: installed packages are imported once, as everywhere.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import os
import sys
import threading
import time
import types
from collections.abc import Coroutine, Generator, Iterator
from types import ModuleType
from typing import Any, TypeVar

__all__ = ["import_class", "in_turn", "in_turns"]

_EXTENSION_SUFFIXES = tuple(importlib.machinery.EXTENSION_SUFFIXES)
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")

T = TypeVar("T")

_Modules = dict[str, ModuleType]  # by name in sys.modules
_Stamp = tuple[int, int, int]  # mtime in ns, size, inode

# Seconds for which everybody waits for whoever imports or loads.
PATIENCE = 10.0

_lock = threading.RLock()
_namespaces: dict[str, _Modules] = {}  # by folder
_stamps: dict[str, _Stamp] = {}  # by source file: what it was when it was imported


def import_class(path: str, directory: str | None = None) -> Any:
    """The object at `pkg.mod.Cls` or `pkg.mod:Cls`.

    directory: path of a folder whose modules come before all others of the same name.
    Modules whose source changed since they were imported are imported anew.
    Raises ImportError when there is no such module, or no such name in it, and whatever the module raises.
    """
    with _lock:
        if directory is not None and os.path.isdir(directory):
            return _import_beside(path, os.path.realpath(directory))
        return _resolve(path, reload=True)


class _Turns:
    def __init__(self) -> None:
        self._free = threading.Condition()
        self._holder: object = None
        self._since = 0.0

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        holder = object()
        with self._free:
            while self._holder is not None:
                patience = self._since + PATIENCE - time.monotonic()
                if patience <= 0:
                    break
                self._free.wait(patience)
            self._holder, self._since = holder, time.monotonic()
        try:
            yield
        finally:
            with self._free:
                if self._holder is holder:
                    self._holder = None
                    self._free.notify()


_turns = _Turns()


def in_turn() -> contextlib.AbstractContextManager[None]:
    """Keep out what others import and unpickle meanwhile, on whatever thread of this process.

    Packages that import each other in circles, as scikit-learn's do, fail when two threads begin at different
    ends. Who takes longer than `PATIENCE`, maybe since it waits for one that waits here, is overtaken.
    """
    return _turns.take()


@types.coroutine
def in_turns(work: Coroutine[Any, Any, T]) -> Generator[Any, None, T]:
    """Run a coroutine, and its code `in_turn`: while it awaits, others have theirs."""
    error: BaseException | None = None
    while True:
        with in_turn():
            try:
                awaited = work.send(None) if error is None else work.throw(error)
            except StopIteration as end:
                result: T = end.value
                return result
        try:
            error = None
            yield awaited
        except BaseException as exc:
            error = exc


def _import_beside(path: str, directory: str) -> Any:
    # In this folder sources are always compiled: bytecode is matched by size and whole seconds, too coarse
    # for a model that is edited and loaded again, and a model repository may be read-only.
    finder = importlib.machinery.FileFinder(
        directory,
        (importlib.machinery.ExtensionFileLoader, list(_EXTENSION_SUFFIXES)),
        (_SourceLoader, importlib.machinery.SOURCE_SUFFIXES),
    )
    target = path.partition(":")[0].partition(".")[0]
    local = _top_level_names(directory)
    importlib.invalidate_caches()
    finder_before = sys.path_importer_cache.get(directory)
    hidden, foreign = _enter_namespace(directory, local, target)
    sys.path.insert(0, directory)
    sys.path_importer_cache[directory] = finder
    try:
        return _resolve(path, reload=target not in local)
    finally:
        sys.path_importer_cache.pop(directory, None)
        if finder_before is not None:
            sys.path_importer_cache[directory] = finder_before
        if directory in sys.path:
            sys.path.remove(directory)
        _leave_namespace(directory, local, hidden, foreign)


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Neither reads nor writes bytecode."""

    def path_stats(self, path: Any) -> Any:
        raise OSError


def _enter_namespace(directory: str, local: set[str], target: str) -> tuple[_Modules, _Modules]:
    """Make `sys.modules` fit the folder. Returns what was taken out: of other folders, of no model."""
    namespace = _namespaces.setdefault(directory, {})
    if any(_changed(module) for module in namespace.values()):
        for name, module in namespace.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
        namespace.clear()
    on_path = {os.path.realpath(entry) for entry in sys.path}
    hidden: _Modules = {}
    for other, modules in _namespaces.items():
        for name, module in modules.items():
            wanted = other == directory or (other in on_path and _top(name) not in local)
            if not wanted and sys.modules.get(name) is module:
                hidden[name] = sys.modules.pop(name)
    foreign: _Modules = {}
    for top in local:
        found = _loaded(top)
        if found and _home(found.get(top)) != directory and _may_hide(top, found, top == target):
            foreign.update(found)
            for name in found:
                del sys.modules[name]
    sys.modules.update(namespace)
    return hidden, foreign


def _leave_namespace(directory: str, local: set[str], hidden: _Modules, foreign: _Modules) -> None:
    """Remember what came from the folder, and put back what was taken out, where the names are free."""
    namespace = _namespaces[directory]
    for top in local:
        if _home(sys.modules.get(top)) == directory:
            found = _loaded(top)
            if not any(map(_compiled, found.values())):
                for name in found.keys() - namespace.keys():
                    namespace[name] = found[name]
                    _stamp(found[name])
    for top in {_top(name) for name in foreign}:
        for name in _loaded(top):
            del sys.modules[name]
    sys.modules.update(foreign)
    for name, module in hidden.items():
        if _top(name) not in sys.modules or _home(sys.modules[_top(name)]) == _home(hidden.get(_top(name))):
            sys.modules.setdefault(name, module)


def _top(name: str) -> str:
    return name.partition(".")[0]


def _loaded(top: str) -> _Modules:
    """A top-level module and all that is loaded below it."""
    return {n: m for n, m in list(sys.modules.items()) if n == top or n.startswith(f"{top}.")}


def _top_level_names(directory: str) -> set[str]:
    """Names of the modules and packages that lie directly in the folder."""
    names = set()
    with os.scandir(directory) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            if suffix == ".py" or (
                not suffix and stem.isidentifier() and os.path.isfile(os.path.join(entry.path, "__init__.py"))
            ):
                names.add(stem)
    return names


def _home(module: ModuleType | None) -> str | None:
    """Folder in which a top-level module or package lies."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return None
    folder = os.path.dirname(file)
    if os.path.basename(file).startswith("__init__."):
        folder = os.path.dirname(folder)
    return os.path.realpath(folder)


def _may_hide(top: str, found: _Modules, is_target: bool) -> bool:
    """Whether modules of no model may make room for those of the same name in a folder."""
    if (
        top in sys.stdlib_module_names
        or top in ("mlserver", "__main__")
        or any(map(_compiled, found.values()))
    ):
        return False
    file = getattr(found.get(top), "__file__", None) or ""
    return is_target or not any(part in file for part in _INSTALLED)


def _compiled(module: ModuleType) -> bool:
    """Compiled modules can be loaded once per process, so they are left alone."""
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and file.endswith(_EXTENSION_SUFFIXES)


def _resolve(path: str, reload: bool) -> Any:
    module_path, colon, names = path.partition(":")
    if not colon:
        module_path, _, names = path.rpartition(".")
    if not module_path or not names:
        raise ImportError(f"'{path}' is not an import path such as 'package.module.Class'")
    module, outer = _import_module(module_path)
    if reload:
        module = _reloaded(module)
    value: Any = module
    for name in [*outer, *names.split(".")]:
        try:
            value = getattr(value, name)
        except AttributeError:
            raise ImportError(f"'{path}' cannot be imported: '{value.__name__}' has no '{name}'") from None
    return value


def _import_module(path: str) -> tuple[ModuleType, list[str]]:
    """The longest part of the path that is a module, and the names left (of a class around a class)."""
    try:
        return importlib.import_module(path), []
    except ModuleNotFoundError as exc:
        shorter, _, name = path.rpartition(".")
        # A module that is there, but imports something that is not, is reported as it is.
        if not shorter or exc.name != path:
            raise
        module, outer = _import_module(shorter)
        if not outer and not hasattr(module, name):
            raise
        return module, [*outer, name]


def _reloaded(module: ModuleType) -> ModuleType:
    if _changed(module):
        importlib.invalidate_caches()
        module = importlib.reload(module)
    _stamp(module)
    return module


def _stamp_of(module: ModuleType) -> tuple[str, _Stamp] | None:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return None
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return file, (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def _stamp(module: ModuleType) -> None:
    stamped = _stamp_of(module)
    if stamped is not None:
        _stamps[stamped[0]] = stamped[1]


def _changed(module: ModuleType) -> bool:
    stamped = _stamp_of(module)
    return stamped is not None and _stamps.get(stamped[0], stamped[1]) != stamped[1]
