"""Whether a file may be loaded: the settings of the server and of a model, and what the file would run.

Where paths of artefacts are resolved and where code is imported from a model's folder, this is asked before
anything is read. The settings of the server are those of the process, as for logging: `configure`.
"""

from __future__ import annotations

import fnmatch
import importlib.machinery
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlparse

from mlserver.audit import files
from mlserver.audit.files import File
from mlserver.audit.pickles import HARMLESS, is_class, is_dangerous, shown
from mlserver.errors import MLServerError
from mlserver.logging import logger

if TYPE_CHECKING:
    from mlserver.settings import ModelSettings, Settings

__all__ = [
    "ENVIRONMENT",
    "PACKAGES",
    "TRUST_SETTINGS",
    "Policy",
    "UntrustedArtefact",
    "artefact_files",
    "check_artefact",
    "check_code",
    "check_environment",
    "close_path",
    "code_files",
    "configure",
    "policy_of",
]

Mode = Literal["allow", "warn", "refuse"]

# Settings of the server that decide here; workers are told them.
TRUST_SETTINGS = {"unsafe_artefacts", "trusted_digests", "trusted_classes", "trust_model_settings"}

ENVIRONMENT = "a Python environment"
PACKAGES = "a list of packages, which run code when they are installed"

_SHOWN_NAMES = 3


