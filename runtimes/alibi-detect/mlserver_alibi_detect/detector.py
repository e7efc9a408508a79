"""A detector of Alibi Detect: what it is, and which rows it takes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlserver.tabular import Features, first_element

__all__ = [
    "CONTEXT",
    "STATE_FOLDER",
    "Rows",
    "Window",
    "hint_at",
    "join",
    "kind_of",
    "look",
    "method_of",
    "save_state",
    "unfit",
]

# What the library calls the context of rows, and so does the input that brings it.
CONTEXT = "c"

# Where, in a detector's folder, the library looks for the state of an online detector.
STATE_FOLDER = "state"

_KINDS = {"cd": "drift", "od": "outlier", "ad": "adversarial"}
_NUMBERS = "biuf"


def kind_of(detector: Any) -> str:
    """drift, outlier, adversarial or unknown."""
    told = detector.meta.get("detector_type")
    if told in _KINDS.values():
        return str(told)
    package = type(detector).__module__.split(".")[1:2]
    return _KINDS.get("".join(package), "unknown")


def method_of(detector: Any) -> str:
    """The module that the detector comes from, without its packages."""
    return type(detector).__module__.rpartition(".")[2]


def unfit(detector: Any) -> str | None:
    """Why a detector that was read can answer nobody."""
    if kind_of(detector) in ("outlier", "adversarial") and getattr(detector, "threshold", 0) is None:
        return "it has no threshold: call `infer_threshold` before it is saved"
    if hasattr(_nested(detector), "c_ref"):
        import sklearn

        # The library asks for what scikit-learn 1.8 took out.
        if tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 8):
            return (
                f"it needs scikit-learn below 1.8, and {sklearn.__version__} is installed: "
                "install mlserver-alibi-detect[context]"
            )
    return None


def hint_at(folder: str) -> str:
    """What may help where a detector in this folder cannot be read."""
    if not any(Path(folder, "model").glob("*.ckpt.index")):
        return ""
    return (
        "; its weights are a checkpoint, which Keras 2 alone can read: "
        "install tf-keras and start the server with TF_USE_LEGACY_KERAS=1"
    )


def _nested(detector: Any) -> Any:
    """The detector that computes: most for drift only stand in front of one for PyTorch or TensorFlow."""
    return getattr(detector, "_nested_detector", detector)


class Rows:
    """The rows that a detector was fitted on, as far as it tells: what is the same for all requests.

    shape: of a row; None where unknown. numeric: whether they are known to be numbers.
    dtype: that they must have; None where the detector minds none.
    """

    def __init__(
        self, shape: tuple[int, ...] | None, numeric: bool, dtype: np.dtype[Any] | None = None
    ) -> None:
        self.shape = shape
        self.numeric = numeric
        self.dtype = dtype
        self._features = Features(count=shape[0]) if shape is not None and len(shape) == 1 else None

    @classmethod
    def of(cls, detector: Any) -> Rows:
        forest = getattr(detector, "isolationforest", None)
        if forest is not None:
            count = getattr(forest, "n_features_in_", None)
            return cls(None if count is None else (int(count),), numeric=True)
        nested = _nested(detector)
        if kind_of(detector) == "adversarial":
            shape: Any = getattr(detector.model, "input_shape", None)
            known = isinstance(shape, tuple) and None not in shape[1:]
            return cls(shape[1:] if known else None, numeric=True)
        # What a preprocessing function takes is not what the reference data look like behind it.
        if getattr(nested, "preprocess_fn", None) is not None:
            return cls(None, numeric=False)
        reference: Any = getattr(nested, "x_ref", None)
        if not hasattr(reference, "dtype") or not hasattr(reference, "shape"):
            return cls(None, numeric=False)  # a list, such as one of texts
        shape = getattr(nested, "input_shape", None)
        shape = reference.shape[1:] if shape is None else shape
        kind = getattr(reference.dtype, "kind", "f")  # tensors are numbers
        numeric = kind in _NUMBERS
        return cls(tuple(map(int, shape)), numeric, _dtype(nested, reference) if numeric else None)

    @classmethod
    def of_contexts(cls, detector: Any) -> Rows | None:
        """The contexts of a detector that compares rows with others in such a context; None for the rest."""
        nested = _nested(detector)
        reference = getattr(nested, "c_ref", None)
        if reference is None:
            return None
        return cls(reference.shape[1:], numeric=True, dtype=_dtype(nested, reference))

    def inputs_shape(self) -> list[int] | None:
        return None if self.shape is None else [-1, *(self.shape or (1,))]

    def misfit(self, data: Any) -> str | None:
        """How data differ from these rows, in words that follow those for the request."""
        shape = [len(data)] if isinstance(data, list) else list(data.shape)
        if not shape:
            return "is a single value, but the detector expects rows"
        if self.numeric and (isinstance(data, list) or data.dtype.kind not in _NUMBERS):
            return f"holds text, but the detector expects numbers{first_element(data)}"
        if self._features is not None and not isinstance(data, list):
            fault = self._features.misfit(data, strict=False)
            if fault is not None:
                return fault.replace("the model expects", "the detector expects")
        elif self.shape is not None and tuple(shape[1:]) not in (self.shape, self.shape or (1,)):
            return f"has shape {shape}, but the detector expects {['rows', *self.shape]}".replace("'", "")
        return f"has no rows (shape {shape})" if not shape[0] else None

    def arrange(self, data: Any) -> Any:
        """Data that fit, in the very shape of the reference data, and in its type where that matters."""
        if isinstance(data, list):
            return data
        data = data.reshape(-1) if self.shape == () else data
        return data if self.dtype is None else data.astype(self.dtype, copy=False)


def save_state(detector: Any, folder: str) -> None:
    """Save an online detector's state below its folder, so that whoever reads finds the old or the new one.

    Raises OSError where that cannot be written.
    """
    state = Path(folder, STATE_FOLDER)
    with tempfile.TemporaryDirectory(prefix=".state-", dir=folder) as fresh:
        detector.save_state(fresh)
        state.mkdir(exist_ok=True)
        for file in Path(fresh).iterdir():
            os.replace(file, state / file.name)
    detector.state_dir = state


@dataclass(slots=True)
class Window:
    """The rows of a request, with their contexts where the detector wants these."""

    rows: Any
    contexts: Any = None


def look(detector: Any, window: Window, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a detector says of a window. parameters: keyword arguments of its `predict`."""
    if window.contexts is None:
        found: dict[str, Any] = detector.predict(window.rows, **parameters)["data"]
        return found
    # At each look the library wraps the classifier of contexts once more and fits no more than the wrapping,
    # so that a detector that goes on being used would judge by its first window, and ever slower.
    domain = _nested(detector).clf
    classifier = domain.clf
    try:
        found = detector.predict(window.rows, window.contexts, **parameters)["data"]
    finally:
        domain.clf = classifier
    return found


def join(windows: list[Window]) -> Window:
    """The rows of several requests as those of one."""
    rows = _joined([window.rows for window in windows])
    if windows[0].contexts is None:
        return Window(rows)
    return Window(rows, _joined([window.contexts for window in windows]))


def _joined(parts: list[Any]) -> Any:
    if all(isinstance(part, list) for part in parts):
        return [row for part in parts for row in part]
    return np.concatenate(parts)


def _dtype(nested: Any, reference: Any) -> np.dtype[Any] | None:
    """PyTorch computes with numbers of one type only, which the reference data have."""
    if nested.meta.get("backend") not in ("pytorch", "keops"):
        return None
    return np.dtype(str(reference.dtype).removeprefix("torch."))
