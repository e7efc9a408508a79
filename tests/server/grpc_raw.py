"""gRPC as frames: connections that send what they are told, and models for them to talk to."""

from __future__ import annotations

import logging
import socket
import struct
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import hpack
import numpy as np
import pytest

from mlserver import MLModel
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.server import GrpcServer
from mlserver.grpc.status import Code
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from mlserver.wire.http2 import PREFACE, ErrorCode, Field, encode_headers
from tests.fuzz.mutate import Alarm
from tests.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    Frame,
    credit,
    data,
    frame,
    headers,
    settings,
)
from tests.running import InThread, serving, wait_for, write_model

TIMEOUT = 20.0

INFER = b"/inference.GRPCInferenceService/ModelInfer"
STREAM = b"/inference.GRPCInferenceService/ModelStreamInfer"
LIVE = b"/inference.GRPCInferenceService/ServerLive"

# How many responses the model Endless has made, and how many requests Slow has taken, by the request's id.
made: dict[str, int] = defaultdict(int)
taken: dict[str, int] = defaultdict(int)


class Sized(MLModel):
    """Answers with as many bytes as its parameters ask for."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        assert payload.parameters is not None
        return sized(self, payload.parameters.count)


class Endless(MLModel):
    """Streams 64 KiB again and again, and never ends by itself."""

    async def predict_stream(
        self, payloads: AsyncIterator[InferenceRequest]
    ) -> AsyncIterator[InferenceResponse]:
        payload = await payloads.__anext__()
        while True:
            made[str(payload.id)] += 1
            yield sized(self, 64 * 1024)


class Takes(MLModel):
    """Takes one request of its stream, and leaves the others where they are until the stream is over."""

    async def predict_stream(
        self, payloads: AsyncIterator[InferenceRequest]
    ) -> AsyncIterator[InferenceResponse]:
        payload = await payloads.__anext__()
        yield sized(self, 1)
        while str(payload.id) not in released:
            await _pause()
        async for _ in payloads:
            taken[str(payload.id)] += 1
        yield sized(self, taken[str(payload.id)])


released: set[str] = set()


async def _pause() -> None:
    import asyncio

    await asyncio.sleep(0.005)


def sized(model: MLModel, count: int) -> InferenceResponse:
    content = np.zeros(count, dtype=np.uint8)
    output = ResponseOutput(name="y", shape=[count], datatype="UINT8", data=[])
    output.data = content  # type: ignore[assignment]
    return InferenceResponse(model_name=model.name, outputs=[output])


MODELS: Mapping[str, str] = {
    "echo": "tests.server.raw.Echo",
    "waits": "tests.server.raw.Waits",
    "sized": f"{__name__}.Sized",
    "endless": f"{__name__}.Endless",
    "takes": f"{__name__}.Takes",
    "streams": "tests.server.models.Streams",
}


@dataclass
class GrpcListening(InThread):
    """A server, and the part of it that speaks gRPC."""

    grpc: GrpcServer = field(repr=False)
    alarm: Alarm = field(repr=False)

    @property
    def target(self) -> str:
        return f"{self.host}:{self.server.grpc_port}"

    def connect_grpc(self, receive_buffer: int | None = None) -> socket.socket:
        connection = socket.socket()
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(TIMEOUT)
        connection.connect((self.host, self.server.grpc_port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    @property
    def connections(self) -> list[Any]:
        return list(self.grpc._connections)

    @property
    def open_calls(self) -> int:
        return sum(connection.http2.open_streams for connection in self.connections)

    @property
    def started(self) -> int:
        return sum(method.counters.started for method in self.grpc._methods.values() if method.counters)

    @property
    def ended(self) -> int:
        counters = [method.counters for method in self.grpc._methods.values() if method.counters]
        return sum(sum(list(counter.handled.values())) for counter in counters)

    @property
    def at_rest(self) -> bool:
        """No call, task, deadline or byte is left of what was asked."""
        return not (
            self.open_calls
            or self.grpc._tasks
            or self.grpc.deadlines._slots
            or any(connection.held or connection.http2.pending_bytes for connection in self.connections)
            or self.started != self.ended
            or any(
                loaded.replicas._in_flight or loaded.replicas.queue_length
                for loaded in self.server.service.registry.all()
            )
        )


@contextmanager
def grpc_server(folder: Path, models: Mapping[str, str] = MODELS, **values: Any) -> Iterator[GrpcListening]:
    for name, implementation in models.items():
        write_model(folder, name, implementation)
    servers: list[GrpcServer] = []
    start = GrpcServer.start

    async def note(self: GrpcServer, *args: Any) -> int:
        servers.append(self)
        return await start(self, *args)

    alarm = Alarm()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GrpcServer, "start", note)
        with serving(folder, **values) as server:
            loggers = [logging.getLogger("mlserver"), logging.getLogger("asyncio")]
            for logger in loggers:
                logger.addHandler(alarm)
            try:
                yield GrpcListening(**vars(server), grpc=servers[0], alarm=alarm)
            finally:
                for logger in loggers:
                    logger.removeHandler(alarm)


def request_headers(path: bytes = INFER, *more: Field) -> bytes:
    """A header block that no table is needed for."""
    return encode_headers(
        [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", b"test"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            *more,
        ]
    )


def message(body: bytes | Any, compressed: int = 0, length: int | None = None) -> bytes:
    """A message with what stands before it; `length` for one that lies."""
    content = body if isinstance(body, bytes) else body.SerializeToString()
    return struct.pack(">BI", compressed, len(content) if length is None else length) + content


def infer(model: str = "echo", values: Sequence[float] = (1, 2), **parameters: Any) -> Any:
    """A request with one tensor, raw."""
    array = np.asarray(values, dtype=np.float32)
    request = pb.ModelInferRequest(model_name=model, id=parameters.pop("id", ""))
    request.inputs.add(name="x", datatype="FP32", shape=[len(array)])
    request.raw_input_contents.append(array.tobytes())
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    return request


def call(stream: int, request: Any = None, path: bytes = INFER, *more: Field) -> bytes:
    """A whole call of one message."""
    return headers(stream, request_headers(path, *more)) + data(
        stream, message(infer() if request is None else request), end=True
    )


class Ended(Exception):
    """The server has ended the connection."""


@dataclass
class Reply:
    """What came on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    reset: ErrorCode | None = None
    ended: bool = False

    @property
    def code(self) -> Code:
        return Code(int(self.trailers["grpc-status"]))

    @property
    def text(self) -> str:
        return unquote(self.trailers.get("grpc-message", ""))

    @property
    def message(self) -> bytes:
        """The one message of a success."""
        assert self.code is Code.OK, self
        compressed, length = struct.unpack_from(">BI", self.body)
        assert not compressed and length == len(self.body) - 5
        return self.body[5:]

    @property
    def values(self) -> list[float]:
        response = pb.ModelInferResponse.FromString(self.message)
        return np.frombuffer(response.raw_output_contents[0], np.float32).tolist()


