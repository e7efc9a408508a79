"""Where settings come from, and what is wrong with those that cannot be used."""
# ruff: noqa: N802 - functions with an R are named after the ids of faults that users met

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from huggingface_asking import Serve
from mlserver_huggingface import HuggingFaceRuntime
from mlserver_huggingface.common import load_pipeline_from_settings
from mlserver_huggingface.errors import (
    InvalidHuggingFaceSettings,
    InvalidModelParameter,
    InvalidModelParameterType,
    InvalidTransformersTask,
    MissingHuggingFaceSettings,
    OptimumNotInstalled,
)
from mlserver_huggingface.settings import HuggingFaceSettings, get_huggingface_settings

from mlserver import ModelSettings
from mlserver.errors import MLServerError
from mlserver.executor import Executor
from mlserver.settings import ModelParameters


def settings(extra: dict[str, Any] | None) -> HuggingFaceSettings:
    parameters = ModelParameters(extra=extra)
    return get_huggingface_settings(
        ModelSettings(name="m", implementation=HuggingFaceRuntime, parameters=parameters)
    )


def seldon(*parameters: tuple[str, Any, str]) -> str:
    return json.dumps([{"name": name, "value": value, "type": kind} for name, value, kind in parameters])


def test_defaults() -> None:
    found = settings({})
    assert (found.task, found.task_suffix, found.optimum_model, found.device) == ("", "", False, None)
    assert (found.pretrained_model, found.model_kwargs, found.framework, found.batch_size) == (
        None,
        None,
        None,
        32,
    )


def test_the_file_beats_the_environment_and_seldon_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSERVER_MODEL_HUGGINGFACE_TASK", "fill-mask")
    monkeypatch.setenv("MLSERVER_MODEL_HUGGINGFACE_DEVICE", "-1")
    monkeypatch.setenv("MLSERVER_MODEL_HUGGINGFACE_MODEL_KWARGS", '{"load_in_8bit": true}')
    found = settings({"task": "translation", "task_suffix": "_en_to_fr"})
    assert (found.task_name, found.device, found.model_kwargs) == (
        "translation_en_to_fr",
        -1,
        {"load_in_8bit": True},
    )
    assert settings({}).task == "fill-mask"
    parameters = seldon(
        ("task", "text-generation", "STRING"),
        ("optimum_model", "true", "BOOL"),
        ("device", "0", "INT"),
        ("batch_size", "4", "INT"),
    )
    monkeypatch.setenv("PREDICTIVE_UNIT_PARAMETERS", parameters)
    for extra in ({"task": "translation", "framework": "pt"}, None):
        found = settings(extra)
        assert (found.task, found.optimum_model, found.device, found.batch_size) == (
            "text-generation",
            True,
            0,
            4,
        )
        assert found.framework == (None if extra is None else "pt")


def test_without_any() -> None:
    with pytest.raises(MissingHuggingFaceSettings) as caught:
        settings(None)
    assert caught.value.status_code == 400


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        (seldon(("device", "many", "INT")), InvalidModelParameter, "device with value many .* INT"),
        (seldon(("optimum_model", "maybe", "BOOL")), InvalidModelParameter, "optimum_model .* BOOL"),
        (seldon(("task", "x", "TEXT")), InvalidModelParameterType, "TEXT"),
        ("{", InvalidHuggingFaceSettings, "PREDICTIVE_UNIT_PARAMETERS is not a JSON list"),
        ('{"a": 1}', InvalidHuggingFaceSettings, "PREDICTIVE_UNIT_PARAMETERS is not a JSON list"),
    ],
)
def test_parameters_that_are_none(
    text: str, error: type[MLServerError], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREDICTIVE_UNIT_PARAMETERS", text)
    with pytest.raises(error, match=match):
        settings({})


@pytest.mark.parametrize(
    ("extra", "error", "match"),
    [
        ({"task": "make-coffee"}, InvalidTransformersTask, "'make-coffee'.*text-classification"),
        ({"task": ""}, InvalidTransformersTask, "''"),
        ({"batch_size": 0}, InvalidHuggingFaceSettings, "batch_size: "),
        ({"optimum_model": "perhaps"}, InvalidHuggingFaceSettings, "optimum_model: "),
        ({"device": "cuda:7"}, InvalidHuggingFaceSettings, "device: cuda:7"),
        ({"device": "toaster"}, InvalidHuggingFaceSettings, "device: 'toaster'"),
        ({"dtype": "float17"}, InvalidHuggingFaceSettings, "dtype: .*'float17'"),
    ],
)
async def test_settings_that_cannot_be_used(
    serve: Serve, folder_of: Any, extra: dict[str, Any], error: type[MLServerError], match: str
) -> None:
    import torch

    if "cuda" in str(extra.get("device")) and torch.cuda.is_available():
        pytest.skip("here is a GPU")
    task = extra.pop("task", "text-classification")
    with pytest.raises(error, match=match) as caught:
        await serve(task, folder_of("text-classification"), **extra)
    assert caught.value.status_code == 400


async def test_C12_optimum_is_named_where_it_is_missing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "optimum", None)
    with pytest.raises(OptimumNotInstalled, match=r"mlserver-huggingface\[optimum\]"):
        await serve("text-classification", optimum_model=True)


