"""The formats that requests come in, and what the executor asks of each.

A request settles how its reply is written: tensors that came raw go back raw. So decoding gives a request and
the format of its reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, Protocol

from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.wire import json
from mlserver.wire.forms import Form, Forms

__all__ = ["Body", "Format", "Payload", "Wire", "WireName", "wire_of"]

Body = bytes | bytearray | memoryview
"""A request as it arrived."""
Payload = bytes | list[bytes | bytearray | memoryview]
"""A reply as it goes out; pieces, where there are several, one behind the other."""
WireName = Literal["json", "protobuf"]


class Format(Protocol):
    """How replies of one kind are written. Those of calls that are answered together have the same."""

    def encode(self, response: InferenceResponse) -> Payload: ...

    def encode_split(
        self, response: InferenceResponse, rows: Sequence[int], ids: Sequence[str]
    ) -> Sequence[Payload]: ...


class Wire(Protocol):
    """How requests of one kind are read."""

    def decode(self, body: Body) -> tuple[InferenceRequest, Format]: ...

    def recognise(self, body: Body) -> tuple[Form, Any, str | None, Format] | None:
        """The form of a request, its values for `Form.join`, its id, and the format of its reply; None unless
        the form is known.
        """

    def learn(self, body: Body, request: InferenceRequest, key: tuple[Any, ...]) -> None:
        """Remember the form of a request that was decoded, and has this key of `batching.merge.fits`."""

    def decode_response(self, body: bytes) -> InferenceResponse: ...

    def encode_error(self, text: str, details: list[dict[str, Any]] | None) -> bytes: ...


class _Json:
    """V2 JSON, for a request and its reply alike."""

    def __init__(self) -> None:
        self._forms = Forms()
        self.learn = self._forms.learn

    def recognise(self, body: Body) -> tuple[Form, Any, str | None, Format] | None:
        known = self._forms.read(body)
        return None if known is None else (*known, None, self)

    decode_response = staticmethod(json.decode_response)
    encode = staticmethod(json.encode_response)
    encode_split = staticmethod(json.encode_split)
    encode_error = staticmethod(json.encode_error)

    def decode(self, body: Body) -> tuple[InferenceRequest, Format]:
        return json.decode_request(bytes(body) if isinstance(body, memoryview) else body), self


class _Protobuf:
    """ModelInferRequest. An error is its text: gRPC has a place for the rest."""

    def __init__(self) -> None:
        from mlserver.wire import protobuf

        self._decode = protobuf.decode_request
        self._recognise = protobuf.recognise_request
        self.decode_response = protobuf.decode_response
        self._formats = (_ProtobufReply(False), _ProtobufReply(True))

    def decode(self, body: Body) -> tuple[InferenceRequest, Format]:
        request, raw = self._decode(body)
        return request, self._formats[raw]

    def recognise(self, body: Body) -> tuple[Form, Any, str | None, Format] | None:
        known = self._recognise(body)
        return None if known is None else (*known, self._formats[True])

    def learn(self, body: Body, request: InferenceRequest, key: tuple[Any, ...]) -> None:
        pass  # decoding remembers what it needs

    @staticmethod
    def encode_error(text: str, details: list[dict[str, Any]] | None) -> bytes:
        return text.encode()


class _ProtobufReply:
    """ModelInferResponse, with tensors raw or typed."""

    def __init__(self, raw: bool) -> None:
        from mlserver.wire import protobuf

        self._raw = raw
        self._encode = protobuf.encode_parts
        self._encode_split = protobuf.encode_split

    def encode(self, response: InferenceResponse) -> Payload:
        return self._encode(response, self._raw)

    def encode_split(
        self, response: InferenceResponse, rows: Sequence[int], ids: Sequence[str]
    ) -> Sequence[Payload]:
        return self._encode_split(response, rows, ids, self._raw)


_JSON = _Json()


@lru_cache
def _protobuf() -> Wire:
    return _Protobuf()


def wire_of(name: WireName) -> Wire:
    """protobuf is imported when first asked for."""
    return _JSON if name == "json" else _protobuf()
