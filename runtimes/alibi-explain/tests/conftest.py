"""Models and their explainers are trained, fitted and saved once for all tests."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from tests.heavy import mark_all

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if importlib.util.find_spec("alibi") is None:
    # In an environment of their own: `make test-runtimes-alibi-explain`.
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_all(items, Path(__file__).parent, warnings="ignore", seconds=600)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each explainer, and `models` with the models that they explain."""
    from explained import save_all

    folder = tmp_path_factory.mktemp("saved")
    save_all(folder)
    return folder
