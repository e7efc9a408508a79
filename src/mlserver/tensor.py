"""The values of one tensor, and the datatypes that they may have.

A tensor is its bytes. What arrives is a slice of JSON text, or a buffer; what a model makes is an ndarray. A
list, an ndarray or JSON text is a *view*, made when somebody asks for it:

    JSON text --- msgspec ---> list  (`root`: what user code indexes and iterates)
        \\---- simdjson ---> ndarray (`to_array`: what codecs ask for; no Python object per element)
    ndarray ----- tolist ----> list
        \\---- orjson -----> JSON text (`to_json`: what goes out)

Nothing here knows of names, requests or transports. Lists are live: once `root` was handed out it is the only
truth, since its holder may change it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import orjson
import simdjson

from mlserver.errors import CodecError, InvalidTensor

__all__ = ["DATATYPES", "DTYPES", "TensorData", "count_elements", "does_not_fill", "flatten", "reshape"]

Array = npt.NDArray[Any]

# Datatypes of the V2 protocol, and the numpy dtype that holds each. BYTES has no fixed width.
DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
DATATYPES: Final[tuple[str, ...]] = (*DTYPES, "BYTES")

# Below this many bytes of JSON, building a list is quicker than starting simdjson.
_SMALL_JSON = 256
# Above this many elements, one pass of orjson over the array beats a list of Python numbers.
_SMALL_ARRAY = 64

# Up to so many brackets, to look for one after the other is quicker than to count them in one pass.
_FEW_LISTS = 500

# Floats hold every integer below this.
_EXACT_IN_FLOAT = 2.0**53

_UNMADE: Final[Any] = object()
_local = threading.local()  # a simdjson parser owns the last document it parsed: one a thread
_decode_json = msgspec.json.Decoder().decode


class TensorData:
    """The values of a tensor: behaves like the list that they would be, without being one until asked.

    `TensorData(value)` wraps any value and keeps it as it is; wrapping a TensorData shares its value.
    """

    __slots__ = ("_array", "_json", "_nan", "_reread", "_root")

    _json: Any  # bytes or msgspec.Raw of valid JSON, or None
    _array: Array | None  # C-contiguous, numeric, native byte order
    _nan: bool  # whether the array's NaN is NaN in `root`, as it was sent, and not None, as in JSON
    _reread: Callable[[], TensorData] | None  # gives the values as they came, where they were not read yet
    _root: Any

    def __init__(self, root: Any) -> None:
        if type(root) is TensorData:
            self._json, self._array, self._nan, self._reread, self._root = (
                root._json,
                root._array,
                root._nan,
                root._reread,
                root._root,
            )
        else:
            self._json = self._array = self._reread = None
            self._nan = False
            self._root = root

    @classmethod
    def from_json(cls, text: msgspec.Raw | bytes) -> TensorData:
        """The values that `text`, one valid JSON value, stands for. Parsed when needed."""
        self = cls.__new__(cls)
        self._json = text
        self._array = self._reread = None
        self._nan = False
        self._root = _UNMADE
        return self

    @classmethod
    def from_array(cls, array: Array, reread: Callable[[], TensorData] | None = None) -> TensorData:
        """The values of a numeric or boolean array, row-major; kept, not copied, where it is contiguous.

        reread: where the array was parsed from text, gives the values as that text had them.
        """
        self = cls.__new__(cls)
        self._json = None
        self._array = np.ascontiguousarray(array)
        self._nan = False
        self._reread = reread
        self._root = _UNMADE
        return self

    @classmethod
    def from_binary(cls, array: Array) -> TensorData:
        """The values of a numeric or boolean array that arrived as bytes: NaN is NaN in `root` too.

        array: C-contiguous, native byte order, kept. It need not be aligned: it may lie anywhere in a body.
        """
        self = cls.__new__(cls)
        self._json = self._reread = None
        self._array = array
        self._nan = True
        self._root = _UNMADE
        return self

    @classmethod
    def when_asked(cls, read: Callable[[], TensorData]) -> TensorData:
        """The values that `read` gives, which is called once, and only if somebody looks at them."""
        self = cls.__new__(cls)
        self._json = self._array = None
        self._nan = False
        self._reread = read
        self._root = _UNMADE
        return self

    @property
    def root(self) -> Any:
        """The plain Python value: usually a list, live, flat or nested as it came.

        NaN is None in arrays that a model made or JSON brought; what came as bytes keeps it.
        """
        if self._root is _UNMADE:
            if self._reread is not None:
                self._root = self._reread().root
            elif self._json is not None:
                self._root = _read(self._json)
            else:
                self._root = _to_list(self._array, self._nan)
            self._json = self._array = self._reread = None
        return self._root

    @property
    def array(self) -> Array | None:
        """The ndarray behind these values, if any: not to be written to, and perhaps not aligned."""
        return self._array

    @property
    def text(self) -> bytes | None:
        """The JSON text that these values came as, as long as they are nothing else yet."""
        return None if self._json is None else bytes(self._json)

    @property
    def keeps_nan(self) -> bool:
        """Whether NaN is NaN in `root`, because the values are an array that came as bytes."""
        return self._nan and self._array is not None

    def short_list(self) -> list[Any] | None:
        """The values as a list of the caller's own, if they are a short JSON list, else None."""
        text = self._json
        if text is not None and memoryview(text).nbytes <= _SMALL_JSON:
            values = _decode_json(text)
            if type(values) is list:
                return values
        return None

    def to_array(self, datatype: str) -> Array:
        """The values as an ndarray of the dtype of `datatype`, which must not be BYTES.

        The shape follows from the values: nested lists give their own shape, a scalar gives `()`. Null is NaN
        in floats and False in BOOL; floats are cut off into integers and numeric text is parsed. The array is
        aligned, and the caller's own unless the values came as one.

        Raises CodecError when a value does not fit: null in an integer tensor, out of range, ragged, text.
        """
        dtype = DTYPES[datatype]
        array = self._array
        if array is not None:
            if array.dtype != dtype:
                return _from_values(array, datatype, dtype)
            # Code in C may be compiled for aligned memory, and crash on other.
            return array if array.flags.aligned else array.copy()
        if self._json is not None:
            return _parse_numbers(self._json, datatype, dtype)
        return _from_values(self.root, datatype, dtype)

    def to_json(self) -> msgspec.Raw | bytes:
        """The values as compact JSON text: bytes as UTF-8 text, NaN and infinities as null.

        Raises CodecError for what JSON cannot hold, such as bytes that are not UTF-8.
        """
        if self._json is not None:
            return self._json  # type: ignore[no-any-return]
        if self._reread is not None:
            return self._reread().to_json()
        if self._array is not None:
            return array_to_json(self._array)
        root = self._root
        if isinstance(root, np.ndarray) and root.dtype.kind in "biuf":
            return array_to_json(np.ascontiguousarray(root))
        try:
            return orjson.dumps(root, default=_json_default)
        except TypeError as exc:
            cause = exc.__cause__ if isinstance(exc.__cause__, (CodecError, UnicodeDecodeError)) else exc
            if isinstance(cause, UnicodeDecodeError):
                raise CodecError("bytes that are not UTF-8 need the content type 'base64' in JSON") from exc
            raise CodecError(f"tensor data that JSON cannot hold: {cause}") from exc

    # What users do with it: it reads like a list.

    def __iter__(self) -> Iterator[Any]:
        values: Iterator[Any] = iter(self.root)
        return values

    def __len__(self) -> int:
        if self._array is not None and self._reread is None:
            return self._array.size
        return len(self.root)

    def __getitem__(self, index: Any) -> Any:
        return self.root[index]

    def __contains__(self, value: object) -> bool:
        return value in self.root

    def __reversed__(self) -> Iterator[Any]:
        values: Iterator[Any] = reversed(self.root)
        return values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorData) and bool(self.root == other.root)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"TensorData(root={self.root!r})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        flat = self._array is not None and self._reread is None
        return np.array(self._array.ravel() if flat else self.root, dtype=dtype)  # type: ignore[union-attr]

    def __reduce__(self) -> tuple[Any, ...]:
        if self._reread is None and self._array is not None:
            return TensorData.from_binary if self._nan else TensorData.from_array, (self._array,)
        if self._json is not None:
            return TensorData.from_json, (bytes(self._json),)
        return TensorData, (self.root,)

    def model_dump(self, **kwargs: Any) -> Any:
        return self.root

    def model_dump_json(self, **kwargs: Any) -> str:
        return bytes(memoryview(self.to_json())).decode()

    @classmethod
    def model_validate(cls, obj: Any) -> TensorData:
        return cls(obj)

    dict = model_dump
    json = model_dump_json


