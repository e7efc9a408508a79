"""HTTP as bytes: connections that send what they are told, and models for them to talk to."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlserver import MLModel
from mlserver.errors import MLServerError
from mlserver.rest.protocol import HttpProtocol
from mlserver.rest.server import HttpServer
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, ResponseOutput
from tests.running import InThread, Served, serving, wait_for, write_model

TIMEOUT = 20.0

# What the model Waits waits for, and what became of its requests, by the id of the request.
open_gates: set[str] = set()
seen: dict[str, list[str]] = defaultdict(list)


class Echo(MLModel):
    """Answers with what it was asked, at once."""

    inline = True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        outputs = [
            ResponseOutput(name=i.name, shape=i.shape, datatype=i.datatype, data=i.data)
            for i in payload.inputs
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)


class Waits(MLModel):
    """Answers once its gate is open."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        key = str(payload.id)
        seen[key].append("begun")
        try:
            while key not in open_gates:  # noqa: ASYNC110 - another thread opens it
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            seen[key].append("cancelled")
            raise
        seen[key].append("ended")
        return InferenceResponse(model_name=self.name, outputs=[])


class Large(MLModel):
    """Answers with so many numbers, given by the request's parameters, of one byte and a comma each."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        assert payload.parameters is not None
        count = payload.parameters.count
        output = ResponseOutput(name="y", shape=[count], datatype="INT64", data=[7] * count)
        return InferenceResponse(model_name=self.name, outputs=[output])


class SetsHeaders(MLModel):
    """Sets the response headers that the request's parameters name."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        assert payload.parameters is not None
        headers = payload.parameters.set
        return InferenceResponse(model_name=self.name, parameters=Parameters(headers=headers), outputs=[])


