"""What models return, as something that can be sent.

Arrays, frames, lists of text and dicts of arrays go as they are. Series, plain numbers, lists and dicts of
numbers become arrays, and whatever else JSON can hold becomes JSON text, one element a row.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any, Final

import numpy as np

from mlserver.codecs.json import encode_to_json
from mlserver.codecs.utils import DefaultOutputPrefix
from mlserver.errors import MLServerError
from mlserver.types import Parameters, ResponseOutput

__all__ = ["as_json", "as_tensors"]

_JSON: Final = "pd_json"
_NUMBERS: Final = "biuf"


def as_tensors(result: Any) -> Any:
    """The result as an array, a frame, a list of str or a dict of arrays; None where it is none of these."""
    if isinstance(result, np.ndarray) or _is_frame(result):
        return result
    if isinstance(result, dict):
        arrays = {str(name): _as_array(value) for name, value in result.items()}
        return None if any(array is None for array in arrays.values()) else arrays
    if isinstance(result, str):
        return [result]
    if hasattr(result, "to_numpy"):
        result = result.to_numpy().tolist()  # a Series
    if isinstance(result, (list, tuple)) and all(isinstance(value, str) for value in result):
        return list(result)
    return _as_array(result)


def as_json(result: Any, model: str) -> ResponseOutput:
    """One element of JSON text for each element of a list, or one for anything else.

    Raises MLServerError 500 naming the type of what JSON cannot hold.
    """
    rows = list(result) if isinstance(result, (list, tuple)) else [result]
    try:
        texts = [encode_to_json(_plain(row)) for row in rows]
    except (TypeError, ValueError) as exc:
        kind = type(result).__name__
        text = f"Model {model} returned a {kind}, which is neither a tensor nor JSON"
        raise MLServerError(text, 500) from exc
    return ResponseOutput(
        name=f"{DefaultOutputPrefix}1",
        shape=[len(texts), 1],
        datatype="BYTES",
        parameters=Parameters(content_type=_JSON),
        data=texts,
    )


def _as_array(value: Any) -> np.ndarray[Any, Any] | None:
    """Numbers and texts as an array; None for what would be an array of objects."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "toarray"):
        return np.asarray(value.toarray())  # a sparse matrix
    if hasattr(value, "to_numpy"):
        value = value.to_numpy().tolist()
    if not isinstance(value, (list, tuple, int, float, str, np.generic)):
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        return None
    return array if array.dtype.kind in _NUMBERS or _are_texts(value) else None


def _are_texts(value: Any) -> bool:
    # numpy would make text of numbers that stand beside it
    return isinstance(value, str) or (
        isinstance(value, (list, tuple)) and all(isinstance(element, str) for element in value)
    )


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")  # pydantic's, as chat models return
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if value is None:
        raise TypeError("None is no result")
    return value


def _is_frame(value: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame)
