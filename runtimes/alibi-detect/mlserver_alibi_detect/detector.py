"""A detector of Alibi Detect: what it is, and which rows it takes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mlserver.tabular import Features, first_element

__all__ = ["STATE_FOLDER", "Rows", "join", "kind_of", "method_of", "save_state"]

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


class Rows:
    """The rows that a detector was fitted on, as far as it tells: what is the same for all requests.

    shape: of a row; None where unknown. numeric: whether they are known to be numbers.
    """

    def __init__(self, shape: tuple[int, ...] | None, numeric: bool) -> None:
        self.shape = shape
        self.numeric = numeric
        self._features = Features(count=shape[0]) if shape is not None and len(shape) == 1 else None

    @classmethod
    def of(cls, detector: Any) -> Rows:
        forest = getattr(detector, "isolationforest", None)
        if forest is not None:
            count = getattr(forest, "n_features_in_", None)
            return cls(None if count is None else (int(count),), numeric=True)
        nested = getattr(detector, "_nested_detector", detector)
        # What a preprocessing function takes is not what the reference data look like behind it.
        if getattr(nested, "preprocess_fn", None) is not None:
            return cls(None, numeric=False)
        reference: Any = getattr(nested, "x_ref", None)
        if not hasattr(reference, "dtype") or not hasattr(reference, "shape"):
            return cls(None, numeric=False)  # a list, such as one of texts
        shape = getattr(nested, "input_shape", None)
        shape = reference.shape[1:] if shape is None else shape
        kind = getattr(reference.dtype, "kind", "f")  # tensors are numbers
        return cls(tuple(map(int, shape)), numeric=kind in _NUMBERS)

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
        """Data that fit, in the very shape of the reference data."""
        return data.reshape(-1) if self.shape == () and not isinstance(data, list) else data


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


def join(parts: list[Any]) -> Any:
    """Rows of several requests as those of one."""
    if all(isinstance(part, list) for part in parts):
        return [row for part in parts for row in part]
    return np.concatenate(parts)
