"""Answers that were given before, for models whose equal requests have equal answers.

A request is known by its model and version, the values of its tensors, what it asks for and its parameters:
not by its id, its headers, or whether it came as JSON or as protobuf. So a request over gRPC finds what one
over REST had left. Of equal requests under way at the same time one is run, and its answer is everybody's.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from mlserver.errors import MLServerError
from mlserver.executor import Call, Reply, failure
from mlserver.tensor import DTYPES, TensorData, flatten
from mlserver.types import InferenceRequest, InferenceResponse, Parameters
from mlserver.types.base import set_field
from mlserver.utils import generate_uuid
from mlserver.wire.formats import Format, WireName, wire_of

__all__ = ["Asked", "Key", "ResponseCache", "Run", "fingerprint"]

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def fingerprint(request: InferenceRequest) -> bytes | None:
    """What equal requests have in common and others have not; None for one that cannot be told apart.

    Raises CodecError for values that do not fit their datatype.
    """
    digest = hashlib.blake2b(digest_size=32)
    try:
        asked = [(output.name, _plain(output.parameters)) for output in request.outputs or ()]
        digest.update(_encode((_plain(request.parameters), asked, len(request.inputs))))
        for tensor in request.inputs:
            head = (tensor.name, tensor.datatype, tensor.shape, _plain(tensor.parameters))
            digest.update(_encode(head))
            data = tensor.data if isinstance(tensor.data, TensorData) else TensorData(tensor.data)
            if tensor.datatype in DTYPES:
                array = data.to_array(tensor.datatype)
                digest.update(_encode((array.dtype.str, array.size)))
                digest.update(array.tobytes())
            else:
                digest.update(_encode([_bytes(value) for value in flatten(data.root)]))
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        return None  # a parameter, or an element, of a kind that has no bytes of its own
    return digest.digest()


def _plain(parameters: Parameters | None) -> dict[str, Any]:
    if parameters is None:
        return {}
    return {key: value for key, value in parameters.items() if key != "headers" and value is not None}


def _bytes(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


@dataclass(slots=True, eq=False)
class Asked:
    """A request that was decoded: how its caller wants the answer, and under which id."""

    call: Call
    answer: Callable[[Reply], None]
    format: Format
    id: str
    left: bool = False


@dataclass(slots=True)
class _Entry:
    """exact: whether the response is what the model gave, or what JSON leaves of it."""

    response: InferenceResponse
    headers: dict[str, Any] | None
    size: int
    until: float
    exact: bool


class Run(Protocol):
    """A request under way."""

    def abandon(self) -> None: ...


@dataclass(slots=True)
class _Flight:
    """A request under way, and everybody who asked the same meanwhile."""

    run: Run
    asked: list[Asked]


# Whose model, which wire, which request.
Key = tuple[Any, WireName, bytes]


class ResponseCache:
    """Responses, the most recently used of them: `most` at a time, and `most_bytes` of bodies.

    lifetime: seconds for which one is good; None is for ever. Belongs to one thread.
    """

    def __init__(self, most: int, most_bytes: int, lifetime: float | None = None) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._lifetime = math.inf if lifetime is None else lifetime
        self._entries: OrderedDict[tuple[Any, bytes], _Entry] = OrderedDict()
        self._flights: dict[Key, _Flight] = {}
        self.size = 0  # in bytes

    def __len__(self) -> int:
        return len(self._entries)

    def ask(self, owner: Any, call: Call, answer: Callable[[Reply], None]) -> tuple[Key, Asked] | None:
        """A call as this cache sees it. owner: of the model; answers are its own.

        None when it cannot be understood, or is not to be remembered: let the model say what it thinks of it.
        """
        try:
            request, format = wire_of(call.wire).decode(call.body)
            known = fingerprint(request)
        except MLServerError:
            return None
        if known is None:
            return None
        request_id = generate_uuid() if request.id is None else request.id
        return (owner, call.wire, known), Asked(call, answer, format, request_id)

    def find(self, key: Key, asked: Asked) -> Reply | None:
        """The reply that is remembered."""
        owner, wire, known = key
        entry = self._entries.get((owner, known))
        if entry is None or (wire != "json" and not entry.exact):
            return None
        if entry.until < time.monotonic():
            self._drop((owner, known))
            return None
        self._entries.move_to_end((owner, known))
        return self._reply(entry.response, entry.headers, asked)

    def join(self, key: Key, asked: Asked) -> bool:
        """Wait for an equal request that is under way; whether there is one."""
        flight = self._flights.get(key)
        if flight is not None:
            flight.asked.append(asked)
        return flight is not None

    def begin(self, key: Key, asked: Asked, run: Run) -> None:
        """This request is under way now. When it ends, tell `landed`."""
        self._flights[key] = _Flight(run, [asked])

    def landed(self, key: Key, reply: Reply, keep: bool = True) -> None:
        """The answer to a request that was under way: for all who wait, and to be remembered if it is none
        of an error. keep: whether its model is still there.
        """
        flight = self._flights.pop(key)
        if reply.status != 200:
            for asked in flight.asked:
                if not asked.left:
                    asked.answer(reply)
            return
        try:
            response, size = _decode(reply, key[1])
        except Exception as exc:  # what a model said that is no V2 is for whoever asked it, and nobody else
            first, *others = flight.asked
            if not first.left:
                first.answer(reply)
            for asked in others:
                if not asked.left:
                    asked.answer(failure(asked.call, exc))
            return
        owner, wire, known = key
        exact = wire != "json" or not _lossy(response)
        entry = _Entry(response, reply.headers, size, time.monotonic() + self._lifetime, exact)
        if keep:
            self._keep((owner, known), entry)
        for asked in flight.asked:
            if not asked.left:
                asked.answer(self._reply(response, reply.headers, asked))

    def leave(self, key: Key, asked: Asked) -> None:
        """A caller is gone. With the last one who wants it, a run is."""
        asked.left = True
        flight = self._flights.get(key)
        if flight is not None and asked in flight.asked and all(other.left for other in flight.asked):
            del self._flights[key]
            flight.run.abandon()

    def forget(self, owner: Any) -> None:
        """A model is gone, and what it said with it."""
        for key in [key for key in self._entries if key[0] == owner]:
            self._drop(key)

    def _reply(self, response: InferenceResponse, headers: dict[str, Any] | None, asked: Asked) -> Reply:
        own = copy.copy(response)
        set_field(own, "id", asked.id)
        return Reply(200, asked.format.encode(own), asked.id, None if headers is None else dict(headers))

    def _keep(self, key: tuple[Any, bytes], entry: _Entry) -> None:
        if entry.size > self._most_bytes or self._most < 1:
            return
        if key in self._entries:
            self._drop(key)
        self._entries[key] = entry
        self.size += entry.size
        while len(self._entries) > self._most or self.size > self._most_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: tuple[Any, bytes]) -> None:
        self.size -= self._entries.pop(key).size


def _decode(reply: Reply, wire: WireName) -> tuple[InferenceResponse, int]:
    body = reply.body if isinstance(reply.body, bytes) else b"".join(_pieces(reply.body))
    return wire_of(wire).decode_response(body), len(body)


def _pieces(body: Any) -> Any:
    return body if isinstance(body, list) else (body,)


def _lossy(response: InferenceResponse) -> bool:
    """Whether there may be numbers that JSON could not tell: it has `null` for NaN and infinities."""
    for output in response.outputs:
        text = output.data.text if isinstance(output.data, TensorData) else None
        if text is None or (output.datatype in DTYPES and b"null" in text):
            return True
    return False
