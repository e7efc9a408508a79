"""Bytes that may or may not be HTTP, into `HttpProtocol` with the real application and service behind it.

Each stream is sent three times: cut at random places to a server that remembers no head, again to one that
remembers those of this stream, and in one piece. Whatever the bytes are:

- the answers are well-formed, of the kinds that clients cause, and the same all three times;
- nothing raises, nothing is logged as an error, nothing hangs;
- afterwards the server is at rest, and its memory does not grow.

    python -m tests.fuzz.fuzz_http --runs 1000000
"""

from __future__ import annotations

import asyncio
import gzip
import http.client
import io
import json
import logging
import math
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

from mlserver import MLModel
from mlserver.metrics import RequestMetrics
from mlserver.rest.app import create_app
from mlserver.rest.custom import CustomHandlers
from mlserver.rest.protocol import Head, HttpProtocol
from mlserver.rest.server import HttpServer
from mlserver.server import MLServer
from mlserver.service import Service
from mlserver.settings import ModelSettings, Settings
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from mlserver.utils import AsyncManager
from tests.fuzz.mutate import Alarm, Found, Mutator, Summary, command_line, resident_mib, seeds

TOKENS = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"\r\n ", b"\r\n\r\n", b"%", b"%2F",
    b"%zz", b"?", b"#",
    b"\r\ncontent-length: 5", b"\r\nContent-Length:0", b"\r\ntransfer-encoding: chunked",
    b"\r\nTransfer-Encoding:gzip",
    b"0\r\n\r\n", b"5\r\nabcde\r\n", b"a;x=y\r\n", b"ffffffffffffffff\r\n", b"HTTP/1.0", b"HTTP/1.1",
    b"HTTP/2.0",
    b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"CONNECT", b"PRI", b"/v2/models/echo/infer", b"http://h/v2",
    b"\r\nhost: a", b"\r\nexpect: 100-continue", b"\r\nconnection: close", b"\r\nconnection: keep-alive",
    b"\r\nupgrade: h2c\r\nconnection: upgrade", b"\r\ncontent-encoding: gzip", b"\r\ncontent-encoding: br",
    b"\r\naccept-encoding: gzip", b'{"inputs":[]}', b"\xff", b"\xc3\xa9", b"x" * 300,
    b"\r\na: " + b"y" * 3000,
)  # fmt: skip
_ALLOWED = re.compile("2..|307|4..|501|505")
_HEAD = re.compile(
    rb"HTTP/1\.1 [1-5][0-9][0-9] [A-Za-z -]+\r\n"
    rb"(?:[!#$%&'*+.^_`|~0-9a-z-]+: [\t\x20-\x7e\x80-\xff]*\r\n)*\r\n"
)
_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# Seconds of computing, which waiting is here, until a stream that is not answered counts as a hang.
_PATIENCE = 15.0


class Echo(MLModel):
    """Answers with what it was asked, on the short lane."""

    inline = True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        outputs = [
            ResponseOutput(name=i.name, shape=i.shape, datatype=i.datatype, data=i.data)
            for i in payload.inputs
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)


class Elsewhere(Echo):
    """The same on a thread of its own."""

    inline = False

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return await super().predict(payload)


class Wire(asyncio.Transport):
    """A connection that ends in memory."""

    def __init__(self, protocol: HttpProtocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.sent = bytearray()
        self.ended = False  # the server will send no more
        self.closed = False
        self.paused = False
        self.lost = asyncio.get_running_loop().create_future()

    def write(self, data: Any) -> None:
        if not self.closed:  # else real ones pass it over
            assert not self.ended, "written after the end"
            self.sent += data

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 8080) if name in ("peername", "sockname") else default

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.ended = self.closed = True
            asyncio.get_running_loop().call_soon(self._lose)

    abort = close

    def _lose(self) -> None:
        self.protocol.connection_lost(None)
        self.lost.set_result(None)