def count_elements(shape: Sequence[int]) -> int:
    """How many elements a tensor of this shape has; an empty shape is a scalar and has one."""
    return math.prod(shape)


def reshape(array: Array, shape: Sequence[int], what: str = "tensor") -> Array:
    """Give `array` the shape, in which one dimension may be -1 and is inferred.

    Raises InvalidTensor naming shape and number of elements when they disagree.
    """
    try:
        if min(shape, default=0) < -1:
            raise ValueError("negative dimension")
        return array.reshape(shape)
    except (ValueError, TypeError, OverflowError) as exc:
        raise does_not_fill(what, shape, array.size) from exc


def does_not_fill(what: str, shape: Sequence[int], given: int) -> InvalidTensor:
    """The error for a number of values that a shape does not have."""
    known = all(isinstance(d, int) and d >= 0 for d in shape)
    need = f", which has {count_elements(shape)} elements" if known else ""
    return InvalidTensor(f"{what} has shape {list(shape)}{need}, but {given} values were given")


def flatten(values: Any) -> list[Any]:
    """The elements of a flat or nested list, row-major; a scalar gives one element."""
    if not isinstance(values, (list, tuple, TensorData)):
        return [values]
    if not any(isinstance(value, (list, tuple)) for value in values):
        return list(values)
    elements: list[Any] = []
    levels = [iter(values)]  # however deep a client nests them, no recursion
    while levels:
        for value in levels[-1]:
            if isinstance(value, (list, tuple)):
                levels.append(iter(value))
                break
            elements.append(value)
        else:
            levels.pop()
    return elements


