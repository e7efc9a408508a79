"""Models and their explainers are trained, fitted and saved once for all tests."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if importlib.util.find_spec("alibi") is None:
    # In an environment of their own: `make test-runtimes-alibi-explain`.
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            # Alibi, and what it imports, warn of much that is not ours to change.
            item.add_marker(pytest.mark.filterwarnings("ignore"))
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each explainer, and `models` with the models that they explain."""
    from explained import save_all

    folder = tmp_path_factory.mktemp("saved")
    save_all(folder)
    return folder
