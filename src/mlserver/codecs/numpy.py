"""Arrays: `np.ndarray` as a tensor of its dtype.

Numbers never become Python objects here: a decoded array comes from the tensor's bytes or JSON text, and an
encoded one is the tensor's data.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from mlserver.codecs.base import (
    InputCodec,
    register_input_codec,
    register_request_codec,
)
from mlserver.codecs.utils import SingleInputRequestCodec, inject_batch_dimension
from mlserver.errors import CodecError, InvalidTensor
from mlserver.tensor import DTYPES, TensorData, count_elements, flatten, reshape
from mlserver.types import Datatype, MetadataTensor, Parameters, RequestInput, ResponseOutput

__all__ = ["NumpyCodec", "NumpyRequestCodec", "convert_nan", "to_datatype", "to_dtype"]

Array = npt.NDArray[Any]

# Arrays of texts may take this many times the room of the texts themselves, or this much at all.
_TIMES_WIDER: Final = 8
_FEW_BYTES: Final = 2**20

_DATATYPES: Final[dict[Any, str]] = {dtype: name for name, dtype in DTYPES.items()}


def to_dtype(tensor: RequestInput | ResponseOutput | MetadataTensor) -> np.dtype[Any]:
    """The dtype of the array that a tensor decodes to.

    BYTES: `str` where all elements are, else bytes as wide as the last dimension.
    """
    datatype = datatype_name(tensor.datatype)
    if datatype != "BYTES":
        return DTYPES[datatype]
    data = getattr(tensor, "data", None)
    if data is not None and all(isinstance(element, str) for element in flatten(_plain(data))):
        return np.dtype(str)
    width = tensor.shape[-1] if tensor.shape else 0
    return np.dtype(("S", max(width, 0)))


def to_datatype(dtype: np.dtype[Any]) -> Datatype:
    """The datatype of arrays of this dtype, in either byte order. Raises CodecError when there is none."""
    return Datatype(_datatype_of(dtype))


def convert_nan(val: Any) -> Any:
    """None for NaN, any other number as it is. Raises TypeError for what is no number."""
    return None if math.isnan(val) else val


@register_input_codec
class NumpyCodec(InputCodec):
    """ndarray <-> tensor of the same elements, row-major. Text, bytes and objects are BYTES."""

    ContentType: ClassVar[str] = "np"
    TypeHint: ClassVar[Any] = np.ndarray

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, np.ndarray)

    @classmethod
    def encode_output(cls, name: str, payload: Any, **kwargs: Any) -> ResponseOutput:
        """payload: an ndarray or numpy scalar; the array is kept, not copied, where it is contiguous.

        Shape () becomes [1], (N,) becomes [N, 1]. Masked elements are null; so is NaN, in lists and JSON.
        Raises CodecError for a dtype that the protocol does not have.
        """
        datatype = _DATATYPES.get(payload.dtype) or _datatype_of(payload.dtype)
        return ResponseOutput.build(
            name=name,
            shape=inject_batch_dimension(payload.shape),
            datatype=datatype,
            parameters=Parameters.of_content_type(cls.ContentType),
            data=_to_data(payload, datatype),
        )

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        """An array of the tensor's shape (one dimension may be -1) and dtype, which the caller may write to.

        Null is NaN in floats and False in BOOL. BYTES: text as `U`, bytes as `S`, or objects where those
        would lose something.
        Raises CodecError for elements that do not fit the datatype, InvalidTensor unless they fill the shape.
        """
        return _to_ndarray(request_input)


@register_request_codec
class NumpyRequestCodec(SingleInputRequestCodec):
    """ndarray <-> a request or response of one tensor."""

    InputCodec = NumpyCodec
    ContentType: ClassVar[str] = NumpyCodec.ContentType


def datatype_name(datatype: Any) -> str:
    """A datatype's name, be it the name or the enum member that user code assigned."""
    return datatype if type(datatype) is str else datatype.value


def _plain(data: Any) -> Any:
    return data.root if isinstance(data, TensorData) else data


def _datatype_of(dtype: Any) -> str:
    if isinstance(dtype, np.dtype):
        if dtype.kind in "SUOT":
            return "BYTES"
        name = _DATATYPES.get(dtype) or _DATATYPES.get(dtype.newbyteorder("<"))
        if name is not None:
            return name
    raise CodecError(
        f"arrays of dtype '{dtype}' have no datatype; convert them to {', '.join(DTYPES)}, text or bytes"
    )


