"""Detectors are fitted and saved once for all tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.heavy import mark_all

if importlib.util.find_spec("alibi_detect") is None:
    # In an environment of their own: `make test-runtimes-alibi-detect`.
    collect_ignore_glob = ["test_*.py"]

Load = Callable[..., Awaitable[Any]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_all(items, Path(__file__).parent, warnings="ignore", seconds=600)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each detector."""
    from detectors import save_all

    folder = tmp_path_factory.mktemp("saved")
    save_all(folder)
    return folder


@pytest.fixture
def load(saved: Path) -> Load:
    """Loads a detector by its name; keywords are its settings in `parameters.extra`."""

    async def load(name: str, uri: Path | None = None, **extra: Any) -> Any:
        from mlserver_alibi_detect import AlibiDetectRuntime

        from mlserver import ModelSettings
        from mlserver.settings import ModelParameters

        parameters = ModelParameters(uri=str(uri or saved / name), version="v1", extra=extra)
        model = AlibiDetectRuntime(
            ModelSettings(name=name, implementation=AlibiDetectRuntime, parameters=parameters)
        )
        model.ready = await model.load()
        return model

    return load
