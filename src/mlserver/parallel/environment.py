"""The Python environment that a worker runs in: this one, a folder, or a packed one that is unpacked here."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlserver.errors import MLServerError
from mlserver.logging import logger
from mlserver.utils import to_absolute_path

if TYPE_CHECKING:
    from mlserver.settings import ModelSettings, Settings

__all__ = ["Environment", "environment_of", "own_environment"]

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Environment:
    """key: tells environments apart, None for the one that this process runs in. path: what `sys.path` of a
    worker begins with. temporary: a folder to remove with the last worker that uses it.
    """

    python: str
    key: str | None = None
    path: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    temporary: str | None = None

    def remove(self) -> None:
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)


def own_environment() -> Environment:
    # What this process can import, its workers can.
    path = [entry or os.getcwd() for entry in sys.path]
    return Environment(sys.executable, None, path, dict(os.environ))


def environment_of(settings: ModelSettings, server: Settings) -> Environment:
    """Where the settings of a model want it to run. Unpacks what is packed, once, so it may take its time.

    Raises MLServerError naming what cannot be used.
    """
    parameters = settings.parameters
    if parameters is not None and parameters.environment_path:
        path = os.path.abspath(os.path.expandvars(os.path.expanduser(parameters.environment_path)))
        return _in_folder(settings, path, hashlib.sha256(path.encode()).hexdigest())
    if parameters is not None and parameters.environment_tarball:
        tarball = to_absolute_path(settings, parameters.environment_tarball)
        if not os.path.isfile(tarball):
            raise MLServerError(
                f"Model '{settings.name}': there is no `environment_tarball` at {tarball}", 422
            )
        key = _hash_file(tarball)
        folder = os.path.join(os.path.abspath(server.environments_dir), key)
        _unpack(settings, tarball, folder)
        return _in_folder(settings, folder, key, temporary=folder)
    return own_environment()


def _in_folder(settings: ModelSettings, folder: str, key: str, temporary: str | None = None) -> Environment:
    python = os.path.join(folder, "bin", "python")
    if not os.path.isfile(python):
        raise MLServerError(f"Model '{settings.name}': the environment {folder} has no bin/python", 422)
    variables = dict(os.environ)
    variables["PATH"] = os.pathsep.join([os.path.join(folder, "bin"), variables.get("PATH", "")])
    variables["VIRTUAL_ENV"] = folder
    # These would lead its interpreter to the packages of this one.
    for name in ("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__"):
        variables.pop(name, None)
    # FOLDER and `.`, which the command line put first, and which its models may import from.
    return Environment(python, key, _own_folders(), variables, temporary)


def _own_folders() -> list[str]:
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    folders = []
    for entry in sys.path:
        path = os.path.abspath(entry or ".")
        if os.path.isdir(path) and not path.startswith(prefixes) and not _holds_this_package(path):
            folders.append(path)
    return folders


def _holds_this_package(path: str) -> bool:
    return os.path.isfile(os.path.join(path, "mlserver", "__init__.py"))


def _hash_file(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _unpack(settings: ModelSettings, tarball: str, folder: str) -> None:
    if os.path.isdir(folder):
        return
    parent = os.path.dirname(folder)
    os.makedirs(parent, exist_ok=True)
    logger.info("Model '%s': unpacking %s", settings.name, tarball)
    # Beside its place first: what is there is there as a whole.
    with tempfile.TemporaryDirectory(dir=parent) as unpacked:
        try:
            with tarfile.open(tarball) as archive:
                _extract(archive, unpacked)
        except (tarfile.TarError, OSError) as exc:
            text = f"Model '{settings.name}': `environment_tarball` {tarball} cannot be unpacked: {exc}"
            raise MLServerError(text, 422) from exc
        try:
            os.rename(unpacked, folder)
        except OSError:
            if not os.path.isdir(folder):  # somebody else was quicker, else
                raise
        else:
            os.mkdir(unpacked)  # for the context manager to remove


def _extract(archive: tarfile.TarFile, folder: str) -> None:
    if hasattr(tarfile, "tar_filter"):
        # Links to an interpreter outside are part of what tools pack; paths that leave the folder are not.
        archive.extraction_filter = staticmethod(tarfile.tar_filter)
    archive.extractall(folder)