def _to_data(payload: Any, datatype: str) -> TensorData:
    array = np.asanyarray(payload)
    if isinstance(array, np.ma.MaskedArray):
        if array.mask.any():
            return TensorData(_masked_to_list(array, datatype))
        array = array.data
    if datatype == "BYTES":
        return TensorData(_encode_data(array, datatype))
    return TensorData.from_array(read_only(np.asarray(array, dtype=DTYPES[datatype])))


def read_only(array: Array) -> Array:
    """The same memory, not to be written to: whoever decodes it gets a copy and cannot harm the original."""
    view: Array = array.view()
    view.flags.writeable = False
    return view


def _encode_data(data: Array, datatype: Any) -> list[Any]:
    """The elements of an array as a flat list: text as UTF-8 bytes, `S` as one buffer, NaN as None."""
    data = np.asarray(data)
    if data.dtype.kind == "S":
        return [data.tobytes()]
    if data.dtype.kind in "UT":
        return [_encode_text(element) for element in data.ravel().tolist()]
    if data.dtype.kind == "O":
        objects: list[Any] = data.ravel().tolist()
        return objects
    return TensorData.from_array(data).root  # type: ignore[no-any-return]


def _encode_text(element: Any) -> bytes | None:
    try:
        return element.encode() if isinstance(element, str) else None
    except UnicodeEncodeError as exc:
        raise CodecError(f"text that UTF-8 cannot hold ({exc})") from exc


def _masked_to_list(array: Any, datatype: str) -> list[Any]:
    values = array.ravel().tolist()  # masked elements are None
    if array.dtype.kind in "UT":
        return [_encode_text(value) for value in values]
    if array.dtype.kind == "f":
        return [None if value != value else value for value in values]
    return values  # type: ignore[no-any-return]


def _to_ndarray(tensor: RequestInput | ResponseOutput) -> Array:
    """The array that a tensor holds; see `NumpyCodec.decode_input`."""
    array = view_of(tensor)
    return array if array.flags.writeable else array.copy()


def view_of(tensor: RequestInput | ResponseOutput) -> Array:
    """What `NumpyCodec.decode_input` gives, but perhaps the memory of the tensor, not to be written to."""
    data, shape = tensor.data, tensor.shape
    datatype = datatype_name(tensor.datatype)
    if type(data) is not TensorData:
        data = TensorData(data)
    try:
        array = _bytes_to_array(data.root, shape) if datatype == "BYTES" else data.to_array(datatype)
        if array.shape != tuple(shape):
            array = reshape(array, shape, "the tensor")
    except CodecError as exc:
        raise type(exc)(f"'{tensor.name}': {exc.reason}") from exc
    return array


def _bytes_to_array(values: Any, shape: Any) -> Array:
    if isinstance(values, np.ndarray):
        return values
    if not isinstance(values, list):
        return _to_objects(values if isinstance(values, tuple) else [values])
    if all(isinstance(value, str) for value in values):
        return _of_fixed_width(values, str, "\0")
    if all(isinstance(value, bytes) for value in values):
        return _split_bytes(values, shape)
    return _to_objects(flatten(values))


def _split_bytes(values: list[bytes], shape: Any) -> Array:
    """One element each; or, as arrays of dtype `S` are sent, buffers of elements of one width end to end."""
    count = len(values)
    if -1 not in shape:
        count = count_elements(shape)
    if len(values) == count:
        return _of_fixed_width(values, bytes, b"\0")
    joined = b"".join(values)
    if len(values) == 1:
        width, rest = divmod(len(joined), count) if joined and count else (1, len(joined) + count)
    else:
        width = shape[-1] if shape else 0
        rest = sum(len(value) % width for value in values) if width > 0 else -1
    if rest or width * count != len(joined):
        raise InvalidTensor(f"shape {list(shape)} has {count} elements, but {len(values)} values were given")
    return np.frombuffer(joined, dtype=("S", width))


def _of_fixed_width(values: list[Any], dtype: type, nul: Any) -> Array:
    """An array of dtype `U` or `S`, or of objects where that would lose NULs at the end or waste memory.

    Each element of `U` and `S` takes as much as the widest: a single long one could take all there is.
    """
    widest = max(map(len, values), default=0) * len(values)
    if widest > _FEW_BYTES and widest > _TIMES_WIDER * sum(map(len, values)):
        return _to_objects(values)
    if any(value.endswith(nul) for value in values):
        return _to_objects(values)
    return np.array(values, dtype=dtype)


def _to_objects(values: Any) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
