"""JSON documents: what pipelines answer with, and objects that some of them ask for."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Dict, List  # noqa: UP035 - the hints users compare with

import numpy as np
import orjson
from PIL import Image

from mlserver.codecs import InputCodec, register_input_codec
from mlserver.codecs.json import decode_json_input_or_output
from mlserver.codecs.lists import column_of_bytes, is_list_of
from mlserver.errors import CodecError
from mlserver.tensor import TensorData
from mlserver.types import Parameters, RequestInput, ResponseOutput
from mlserver_huggingface.codecs.conversation import Conversation, to_dict
from mlserver_huggingface.codecs.image import data_uri

__all__ = ["HuggingfaceListJSONCodec", "HuggingfaceSingleJSONCodec", "to_json"]

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def to_json(value: Any) -> bytes:
    """UTF-8 JSON. Arrays and tensors become lists, images data URIs, NaN and infinities null.

    Raises TypeError for anything else that JSON does not have.
    """
    return orjson.dumps(value, default=_plain, option=_OPTIONS)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()  # what orjson leaves: other byte orders, strides, dtypes
    if isinstance(value, Image.Image):
        return data_uri(value)
    if isinstance(value, Conversation):
        return to_dict(value)
    if isinstance(value, bytes):
        return value.decode()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if callable(getattr(value, "tolist", None)):  # a tensor of torch
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not JSON serialisable")


@register_input_codec
class HuggingfaceSingleJSONCodec(InputCodec):
    """A dict <-> BYTES tensor of shape [1]: one JSON object."""

    ContentType: ClassVar[str] = "hg_json"
    TypeHint: ClassVar[Any] = Dict[str, Any]  # noqa: UP006

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, dict)

    @classmethod
    def encode_output(cls, name: str, payload: Any, use_bytes: bool = True, **kwargs: Any) -> ResponseOutput:
        """use_bytes: JSON as UTF-8 bytes, else as str."""
        text = to_json(payload)
        return ResponseOutput.build(
            name=name,
            shape=[1],
            datatype="BYTES",
            parameters=Parameters.of_content_type(cls.ContentType),
            data=TensorData([text if use_bytes else text.decode()]),
        )

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        """The value that the first element stands for. Raises CodecError unless it is JSON."""
        values = decode_json_input_or_output(request_input)
        if not values:
            raise CodecError(f"'{request_input.name}' is empty, expected one JSON object")
        return values[0]


@register_input_codec
class HuggingfaceListJSONCodec(InputCodec):
    """List of dicts <-> BYTES tensor of shape [N, 1]: one JSON document each."""

    ContentType: ClassVar[str] = "hg_jsonlist"
    TypeHint: ClassVar[Any] = List[Dict[str, Any]]  # noqa: UP006

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, list) and len(payload) > 0 and is_list_of(payload, dict)

    @classmethod
    def encode_output(cls, name: str, payload: Any, use_bytes: bool = True, **kwargs: Any) -> ResponseOutput:
        """use_bytes: JSON as UTF-8 bytes, else as str."""
        texts = [to_json(element) for element in payload]
        return column_of_bytes(name, cls.ContentType, texts, use_bytes)

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        """The values that the elements stand for. Raises CodecError naming the first that is no JSON."""
        return decode_json_input_or_output(request_input)
