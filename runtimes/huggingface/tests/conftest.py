"""Models that are made here and now, each once, and runtimes that serve them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import huggingface_models as tiny
import pytest
from huggingface_asking import Serve
from mlserver_huggingface import HuggingFaceRuntime

from mlserver import ModelSettings
from mlserver.settings import ModelParameters


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small model for a task."""
    made: dict[str, Path] = {}

    def folder_of(task: str) -> Path:
        if task not in made:
            made[task] = tiny.save(task, tmp_path_factory.mktemp(task))
        return made[task]

    return folder_of


@pytest.fixture
async def serve(folder_of: Callable[[str], Path]) -> AsyncIterator[Serve]:
    """Loads a runtime for a task. Keywords go into `parameters.extra`, `settings` into those of the model."""
    loaded = []

    async def serve(
        task: str, folder: Path | str | None = None, settings: dict[str, Any] | None = None, **extra: Any
    ) -> HuggingFaceRuntime:
        parameters = ModelParameters(
            uri=str(folder or folder_of(task)), version="v1", extra={"task": task, "device": "cpu", **extra}
        )
        model = HuggingFaceRuntime(
            ModelSettings(
                name="m", implementation=HuggingFaceRuntime, parameters=parameters, **(settings or {})
            )
        )
        model.ready = await model.load()
        loaded.append(model)
        return model

    yield serve
    for model in loaded:
        await model.unload()
