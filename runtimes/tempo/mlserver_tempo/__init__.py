"""Tempo's models and pipelines in MLServer.

Tempo was written for pydantic 1. Its modules find that inside of pydantic 2 (`pydantic.v1`); all others go on
to find pydantic 2. Imported when an interpreter starts, so this imports next to nothing.
"""

from __future__ import annotations

import sys
from typing import Any

from mlserver_tempo.version import __version__

__all__ = ["__version__", "install"]


class _TempoFinder:
    """Finds Tempo's modules, and nothing else, where they are found anyway."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if name != "tempo" and not name.startswith("tempo."):
            return None
        from mlserver_tempo.loading import find_spec

        return find_spec(name, path, target)


def install() -> None:
    """From now on, Tempo can be imported next to pydantic 2."""
    if _TempoFinder not in sys.meta_path:
        sys.meta_path.insert(0, _TempoFinder)


install()
