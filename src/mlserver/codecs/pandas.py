"""Data frames: a tensor for each column.

Numbers and booleans go as they are, text and bytes as BYTES with content type `str`, points in time as `datetime`, and anything
else in an object column as JSON text per element, content type `pd_json`. What is missing is null. Columns of bytes that are not
UTF-8 go as `base64`, since `str` could not bring them back.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterable
from typing import Any, ClassVar, Final

import numpy as np
import pandas as pd

from mlserver.codecs.base import RequestCodec, content_type_parameters, find_input_codec
from mlserver.codecs.base64 import Base64Codec
from mlserver.codecs.datetime import DatetimeCodec
from mlserver.codecs.decoded import get_decoded, has_decoded
from mlserver.codecs.json import (
    PANDAS_JSON,
    JSONEncoderWithArray,
    decode_json_input_or_output,
    encode_to_json,
)
from mlserver.codecs.numpy import Array, _name_of, _plain, to_datatype
from mlserver.codecs.string import StringCodec
from mlserver.errors import CodecError
from mlserver.tensor import DTYPES, TensorData
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, ResponseOutput

__all__ = ["PandasCodec"]

# Floats hold every integer up to here.
_EXACT_IN_FLOAT: Final = 2**53


class PandasCodec(RequestCodec):
    """DataFrame <-> one tensor of shape [N, 1] per column, in order, named after it. The index is not kept."""

    ContentType: ClassVar[str] = "pd"
    JsonContentType: ClassVar[str] = PANDAS_JSON
    TypeHint: ClassVar[Any] = pd.DataFrame

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, pd.DataFrame)

    @classmethod
    def encode_outputs(cls, payload: pd.DataFrame, use_bytes: bool = True) -> list[ResponseOutput]:
        """A tensor for each column; labels that are not str become str. use_bytes: text as UTF-8 bytes, else as str.

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
            parameters=content_type_parameters(cls.ContentType),
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
        return InferenceRequest.build(parameters=content_type_parameters(cls.ContentType), inputs=inputs)

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> pd.DataFrame:
        """A data frame with one column for each input, in order; shorter columns are padded.

        An input that was decoded already is taken as that. Raises CodecError naming an input that is no column.
        """
        return _to_frame(request.inputs)


# --- encoding ----------------------------------------------------------------------------------------------------------


def _encode_column(name: str, column: Any, use_bytes: bool) -> ResponseOutput:
    dtype = column.dtype
    if isinstance(dtype, np.dtype):
        if dtype.kind in "biufc":
            return _numbers(name, column.to_numpy())
        if dtype.kind == "M":
            return _points_in_time(name, column, use_bytes)
        if dtype.kind == "m":
            raise CodecError(
                f"column '{name}': dtype '{dtype}' has no datatype; convert it to numbers or text"
            )
        return _objects(name, column.tolist(), use_bytes)
    if isinstance(dtype, pd.DatetimeTZDtype):
        return _points_in_time(name, column, use_bytes)
    if isinstance(dtype, pd.CategoricalDtype):
        plain = dtype.categories.dtype
        # Integers and booleans cannot be missing in a plain array; nullable ones can.
        if isinstance(plain, np.dtype) and plain.kind in "biu" and column.isna().any():
            plain = pd.array(
                [],
                dtype=plain.name.replace("u", "U").replace("int", "Int") if plain.kind != "b" else "boolean",
            ).dtype
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
        parameters=None if content_type is None else content_type_parameters(content_type),
        data=data,
    )


def _numbers(name: str, array: Array) -> ResponseOutput:
    try:
        datatype = to_datatype(array.dtype).value
    except CodecError as exc:
        raise CodecError(f"column '{name}': {exc.reason}") from exc
    view = np.asarray(array, dtype=DTYPES[datatype]).view()
    view.flags.writeable = False
    return _tensor(name, len(array), datatype, None, TensorData.from_array(view))


def _nullable(name: str, column: Any, plain: np.dtype[Any], use_bytes: bool) -> ResponseOutput:
    """Tensors of integers cannot hold null: integers go as FP64 with NaN where that is exact, else, and booleans, as JSON."""
    missing = column.isna()
    if not missing.any():
        return _numbers(name, column.to_numpy(dtype=plain))
    if plain.kind == "f":
        return _numbers(name, column.to_numpy(dtype=plain, na_value=np.nan))
    present = column[~missing]
    if plain.kind in "iu" and (
        not len(present) or max(-int(present.min()), int(present.max())) <= _EXACT_IN_FLOAT
    ):
        return _numbers(name, column.to_numpy(dtype=np.float64, na_value=np.nan))
    return _json(name, [None if gone else value for gone, value in zip(missing, column.tolist())], use_bytes)