def array_to_json(array: Array) -> bytes:
    """A numeric array as a flat JSON list, row-major; NaN and infinities are null, floats widened first."""
    if array.dtype.kind == "f" and array.dtype.itemsize < 8:
        array = array.astype(np.float64)
    if array.size <= _SMALL_ARRAY:
        return orjson.dumps(array.ravel().tolist())
    return orjson.dumps(array.ravel(), option=orjson.OPT_SERIALIZE_NUMPY)


def _json_default(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode()
    if isinstance(value, np.ndarray):
        return _to_list(value) if value.dtype.kind in "biuf" else value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, TensorData):
        return value.root
    raise TypeError(f"{type(value).__name__} is not JSON serialisable")


def _to_list(array: Array | None, keep_nan: bool = False) -> list[Any]:
    assert array is not None
    values: list[Any] = array.ravel().tolist()
    if not keep_nan and array.dtype.kind == "f" and np.isnan(array).any():
        return [None if value != value else value for value in values]
    return values


def _read(text: Any) -> Any:
    try:
        return _decode_json(text)
    except RecursionError as exc:
        raise CodecError("lists are nested too deeply") from exc
    except msgspec.DecodeError as exc:  # the JSON is valid; a number in it is beyond what Python reads
        raise CodecError(str(exc)) from exc


def _parse_numbers(text: Any, datatype: str, dtype: np.dtype[Any]) -> Array:
    view = memoryview(text)
    if view.nbytes > _SMALL_JSON and dtype.kind != "b":
        parsed = _parse_large(text, dtype)
        if parsed is not None:
            return parsed
    return _from_values(_read(text), datatype, dtype)


def _parse_large(text: Any, dtype: np.dtype[Any]) -> Array | None:
    """A JSON list of numbers, or of such lists, right into an array; None where the slow way must judge."""
    text = text if isinstance(text, bytes) else bytes(text)
    try:
        array = numbers_of(json_parser().parse(text), dtype)
    except (ValueError, TypeError, RuntimeError):
        return None
    if array is None or not has_lists(text, 1 if array.ndim == 1 else 1 + len(array)):
        return None  # lists among the numbers
    return array


def has_lists(text: bytes | bytearray, count: int) -> bool:
    """Whether so many brackets open in a text, and no more."""
    if count > _FEW_LISTS:
        return int(np.count_nonzero(np.frombuffer(text, np.uint8) == ord("["))) == count
    at = -1
    for _ in range(count):
        at = text.find(b"[", at + 1)
        if at < 0:
            return False
    return text.find(b"[", at + 1) < 0


def json_parser() -> simdjson.Parser:
    """This thread's simdjson parser. A document is valid until the next one is parsed."""
    parser: simdjson.Parser | None = getattr(_local, "parser", None)
    if parser is None:
        parser = _local.parser = simdjson.Parser()
    return parser