class RawGrpc:
    """A connection. What it reads has to be well-formed.

    replies: what came, by stream. frames: all that came.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        greet: bool = True,
        first: bytes | None = None,
    ) -> None:
        self.socket = connection
        self.replies: dict[int, Reply] = defaultdict(Reply)
        self.frames: list[Frame] = []
        self._read = b""
        self._decoder = hpack.Decoder(max_header_list_size=2**20)
        self._block = b""
        self._next = 1
        if greet:
            self.send(PREFACE, settings() if first is None else first)
            self.until(lambda: any(f.kind == SETTINGS and f.flags & ACK for f in self.frames))
            self.send(frame(SETTINGS, ACK))

    def send(self, *parts: bytes) -> RawGrpc:
        for part in parts:
            self.socket.sendall(part)
        return self

    def try_to_send(self, *parts: bytes) -> bool:
        """Whether all of it could be sent, before the server ended the connection."""
        try:
            self.send(*parts)
        except (ConnectionError, TimeoutError):
            return False
        return True

    def new_stream(self) -> int:
        stream, self._next = self._next, self._next + 2
        return stream

    def ask(self, request: Any = None, path: bytes = INFER, *more: Field) -> Reply:
        """A call and its reply."""
        stream = self.new_stream()
        return self.send(call(stream, request, path, *more)).reply(stream)

    def reply(self, stream: int) -> Reply:
        self.until(lambda: self.replies[stream].ended)
        return self.replies[stream]

    def until(self, condition: Any, timeout: float = TIMEOUT) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"only {self.frames[-5:]} came")
            self._more()

    def _more(self) -> None:
        part = self.socket.recv(1 << 20)
        if not part:
            raise Ended
        self._read += part
        position, end = 0, len(self._read)
        while position + 9 <= end:
            word, flags, stream = struct.unpack_from(">IBI", self._read, position)
            stop = position + 9 + (word >> 8)
            if stop > end:
                break
            self._take(Frame(word & 0xFF, flags, stream, self._read[position + 9 : stop]))
            position = stop
        self._read = self._read[position:]

    def _take(self, came: Frame) -> None:
        self.frames.append(came if came.kind != DATA else Frame(DATA, came.flags, came.stream, b""))
        reply = self.replies[came.stream] if came.stream else Reply()
        if came.kind == DATA:
            reply.body += came.payload
        elif came.kind in (HEADERS, CONTINUATION):
            self._block += came.payload
            if came.flags & END_HEADERS:
                fields = {str(name): str(value) for name, value in self._decoder.decode(self._block)}
                self._block = b""
                reply.headers = reply.headers or fields
                reply.trailers = fields
        elif came.kind == RST_STREAM:
            reply.reset = came.code
            reply.ended = True
        if came.kind in (DATA, HEADERS) and came.flags & END_STREAM:
            reply.ended = True

    def goaway(self) -> ErrorCode:
        """The error that the connection ends with, which has to come before its end."""
        try:
            while True:
                self._more()
        except Ended:
            pass
        last = [came for came in self.frames if came.kind == GOAWAY][-1]
        return last.code

    def ping(self, payload: bytes = b"01234567") -> RawGrpc:
        """The connection is alive, and all that was sent has been dealt with."""

        def answers() -> int:
            return sum(came.kind == PING and bool(came.flags & ACK) for came in self.frames)

        before = answers()
        self.send(frame(PING, 0, 0, payload))
        self.until(lambda: answers() > before)
        return self

    def give(self, size: int, stream: int = 0) -> RawGrpc:
        return self.send(credit(stream, size))

    def vanish(self) -> None:
        """Go, and leave no doubt about it."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@contextmanager
def connected(server: GrpcListening, receive_buffer: int | None = None, **options: Any) -> Iterator[RawGrpc]:
    with server.connect_grpc(receive_buffer) as connection:
        yield RawGrpc(connection, **options)


def assert_serves(server: GrpcListening) -> None:
    """Somebody else is served as if nothing had happened."""
    with connected(server) as other:
        started = time.monotonic()
        assert other.ask().values == [1, 2]
        assert time.monotonic() - started < 2.0


def wait_until_at_rest(server: GrpcListening) -> None:
    wait_for(lambda: server.at_rest, "all that was asked to be over")
