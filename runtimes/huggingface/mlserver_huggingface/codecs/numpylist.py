"""Lists of arrays, as audio and images are: one tensor with one more dimension."""

from __future__ import annotations

from typing import Any, ClassVar, List  # noqa: UP035 - the hint users compare with

import numpy as np

from mlserver.codecs import InputCodec, NumpyCodec, register_input_codec
from mlserver.codecs.lists import is_list_of
from mlserver.errors import CodecError
from mlserver.types import Parameters, RequestInput, ResponseOutput

__all__ = ["NumpyListCodec"]


@register_input_codec
class NumpyListCodec(InputCodec):
    """List of N arrays of one shape <-> tensor of shape [N, *shape]."""

    ContentType: ClassVar[str] = "nplist"
    TypeHint: ClassVar[Any] = List[np.ndarray]  # noqa: UP006

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, list) and len(payload) > 0 and is_list_of(payload, np.ndarray)

    @classmethod
    def encode_output(cls, name: str, payload: Any, **kwargs: Any) -> ResponseOutput:
        """Raises CodecError when the arrays differ in shape."""
        shapes = sorted({array.shape for array in payload})
        if len(shapes) > 1:
            raise CodecError(f"'{name}': arrays of different shapes, {list(shapes[0])} and {list(shapes[1])}")
        output = NumpyCodec.encode_output(name, np.stack(payload))
        output.parameters = Parameters(content_type=cls.ContentType)
        return output

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        """The arrays along the first dimension."""
        return list(NumpyCodec.decode_input(request_input))
