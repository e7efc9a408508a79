"""Single values: a tensor of one element as a `str`, `bool`, `int` or `float`, for signatures.

These are no content types: clients cannot ask for them, only the hints of a function can.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mlserver.codecs.base import InputCodec
from mlserver.codecs.numpy import NumpyCodec
from mlserver.codecs.string import StringCodec
from mlserver.errors import CodecError, MLServerError
from mlserver.types import RequestInput, ResponseOutput

__all__ = ["SCALARS", "ScalarCodec"]


_MOST_SIGNED = np.iinfo(np.int64).max
_SHOWN = 60  # characters of a value in a message


class ScalarCodec(InputCodec):
    """One value of a type <-> a tensor of shape [1, 1]."""

    Type: type = object
    Codec: Any = NumpyCodec

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        # A bool is an int, and an int will do for a float; numpy's are as good.
        kinds = {bool: (bool, np.bool_), int: (int, np.integer), float: (int, float, np.number)}
        return isinstance(payload, kinds.get(cls.Type, (cls.Type,)))

    @classmethod
    def encode_output(cls, name: str, payload: Any, **kwargs: Any) -> ResponseOutput:
        """Raises MLServerError (500) for a number that no datatype holds."""
        values: Any = [payload]
        if cls.Type is not str:
            try:
                dtype = np.uint64 if cls.Type is int and payload > _MOST_SIGNED else cls.Type
                values = np.array([cls.Type(payload)], dtype=dtype)
            except OverflowError as exc:
                what = f"an int of {payload.bit_length()} bits, which no datatype holds"
                raise MLServerError(f"'{name}' is {what}", 500) from exc
        output: ResponseOutput = cls.Codec.encode_output(name, values, **kwargs)
        return output

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        """Raises CodecError unless there is one element, and it is of the type."""
        if cls.Type is str and request_input.datatype != "BYTES":
            raise CodecError(
                f"'{request_input.name}' must hold one str, but has datatype {request_input.datatype}"
            )
        values = cls.Codec.decode_input(request_input)
        elements = values if isinstance(values, list) else values.ravel().tolist()
        if len(elements) != 1:
            raise CodecError(f"'{request_input.name}' must hold one value, but holds {len(elements)}")
        value = elements[0].decode(errors="replace") if isinstance(elements[0], bytes) else elements[0]
        if not cls._fits(value):
            shown = repr(value)[:_SHOWN]
            raise CodecError(f"'{request_input.name}' must hold one {cls.Type.__name__}, but holds {shown}")
        return cls.Type(value)

    @classmethod
    def _fits(cls, value: Any) -> bool:
        if cls.Type is str or isinstance(value, str):
            return cls.Type is str and isinstance(value, str)
        # Not 2 for a bool, and no fraction for an int.
        return isinstance(value, (bool, int, float)) and (
            cls.Type is float or value in (0, 1) or (cls.Type is int and value == value // 1)
        )


def _scalar(kind: type, codec: Any) -> type[ScalarCodec]:
    return type(
        f"{kind.__name__.title()}Codec", (ScalarCodec,), {"Type": kind, "Codec": codec, "TypeHint": kind}
    )


SCALARS: Final[dict[Any, type[ScalarCodec]]] = {
    str: _scalar(str, StringCodec),
    bool: _scalar(bool, NumpyCodec),
    int: _scalar(int, NumpyCodec),
    float: _scalar(float, NumpyCodec),
}