async def test_a_folder_without_a_model(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(MLServerError, match="cannot be loaded for task 'text-classification'") as caught:
        await serve("text-classification", tmp_path)
    assert caught.value.status_code == 500
    with pytest.raises(MLServerError, match="Invalid URI specified for model m") as caught:
        await serve("text-classification", tmp_path / "nowhere")
    assert caught.value.status_code == 422


async def test_pretrained_beats_the_folder(serve: Serve, folder_of: Any, tmp_path: Path) -> None:
    folder = str(folder_of("text-classification"))
    model = await serve("text-classification", tmp_path, pretrained_model=folder, pretrained_tokenizer=folder)
    assert model._model.model.name_or_path == folder


async def test_a_folder_seen_from_where_the_server_was_started(
    serve: Serve, folder_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of("text-classification")
    monkeypatch.chdir(folder.parent)
    model = await serve("text-classification", folder.name)
    assert model._model.model.name_or_path == folder.name


async def test_metadata(serve: Serve) -> None:
    declared = {"inputs": [{"name": "mine", "datatype": "BYTES", "shape": [-1]}]}
    model = await serve("image-classification", settings=declared)
    metadata = await model.metadata()
    assert metadata.platform == "huggingface"
    assert [
        (t.name, t.datatype, list(t.shape), t.parameters and t.parameters.content_type)
        for t in metadata.inputs
    ] == [
        ("mine", "BYTES", [-1], None),
        ("inputs", "BYTES", [-1], "str"),
        ("inputs", "BYTES", [-1], "base64"),
        ("inputs", "BYTES", [-1], "pillow_image"),
    ]
    assert metadata.outputs == []


def test_models_that_load_at_the_same_time(folder_of: Any) -> None:
    tasks = ["text-classification", "summarization", "fill-mask", "question-answering"] * 3
    folders = {task: str(folder_of(task)) for task in tasks}

    def load(task: str) -> Any:
        return load_pipeline_from_settings(HuggingFaceSettings(task=task, device="cpu"), folders[task])

    with ThreadPoolExecutor(6) as threads:
        pipes = list(threads.map(load, tasks))
    assert all(pipe.model.device.type == "cpu" for pipe in pipes)


@pytest.mark.parametrize(
    ("task", "extra", "merges"),
    [
        ("text-classification", {}, True),
        ("text-classification", {"batch_size": 1}, False),
        ("token-classification", {}, False),
        ("text-generation", {}, False),
    ],
)
async def test_the_core_merges_where_a_row_answers_a_text(
    serve: Serve, task: str, extra: dict[str, Any], merges: bool
) -> None:
    model = await serve(task, None, {"max_batch_size": 8, "max_batch_time": 0.1}, **extra)
    executor = Executor(model, {})
    assert executor.merges is merges
    assert executor.max_rows == 8 or not merges


async def test_unload_gives_back_what_load_took(serve: Serve) -> None:
    model = await serve("text-generation")
    await model.unload()
    assert not hasattr(model, "_model")
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith(("pipeline", "stream_")) for name in names)
