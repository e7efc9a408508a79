"""Artefacts that are trained here and now, and models that serve them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import joblib
import pytest
from mlserver_sklearn import SKLearnModel

from mlserver import ModelSettings
from mlserver.settings import ModelParameters

Serve = Callable[..., Awaitable[SKLearnModel]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Saves an estimator and gives the model that loaded it. Keywords go into its settings or parameters."""

    async def serve(estimator: Any, extra: dict[str, Any] | None = None, **settings: Any) -> SKLearnModel:
        path = tmp_path / "model.joblib"
        joblib.dump(estimator, path)
        content_type = settings.pop("content_type", None)
        parameters = ModelParameters(uri=str(path), version="v1", content_type=content_type, extra=extra)
        model = SKLearnModel(
            ModelSettings(name="m", implementation=SKLearnModel, parameters=parameters, **settings)
        )
        model.ready = await model.load()
        return model

    return serve
