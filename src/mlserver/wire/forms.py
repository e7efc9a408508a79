"""Requests that differ in nothing but their values.

A client sends the same small request again and again, with other numbers in it. A form is such a request
with a hole where the values of its one tensor stand: every byte before, every byte behind. What a body means
that fits a known form was settled when the form was learned; only the values are left to parse.

JSON makes that exact. What stands before a value says where in the message it is, whatever the value; so two
bodies that are equal but for one whole value are messages that are equal but for that value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec

from mlserver.errors import InvalidRequest
from mlserver.tensor import DTYPES, TensorData
from mlserver.types import InferenceRequest
from mlserver.wire.json import decode_request

__all__ = ["Form", "Forms", "JsonForm"]

# Bytes of a body beyond which parsing the values is most of the work, form or not.
_LARGEST_BODY = 1024
_MOST_FORMS = 256

_HOLE = b'"data":'
# A value that stands in the hole for a moment, to see where in the message that is.
_PROBE = b'"this, and nothing else, is the tensor"'
_decode_values = msgspec.json.Decoder().decode


class Form:
    """What requests of one form have in common.

    request: one of them, for all but its values; not to be changed. key: see `batching.merge.fits`.
    rows: of each. size: how many values each has.
    """

    __slots__ = ("key", "request", "rows", "size")

    def __init__(self, request: InferenceRequest, key: tuple[Any, ...]) -> None:
        shape = request.inputs[0].shape
        self.request = request
        self.key = key
        self.rows = shape[0]
        self.size = math.prod(shape)

    def join(self, parts: Sequence[Any]) -> TensorData:
        """The values of several requests, one behind the other. Raises CodecError."""
        raise NotImplementedError


class JsonForm(Form):
    """end: the bytes behind the values, which are lists."""

    __slots__ = ("end",)

    def __init__(self, request: InferenceRequest, key: tuple[Any, ...], end: bytes) -> None:
        super().__init__(request, key)
        self.end = end

    def join(self, parts: Sequence[list[Any]]) -> TensorData:
        data = TensorData(list(chain.from_iterable(parts)))
        datatype = self.request.inputs[0].datatype
        return TensorData.from_array(data.to_array(datatype)) if datatype in DTYPES else data


class Forms:
    """The forms of JSON that were learned, a bounded number of them."""

    __slots__ = ("_by_start",)

    def __init__(self) -> None:
        self._by_start: dict[bytes, JsonForm] = {}

    def read(self, body: bytes | bytearray | memoryview) -> tuple[JsonForm, list[Any]] | None:
        """The form of a body, and its values, as many as its shape has; None without a known form."""
        if len(body) > _LARGEST_BODY or not isinstance(body, bytes):
            return None
        start = body.find(_HOLE) + len(_HOLE)
        form = self._by_start.get(body[:start])
        if form is None or not body.endswith(form.end):
            return None
        try:
            values = _decode_values(body[start : len(body) - len(form.end)])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return (form, values) if type(values) is list and len(values) == form.size else None

    def learn(
        self, body: bytes | bytearray | memoryview, request: InferenceRequest, key: tuple[Any, ...]
    ) -> None:
        """Remember the form of a body that was decoded as `request`, if it has one: one tensor, no id.

        key: of `batching.merge.fits`.
        """
        if len(body) > _LARGEST_BODY or not isinstance(body, bytes):
            return
        hole = body.find(_HOLE)
        if hole < 0 or request.id is not None or len(request.inputs) != 1:
            return
        text = request.inputs[0].data.text
        if text is None:
            return
        start, behind = body[: hole + len(_HOLE)], body[hole + len(_HOLE) :].lstrip()
        if not behind.startswith(text):
            return
        end = behind[len(text) :]
        try:
            probed = decode_request(start + _PROBE + end)
        except InvalidRequest:
            return
        if len(probed.inputs) != 1 or probed.inputs[0].data.text != _PROBE:
            return  # the hole is somewhere else, such as in a parameter of that name
        if len(self._by_start) >= _MOST_FORMS:
            self._by_start.clear()
        self._by_start[start] = JsonForm(probed, key, end)
