"""Hypothesis strategies that tests share: arrays, texts, data frames, tensors, requests."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlserver.tensor import DTYPES
from mlserver.types import InferenceRequest, RequestInput

NUMERIC = tuple(DTYPES)

# Surrogates alone are no text that UTF-8 could hold.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
binaries = st.binary(max_size=12)
datetimes = st.datetimes(
    min_value=datetime(1700, 1, 1),
    max_value=datetime(2200, 1, 1),
    timezones=st.none() | st.builds(timezone, st.integers(-720, 720).map(lambda m: timedelta(minutes=m))),
)
any_object: st.SearchStrategy[Any] = texts | binaries | st.none()
names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)


def arrays(datatype: str) -> st.SearchStrategy[Any]:
    """Arrays of the dtype of a numeric datatype: any shape; NaN, infinities and the largest numbers too."""
    return hnp.arrays(DTYPES[datatype], shapes)


@st.composite
def text_arrays(draw: st.DrawFn) -> Any:
    """Arrays of dtype `U`, which cannot hold text that ends in NUL."""
    shape = draw(shapes)
    size = int(np.prod(shape))
    elements = draw(st.lists(texts.map(lambda text: text.rstrip("\0")), min_size=size, max_size=size))
    return np.array(elements, dtype=str).reshape(shape)


@st.composite
def object_arrays(draw: st.DrawFn, elements: st.SearchStrategy[Any] = any_object) -> Any:
    """Arrays of Python objects."""
    shape = draw(shapes)
    flat = np.empty(int(np.prod(shape)), dtype=object)
    flat[:] = draw(st.lists(elements, min_size=flat.size, max_size=flat.size))
    return flat.reshape(shape)


def _column(rows: int, elements: st.SearchStrategy[Any], dtype: Any) -> st.SearchStrategy[Any]:
    return st.lists(elements, min_size=rows, max_size=rows).map(lambda values: pd.Series(values, dtype=dtype))


def _numbers(rows: int) -> st.SearchStrategy[Any]:
    return st.sampled_from(NUMERIC).flatmap(lambda name: hnp.arrays(DTYPES[name], rows)).map(pd.Series)


_pieces: st.SearchStrategy[Any] = st.integers(-(2**40), 2**40) | st.floats(
    allow_nan=False, allow_infinity=False
)
_nested: st.SearchStrategy[Any] = st.lists(_pieces | texts, max_size=3) | st.dictionaries(
    texts, _pieces | texts, max_size=2
)


@st.composite
def frames(draw: st.DrawFn, binary: bool = True) -> pd.DataFrame:
    """Data frames of every kind of column that comes back as it went, but for dtypes that only pandas has.

    binary: with columns of bytes that are no text.
    """
    rows = draw(st.integers(0, 5))
    kinds = [
        _numbers(rows),
        _column(rows, texts, None if rows else object),
        _column(rows, st.none() | texts, object),
        _column(rows, _nested, object),
        _column(rows, st.none() | texts, "string"),
        _column(rows, st.none() | st.integers(-(2**53), 2**53), "Int64"),
        _column(rows, st.none() | st.booleans(), "boolean"),
        _column(rows, st.none() | st.floats(allow_infinity=False), "Float64"),
        _column(rows, st.none() | st.sampled_from(["a", "b"]), "category"),
    ]
    if binary:
        kinds.append(_column(rows, binaries.map(lambda raw: raw + b"\xff"), object))
    labels = draw(st.lists(names, unique=True, max_size=4))
    return pd.DataFrame({label: draw(st.one_of(kinds)) for label in labels}, index=range(rows))


@st.composite
def numeric_inputs(draw: st.DrawFn, name: str | None = None) -> RequestInput:
    """Request tensors of numbers whose data fills their shape."""
    datatype = draw(st.sampled_from(NUMERIC))
    array = draw(arrays(datatype))
    return RequestInput(
        name=draw(names) if name is None else name,
        shape=list(array.shape),
        datatype=datatype,
        data=[None if value != value else value for value in array.ravel().tolist()],
    )


@st.composite
def requests(draw: st.DrawFn) -> InferenceRequest:
    """Requests with a few tensors of numbers, names unique."""
    inputs = draw(st.lists(names, unique=True, min_size=1, max_size=3))
    return InferenceRequest(
        id=draw(st.none() | names), inputs=[draw(numeric_inputs(name=name)) for name in inputs]
    )


def as_json(value: Any) -> bytes:
    """JSON text of a value; NaN and infinities are null."""
    return json.dumps(_finite(value)).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return value