class Refuses(MLModel):
    """Raises an error with the status that the request's parameters name."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        assert payload.parameters is not None
        raise MLServerError("refused", payload.parameters.status)


MODELS: Mapping[str, type[MLModel]] = {
    "echo": Echo, "waits": Waits, "large": Large, "sets-headers": SetsHeaders, "refuses": Refuses, "a b":
    Echo, "é": Echo,
}  # fmt: skip


@dataclass
class Listening(InThread):
    """A server, and the part of it that holds the connections."""

    http: HttpServer

    @property
    def busy(self) -> list[HttpProtocol]:
        return [connection for connection in list(self.http._connections) if connection.busy]

    @property
    def in_progress(self) -> int:
        """What the gauges of requests being answered say."""
        metrics = self.server.service.metrics
        return sum(gauge.value for gauge in list(metrics._in_progress.values()))


@contextmanager
def http_server(folder: Path, **settings: Any) -> Iterator[Listening]:
    for number, (name, kind) in enumerate(MODELS.items()):
        write_model(folder, f"{number}", f"{__name__}.{kind.__name__}")
        (folder / f"{number}" / "model-settings.json").write_text(
            json.dumps({"name": name, "implementation": f"{__name__}.{kind.__name__}"})
        )
    made: list[HttpServer] = []
    start = HttpServer.start

    async def note(self: HttpServer, *args: Any) -> int:
        made.append(self)
        return await start(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HttpServer, "start", note)
        with serving(folder, **{"metrics_endpoint": None, **settings}) as server:
            yield Listening(**vars(server), http=made[0])


@dataclass
class Answer:
    """One response as it came."""

    version: str
    status: int
    headers: dict[str, str]  # lower-case names
    body: bytes
    continues: int  # how many `100 Continue` came before

    def json(self) -> Any:
        body = gzip.decompress(self.body) if self.headers.get("content-encoding") == "gzip" else self.body
        return json.loads(body)

    @property
    def error(self) -> str:
        """The text of an error, which has the one shape that all have."""
        assert self.status >= 400 and self.headers["content-type"] == "application/json", self
        text = self.json()["error"]
        assert isinstance(text, str)
        return text

    @property
    def values(self) -> list[Any]:
        """The data of the first output of a success."""
        assert self.status == 200, self
        data = self.json()["outputs"][0]["data"]
        assert isinstance(data, list)
        return data


class Ended(Exception):
    """The server ended the connection before there was an answer."""


_STATUS_LINE = re.compile(rb"HTTP/(1\.1) ([1-5][0-9][0-9]) [A-Za-z -]*")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9a-z-]+): ([\x20-\x7e\x80-\xff]*)")


class Raw:
    """A connection. What it reads has to be well-formed to the byte."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        connection.settimeout(TIMEOUT)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""

    def send(self, *pieces: bytes) -> Raw:
        """Send, each piece in a packet of its own as far as a sender can tell."""
        for piece in pieces:
            self.socket.sendall(piece)
        return self

    def ask(self, *pieces: bytes, method: str = "GET") -> Answer:
        return self.send(*pieces).answer(method)

    def answer(self, method: str = "GET") -> Answer:
        """The next response; `method` is that of its request, since HEAD is answered without a body."""
        continues = 0
        while True:
            head = self._until(b"\r\n\r\n")
            line, *lines = head[:-4].split(b"\r\n")
            match = _STATUS_LINE.fullmatch(line)
            assert match, head
            if match[2] != b"100":
                break
            assert not lines
            continues += 1
        headers: dict[str, str] = {}
        for text in lines:
            pair = _HEADER.fullmatch(text)
            assert pair, text
            name = pair[1].decode()
            assert name not in headers, f"{name} twice"
            headers[name] = pair[2].decode("latin-1")
        body = self._body(headers, method, int(match[2]))
        return Answer(match[1].decode(), int(match[2]), headers, body, continues)

    def _body(self, headers: dict[str, str], method: str, status: int) -> bytes:
        assert "content-length" not in headers or "transfer-encoding" not in headers
        if method == "HEAD" or status in (204, 304):
            return b""
        if "content-length" in headers:
            return self._take(int(headers["content-length"]))
        if "transfer-encoding" not in headers:
            return self.rest()
        chunks: list[bytes] = []
        while True:
            size = int(self._until(b"\r\n"), 16)
            chunk = self._take(size + 2)
            assert chunk.endswith(b"\r\n")
            if not size:
                return b"".join(chunks)
            chunks.append(chunk[:-2])

    def receive(self) -> bytes:
        """What came since, or what comes next; nothing when the server has ended the connection."""
        read, self._read = self._read, b""
        return read or self.socket.recv(65536)

    def rest(self) -> bytes:
        """Everything up to the end of the connection, which has to come."""
        parts = []
        while part := self.receive():
            parts.append(part)
        return b"".join(parts)

    def assert_ended(self) -> None:
        assert self.rest() == b""

    def assert_open(self) -> None:
        """The connection serves another request."""
        assert self.ask(get("/v2/health/live")).status == 200

    def end_sending(self) -> Raw:
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def reset(self) -> None:
        """Go, and leave no doubt about it."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _until(self, end: bytes) -> bytes:
        while end not in self._read:
            self._more()
        at = self._read.index(end) + len(end)
        taken, self._read = self._read[:at], self._read[at:]
        return taken

    def _take(self, size: int) -> bytes:
        while len(self._read) < size:
            self._more()
        taken, self._read = self._read[:size], self._read[size:]
        return taken

    def _more(self) -> None:
        part = self.socket.recv(1 << 20)
        if not part:
            raise Ended(f"after {self._read!r}")
        self._read += part


@contextmanager
def connected(server: Served) -> Iterator[Raw]:
    with server.connect() as connection:
        yield Raw(connection)


def body(*values: float, **fields: Any) -> bytes:
    """An inference request with one tensor."""
    tensor = {"name": "x", "shape": [len(values)], "datatype": "INT64", "data": list(values)}
    return json.dumps({"inputs": [tensor], **fields}).encode()


def post(
    path: str = "/v2/models/echo/infer",
    content: bytes | None = None,
    *headers: str,
    version: str = "1.1",
    length: bool = True,
) -> bytes:
    """A POST with `content`, by default a small inference, and its length."""
    content = body(1, 2) if content is None else content
    lines = [f"POST {path} HTTP/{version}", "Host: test", *headers]
    if length:
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def get(path: str = "/v2", *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: test", *headers, "", ""]).encode("latin-1")


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def assert_serves(server: Served) -> None:
    """Somebody else is served as if nothing had happened."""
    with connected(server) as other:
        assert other.ask(post()).values == [1, 2]
        assert other.ask(get()).status == 200


def wait_until_begun(key: str) -> None:
    wait_for(lambda: "begun" in seen[key], "a request to reach its model")