def numbers_of(values: Any, dtype: np.dtype[Any]) -> Array | None:
    """The elements of a simdjson array as an ndarray, or None where they are not plainly such numbers.

    Lists among numbers, as in [1, [2]], go unnoticed: their text has more brackets than 1, or 1 + the rows.
    """
    if not isinstance(values, simdjson.Array):
        return None
    shape: tuple[int, ...] = (len(values),)
    if len(values) and isinstance(values[0], simdjson.Array):
        width = len(values[0])
        if any(not isinstance(row, simdjson.Array) or len(row) != width for row in values):
            return None
        if width and isinstance(values[0][0], simdjson.Array):
            return None
        shape = (len(values), width)
    kind: Any = {"f": "d", "i": "i", "u": "u"}[dtype.kind]
    try:
        flat = np.frombuffer(values.as_buffer(of_type=kind), dtype=f"<{'f' if kind == 'd' else kind}8")
    except (TypeError, ValueError):
        return None
    if flat.size != math.prod(shape):
        return None
    if dtype.itemsize != 8:
        with np.errstate(over="ignore"):
            narrow = flat.astype(dtype)
        if dtype.kind != "f" and not np.array_equal(narrow, flat):
            return None
        flat = narrow
    return flat.reshape(shape)


def _from_values(values: Any, datatype: str, dtype: np.dtype[Any]) -> Array:
    try:
        return _convert(values, dtype)
    except _MISFITS as exc:
        raise CodecError(f"{_first_misfit(values, datatype, dtype)} ({exc})") from exc


_MISFITS = (ValueError, TypeError, OverflowError)


def _convert(values: Any, dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "f":
        if dtype.itemsize == 8:
            return np.array(values, dtype=dtype)
        with np.errstate(over="ignore"):
            return np.array(values, dtype=dtype)
    if dtype.kind == "b":
        # Text in a BOOL tensor would be true whatever it says.
        if any(isinstance(value, (str, bytes)) for value in flatten(values)):
            raise ValueError("text is not a boolean")
        return np.array(values, dtype=dtype)
    return _integers(values, dtype)


def _integers(values: Any, dtype: np.dtype[Any]) -> Array:
    array = np.array(values)
    if array.dtype == dtype:
        # From 2**63 on numpy takes `unsigned long long`: equal to `dtype`, but none that PyTorch knows.
        return array.view(dtype)
    if array.dtype.kind == "b":
        return array.astype(dtype)
    if array.dtype.kind in "US":
        array = array.astype(np.uint64 if dtype == np.uint64 else np.int64)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ValueError("not a finite number")
        if array.size and np.abs(array).max() >= _EXACT_IN_FLOAT:
            return _one_by_one(values, array.shape, dtype)
        array = np.trunc(array)
    if array.dtype == object:
        return _one_by_one(values, array.shape, dtype)
    if array.size:
        _check_range(int(array.min()), int(array.max()), dtype)
    return array.astype(dtype)


def _one_by_one(values: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Integers that numpy would take as floats or objects, such as those beyond 2^63, to the last digit."""
    elements = values.ravel().tolist() if isinstance(values, np.ndarray) else flatten(values)
    numbers = [int(element) for element in elements]
    _check_range(min(numbers), max(numbers), dtype)
    return np.array(numbers, dtype=dtype).reshape(shape)


def _check_range(least: int, most: int, dtype: np.dtype[Any]) -> None:
    limits = np.iinfo(dtype)
    if least < limits.min or most > limits.max:
        raise OverflowError("out of range")


def _first_misfit(values: Any, datatype: str, dtype: np.dtype[Any]) -> str:
    elements = values.ravel().tolist() if isinstance(values, np.ndarray) else flatten(values)
    low, high = 0, len(elements)  # a search by halves: one by one would take seconds for a large tensor
    while high - low > 1:
        middle = (low + high) // 2
        if _fits(elements[low:middle], dtype):
            low = middle
        else:
            high = middle
    if not elements or _fits(elements[low : low + 1], dtype):
        return f"the values are no tensor of {datatype}"
    shown = repr(elements[low])
    shown = shown[:60] + "…" if len(shown) > 60 else shown
    return f"element {low} is {shown}, which is no {datatype}"


def _fits(elements: list[Any], dtype: np.dtype[Any]) -> bool:
    try:
        _convert(elements, dtype)
    except _MISFITS:
        return False
    return True
