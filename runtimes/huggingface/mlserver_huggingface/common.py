"""From settings to a pipeline that is loaded, on its device, and able to take several rows at once."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import pipelines

from mlserver.errors import MLServerError
from mlserver.logging import logger
from mlserver_huggingface.errors import (
    InvalidHuggingFaceSettings,
    InvalidOptimumTask,
    InvalidTransformersTask,
    OptimumNotInstalled,
)
from mlserver_huggingface.settings import HuggingFaceSettings
from mlserver_huggingface.tasks import OWN_TASKS, own_pipeline

__all__ = ["load_pipeline_from_settings", "set_threads", "supported_tasks", "unify_task"]


# transformers patches modules of PyTorch, for all threads, while it reads a model: two at a time fail.
_loading = threading.Lock()


def load_pipeline_from_settings(settings: HuggingFaceSettings, folder: str | None = None) -> Any:
    """The pipeline that settings describe. folder: of the model, where settings name no pretrained one.

    Raises InvalidTransformersTask, InvalidOptimumTask, OptimumNotInstalled, InvalidHuggingFaceSettings, and
    whatever transformers raises when it cannot read a model.
    """
    with _loading:
        return _load(settings, settings.pretrained_model or folder)


def _load(settings: HuggingFaceSettings, model: str | None) -> Any:
    tokenizer = settings.pretrained_tokenizer or model
    set_threads(settings)
    if settings.optimum_model:
        return _load_optimum(settings, model, tokenizer)
    task = settings.task_name
    if _known_to_transformers(task):
        return _load_transformers(settings, task, model)
    own = own_pipeline(task)
    if own is None:
        raise InvalidTransformersTask(task, supported_tasks())
    return _load_own(own, settings, task, model, tokenizer)


def supported_tasks() -> set[str]:
    """All tasks that there is a pipeline for, ours or one of the installed transformers."""
    return {*pipelines.get_supported_tasks(), *OWN_TASKS}


def unify_task(task: str) -> str:
    """The name that a task goes by here: without suffix, and no alias."""
    if task.startswith("translation_"):
        return "translation"
    aliases: dict[str, str] = getattr(pipelines.PIPELINE_REGISTRY, "task_aliases", {})
    return aliases.get(task, task)


def set_threads(settings: HuggingFaceSettings) -> None:
    """Threads of PyTorch, for the whole process. What came too late is logged."""
    if settings.intra_op_threads is not None:
        torch.set_num_threads(settings.intra_op_threads)
    inter = settings.inter_op_threads
    if inter is not None and inter != torch.get_num_interop_threads():
        try:
            torch.set_num_interop_threads(inter)
        except RuntimeError:
            logger.warning(
                "inter_op_threads=%d comes too late: PyTorch has computed in this process already", inter
            )


def _known_to_transformers(task: str) -> bool:
    try:
        pipelines.check_task(task)
    except (KeyError, ValueError):
        return False
    return True


def _load_transformers(settings: HuggingFaceSettings, task: str, model: str | None) -> Any:
    options = _from_pretrained_options(settings)
    parameters = inspect.signature(transformers.pipeline).parameters
    if "trust_remote_code" in options:
        options["trust_remote_code"] = bool(options["trust_remote_code"])
    top_level: dict[str, Any] = {
        name: options.pop(name) for name in ("trust_remote_code", "revision") if name in options
    }
    if settings.framework:
        if "framework" in parameters:
            top_level["framework"] = settings.framework
        elif settings.framework != "pt":
            raise InvalidHuggingFaceSettings(
                f"framework: transformers {transformers.__version__} knows PyTorch (`pt`) only"
            )
    if settings.pretrained_tokenizer:
        # Otherwise transformers finds what the model came with, and whether it needs one at all.
        top_level["tokenizer"] = settings.pretrained_tokenizer
    return transformers.pipeline(
        task, model=model, device=_device(settings), model_kwargs=options, **top_level
    )


def _load_own(
    own: Any, settings: HuggingFaceSettings, task: str, model: str | None, tokenizer: str | None
) -> Any:
    if model is None:
        raise InvalidHuggingFaceSettings(f"pretrained_model: task '{task}' has no default model")
    if settings.framework not in (None, "pt"):
        raise InvalidHuggingFaceSettings(f"framework: task '{task}' is served with PyTorch (`pt`) only")
    options = _from_pretrained_options(settings)
    trust = {k: options[k] for k in ("trust_remote_code", "revision") if k in options}
    processor = getattr(transformers, own.auto_processor).from_pretrained(tokenizer, **trust)
    return own(task, _load_model(own.auto_model, model, options), processor, _torch_device(settings))


def _load_model(classes: Iterable[str], model: str, options: dict[str, Any]) -> Any:
    """The model, by the first of the classes of transformers that takes its kind."""
    fault: Exception | None = None
    for name in classes:
        try:
            return getattr(transformers, name).from_pretrained(model, **options)
        except ValueError as exc:
            fault = fault or exc
    assert fault is not None
    raise fault


def _from_pretrained_options(settings: HuggingFaceSettings) -> dict[str, Any]:
    options = dict(settings.model_kwargs or {})
    if settings.dtype is not None:
        dtype = settings.dtype
        if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise InvalidHuggingFaceSettings(f"dtype: PyTorch has no type '{dtype}'")
        # Releases before 4.56 call it by its longer name.
        name = "dtype" if "dtype" in inspect.signature(transformers.pipeline).parameters else "torch_dtype"
        options[name] = dtype if dtype == "auto" else getattr(torch, dtype)
    return options


def _device(settings: HuggingFaceSettings) -> Any:
    """The device as pipelines take it. Raises InvalidHuggingFaceSettings for one that is not there."""
    device: Any = settings.device
    if device is None:
        return 0 if torch.cuda.is_available() else -1
    if isinstance(device, str):
        try:
            device = torch.device(device)
        except RuntimeError as exc:
            raise InvalidHuggingFaceSettings(f"device: '{settings.device}' is none ({exc})") from exc
    wants_cuda = device.type == "cuda" if isinstance(device, torch.device) else device >= 0
    if wants_cuda and not torch.cuda.is_available():
        raise InvalidHuggingFaceSettings(
            f"device: {settings.device} is a GPU, but PyTorch finds no CUDA here"
        )
    return device


def _torch_device(settings: HuggingFaceSettings) -> torch.device:
    device = _device(settings)
    if isinstance(device, int):
        return torch.device("cpu" if device < 0 else f"cuda:{device}")
    return torch.device(device)


def _load_optimum(settings: HuggingFaceSettings, model: str | None, tokenizer: str | None) -> Any:
    try:
        from optimum import pipelines as optimum
    except ImportError as exc:
        raise OptimumNotInstalled(str(exc)) from exc
    known = _optimum_tasks(optimum)
    if known and unify_task(settings.task) not in {unify_task(task) for task in known}:
        raise InvalidOptimumTask(settings.task, known)
    try:
        given = _ort_model(settings, known.get(settings.task), model)
        return optimum.pipeline(settings.task_name, model=given, tokenizer=tokenizer, accelerator="ort")
    except ImportError as exc:
        raise OptimumNotInstalled(str(exc)) from exc


def _optimum_tasks(optimum: Any) -> dict[str, Any]:
    """What optimum knows of the tasks that it has pipelines for, by task; nothing where it does not tell."""
    for name in ("ORT_SUPPORTED_TASKS", "SUPPORTED_TASKS"):
        tasks = getattr(optimum, name, None)
        if tasks:
            return dict(tasks)
    return {}


def _ort_model(settings: HuggingFaceSettings, known: Any, model: str | None) -> Any:
    """The model, loaded where threads are set: a pipeline does not pass them on. Else where it is."""
    inter, intra = settings.inter_op_threads, settings.intra_op_threads
    if model is None or known is None or (inter is None and intra is None):
        return model
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = inter or 0
    options.intra_op_num_threads = intra or 0
    folder = Path(model)
    exported = {"export": True} if folder.is_dir() and not list(folder.glob("*.onnx")) else {}
    return known["class"][0].from_pretrained(model, session_options=options, **exported)


def prepare_padding(pipe: Any, decoder_only: bool) -> bool:
    """Let rows of different length share a batch: with the pad token, or else the end token in its place.

    decoder_only: whether it goes on where a text ends, so that padding must come before it.
    Returns whether rows can be padded. A pipeline without a tokenizer needs no padding.
    """
    tokenizer = getattr(pipe, "tokenizer", None)
    if tokenizer is None or not hasattr(tokenizer, "pad_token_id"):
        return True
    config = getattr(pipe.model, "config", None)
    if tokenizer.pad_token_id is None:
        end = tokenizer.eos_token_id
        if end is None:
            end = getattr(config, "eos_token_id", None)
        if isinstance(end, (list, tuple)):
            end = end[0] if end else None
        if end is None:
            return False
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(end)
        if tokenizer.pad_token_id is None:
            return False
    if getattr(config, "pad_token_id", None) is None and config is not None:
        config.pad_token_id = tokenizer.pad_token_id
    generation = getattr(pipe.model, "generation_config", None)
    if generation is not None and generation.pad_token_id is None:
        generation.pad_token_id = tokenizer.pad_token_id
    if decoder_only:
        tokenizer.padding_side = "left"
    return True


def describe_failure(name: str, settings: HuggingFaceSettings, exc: Exception) -> MLServerError:
    """What to say of a model that transformers cannot load."""
    what = settings.pretrained_model or "the model"
    cause = f"{type(exc).__name__}: {exc}"
    return MLServerError(
        f"Model {name}: {what} cannot be loaded for task '{settings.task_name}': {cause}", 500
    )
