"""Raw tensors: values as the V2 protocol lays them out in `raw_input_contents` and `raw_output_contents`.

Numbers are little-endian, row-major, back to back. Each BYTES element has its length before it, as a
little-endian uint32.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from mlserver.errors import CodecError, InvalidTensor
from mlserver.tensor import DTYPES, TensorData, count_elements, flatten, reshape

__all__ = [
    "bytes_elements",
    "datatype_name",
    "extract_raw",
    "filling_array",
    "inject_raw",
    "pack",
    "pack_bytes",
    "unpack",
    "unpack_array",
    "unpack_bytes",
]

Array = npt.NDArray[Any]
Buffer = bytes | bytearray | memoryview


class Tensor(Protocol):
    """What inputs and outputs have in common."""

    name: str
    shape: list[int]
    datatype: Any
    data: Any


T = TypeVar("T", bound=Tensor)

_LENGTH = struct.Struct("<I")


def pack(elem: Tensor) -> bytes:
    """The values of a tensor, flat or nested, as raw bytes.

    Null is NaN in floats and empty in BYTES, where str is sent as UTF-8.
    Raises CodecError for values that do not fit the datatype, InvalidTensor when they do not fill the shape.
    """
    if datatype_name(elem.datatype) == "BYTES":
        return pack_bytes(elem.data.root if isinstance(elem.data, TensorData) else elem.data)
    return filling_array(elem).tobytes()


def filling_array(elem: Tensor) -> Array:
    """The values of a tensor of numbers as an array, in whatever shape they came.

    Raises CodecError for values that do not fit the datatype, InvalidTensor when they do not fill the shape.
    """
    data = elem.data if isinstance(elem.data, TensorData) else TensorData(elem.data)
    array = data.to_array(datatype_name(elem.datatype))
    if min(elem.shape, default=0) >= 0 and array.size != count_elements(elem.shape):
        raise InvalidTensor(
            f"'{elem.name}': shape {list(elem.shape)} has {count_elements(elem.shape)} elements, "
            f"but {array.size} values were given"
        )
    return array


def unpack(elem: Tensor, raw: Buffer) -> list[Any]:
    """The values in `raw`, flat: numbers, or bytes for BYTES, of which there may be any number.

    Raises InvalidTensor when `raw` does not fill the shape of a tensor of numbers, or cuts off an element.
    """
    if datatype_name(elem.datatype) == "BYTES":
        return unpack_bytes(raw, elem.name)
    return unpack_array(elem, raw).ravel().tolist()  # type: ignore[no-any-return]


def inject_raw(elems: Sequence[T], raw_contents: Sequence[Buffer]) -> Sequence[T]:
    """Give each tensor without data the next of the raw buffers, in place; numbers stay in their buffer.

    Buffers that are left over are ignored. Raises InvalidTensor when there are too few, or one does not fit.
    """
    empty = [elem for elem in elems if _is_empty(elem.data)]
    if len(raw_contents) < len(empty):
        raise InvalidTensor(
            f"{len(empty)} tensors have no data, but only {len(raw_contents)} raw buffers were sent"
        )
    for elem, raw in zip(empty, raw_contents, strict=False):
        if datatype_name(elem.datatype) == "BYTES":
            elem.data = TensorData(unpack_bytes(raw, elem.name))
        else:
            elem.data = TensorData.from_binary(unpack_array(elem, raw))
    return elems


def extract_raw(elems: Sequence[T]) -> tuple[Sequence[T], list[bytes]]:
    """The same tensors, with their data taken out, and that data as raw buffers."""
    raws = [pack(elem) for elem in elems]
    for elem in elems:
        elem.data = []
    return elems, raws


def pack_bytes(values: Any) -> bytes:
    """BYTES elements, each behind its length; see `bytes_elements`."""
    parts: list[Buffer] = []
    for value in bytes_elements(values):
        parts += _LENGTH.pack(len(value)), value
    return b"".join(parts)


def bytes_elements(values: Any) -> Iterator[Buffer]:
    """The elements of flat or nested BYTES: str as UTF-8, None as nothing; a lone str or bytes is one.

    Raises CodecError for what is neither.
    """
    if isinstance(values, np.ndarray):
        values = values.ravel().tolist()
    for index, value in enumerate(flatten(values)):
        if isinstance(value, (bytes, bytearray, memoryview)):
            yield value
        elif isinstance(value, str):
            try:
                yield value.encode()
            except UnicodeEncodeError as exc:
                raise CodecError(f"element {index} is text that UTF-8 cannot hold") from exc
        elif value is None:
            yield b""
        else:
            raise CodecError(f"element {index} is {type(value).__name__}, which is no BYTES")


def unpack_bytes(raw: Buffer, name: str = "tensor") -> list[bytes]:
    """BYTES elements from a buffer in which each stands behind its length."""
    view = memoryview(raw)
    end, at = view.nbytes, 0
    values: list[bytes] = []
    while at < end:
        start = at + 4
        if start > end:
            raise InvalidTensor(f"'{name}': {end - at} bytes are left over after element {len(values)}")
        at = start + _LENGTH.unpack_from(view, at)[0]
        if at > end:
            raise InvalidTensor(
                f"'{name}': element {len(values)} claims {at - start} bytes, but only {end - start} are left"
            )
        values.append(bytes(view[start:at]))
    return values


def unpack_array(elem: Tensor, raw: Buffer) -> Array:
    """A tensor of numbers, of its shape, that shares the memory of `raw` (not for BOOL)."""
    dtype = DTYPES[datatype_name(elem.datatype)]
    if min(elem.shape, default=0) < 0:
        raise InvalidTensor(f"'{elem.name}': shape {list(elem.shape)} has a negative dimension")
    need, got = count_elements(elem.shape) * dtype.itemsize, memoryview(raw).nbytes
    if need != got:
        raise InvalidTensor(
            f"'{elem.name}': {datatype_name(elem.datatype)} {list(elem.shape)} needs {need} bytes, got {got}"
        )
    if dtype.kind == "b":  # any byte but 0 is true, which numpy expects to be 1
        truths: Array = np.frombuffer(raw, dtype=np.uint8) != 0
        return reshape(truths, elem.shape, f"'{elem.name}'")
    return reshape(np.frombuffer(raw, dtype=dtype), elem.shape, f"'{elem.name}'")


def _is_empty(data: Any) -> bool:
    root = data.root if isinstance(data, TensorData) and data.array is None else data
    if isinstance(root, TensorData):
        assert root.array is not None
        return root.array.size == 0
    return root is None or (hasattr(root, "__len__") and len(root) == 0)


def datatype_name(datatype: Any) -> str:
    """A datatype's name, be it the name or the enum member that user code assigned."""
    return datatype if type(datatype) is str else datatype.value
