"""Data frames: a tensor for each column.

Numbers and booleans go as they are, text and bytes as BYTES with content type `str`, points in time as
`datetime`, and anything else in an object column as JSON text per element, content type `pd_json`. What is
missing is null. Bytes that are not UTF-8 make their column `base64`, since as `str` they could not come back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any, ClassVar, Final

import numpy as np
import pandas as pd

from mlserver.codecs.base import RequestCodec, find_input_codec
from mlserver.codecs.base64 import Base64Codec
from mlserver.codecs.datetime import DatetimeCodec
from mlserver.codecs.decoded import decoded_as, get_decoded, has_decoded
from mlserver.codecs.json import (
    PANDAS_JSON,
    JSONEncoderWithArray,
    decode_json_input_or_output,
    encode_to_json,
)
from mlserver.codecs.lists import elements_of
from mlserver.codecs.numpy import Array, NumpyCodec, datatype_name, read_only, to_datatype
from mlserver.codecs.string import StringCodec
from mlserver.errors import CodecError
from mlserver.tensor import DTYPES, TensorData
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, ResponseOutput

__all__ = ["PandasCodec"]

# Floats hold every integer up to here.
_EXACT_IN_FLOAT: Final = 2**53
# Labels of so many requests are remembered, if they are no longer than this together.
_MOST_LABELS: Final = 64
_LONGEST_LABELS: Final = 4096
# By the content type of a BYTES tensor, a value that its columns hold beside missing ones.
_EXAMPLES: Final[dict[str | None, Any]] = {
    None: "",
    StringCodec.ContentType: "",
    NumpyCodec.ContentType: "",
    Base64Codec.ContentType: b"",
    DatetimeCodec.ContentType: datetime(2000, 1, 1),
    PANDAS_JSON: None,
}


class PandasCodec(RequestCodec):
    """DataFrame <-> one tensor of shape [N, 1] per column, in order, named after it. The index is dropped."""

    ContentType: ClassVar[str] = "pd"
    JsonContentType: ClassVar[str] = PANDAS_JSON
    TypeHint: ClassVar[Any] = pd.DataFrame

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, pd.DataFrame)

    @classmethod
    def encode_outputs(cls, payload: pd.DataFrame, use_bytes: bool = True) -> list[ResponseOutput]:
        """A tensor for each column; labels that are no str become str. use_bytes: text as UTF-8, else as str.

        Raises CodecError naming a column that cannot be encoded, or a label that occurs twice.
        """
        outputs: list[ResponseOutput] = []
        names: set[str] = set()
        for label, column in payload.items():
            name = label if type(label) is str else str(label)
            if name in names:
                raise CodecError(f"two columns of the data frame are named '{name}'")
            names.add(name)
            outputs.append(_encode_column(name, column, use_bytes))
        return outputs

    @classmethod
    def encode_response(
        cls,
        model_name: str,
        payload: pd.DataFrame,
        model_version: str | None = None,
        use_bytes: bool = True,
        **kwargs: Any,
    ) -> InferenceResponse:
        return InferenceResponse.build(
            model_name=model_name,
            model_version=model_version,
            parameters=Parameters.of_content_type(cls.ContentType),
            outputs=cls.encode_outputs(payload, use_bytes=use_bytes),
        )

    @classmethod
    def decode_response(cls, response: InferenceResponse) -> pd.DataFrame:
        """A data frame with one column for each output; see `decode_request`."""
        return _to_frame(response.outputs)

    @classmethod
    def encode_request(cls, payload: pd.DataFrame, use_bytes: bool = True, **kwargs: Any) -> InferenceRequest:
        inputs = [
            RequestInput.build(
                name=output.name,
                shape=output.shape,
                datatype=output.datatype,
                parameters=output.parameters,
                data=output.data,
            )
            for output in cls.encode_outputs(payload, use_bytes=use_bytes)
        ]
        return InferenceRequest.build(parameters=Parameters.of_content_type(cls.ContentType), inputs=inputs)

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> pd.DataFrame:
        """A data frame with one column for each input, in order; shorter columns are padded.

        An input that was decoded already is taken as that; one of BYTES is decoded by its own content type.
        Raises CodecError naming an input that is no column.
        """
        return _to_frame(request.inputs)


# --- encoding ---------------------------------------------------------------------------------------------


def _encode_column(name: str, column: Any, use_bytes: bool) -> ResponseOutput:
    dtype = column.dtype
    if isinstance(dtype, np.dtype):
        if dtype.kind == "O":
            return _objects(name, column.tolist(), use_bytes)
        if dtype.kind == "M":
            return _points_in_time(name, column, use_bytes)
        return _numbers(name, column.to_numpy())
    if isinstance(dtype, pd.DatetimeTZDtype):
        return _points_in_time(name, column, use_bytes)
    if isinstance(dtype, pd.CategoricalDtype):
        plain: Any = dtype.categories.dtype
        if column.isna().any() and isinstance(plain, np.dtype) and plain.kind in "biu":
            plain = pd.array(dtype.categories.to_numpy()).dtype  # the nullable one
        return _encode_column(name, column.astype(plain), use_bytes)
    if isinstance(dtype, pd.SparseDtype):
        return _encode_column(name, column.sparse.to_dense(), use_bytes)
    plain = getattr(dtype, "numpy_dtype", None)  # nullable columns, and those of Arrow
    if isinstance(plain, np.dtype) and plain.kind in "biuf":
        return _nullable(name, column, plain, use_bytes)
    return _objects(name, column.tolist(), use_bytes)


def _tensor(
    name: str, rows: int, datatype: str, content_type: str | None, data: TensorData
) -> ResponseOutput:
    return ResponseOutput.build(
        name=name,
        shape=[rows, 1],
        datatype=datatype,
        parameters=None if content_type is None else Parameters.of_content_type(content_type),
        data=data,
    )


def _numbers(name: str, array: Array) -> ResponseOutput:
    try:
        datatype = to_datatype(array.dtype).value
    except CodecError as exc:
        raise CodecError(f"column '{name}': {exc.reason}") from exc
    values = read_only(np.asarray(array, dtype=DTYPES[datatype]))
    return _tensor(name, len(values), datatype, None, TensorData.from_array(values))


def _nullable(name: str, column: Any, plain: np.dtype[Any], use_bytes: bool) -> ResponseOutput:
    """A column that may have holes. Tensors of integers and booleans may not: with holes, integers go as FP64
    where that is exact, and otherwise both as JSON."""
    missing = column.isna()
    if not missing.any():
        return _numbers(name, column.to_numpy(dtype=plain))
    if plain.kind == "f":
        return _numbers(name, column.to_numpy(dtype=plain, na_value=np.nan))
    if plain.kind in "iu":
        present = column[~missing]
        if not len(present) or max(-int(present.min()), int(present.max())) <= _EXACT_IN_FLOAT:
            return _numbers(name, column.to_numpy(dtype=np.float64, na_value=np.nan))
    return _objects(name, column.tolist(), use_bytes)


def _points_in_time(name: str, column: Any, use_bytes: bool) -> ResponseOutput:
    values = [None if value is pd.NaT else value for value in column.tolist()]
    return DatetimeCodec.encode_output(name, values, use_bytes=use_bytes)


def _objects(name: str, values: list[Any], use_bytes: bool) -> ResponseOutput:
    values = list(map(_plain, values))
    kinds = {type(value) for value in values if value is not None}
    if all(issubclass(kind, (str, bytes)) for kind in kinds):
        return _texts(name, values, use_bytes)
    if all(issubclass(kind, datetime) for kind in kinds):
        return DatetimeCodec.encode_output(name, values, use_bytes=use_bytes)
    return _json(name, values, use_bytes)


def _plain(value: Any) -> Any:
    """None for all that pandas takes as missing, Python numbers for those of numpy."""
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, (np.number, np.bool_)):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _texts(name: str, values: list[Any], use_bytes: bool) -> ResponseOutput:
    try:
        if not _are_utf8(values):
            raw = [value.encode() if isinstance(value, str) else value for value in values]
            return Base64Codec.encode_output(name, raw, use_bytes=use_bytes)
        if use_bytes:
            values = [value.encode() if isinstance(value, str) else value for value in values]
    except UnicodeEncodeError as exc:
        raise CodecError(f"column '{name}': text that UTF-8 cannot hold ({exc})") from exc
    return _tensor(name, len(values), "BYTES", StringCodec.ContentType, TensorData(values))


def _are_utf8(values: Iterable[Any]) -> bool:
    try:
        for value in values:
            if isinstance(value, bytes):
                value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _json(name: str, values: list[Any], use_bytes: bool) -> ResponseOutput:
    encoded: list[Any] = []
    for row, value in enumerate(values):
        try:
            encoded.append(None if value is None else _element_to_json(value, use_bytes))
        except (TypeError, ValueError, RecursionError) as exc:
            what = type(value).__name__
            raise CodecError(f"column '{name}': row {row} is {what} that JSON cannot hold ({exc})") from exc
    return _tensor(name, len(values), "BYTES", PANDAS_JSON, TensorData(encoded))


def _element_to_json(value: Any, use_bytes: bool) -> str | bytes:
    try:
        return encode_to_json(value, use_bytes)
    except ValueError:  # NaN, somewhere inside
        plain = json.loads(json.dumps(value, cls=JSONEncoderWithArray))
        return encode_to_json(_without_nan(plain), use_bytes)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_without_nan(element) for element in value]
    if isinstance(value, dict):
        return {key: _without_nan(element) for key, element in value.items()}
    return value


# --- decoding ---------------------------------------------------------------------------------------------


def _to_frame(tensors: list[Any]) -> pd.DataFrame:
    columns = {tensor.name: _to_column(tensor) for tensor in tensors}
    frame: pd.DataFrame
    arrays = list(columns.values())
    if len({len(column) for column in arrays}) > 1:
        frame = pd.DataFrame({name: pd.Series(column) for name, column in columns.items()})
    elif _alike(arrays):
        joined = np.concatenate(arrays).reshape(len(arrays), -1).T
        frame = pd.DataFrame(joined, columns=_labels(tuple(columns)), copy=False)
    else:
        frame = pd.DataFrame(columns)
    return frame


def _labels(names: tuple[str, ...]) -> pd.Index[str]:
    """What columns are called; making an index costs as much as the rest of a small frame."""
    short = sum(map(len, names)) <= _LONGEST_LABELS
    made = _remembered(names) if short else pd.Index(names)
    labels: pd.Index[str] = made.view()  # user code may give them a name
    return labels


_remembered: Any = lru_cache(_MOST_LABELS)(pd.Index)


def _alike(columns: list[Any]) -> bool:
    """Whether these are arrays of numbers of one dtype, which make a frame at half the cost of others."""
    first = columns[0] if columns else None
    if not isinstance(first, np.ndarray) or first.dtype.kind not in "biuf":
        return False
    return all(isinstance(column, np.ndarray) and column.dtype == first.dtype for column in columns)


def _to_column(tensor: RequestInput | ResponseOutput) -> Any:
    """The values of one column: an array, a list, or a Series where pandas must not choose the dtype."""
    content_type = None if tensor.parameters is None else tensor.parameters.content_type
    if content_type == PANDAS_JSON:
        return _or_missing(_inferred(decode_json_input_or_output(tensor)), PANDAS_JSON)
    datatype = datatype_name(tensor.datatype)
    if has_decoded(tensor):
        column = _from_payload(tensor, get_decoded(tensor))
        return _or_missing(column, decoded_as(tensor)) if datatype == "BYTES" else column
    if datatype != "BYTES":
        return _from_numbers(tensor, datatype)
    codec = find_input_codec(content_type) if content_type else None
    if codec is not None:
        column = _from_payload(tensor, codec.decode_input(tensor))  # type: ignore[arg-type]  # same fields
        return _or_missing(column, content_type)
    values = tensor.data.root if isinstance(tensor.data, TensorData) else tensor.data
    return _or_missing(_rows(list(values) if isinstance(values, str) else elements_of(values)), None)


def _or_missing(column: Any, content_type: str | None) -> Any:
    """The column; if it holds no value at all, of the dtype that it would have beside others.

    pandas takes its dtype from the values, and the dtype says whether a missing one is None, NaN or NaT:
    what a row becomes must not depend on the rows that came with it.
    """
    if content_type not in _EXAMPLES or any(value is not None for value in column):
        return column
    return pd.Series(list(column), dtype=pd.Series([_EXAMPLES[content_type]]).dtype)


def _from_numbers(tensor: RequestInput | ResponseOutput, datatype: str) -> Any:
    data = tensor.data if isinstance(tensor.data, TensorData) else TensorData(tensor.data)
    try:
        array = data.to_array(datatype)
    except CodecError as exc:
        raise CodecError(f"'{tensor.name}': {exc.reason}") from exc
    if array.ndim < 2 or array.size == len(array) or not isinstance(data.root[0], (list, tuple)):
        return array.ravel()
    return _rows(array.tolist())


def _rows(values: list[Any]) -> Any:
    """Rows of nested data: tuples, or their values where each has just one."""
    if not any(isinstance(value, list) for value in values):
        return values
    if all(isinstance(value, list) and len(value) == 1 for value in values):
        return [value for (value,) in values]
    return pd.Series([tuple(v) if isinstance(v, list) else v for v in values], dtype=object)


def _from_payload(tensor: RequestInput | ResponseOutput, payload: Any) -> Any:
    if isinstance(payload, np.ndarray):
        rows = tensor.shape[0] if tensor.shape else 1
        if payload.size != rows and rows != -1:
            raise CodecError(
                f"'{tensor.name}': shape {list(tensor.shape)} has {payload.size} values in {rows} rows, "
                f"but a column has one a row"
            )
        return payload.ravel()
    return _inferred(elements_of(payload))


def _inferred(values: list[Any]) -> Any:
    """The values as pandas would take them, unless that would make other numbers of large integers."""
    if any(value is None for value in values) and any(
        type(value) is int and abs(value) > _EXACT_IN_FLOAT for value in values
    ):
        return pd.Series(values, dtype=object)
    return values
