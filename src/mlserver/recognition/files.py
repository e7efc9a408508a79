"""Saved models that are one file, by what is in it; a name only says where to look first."""

from __future__ import annotations

import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable

from mlserver.recognition.artefact import Artefact, Unrecognised
from mlserver.recognition.onnx import describe_onnx
from mlserver.recognition.pickles import PICKLE_START, find_globals, unpacked

__all__ = ["recognise_file"]

CATBOOST = "mlserver_catboost.CatboostModel"
LIGHTGBM = "mlserver_lightgbm.LightGBMModel"
ONNX = "mlserver_onnx.OnnxModel"
SKLEARN = "mlserver_sklearn.SKLearnModel"
TORCH = "mlserver_torch.TorchModel"
XGBOOST = "mlserver_xgboost.XGBoostModel"

# What is read of a file: enough to come past the first arrays, and the end, where versions often stand.
_HEAD = 16 << 20
_TAIL = 64 << 10

# Packages whose objects are pickled as models.
_PICKLED = {
    "sklearn": SKLEARN,
    "imblearn": SKLEARN,
    "xgboost": XGBOOST,
    "lightgbm": LIGHTGBM,
    "catboost": CATBOOST,
}
# What pickles name for their own ends, before the class of what they hold.
_OF_PICKLING = frozenset(
    (
        *("_codecs", "_pickle", "__builtin__", "builtins", "cloudpickle", "collections", "copy_reg"),
        *("copyreg", "functools", "joblib", "numpy", "pandas", "scipy", "types"),
    )
)

_XGBOOST_JSON = re.compile(rb'\{\s*"(learner|version)"\s*:')
_XGBOOST_UBJSON = re.compile(rb"\{[iUlLI].{1,8}(learner|version)", re.DOTALL)
_CATBOOST_JSON = re.compile(rb'\{\s*"(features_info|model_info|oblivious_trees)"\s*:')
_LIGHTGBM_TEXT = re.compile(rb"tree\r?\n(version|num_class)=")

_SKLEARN_VERSION = re.compile(
    rb"_sklearn_version[\"']?\n?(?:\x94|q.|r.{4}|p\d+\n)?"  # as it is pickled: the text, and where it is kept
    rb"(?:\x8c.|X.{4}|V)(\d+\.\d+(?:\.(?:dev)?\d+)?)",
    re.DOTALL,
)
_SKLEARN_VERSION_SKOPS = re.compile(r'"_sklearn_version": \{[^{}]*"content": "\\"(\d[\w.+]*)\\""')
_XGBOOST_VERSION_JSON = re.compile(rb'"version"\s*:\s*\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]')
_XGBOOST_VERSION_UBJSON = re.compile(rb"version\[#(?:L.{8}|[iU].)[iU](.)[iU](.)[iU](.)", re.DOTALL)
_LIGHTGBM_VERSION = re.compile(rb"tree\r?\nversion=v(\d+)")
_CATBOOST_VERSION = re.compile(rb"CatBoost release (\d+\.\d+(?:\.\d+)?)|tags/v(\d+\.\d+(?:\.\d+)?)")


def recognise_file(path: str) -> Artefact:
    """What a file holds. Raises Unrecognised, or OSError for what cannot be read."""
    suffix = os.path.splitext(path)[1].lower()
    return _BY_SUFFIX.get(suffix, _unknown)(path)


def _unknown(path: str) -> Artefact:
    suffix = os.path.splitext(path)[1]
    raise Unrecognised(path, f"a file named *{suffix}" if suffix else "a file without a suffix")


def _pickle(path: str) -> Artefact:
    content = unpacked(path, _HEAD)
    if not PICKLE_START.match(content):
        raise Unrecognised(path, "by its name a pickle, by its content none (or compressed with lz4)")
    roots = (name for name in find_globals(content) if name.partition(".")[0] not in _OF_PICKLING)
    root = next(roots, None)
    if root is None:
        raise Unrecognised(path, "a pickle that names no class of a library of models")
    runtime = _PICKLED.get(root.partition(".")[0])
    if runtime is None:
        raise Unrecognised(path, f"a pickle of {root}, which is of no library of models that is known")
    content += _tail(path)  # of a compressed file that tells nothing, and does no harm
    return Artefact(path, f"a pickle of {root}", runtime, saved_with=_versions(content))