class Answer(NamedTuple):
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Protocol(HttpProtocol):
    """Notes which requests it begins to answer."""

    methods: list[str]

    def _next(self, head: Head, body: bytes | bytearray) -> None:
        self.methods.append(head.method)
        super()._next(head, body)


class Fuzzer:
    """Sends streams and judges what comes back. Made inside a running loop."""

    def __init__(self, choose: random.Random) -> None:
        self.random = choose
        self.outcomes: Counter[str] = Counter()
        self._raised: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self._raised.append(context))
        self._loop = loop
        settings = Settings(
            parallel_workers=0, metrics_endpoint=None, http_max_body_size=16_384, http_max_header_size=2_048
        )
        self._main = MLServer(settings)
        self.service: Service = self._main.service
        self._metrics: RequestMetrics = self.service.metrics
        app = create_app(self.service, settings, CustomHandlers())
        self.server = HttpServer(settings, app, self.service, self._metrics)
        self._alarm = Alarm()
        logging.getLogger("mlserver").addHandler(self._alarm)

    async def load(self) -> None:
        for name, kind in (("echo", Echo), ("elsewhere", Elsewhere)):
            await self.service.registry.load(ModelSettings(name=name, implementation=kind))

    async def close(self) -> None:
        logging.getLogger("mlserver").removeHandler(self._alarm)
        await self.service.registry.close()

    async def check(self, data: bytes) -> None:
        """Send one stream in all ways. Raises AssertionError for whatever is wrong."""
        pieces = self._cut(data)
        self.server.heads.clear()
        cold = await self._answers(pieces)
        warm = await self._answers(pieces)
        assert warm == cold, f"remembered heads change the answers: {cold} {warm}"
        self.server.heads.clear()
        whole = await self._answers([data])
        assert whole == cold, f"cuts change the answers: {whole} {cold}"
        for answer in cold:
            self.outcomes[str(answer.status)] += 1
        if not cold:
            self.outcomes["none"] += 1
        if self.random.random() < 0.05:
            await self._leave(pieces)
        self._check_rest()

    def _cut(self, data: bytes) -> list[bytes]:
        kind = self.random.random()
        if kind < 0.1 and len(data) < 2000:
            return [data[i : i + 1] for i in range(len(data))]
        cuts = sorted(self.random.randint(0, len(data)) for _ in range(self.random.choice((0, 1, 1, 2, 5))))
        pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        return [piece for piece in pieces if piece]

    async def _connect(self) -> Wire:
        Protocol.methods = []
        protocol = Protocol(self.server)
        wire = Wire(protocol)
        protocol.connection_made(wire)
        return wire

    async def _answers(self, pieces: Sequence[bytes]) -> list[Answer]:
        """All answers to a stream, from a client that reads them to the end."""
        wire = await self._connect()
        deadline = time.process_time() + _PATIENCE
        for piece in pieces:
            while wire.paused and not wire.closed:
                await self._turn(deadline)
            if wire.closed:
                break
            wire.protocol.data_received(piece)
            if self.random.random() < 0.5:
                await asyncio.sleep(0)
        while wire.protocol.busy and wire.protocol._head is None:
            await self._turn(deadline)
        if not wire.closed and not wire.protocol.eof_received():
            wire.close()
        while not wire.closed:
            await self._turn(deadline)
        await wire.lost
        return self._parse(bytes(wire.sent))

    async def _leave(self, pieces: Sequence[bytes]) -> None:
        """A client that is gone before it was answered."""
        wire = await self._connect()
        for piece in pieces[: self.random.randint(1, len(pieces) or 1)]:
            if not wire.closed:
                wire.protocol.data_received(piece)
        wire.close()
        await wire.lost

    async def _turn(self, deadline: float) -> None:
        assert time.process_time() < deadline, "a stream is not answered"
        await asyncio.sleep(0)

    def _check_rest(self) -> None:
        assert not self.server._connections
        gauges = {method: gauge.value for method, gauge in self._metrics._in_progress.items() if gauge.value}
        assert not gauges, f"requests still in progress: {gauges}"
        assert not self._raised, f"raised: {self._raised}"
        assert not self._alarm.lines, f"logged: {self._alarm.lines}"

    async def settle(self) -> None:
        """Wait until nothing of the past is left: calls that were abandoned, tasks of the application."""
        deadline = time.process_time() + _PATIENCE
        replicas = [loaded.replicas for loaded in self.service.registry.all()]
        while self.server._tasks or any(r._in_flight or r.queue_length for r in replicas):
            await self._turn(deadline)

    def _parse(self, sent: bytes) -> list[Answer]:
        """What was sent: an answer to each request that was begun, then at most one refusal."""
        answers = []
        stream = io.BytesIO(sent)
        methods = iter((*Protocol.methods, "?"))
        while stream.tell() < len(sent):
            rest = sent[stream.tell() :]
            if rest.startswith(_CONTINUE):
                stream.seek(len(_CONTINUE), io.SEEK_CUR)
                continue
            assert _HEAD.match(rest), f"malformed head: {rest[:300]!r}"
            method = next(methods, None)
            assert method is not None, f"an answer that nobody asked for: {rest[:300]!r}"
            answer = _read_answer(stream, method)
            text = answer.body.decode() if answer.body else "{}"
            assert _ALLOWED.fullmatch(str(answer.status)), f"status {answer.status}: {text[:300]}"
            if answer.status >= 400 and method != "HEAD":
                assert isinstance(json.loads(text)["error"], str), text
            if method == "?":
                assert ("connection", "close") in answer.headers and answer.status >= 400
            answers.append(answer)
        assert next(methods, "?") == "?", "a request was not answered"
        return answers