def _points_in_time(name: str, column: Any, use_bytes: bool) -> ResponseOutput:
    values = [None if value is pd.NaT else value for value in column.tolist()]
    return DatetimeCodec.encode_output(name, values, use_bytes=use_bytes)


def _objects(name: str, values: list[Any], use_bytes: bool) -> ResponseOutput:
    values = [None if _is_missing(value) else value for value in values]
    kinds = {type(value) for value in values if value is not None}
    if all(issubclass(kind, (str, bytes)) for kind in kinds):
        if not _is_text(values):
            return Base64Codec.encode_output(name, values, use_bytes=use_bytes)
        try:
            encoded = [v.encode() if use_bytes and isinstance(v, str) else v for v in values]
        except UnicodeEncodeError as exc:
            raise CodecError(f"column '{name}': text that UTF-8 cannot hold ({exc})") from exc
        return _tensor(name, len(values), "BYTES", StringCodec.ContentType, TensorData(encoded))
    if all(issubclass(kind, dt.datetime) for kind in kinds):
        return DatetimeCodec.encode_output(name, values, use_bytes=use_bytes)
    return _json(name, values, use_bytes)


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)


def _is_text(values: Iterable[Any]) -> bool:
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
            raise CodecError(
                f"column '{name}': row {row} is {type(value).__name__}, which JSON cannot hold ({exc})"
            ) from exc
    return _tensor(name, len(values), "BYTES", PANDAS_JSON, TensorData(encoded))


def _element_to_json(value: Any, use_bytes: bool) -> str | bytes:
    try:
        return encode_to_json(value, use_bytes)
    except ValueError:  # NaN, deep inside
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


# --- decoding ----------------------------------------------------------------------------------------------------------


def _to_frame(tensors: list[Any]) -> pd.DataFrame:
    columns = {tensor.name: _to_column(tensor) for tensor in tensors}
    if len({len(column) for column in columns.values()}) > 1:
        columns = {name: pd.Series(column) for name, column in columns.items()}
    return pd.DataFrame(columns)


def _to_column(tensor: RequestInput | ResponseOutput) -> Any:
    """The values of one column: an ndarray, a list, or a Series where its dtype must not be inferred."""
    parameters: Parameters | None = tensor.parameters
    content_type = None if parameters is None else parameters.content_type
    if content_type == PANDAS_JSON:
        return _inferred(decode_json_input_or_output(tensor))
    if has_decoded(tensor):
        return _from_payload(tensor, get_decoded(tensor))
    datatype = _name_of(tensor.datatype)
    if datatype == "BYTES":
        codec = find_input_codec(content_type) if content_type else None
        if codec is not None:
            return _from_payload(tensor, codec.decode_input(tensor))  # type: ignore[arg-type]
        return _from_payload(tensor, _plain(tensor.data))
    return _from_numbers(tensor, datatype)


def _from_numbers(tensor: RequestInput | ResponseOutput, datatype: str) -> Any:
    data = tensor.data if isinstance(tensor.data, TensorData) else TensorData(tensor.data)
    try:
        array = data.to_array(datatype)
    except CodecError as exc:
        raise CodecError(f"'{tensor.name}': {exc.reason}") from exc
    if array.ndim < 2 or array.size == len(array) or not isinstance(data.root[0], (list, tuple)):
        return array.ravel()
    return pd.Series([tuple(row) for row in array.tolist()], dtype=object)


def _from_payload(tensor: RequestInput | ResponseOutput, payload: Any) -> Any:
    if isinstance(payload, np.ndarray):
        rows = tensor.shape[0] if tensor.shape else 1
        if payload.size != rows and rows != -1:
            raise CodecError(
                f"'{tensor.name}': a column has one value a row, but shape {list(tensor.shape)} has {payload.size} in {rows} rows"
            )
        return payload.ravel()
    if isinstance(payload, (TensorData, str, bytes, tuple)):
        return list(payload)
    if isinstance(payload, list):
        return _inferred(payload)
    return [payload]


def _inferred(values: list[Any]) -> Any:
    """The values as pandas would take them, except where it would turn integers into floats that are not the same."""
    if any(value is None for value in values) and any(
        type(value) is int and abs(value) > _EXACT_IN_FLOAT for value in values
    ):
        return pd.Series(values, dtype=object)
    if any(isinstance(value, (list, tuple, np.ndarray)) for value in values):
        return pd.Series(values, dtype=object)  # rows of equal length are not columns
    return values
