"""Models that MLflow saves here and now, and servers that serve them.

MLflow is no dependency of the server, so an environment without it collects nothing here: these tests are run
by `make test-runtimes-mlflow`.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.heavy import mark_all

if importlib.util.find_spec("mlflow") is None:
    collect_ignore_glob = ["test_*.py"]
if TYPE_CHECKING:
    from mlserver_mlflow import MLflowRuntime

# No test is anybody's business but ours; what it logs goes nowhere.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"

Load = Callable[..., Awaitable["MLflowRuntime"]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_all(items, Path(__file__).parent, warnings="default", seconds=300)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each model of `saving`, as `mlflow.*.save_model` leaves it."""
    import mlflow
    import saving

    folder = tmp_path_factory.mktemp("saved")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    saving.save_all(folder)
    return folder


@pytest.fixture
def load(saved: Path) -> Load:
    """Gives the runtime that has loaded a model. Keywords go into its parameters, or into its settings."""

    async def load(name: str | Path, **values: Any) -> MLflowRuntime:
        from mlserver_mlflow import MLflowRuntime

        from mlserver import ModelSettings
        from mlserver.settings import ModelParameters

        parameters = ModelParameters(
            uri=str(saved / name),
            version="v1",
            content_type=values.pop("content_type", None),
            extra=values.pop("extra", None),
        )
        settings = ModelSettings(name="m", implementation=MLflowRuntime, parameters=parameters, **values)
        model = MLflowRuntime(settings)
        model.ready = await model.load()
        return model

    return load