class UntrustedArtefact(MLServerError):
    """A file runs code when it is loaded, and the settings do not let it."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"Model {model}: {reason}", 422)


@dataclass(frozen=True, slots=True)
class Policy:
    """What is trusted. pins: if there are any, what is loaded has one of them, whatever the mode."""

    mode: Mode = "allow"
    pins: frozenset[str] = frozenset()
    digests: frozenset[str] = frozenset()
    classes: tuple[str, ...] = ()

    @property
    def asks(self) -> bool:
        """Whether any file has to be looked at."""
        return self.mode != "allow" or bool(self.pins)

    def distrusted(self, names: Iterable[str]) -> list[str]:
        """Those that are on no list, the dangerous first."""
        left = [name for name in names if not self._trusts(name)]
        return sorted(left, key=lambda name: (not is_dangerous(name), name))

    def _trusts(self, name: str) -> bool:
        if name in HARMLESS or name in self.classes:
            return True
        # A pattern means classes of a package: neither its functions, one of which may well call eval, nor
        # what its modules happen to import.
        return (
            is_class(name)
            and not is_dangerous(name)
            and any(fnmatch.fnmatchcase(name, pattern) for pattern in self.classes)
        )

    def mismatch(self, file: File) -> str | None:
        """Why this file is not one of those that are pinned; None if it is, or need not be."""
        if not self.pins or file.sha256 in self.pins or not (file.is_model or file.runs_code):
            return None
        return f"{file.path} ({file.sha256}) has none of the digests that `trusted_digests` of the model list"

    def refusal(self, file: File) -> str | None:
        """Why this file is not loaded under `refuse`; None if it is."""
        if file.sha256 in self.digests or file.sha256 in self.pins or not file.runs_code:
            return None
        what = f"{file.path} ({file.sha256})"
        pin = f'add "{file.sha256}" to `trusted_digests`'
        if file.is_code:
            return f"{what} is {file.format}, which runs when the model is loaded; to let it, {pin}"
        if file.undecided:
            return f"{what} may run anything when it is loaded: {file.undecided[0]}; to load it, {pin}"
        left = self.distrusted(file.names)
        if not left:
            return None
        more = f" and {len(left) - _SHOWN_NAMES} more" if len(left) > _SHOWN_NAMES else ""
        first = ", ".join(map(shown, left[:_SHOWN_NAMES]))
        return (
            f"{what}, a {file.format}, imports and may run {first}{more}; to load it, {pin}, "
            "or name what it imports in `trusted_classes`"
        )


_server: Settings | None = None


def configure(settings: Settings) -> None:
    """Let these settings of a server decide in this process."""
    global _server
    _server = settings


def policy_of(model: ModelSettings, server: Settings | None = None) -> Policy:
    """What is trusted for a model. server: settings to go by, else those of the process."""
    server = server or _server
    mode: Mode = "allow" if server is None else server.unsafe_artefacts
    digests = [] if server is None else server.trusted_digests
    classes = [] if server is None else server.trusted_classes
    if server is not None and not server.trust_model_settings:
        return Policy(mode, frozenset(), frozenset(digests), tuple(classes))
    return Policy(
        model.unsafe_artefacts or mode,
        frozenset(model.trusted_digests),
        frozenset(digests),
        (*classes, *model.trusted_classes),
    )


# Artefacts


def check_artefact(model: ModelSettings, path: str, *, code: bool = False) -> None:
    """Look at an artefact before it is loaded: a file, a folder, or the URI of another place.

    code: the library runs Python files in it as well. Raises UntrustedArtefact.
    """
    policy = policy_of(model)
    if not policy.asks:
        return
    if urlparse(path).scheme not in ("", "file") or not os.path.exists(path):
        _decide(
            policy, model, f"{path} is not on this machine yet, so what it runs cannot be told", policy.pins
        )
        return
    # MLflow's file stands for its folder.
    alone = os.path.isfile(path) and os.path.basename(path) != files.MLMODEL
    for file in _inspected(policy, model, artefact_files(path, code=code)):
        file.is_model = file.is_model or alone
        _judge(policy, model, file)


def artefact_files(path: str, *, code: bool = False) -> Iterator[tuple[str, bool]]:
    """Files that loading an artefact may read, and whether each is run as code."""
    if os.path.basename(path) == files.MLMODEL:
        path = os.path.dirname(path) or "."
    if not os.path.isdir(path):
        yield path, False
        return
    found = list(files.files_of(path))
    for each in found:
        # MLflow puts code beside the model, and imports it.
        beside = [inner for inner in _above(each, path) if os.path.isfile(os.path.join(inner, files.MLMODEL))]
        if not files.is_code(each):
            # With code of others, a configuration may name more of it, in other places.
            yield each, code and each.endswith(".json")
        elif code or beside:
            yield each, True


def _above(file: str, root: str) -> Iterator[str]:
    folder = os.path.dirname(file)
    while folder.startswith(root.rstrip(os.sep)) and folder:
        yield folder
        folder = os.path.dirname(folder)


def _inspected(policy: Policy, model: ModelSettings, found: Iterable[tuple[str, bool]]) -> Iterator[File]:
    for path, is_code in found:
        try:
            yield files.inspect_code(path) if is_code else files.inspect(path)
        except OSError as exc:
            _decide(policy, model, f"{path} cannot be read: {exc.strerror or exc}", policy.pins)


def _judge(policy: Policy, model: ModelSettings, file: File) -> None:
    mismatch = policy.mismatch(file)
    if mismatch is not None:
        raise UntrustedArtefact(model.name, mismatch)
    reason = policy.refusal(file)
    if reason is not None:
        _decide(policy, model, reason)


def _decide(policy: Policy, model: ModelSettings, reason: str, pinned: Any = False) -> None:
    """pinned: that it is not known to be what was pinned is reason enough."""
    if policy.mode == "refuse" or pinned:
        raise UntrustedArtefact(model.name, f"`unsafe_artefacts` refuses it: {reason}")
    if policy.mode == "warn":
        logger.warning("Model '%s': `unsafe_artefacts` would refuse it: %s", model.name, reason)


# Code beside the settings of a model


def check_code(model: ModelSettings, import_path: str) -> str | None:
    """Look at code before it is imported. Returns the folder whose modules may come first; None for none.

    Where code is not simply allowed, a class that is installed is imported without the model's folder: a file
    there cannot take the place of an installed module. Raises UntrustedArtefact.
    """
    folder = os.path.dirname(os.path.abspath(model._source)) if model._source else None
    policy = policy_of(model)
    if not policy.asks:
        return folder
    found = code_files(model, import_path)
    for file in _inspected(policy, model, ((path, True) for path in found)):
        _judge(policy, model, file)
    return folder if found or policy.mode == "warn" else None


def code_files(model: ModelSettings, import_path: str, roots: Sequence[str] = ()) -> list[str]:
    """The files that importing a class may run, beyond what is installed; empty if it is installed.

    roots: folders that are on the path of the server, besides those that are on the path of this process.
    """
    top = import_path.partition(":")[0].partition(".")[0]
    folder = os.path.dirname(os.path.abspath(model._source)) if model._source else None
    if folder is not None and _module(folder, top):
        return [path for path in files.files_of(folder) if files.is_code(path)]
    for root in [*roots, *_local_path(folder)]:
        found = _module(root, top)
        if found is not None and os.path.isdir(found):
            return [path for path in files.files_of(found) if files.is_code(path)]
        if found is not None:
            return [found]
    return []


def _local_path(folder: str | None) -> Iterator[str]:
    """Entries of `sys.path` where nothing is installed: the working directory, and what holds the model."""
    here = os.getcwd()
    for entry in sys.path:
        path = os.path.abspath(entry or ".")
        holds = folder is not None and os.path.commonpath([path, folder]) == path
        if os.path.isdir(path) and (path == here or holds):
            yield path


def _module(folder: str, name: str) -> str | None:
    """The file or folder that `name` would be imported from, if it is in this folder."""
    package = os.path.join(folder, name)
    if os.path.isdir(package) and any(files.is_code(path) for path in files.files_of(package)):
        return package
    for suffix in importlib.machinery.all_suffixes():
        if os.path.isfile(package + suffix):
            return package + suffix
    return None


# Environments


def check_environment(model: ModelSettings, path: str, what: str) -> None:
    """Look at what an environment is made of, before it is. Raises UntrustedArtefact."""
    policy = policy_of(model)
    if not policy.asks:
        return
    if os.path.isdir(path):
        folder = os.path.dirname(os.path.abspath(model._source)) if model._source else None
        if folder is not None and os.path.commonpath([os.path.abspath(path), folder]) == folder:
            _decide(policy, model, f"{path} is {what} in the model's own folder; move it elsewhere to use it")
        return
    for file in _inspected(policy, model, [(path, True)]):
        file.format = what
        _judge(policy, model, file)


# Folders that are importable


def close_path(*folders: str) -> None:
    """Take these folders, and the one that the server was started in, off `sys.path`."""
    closed = {os.path.realpath(folder) for folder in (*folders, os.getcwd())}
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") not in closed]
