"""Spark takes its time: models are trained and saved once for all tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from spark_models import Saved, train


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    from mlserver_mllib import session

    yield session.acquire({"spark.master": "local[2]"})
    session.release()


@pytest.fixture(scope="session")
def saved(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saved]:
    from mlserver_mllib.artefact import FORMATS

    folder = tmp_path_factory.mktemp("saved")
    models = train(spark)
    for name, model in models.items():
        if name in FORMATS:
            model.save(spark.sparkContext, f"file://{folder}/{name}")
        else:
            model.save(f"file://{folder}/{name}")
    yield Saved(folder, spark, models)
    models.clear()  # before their JVM goes


@pytest.fixture
async def load(saved: Saved) -> AsyncIterator[Callable[..., Any]]:
    """Loads a model that was saved under a name. Keywords go into its parameters."""
    from mlserver_mllib import MLlibModel

    from mlserver import ModelSettings
    from mlserver.settings import ModelParameters

    loaded = []

    async def load(name: str, **parameters: Any) -> Any:
        uri = parameters.pop("uri", str(saved.folder / name))
        settings = ModelSettings(
            name="m",
            implementation=MLlibModel,
            parameters=ModelParameters(uri=uri, version="v1", **parameters),
        )
        model = MLlibModel(settings)
        model.ready = await model.load()
        loaded.append(model)
        return model

    yield load
    for model in loaded:
        await model.unload()
