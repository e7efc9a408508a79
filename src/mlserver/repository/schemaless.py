"""A folder of models in any layout: every `model-settings.json` below it is a model, or a version of one.

    FOLDER/model-settings.json                      a single model
    FOLDER/<model>/model-settings.json              several
    FOLDER/<model>/<version>/model-settings.json    several versions
    FOLDER/model.joblib                             no settings at all: the environment describes the model

Nothing is remembered between two scans but what was already complained about.
"""

from __future__ import annotations

import asyncio
import builtins
import os
from collections.abc import Iterator

from pydantic import ValidationError

from mlserver.logging import logger
from mlserver.repository.load import load_model_settings, with_parameters
from mlserver.repository.repository import ModelRepository
from mlserver.settings import ModelSettings, describe_invalid

__all__ = ["DEFAULT_MODEL_SETTINGS_FILENAME", "SchemalessModelRepository"]

DEFAULT_MODEL_SETTINGS_FILENAME = "model-settings.json"


class SchemalessModelRepository(ModelRepository):
    """The models in a folder."""

    def __init__(self, root: str = ".") -> None:
        super().__init__(root)
        self._complaints: dict[str, str] = {}  # path of a file -> what was last logged about it

    async def list(self) -> builtins.list[ModelSettings]:
        return await asyncio.to_thread(self._scan)

    def _scan(self) -> builtins.list[ModelSettings]:
        found = []
        for path in find_settings_files(os.path.abspath(self._root)):
            try:
                settings = load_model_settings(path)
            except FileNotFoundError:
                continue  # gone since the folder was read
            except Exception as exc:  # one broken file must not hide the others
                self._complain(path, f"Skipped {path}: {describe_invalid(exc)}", exc)
                continue
            found.append(settings)
            folder = os.path.basename(os.path.dirname(path))
            if folder in (settings.name, settings.version):
                self._complaints.pop(path, None)
            else:
                text = f"Model '{settings.name}' is in a folder of another name, '{folder}' ({path})"
                self._complain(path, text)
        return found or self.described_by_environment()

    def described_by_environment(self) -> builtins.list[ModelSettings]:
        """The model that needs no file, if the environment describes one."""
        try:
            return [with_parameters(ModelSettings())]  # the environment gives the rest
        except ValidationError as exc:
            if all(fault["type"] == "missing" for fault in exc.errors()):
                return []  # the environment describes no model
            raise

    def _complain(self, path: str, text: str, exc: Exception | None = None) -> None:
        if self._complaints.get(path) == text:
            return  # the index is polled; once is enough until it changes
        self._complaints[path] = text
        if exc is None:
            logger.warning(text)
        else:
            logger.error(text, exc_info=exc)


def find_settings_files(root: str) -> Iterator[str]:
    """Paths of all settings files below `root`, in a stable order.

    Links are followed, except back to a folder that contains them; folders whose name starts with a dot are
    left out. What cannot be read, or vanishes meanwhile, is passed over.
    """
    return _walk(root, ())


def _walk(folder: str, parents: tuple[tuple[int, int], ...]) -> Iterator[str]:
    try:
        status = os.stat(folder)
        with os.scandir(folder) as entries:
            children = sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as exc:
        logger.warning("Cannot look for models in %s: %s", folder, exc.strerror)
        return
    identity = (status.st_dev, status.st_ino)
    if identity in parents:
        return
    folders = []
    for child in children:
        try:
            if child.name == DEFAULT_MODEL_SETTINGS_FILENAME and child.is_file():
                yield child.path
            elif not child.name.startswith(".") and child.is_dir():
                folders.append(child.path)
        except OSError:
            continue
    for inner in folders:
        yield from _walk(inner, (*parents, identity))
