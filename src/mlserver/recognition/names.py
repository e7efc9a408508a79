"""The name of a model that has no settings to give it one."""

from __future__ import annotations

import os
import re

__all__ = ["name_of"]

# Names of files and folders that say nothing about what is in them.
_GENERIC = frozenset(
    (
        *("model", "models", "mlmodel", "saved_model", "export", "exported", "output", "snapshots"),
        *("artifact", "artifacts", "artefact", "artefacts", "pipeline", "estimator", "booster"),
        *("classifier", "regressor", "clf", "pytorch_model", "checkpoint", "config"),
    )
)
_VERSION = re.compile(r"v?\d+([._-]\d+)*|[0-9a-f]{40}")  # of a model, or a commit
_ON_HUB = re.compile(r"models--(?:.*--)?(.+)")  # as the cache of Hugging Face names its folders
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def name_of(path: str) -> str:
    """After the file, or the folder; the first above it that has a name of its own, if that is generic."""
    path = os.path.abspath(path)
    if os.path.isfile(path):
        path = os.path.splitext(path)[0]
    while True:
        path, last = os.path.split(path)
        if not last:
            return "model"
        on_hub = _ON_HUB.fullmatch(last)
        name = _UNSAFE.sub("-", on_hub[1] if on_hub else last).strip("-._")
        if name and name.lower() not in _GENERIC and not _VERSION.fullmatch(name.lower()):
            return name