class _Readable:
    """As much of a socket as http.client asks for."""

    def __init__(self, stream: io.BytesIO) -> None:
        self._stream = stream

    def makefile(self, mode: str) -> io.BytesIO:
        return self._stream


class _Response(http.client.HTTPResponse):
    """Leaves the stream open for the answer behind it."""

    def _close_conn(self) -> None:
        self.fp = None  # type: ignore[assignment]


def _read_answer(stream: io.BytesIO, method: str) -> Answer:
    response = _Response(cast(Any, _Readable(stream)), method=method)
    response.begin()
    body = response.read()
    headers = [(name.lower(), value) for name, value in response.getheaders() if name.lower() != "date"]
    if ("content-encoding", "gzip") in headers:
        if method != "HEAD":
            body = gzip.decompress(body)
        headers = [item for item in headers if item[0] != "content-length"]  # that of a new id may differ
    headers = [
        (name, _UUID.sub(b"UUID", value.encode("latin-1")).decode("latin-1")) for name, value in headers
    ]
    return Answer(response.status, tuple(headers), _UUID.sub(b"UUID", body))


def run(runs: int, seed: int, report_every: float = math.inf) -> Summary:
    return AsyncManager().run(_run(runs, seed, report_every))


async def _run(runs: int, seed: int, report_every: float) -> Summary:
    choose = random.Random(seed)
    fuzzer = Fuzzer(choose)
    await fuzzer.load()
    started = reported = time.monotonic()
    before = 0.0
    try:
        for number, data in zip(range(runs), _streams(choose), strict=False):
            try:
                await fuzzer.check(data)
            except Exception as exc:
                raise Found(data, seed, number, exc) from exc
            if number % 100 == 0:
                await fuzzer.settle()
            if number == runs // 10:
                before = resident_mib()
            now = time.monotonic()
            if now - reported > report_every:
                reported = now
                print(f"{number:,} {now - started:.0f} s {resident_mib():.1f} MiB", flush=True)
        await fuzzer.settle()
    finally:
        await fuzzer.close()
    return Summary(runs, time.monotonic() - started, dict(fuzzer.outcomes), before, resident_mib())


def _streams(choose: random.Random) -> Iterator[bytes]:
    yield from seeds("http")
    yield from Mutator(choose, seeds("http"), TOKENS, joins=True)


if __name__ == "__main__":
    command_line(run)
