"""The golden cases, and how their values stand for what JSON lacks.

`decode` turns a value of a case into the Python object that it stands for; `matches` says whether something
that was computed is what a case expects, so strictly that 1, 1.0 and True differ.
"""

from __future__ import annotations

import base64
import json
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

VECTORS = Path(__file__).parent / "vectors.json"

Case = dict[str, Any]


def load() -> dict[str, Any]:
    """The whole file: `models` (source and settings) and `cases`."""
    vectors: dict[str, Any] = json.loads(VECTORS.read_text())
    return vectors


def cases(*kinds: str) -> list[Case]:
    """The cases of these kinds, in order."""
    return [case for case in load()["cases"] if case["kind"] in kinds]


def case_id(case: Case) -> str:
    return str(case["id"])


class AnyUuid4:
    """Equal to the text of any UUID4."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and str(uuid.UUID(other)) == other and uuid.UUID(other).version == 4

    __hash__ = None  # type: ignore[assignment]


def decode(value: Any) -> Any:
    """The Python object that a value of a case stands for."""
    if isinstance(value, list):
        return [decode(element) for element in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, inner),) = value.items()
        if key in _SPECIAL:
            return _SPECIAL[key](inner)
    return {key: decode(inner) for key, inner in value.items()}


def _ndarray(spec: dict[str, Any]) -> Any:
    data = decode(spec["data"])
    if spec["dtype"] == "object":
        array = np.empty(len(data), dtype=object)
        array[:] = data
    else:
        array = np.array(data, dtype=spec["dtype"])
    return array.reshape(spec["shape"])


def _dataframe(columns: list[dict[str, Any]]) -> Any:
    import pandas as pd

    return pd.DataFrame(
        {
            column["name"]: pd.Series(decode(column["data"]), dtype=column["dtype"] or object)
            for column in columns
        }
    )


_SPECIAL: dict[str, Any] = {
    "$bytes": base64.b64decode,
    "$float": float,
    "$datetime": datetime.fromisoformat,
    "$tuple": lambda values: tuple(decode(values)),
    "$ndarray": _ndarray,
    "$dataframe": _dataframe,
    "$any": lambda what: {"uuid4": AnyUuid4()}[what],
}


def matches(expected: Any, actual: Any) -> bool:
    """Whether `actual` is what a case expects. Both may be whole structures; `expected` is still encoded."""
    if isinstance(expected, dict) and len(expected) == 1:
        ((key, inner),) = expected.items()
        if key == "$ndarray":
            return _same_array(_ndarray(inner), actual)
        if key == "$dataframe":
            return _same_frame(inner, actual)
        if key == "$float":
            return type(actual) is float and repr(actual) == inner
        if key == "$any":
            return bool(decode(expected) == actual)
        if key in _SPECIAL:
            return _same(decode(expected), actual)
    if isinstance(expected, dict):
        return (
            isinstance(actual, dict)
            and expected.keys() == actual.keys()
            and all(matches(value, actual[key]) for key, value in expected.items())
        )
    if isinstance(expected, list):
        return type(actual) is list and len(expected) == len(actual) and all(map(matches, expected, actual))
    return _same(expected, actual)


def _same(expected: Any, actual: Any) -> bool:
    return type(expected) is type(actual) and repr(expected) == repr(actual)


def _same_array(expected: Any, actual: Any) -> bool:
    return (
        isinstance(actual, np.ndarray)
        and actual.dtype == expected.dtype
        and actual.shape == expected.shape
        and repr(actual.tolist()) == repr(expected.tolist())
    )


def _same_frame(expected: list[dict[str, Any]], actual: Any) -> bool:
    if list(actual.columns) != [column["name"] for column in expected]:
        return False
    for column in expected:
        values = actual[column["name"]]
        if column["dtype"] is not None and values.dtype != column["dtype"]:
            return False
        if repr(values.tolist()) != repr(decode(column["data"])):
            return False
    return True
