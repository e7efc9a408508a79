"""Saved models that are a folder, and folders that hold one saved model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

from mlserver.recognition.artefact import Artefact, Unrecognised
from mlserver.recognition.files import recognise_file

__all__ = ["artefact_at"]

HUGGINGFACE = "mlserver_huggingface.HuggingFaceRuntime"
MLFLOW = "mlserver_mlflow.MLflowRuntime"

_SETTINGS = frozenset(("model-settings.json", "settings.json"))
_MLMODEL = "MLmodel"
_CONFIG = "config.json"

_MLFLOW_VERSION = re.compile(r"^\s*(\w+)_version:\s*['\"]?(\d[\w.+]*)", re.MULTILINE)
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "xgb": "xgboost", "lgb": "lightgbm", "pytorch": "torch"}

# From the class that a configuration names to the task of its pipeline: the first that fits.
_SPEECH = "Wav2Vec2|Hubert|WavLM|UniSpeech|SEW|Data2VecAudio"
_TEXT_TO_TEXT = "T5|MT5|UMT5|LongT5|Bart|MBart|LED|Pegasus|Marian|Blenderbot|M2M100|FSMT"
_TASKS = [
    (re.compile(pattern), task)
    for pattern, task in (
        (
            r"\w+ForCTC|(Whisper|Speech2Text)ForConditionalGeneration",
            "automatic-speech-recognition",
        ),
        (rf"\w+ForAudioClassification|({_SPEECH})\w*ForSequenceClassification", "audio-classification"),
        (r"\w+ForSequenceClassification", "text-classification"),
        (r"\w+ForTokenClassification", "token-classification"),
        (r"TapasForQuestionAnswering", "table-question-answering"),
        (r"ViltForQuestionAnswering", "visual-question-answering"),
        (r"\w+ForQuestionAnswering(Simple)?", "question-answering"),
        (r"\w+ForMaskedLM", "fill-mask"),
        (r"\w+(ForCausalLM|LMHeadModel)", "text-generation"),
        (rf"({_TEXT_TO_TEXT})\w*ForConditionalGeneration|MarianMTModel", "text2text-generation"),
        (r"\w+ForImageClassification(WithTeacher)?", "image-classification"),
        (r"\w+ForObjectDetection", "object-detection"),
        (r"\w+For(Image|Semantic|Instance|Universal)Segmentation", "image-segmentation"),
        (r"[A-Za-z0-9]+Model", "feature-extraction"),
    )
]


def artefact_at(path: str) -> Artefact | None:
    """The saved model that a file or folder is, or the only one that a folder holds, at any depth.

    None for a folder with settings in it, or with nothing in it, which is how a repository starts that is
    filled later. Raises Unrecognised for anything else, and OSError for what cannot be read.
    """
    path = os.path.abspath(path)
    if os.path.isfile(path):
        if os.path.basename(path) == _MLMODEL:
            return _mlflow(os.path.dirname(path))
        if os.path.basename(path) in _SETTINGS:
            raise Unrecognised(path, "settings, which are served by their folder")
        return recognise_file(path)
    return _whole_folder(path) or _only_one_below(path)


def _only_one_below(folder: str) -> Artefact | None:
    artefacts: list[Artefact] = []
    others: list[str] = []
    refusal: Unrecognised | None = None
    for entry in _entries_below(folder):
        if os.path.basename(entry) in _SETTINGS:
            return None
        try:
            artefact = _whole_folder(entry) if os.path.isdir(entry) else recognise_file(entry)
        except Unrecognised as exc:
            refusal, artefact = exc, None
        except OSError:
            artefact = None  # a link to nowhere, or nothing that we may read
        if artefact is not None:
            artefacts.append(artefact)
        else:
            others.append(os.path.relpath(entry, folder))
    if len(artefacts) == 1:
        return artefacts[0]
    if artefacts:
        names = _listed([os.path.relpath(artefact.path, folder) for artefact in artefacts])
        found = f"it holds {len(artefacts)} models ({names}): give the path of one, or settings to each"
        raise Unrecognised(folder, found)
    if len(others) == 1 and refusal is not None:
        raise Unrecognised(folder, f"it holds {others[0]} alone: {refusal.found}")
    if others:
        raise Unrecognised(folder, f"it holds no model, but {_listed(others)}")
    return None


def _entries_below(folder: str) -> Iterator[str]:
    """Files at any depth, and folders that are a model as a whole, which are not looked into."""
    for parent, folders, files in os.walk(folder):
        for path in (os.path.join(parent, name) for name in sorted(files) if not name.startswith(".")):
            if os.path.isfile(path) or os.path.islink(path):  # and not a pipe, whose reader waits for ever
                yield path
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for name in list(folders):
            below = os.path.join(parent, name)
            if _is_model(below):
                folders.remove(name)
                yield below


def _is_model(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, _MLMODEL)) or _config(folder) is not None


def _whole_folder(folder: str) -> Artefact | None:
    """The model that a folder is as a whole. Raises Unrecognised where nothing serves it."""
    try:
        names = set(os.listdir(folder))
    except NotADirectoryError:
        return None
    if names & _SETTINGS:
        return None
    if os.path.isfile(os.path.join(folder, _MLMODEL)):
        return _mlflow(folder)
    config = _config(folder)
    return None if config is None else _huggingface(folder, config)


def _mlflow(folder: str) -> Artefact:
    with open(os.path.join(folder, _MLMODEL), encoding="utf-8", errors="replace") as file:
        text = file.read()
    if "python_function" not in text:
        raise Unrecognised(folder, "an MLflow model without the flavour python_function")
    saved_with = {_DISTRIBUTIONS.get(name, name): version for name, version in _MLFLOW_VERSION.findall(text)}
    return Artefact(folder, "an MLflow model", MLFLOW, saved_with=saved_with)


def _config(folder: str) -> dict[str, Any] | None:
    """The configuration of a model of transformers."""
    config = _read_json(os.path.join(folder, _CONFIG))
    return config if "model_type" in config or "architectures" in config else None


def _huggingface(folder: str, config: dict[str, Any]) -> Artefact:
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list):
        architectures = [architectures]
    tasks = [task for name in architectures for pattern, task in _TASKS if pattern.fullmatch(str(name))]
    if not tasks:
        kind = ", ".join(map(str, architectures)) or config.get("model_type")
        raise Unrecognised(
            folder,
            f"a Hugging Face model ({kind}) that does not tell its task: name it in a model-settings.json "
            "(parameters.extra.task)",
        )
    version = config.get("transformers_version")
    return Artefact(
        folder,
        f"a Hugging Face model ({architectures[0]}, for {tasks[0]})",
        HUGGINGFACE,
        saved_with={"transformers": version} if isinstance(version, str) else {},
        extra={"task": tasks[0]},
        text=f"The fox is {_mask_token(folder)}." if tasks[0] == "fill-mask" else None,
    )


def _mask_token(folder: str) -> str:
    token = _read_json(os.path.join(folder, "tokenizer_config.json")).get("mask_token", "[MASK]")
    return str(token["content"] if isinstance(token, dict) and "content" in token else token)


def _read_json(path: str) -> dict[str, Any]:
    """The object in a file; an empty one where there is none."""
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _listed(names: list[str], most: int = 5) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
