"""Tests of runtimes whose frameworks are slow to start, and warn of much that is not ours to change."""

from __future__ import annotations

from pathlib import Path

import pytest

__all__ = ["mark_all"]


def mark_all(items: list[pytest.Item], folder: Path, *, warnings: str, seconds: int) -> None:
    """Let the tests below a folder take so long. warnings: what is done with these."""
    for item in items:
        if folder in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(warnings))
            item.add_marker(pytest.mark.timeout(seconds))
