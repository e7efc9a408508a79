"""What changed in a folder of models since the last look."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mlserver.settings import ModelSettings
from mlserver.utils import to_absolute_path

__all__ = ["Watch", "stamp_of"]

Stamp = tuple[tuple[str, int, int], ...]
Entry = tuple[str, str | None]


class Watch:
    """Compares each look with the one before. A model counts as changed once it has stopped changing: a file
    that is still being copied is not loaded.
    """

    def __init__(self, models: Sequence[ModelSettings]) -> None:
        self._known = _look(models)
        self._seen = dict(self._known)

    def changes(self, models: Sequence[ModelSettings]) -> tuple[set[str], set[str]]:
        """Names of models to load, because they are new, or one of their versions is or has changed, or is
        gone while others stay; and names to unload, because nothing of them is left.
        """
        now = _look(models)
        settled = {entry: stamp for entry, stamp in now.items() if self._seen.get(entry) == stamp}
        self._seen = now
        names = {name for name, _ in now}
        load = {entry[0] for entry, stamp in settled.items() if self._known.get(entry) != stamp}
        gone = {entry for entry in self._known if entry not in now}
        load |= {name for name, _ in gone if name in names}
        unload = {name for name, _ in gone if name not in names}
        self._known.update(settled)
        for entry in gone:
            del self._known[entry]
        return load, unload


def _look(models: Sequence[ModelSettings]) -> dict[Entry, Stamp]:
    return {(settings.name, settings.version): stamp_of(settings) for settings in models}


def stamp_of(settings: ModelSettings) -> Stamp:
    """Path, time of change in ns and size of every file of a model: beside its settings, and its artefact."""
    paths = []
    if settings._source is not None:
        paths.append(os.path.dirname(os.path.abspath(settings._source)))
    uri = settings.parameters.uri if settings.parameters is not None else None
    if uri and "://" not in uri:
        paths.append(to_absolute_path(settings, uri))
    files = {}
    for path in paths:
        for file in _files(path):
            try:
                status = os.stat(file)
            except OSError:
                continue
            files[file] = (file, status.st_mtime_ns, status.st_size)
    return tuple(sorted(files.values()))


def _files(path: str) -> list[str]:
    if os.path.isfile(path):
        return [path]
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        found += [os.path.join(folder, name) for name in names]
    return found