def _skops(path: str) -> Artefact:
    try:
        with zipfile.ZipFile(path) as archive, archive.open("schema.json") as file:
            schema = file.read(_HEAD).decode("utf-8", "replace")
    # Of another kind, encrypted, compressed in a way that is not known, or broken.
    except (zipfile.BadZipFile, KeyError, RuntimeError, EOFError, zlib.error, lzma.LZMAError):
        raise Unrecognised(path, "by its name a file of skops, by its content none") from None
    version = _SKLEARN_VERSION_SKOPS.search(schema)
    saved_with = {} if version is None else {"scikit-learn": version[1]}
    return Artefact(path, "a scikit-learn file of skops", SKLEARN, ("skops", "skops"), saved_with)


def _booster(path: str) -> Artefact:
    """Trees in one of the formats that their libraries made up, whichever of their suffixes it has."""
    start = _head(path, 1_000).lstrip()
    if start.startswith(b"CBM1"):
        kind, runtime = "a CatBoost model", CATBOOST
    elif _LIGHTGBM_TEXT.match(start):
        kind, runtime = "a LightGBM model", LIGHTGBM
    elif _XGBOOST_JSON.match(start):
        kind, runtime = "an XGBoost model (JSON)", XGBOOST
    elif _XGBOOST_UBJSON.match(start):
        kind, runtime = "an XGBoost model (UBJSON)", XGBOOST
    elif start.startswith(b"binf"):
        kind, runtime = "an XGBoost model (old binary format)", XGBOOST
    elif _CATBOOST_JSON.match(start):
        kind, runtime = "a CatBoost model (JSON)", CATBOOST
    else:
        raise Unrecognised(path, "its content is no model of XGBoost, LightGBM or CatBoost")
    return Artefact(path, kind, runtime, saved_with=_versions(_head(path, _HEAD) + _tail(path)))


def _onnx(path: str) -> Artefact:
    note = describe_onnx(path)
    if note is None:
        raise Unrecognised(path, "by its name an ONNX model, by its content none, or cut off")
    return Artefact(path, "an ONNX model", ONNX, note=note)


def _torch(path: str) -> Artefact:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except zipfile.BadZipFile:
        raise Unrecognised(path, "neither TorchScript nor an exported program of PyTorch") from None
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return Artefact(path, "a TorchScript model", TORCH)
    if path.lower().endswith(".pt2"):
        return Artefact(path, "an exported program of PyTorch", TORCH)
    raise Unrecognised(
        path,
        "weights or a pickled module of PyTorch, which need their class: name it in a model-settings.json "
        "(parameters.extra.module), or save TorchScript",
    )


def _safetensors(path: str) -> Artefact:
    raise Unrecognised(
        path,
        "weights alone, which need a class: give the whole folder if they are of Hugging Face, "
        "or name the class in a model-settings.json (parameters.extra.module)",
    )


_BY_SUFFIX: dict[str, Callable[[str], Artefact]] = {
    **dict.fromkeys((".joblib", ".pkl", ".pickle"), _pickle),
    ".skops": _skops,
    **dict.fromkeys((".json", ".ubj", ".bst", ".txt", ".cbm", ".bin", ".model"), _booster),
    ".onnx": _onnx,
    **dict.fromkeys((".pt", ".pt2", ".pth"), _torch),
    ".safetensors": _safetensors,
}


def _head(path: str, size: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(size)


def _tail(path: str) -> bytes:
    """The end of a file that is longer than its head."""
    size = os.path.getsize(path)
    if size <= _HEAD:
        return b""
    with open(path, "rb") as file:
        file.seek(max(_HEAD, size - _TAIL))
        return file.read()


def _versions(content: bytes) -> dict[str, str]:
    """The versions of the libraries that saved a model, by distribution."""
    found = {}
    if match := _SKLEARN_VERSION.search(content):
        found["scikit-learn"] = match[1].decode()
    if matches := list(_XGBOOST_VERSION_JSON.finditer(content)):
        found["xgboost"] = b".".join(matches[-1].groups()).decode()
    elif matches := list(_XGBOOST_VERSION_UBJSON.finditer(content)):
        found["xgboost"] = ".".join(str(part[0]) for part in matches[-1].groups())
    if match := _LIGHTGBM_VERSION.search(content):
        found["lightgbm"] = match[1].decode()
    if match := _CATBOOST_VERSION.search(content):
        found["catboost"] = (match[1] or match[2]).decode()
    return found
