"""Versions of libraries: those that saved a model, and those that are installed."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from importlib import metadata

__all__ = ["differences"]

_RELEASE = re.compile(r"(\d+)(?:\.(\d+))?")


def differences(saved_with: Mapping[str, str]) -> list[str]:
    """What is installed in another major or minor version than the one that saved a model.

    Such as `scikit-learn 1.3.2 (1.9.1 is installed)`. What is not installed, or has no version that can be
    compared, is left out.
    """
    found = []
    for name, saved in saved_with.items():
        installed = _installed(name)
        if installed is not None and _differ(saved, installed):
            found.append(f"{name} {saved} ({installed} is installed)")
    return found


def _installed(name: str) -> str | None:
    if name == "python":
        return platform.python_version()
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _differ(saved: str, installed: str) -> bool:
    one, other = _RELEASE.match(saved), _RELEASE.match(installed)
    if one is None or other is None:
        return False
    # Some files tell the major version only.
    return one[1] != other[1] or (None not in (one[2], other[2]) and one[2] != other[2])
