"""Clients that break rules, flood, lie, dawdle or vanish. They lose their connection or their call, with the
right code; nobody else notices, and nothing is left behind.
"""

from __future__ import annotations

import gc
import gzip
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import hpack
import numpy as np
import pytest

from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.connection import GrpcProtocol
from mlserver.grpc.framing import Assembler
from mlserver.grpc.status import Code
from mlserver.wire.http2 import PREFACE, ErrorCode, encode_headers
from tests.fuzz.mutate import resident_mib
from tests.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    MAX_FRAME,
    MAX_WINDOW,
    PADDED,
    PING,
    PRIORITIZED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    TABLE_SIZE,
    WINDOW,
    WINDOW_UPDATE,
    credit,
    data,
    frame,
    headers,
    reset,
    settings,
)
from tests.running import wait_for
from tests.server.grpc_raw import (
    INFER,
    LIVE,
    STREAM,
    Ended,
    GrpcListening,
    RawGrpc,
    assert_serves,
    call,
    connected,
    grpc_server,
    infer,
    made,
    message,
    released,
    request_headers,
    taken,
    wait_until_at_rest,
)
from tests.server.raw import open_gates, seen

MAX_MESSAGE = 1_000_000
MAX_STREAMS = 50
OPEN = request_headers()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcListening]:
    folder = tmp_path_factory.mktemp("models")
    limits = {"grpc_max_message_length": MAX_MESSAGE, "grpc_max_concurrent_streams": MAX_STREAMS}
    with grpc_server(folder, **limits) as running:
        yield running


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcListening]:
    """A server without patience."""
    folder = tmp_path_factory.mktemp("models")
    with grpc_server(folder, http_header_timeout=0.6, http_body_timeout=0.6) as running:
        yield running


class Bystander(threading.Thread):
    """Somebody else's connection. It asks all the time, and notes whatever is not as it should be."""

    def __init__(self, server: GrpcListening) -> None:
        super().__init__()
        self.client = RawGrpc(server.connect_grpc())
        self.asked = 0
        self.noticed: list[Any] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.01 if self.asked else 0):
            try:
                values = self.client.ask().values
            except Exception as exc:
                self.noticed.append(exc)
                return
            if values != [1, 2]:
                self.noticed.append(values)
            self.asked += 1
            self.client.replies.clear()
            self.client.frames.clear()


@pytest.fixture(autouse=True)
def _nobody_else_notices(request: pytest.FixtureRequest) -> Iterator[None]:
    servers = [request.getfixturevalue(name) for name in {"server", "hasty"} & set(request.fixturenames)]
    bystanders = [Bystander(server) for server in servers]
    for bystander in bystanders:
        bystander.start()
    try:
        for bystander in bystanders:
            wait_for(lambda b=bystander: b.asked or b.noticed, "the bystander to be served")
        yield
    finally:
        for bystander in bystanders:
            bystander.over.set()
            bystander.join()
    for server, bystander in zip(servers, bystanders, strict=True):
        assert bystander.asked and bystander.noticed == []
        assert_serves(server)
        wait_until_at_rest(server)
        bystander.client.socket.close()
        assert server.alarm.lines == []


# Frames that no client may send


def opened(*more: bytes) -> bytes:
    """A call that goes on."""
    return headers(1, OPEN) + b"".join(more)


def answered(*more: bytes) -> bytes:
    """What follows a call that is over, on its stream."""
    return call(1) + b"".join(more)


CONNECTION_ERRORS: dict[str, tuple[bytes, ErrorCode]] = {
    "data on an idle stream": (data(5, b"x"), ErrorCode.PROTOCOL_ERROR),
    "reset of an idle stream": (reset(5), ErrorCode.PROTOCOL_ERROR),
    "credit for an idle stream": (credit(5, 1), ErrorCode.PROTOCOL_ERROR),
    "a stream of a server": (headers(2, OPEN), ErrorCode.PROTOCOL_ERROR),
    "headers without a stream": (headers(0, OPEN), ErrorCode.PROTOCOL_ERROR),
    "data without a stream": (data(0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "settings on a stream": (frame(SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "ping on a stream": (frame(PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "goaway on a stream": (frame(GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "push": (frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "a short ping": (frame(PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "a long reset": (opened(frame(RST_STREAM, 0, 1, bytes(5))), ErrorCode.FRAME_SIZE_ERROR),
    "a short priority": (frame(PRIORITY, 0, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
    "a short credit": (frame(WINDOW_UPDATE, 0, 0, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "half a setting": (frame(SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    "settings acknowledged at length": (frame(SETTINGS, ACK, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    "a frame that is too large": (opened(data(1, bytes(2**20 + 1))), ErrorCode.FRAME_SIZE_ERROR),
    "the header of one": ((2**24 - 1).to_bytes(3, "big") + bytes(6), ErrorCode.FRAME_SIZE_ERROR),
    "more padding than data": (
        opened(frame(DATA, PADDED, 1, b"\x05abcd")), ErrorCode.PROTOCOL_ERROR
    ),
    "padding in an empty frame": (opened(frame(DATA, PADDED, 1)), ErrorCode.FRAME_SIZE_ERROR),
    "more padding than headers": (
        frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + OPEN), ErrorCode.PROTOCOL_ERROR
    ),
    "priority cut short": (
        frame(HEADERS, END_HEADERS | PRIORITIZED, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR
    ),
    "no continuation": (frame(HEADERS, 0, 1, OPEN) + frame(PING, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "another stream's continuation": (
        frame(HEADERS, 0, 1, OPEN) + frame(CONTINUATION, END_HEADERS, 3), ErrorCode.PROTOCOL_ERROR
    ),
    "continuation of nothing": (frame(CONTINUATION, END_HEADERS, 1, OPEN), ErrorCode.PROTOCOL_ERROR),
    "an index that is not there": (headers(1, b"\xff\x80\x01"), ErrorCode.COMPRESSION_ERROR),
    "a string that is cut off": (headers(1, b"\x00\x7f\xffabc"), ErrorCode.COMPRESSION_ERROR),
    "an endless integer": (headers(1, b"\xff" * 20), ErrorCode.COMPRESSION_ERROR),
    "a table that is too large": (headers(1, b"\x3f\xe2\x1f" + OPEN), ErrorCode.COMPRESSION_ERROR),
    "updates of the table without end": (headers(1, b"\x20" * 3 + OPEN), ErrorCode.COMPRESSION_ERROR),
    "more fields than can be answered": (
        headers(1, OPEN + encode_headers([(b"x-%d" % number, b"v" * 10) for number in range(30)]) * 60),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "a goaway that is too large to be kept": (
        frame(GOAWAY, 0, 0, bytes(40_000)), ErrorCode.ENHANCE_YOUR_CALM
    ),
    "headers on a stream that was skipped": (
        headers(5, OPEN) + headers(3, OPEN), ErrorCode.PROTOCOL_ERROR
    ),
    "settings that make a window overflow": (
        opened(credit(1, MAX_WINDOW - 65_535), settings([(WINDOW, 65_536)])), ErrorCode.FLOW_CONTROL_ERROR
    ),
    "credit of nothing": (credit(0, 0), ErrorCode.PROTOCOL_ERROR),
    "window overflow": (credit(0, MAX_WINDOW), ErrorCode.FLOW_CONTROL_ERROR),
    "windows that are too large": (settings([(WINDOW, 2**31)]), ErrorCode.FLOW_CONTROL_ERROR),
    "frames that are too small": (settings([(MAX_FRAME, 16_383)]), ErrorCode.PROTOCOL_ERROR),
    "too many settings": (settings([(TABLE_SIZE, 0)] * 5_462), ErrorCode.ENHANCE_YOUR_CALM),
    "data on a closed stream": (answered(data(1, b"x")), ErrorCode.STREAM_CLOSED),
    "headers on a closed stream": (answered(headers(1, OPEN)), ErrorCode.STREAM_CLOSED),
}  # fmt: skip


@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_a_fault_of_the_connection_ends_it(server: GrpcListening, name: str) -> None:
    attack, code = CONNECTION_ERRORS[name]
    with connected(server) as client:
        if name.endswith("on a closed stream"):
            first = call(1)
            assert client.send(first).reply(1).values == [1, 2]
            attack = attack.removeprefix(first)
        client.send(attack)
        assert client.goaway() is code


STREAM_ERRORS: dict[str, tuple[bytes, ErrorCode]] = {
    "credit of nothing": (credit(1, 0), ErrorCode.PROTOCOL_ERROR),
    "window overflow": (credit(1, MAX_WINDOW), ErrorCode.FLOW_CONTROL_ERROR),
    "trailers that are no end": (headers(1, OPEN), ErrorCode.PROTOCOL_ERROR),
    "data after the end": (data(1, message(b"")[:5], end=True) + data(1, b"x"), ErrorCode.STREAM_CLOSED),
}


@pytest.mark.parametrize("name", STREAM_ERRORS)
def test_a_fault_of_a_stream_ends_it_alone(server: GrpcListening, name: str) -> None:
    attack, code = STREAM_ERRORS[name]
    with connected(server) as client:
        body = data(1, message(infer("waits", id=name)), end=True) if "after" in name else b""
        attack = data(1, b"x") if "after" in name else attack
        client.send(headers(1, OPEN), body, attack)
        assert client.reply(1).reset is code
        assert client.send(call(3)).reply(3).values == [1, 2]


@pytest.mark.parametrize(
    "block",
    [
        encode_headers([(b":method", b"POST"), (b":path", INFER)]),
        encode_headers([(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"")]),
        OPEN + encode_headers([(b"connection", b"close")]),
        OPEN + encode_headers([(b"te", b"gzip")]),
        OPEN + encode_headers([(b"Upper", b"case")]),
        OPEN + encode_headers([(b"a", b"b\r\nc: d")]),
        OPEN + encode_headers([(b":path", LIVE)]),
        b"",
    ],
    ids=["no scheme", "no path", "connection", "te", "upper case", "line feed", "late pseudo", "nothing"],
)
def test_headers_of_no_request(server: GrpcListening, block: bytes) -> None:
    with connected(server) as client:
        client.send(headers(1, block, end=True))
        assert client.reply(1).reset is ErrorCode.PROTOCOL_ERROR
        assert client.send(call(3)).reply(3).values == [1, 2]


PREFACES = {
    "http/1.1": b"GET /v2/health/live HTTP/1.1\r\nHost: test\r\n\r\n",
    "a post": b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n{}",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "nearly": PREFACE[:-1] + b"x" + settings(),
    "no settings": PREFACE + call(1),
    "settings acknowledged": PREFACE + frame(SETTINGS, ACK),
    "rubbish": bytes(range(256)) * 100,
}


@pytest.mark.parametrize("start", PREFACES)
def test_a_wrong_preface(server: GrpcListening, start: str) -> None:
    with connected(server, greet=False) as client:
        client.send(PREFACES[start])
        assert client.goaway() is ErrorCode.PROTOCOL_ERROR


def test_memory_stays_flat_however_often_they_try(server: GrpcListening) -> None:
    attacks = [bytes_ for bytes_, _ in CONNECTION_ERRORS.values()]
    attacks += [call(1) + bytes_ for bytes_, _ in STREAM_ERRORS.values()]

    def attack_all() -> None:
        for attack in attacks:
            with connected(server) as client:
                client.try_to_send(attack, frame(PING, 0, 1, bytes(8)))
                client.goaway()
        for start in PREFACES.values():
            with connected(server, greet=False) as client:
                client.send(start)
                client.goaway()
        gc.collect()

    for _ in range(5):
        attack_all()
    before = resident_mib()
    for _ in range(25):
        attack_all()
    wait_until_at_rest(server)
    # Some 1,300 connections: 2 KB of each, or one large frame of any, would be more.
    assert resident_mib() - before < 3


# Floods


def flood(server: GrpcListening, pieces: Iterator[bytes], most: int, **options: Any) -> tuple[ErrorCode, int]:
    """Send until the server ends it, and for a while on; the error, and how many bytes that took."""
    sent = 0
    before = resident_mib()
    with connected(server, **options) as client:
        for piece in pieces:
            if not client.try_to_send(piece):
                break
            sent += len(piece)
            if sent > most:
                break
        code = client.goaway()
    assert resident_mib() - before < 30
    return code, sent


def repeated(piece: bytes, times: int = 500) -> Iterator[bytes]:
    while True:
        yield piece * times


FLOODS = {
    "settings": settings([(WINDOW, 65_535)]),
    "acknowledgements": frame(SETTINGS, ACK),
    "pings": frame(PING, 0, 0, bytes(8)),
    "pongs": frame(PING, ACK, 0, bytes(8)),
    "priorities": frame(PRIORITY, 0, 1, bytes(5)),
    "credits": credit(0, 1),
    "goaways": frame(GOAWAY, 0, 0, bytes(8)),
    "unknown frames": frame(0xEE, 0, 0, bytes(8)),
    "empty data": data(1),
    "padded data": frame(DATA, PADDED, 1, b"\x04" + bytes(4)),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_frames_without_work(server: GrpcListening, kind: str) -> None:
    def pieces() -> Iterator[bytes]:
        yield headers(1, OPEN)
        yield from repeated(FLOODS[kind])

    code, _ = flood(server, pieces(), 3_000_000)
    assert code is ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("path", [INFER, STREAM])
def test_rapid_reset(server: GrpcListening, path: bytes) -> None:
    block = request_headers(path)

    def pieces() -> Iterator[bytes]:
        for start in range(1, 2**31, 200):
            yield b"".join(headers(stream, block) + reset(stream) for stream in range(start, start + 200, 2))

    code, _ = flood(server, pieces(), 3_000_000)
    assert code is ErrorCode.ENHANCE_YOUR_CALM


def test_calls_of_nothing_are_read_a_little_at_a_time(server: GrpcListening) -> None:
    """They are answered at once, so neither the number of streams nor that of resets stops them."""
    block = request_headers(b"/nobody.Service/Nothing")
    reads: list[tuple[int, int]] = []
    received = GrpcProtocol.buffer_updated

    def note(self: GrpcProtocol, nbytes: int) -> None:
        received(self, nbytes)
        reads.append((nbytes, self._in_vain))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GrpcProtocol, "buffer_updated", note)
        with connected(server) as client:
            for start in range(1, 20_001, 2_000):
                streams = range(start, start + 2_000, 2)
                client.send(b"".join(headers(stream, block, end=True) for stream in streams))
            client.reply(streams[-1])
            assert {reply.code for reply in client.replies.values() if reply.ended} == {Code.UNIMPLEMENTED}
            assert client.send(call(20_001)).reply(20_001).values == [1, 2]
    after_many = [now for (_, in_vain), (now, _) in pairwise(reads) if in_vain > 64]
    assert len(after_many) > 20 and max(after_many) <= 16 * 1024


REFUSED = {
    "malformed": headers(1, encode_headers([(b":method", b"POST"), (b":path", INFER)]), end=True),
    "large": headers(1, OPEN + encode_headers([(b"x-%d" % number, b"v" * 1_000) for number in range(20)])),
    "above the limit": headers(1, OPEN),
}


@pytest.mark.parametrize("what", REFUSED)
def test_streams_that_are_refused_without_end(server: GrpcListening, what: str) -> None:
    """Each is answered, or reset by us, and costs a header block."""
    start, rest = REFUSED[what][:5], REFUSED[what][9:]

    def pieces() -> Iterator[bytes]:
        for first in range(1, 2**31, 40):
            yield b"".join(start + stream.to_bytes(4, "big") + rest for stream in range(first, first + 40, 2))

    code, _ = flood(server, pieces(), 60_000_000)
    assert code is ErrorCode.ENHANCE_YOUR_CALM


def test_a_high_number_pays_for_nothing(server: GrpcListening) -> None:
    """The ids that a client skips are no requests, which would allow for more frames without work."""

    def pieces() -> Iterator[bytes]:
        yield headers(2**30 + 1, OPEN)
        yield from repeated(FLOODS["priorities"])

    code, _ = flood(server, pieces(), 3_000_000)
    assert code is ErrorCode.ENHANCE_YOUR_CALM


def test_calls_that_are_reset_once_their_model_has_begun(server: GrpcListening) -> None:
    body = data(0, message(infer("waits", id="rapid")), end=True)

    def pieces() -> Iterator[bytes]:
        for start in range(1, 2**31, 80):
            streams = range(start, start + 80, 2)
            yield b"".join(headers(s, OPEN) + body[:5] + s.to_bytes(4, "big") + body[9:] for s in streams)
            time.sleep(0.002)
            yield b"".join(reset(s) for s in streams)

    code, _ = flood(server, pieces(), 5_000_000)
    assert code is ErrorCode.ENHANCE_YOUR_CALM
    wait_until_at_rest(server)
    assert "ended" not in seen["rapid"]


def test_faults_that_make_the_server_reset(server: GrpcListening) -> None:
    """CVE-2025-8671: it is the server that resets, the client that provokes."""

    def pieces() -> Iterator[bytes]:
        for start in range(1, 2**31, 200):
            yield b"".join(headers(s, OPEN) + credit(s, 0) for s in range(start, start + 200, 2))

    code, _ = flood(server, pieces(), 3_000_000)
    assert code is ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("size", [0, 1, 16_000])
def test_continuations_without_end(server: GrpcListening, size: int) -> None:
    def pieces() -> Iterator[bytes]:
        yield frame(HEADERS, END_STREAM, 1, OPEN)
        while True:
            yield frame(CONTINUATION, 0, 1, bytes(size)) * 20

    code, _ = flood(server, pieces(), 3_000_000)
    assert code is ErrorCode.ENHANCE_YOUR_CALM


def test_a_header_block_that_unpacks_to_megabytes(server: GrpcListening) -> None:
    encoder = hpack.Encoder()
    big = encoder.encode([("a", "b" * 3_900)], huffman=False)
    bomb = OPEN + big + b"\xbe" * 10_000  # the one entry of the table, 10,000 times
    before = resident_mib()
    with connected(server) as client:
        client.send(frame(HEADERS, END_HEADERS, 1, bomb))
        assert client.goaway() is ErrorCode.ENHANCE_YOUR_CALM
    assert resident_mib() - before < 10


def test_too_much_metadata_is_refused_and_the_connection_goes_on(server: GrpcListening) -> None:
    block = OPEN + encode_headers([(b"x-%d" % number, b"v" * 1_000) for number in range(20)])
    with connected(server) as client:
        client.send(headers(1, block), data(1, message(infer()), end=True))
        reply = client.reply(1)
        assert reply.code is Code.RESOURCE_EXHAUSTED and "metadata" in reply.text
        assert client.send(call(3)).reply(3).values == [1, 2]


def test_a_call_beside_a_slow_upload_does_not_wait_for_it(server: GrpcListening) -> None:
    """Of a large message, the kernel gathers some before it is read: unless the client is slow."""
    body = message(infer(values=np.zeros(240_000)))
    with connected(server, first=settings([(WINDOW, 10_000_000)])) as client:
        client.give(10_000_000).send(headers(1, OPEN), data(1, body[:200_000]))
        sent, asked = 200_000, 3
        for _ in range(10):
            client.send(data(1, body[sent : sent + 1_000]))
            sent += 1_000
            started = time.monotonic()
            assert client.send(call(asked)).reply(asked).values == [1, 2]
            assert time.monotonic() - started < 1
            asked += 2
            time.sleep(0.03)
        client.send(data(1, body[sent:], end=True))
        assert len(client.reply(1).values) == 240_000


def test_messages_without_end_on_a_stream_that_nobody_reads(server: GrpcListening) -> None:
    """A stream's model is behind: the client gets no more credit, so its messages fill no memory."""
    client = RawGrpc(server.connect_grpc())
    before = resident_mib()
    with client.socket:
        client.send(headers(1, request_headers(STREAM)))
        client.send(data(1, message(infer("takes", id="behind"))))
        client.until(lambda: client.replies[1].body)
        empty = message(infer("takes", values=range(200)))
        sent, piece = 0, data(1, empty * 18)
        limit = server.grpc.limits.stream_window
        while sent + len(piece) < limit - 1000:
            client.send(piece)
            sent += len(empty) * 18
        client.ping()
        credited = [came for came in client.frames if came.kind == WINDOW_UPDATE and came.stream == 1]
        assert sum(came.number for came in credited) < 100_000
        assert resident_mib() - before < 40
        released.add("behind")
        client.send(data(1, b"", end=True))
        reply = client.reply(1)
        assert reply.code is Code.OK


def test_tiny_messages_without_end(server: GrpcListening) -> None:
    """Five bytes on the wire must not become hundreds in memory, a million times."""
    before = resident_mib()
    clients = [RawGrpc(server.connect_grpc()) for _ in range(2)]
    for client in clients:
        for stream in range(1, 9, 2):
            client.send(headers(stream, request_headers(STREAM)))
            client.send(data(stream, message(infer("takes", id="tiny"))))
            client.until(lambda s=stream, c=client: c.replies[s].body)
            for _ in range(20):
                client.send(data(stream, bytes(16_380)))
        client.ping()
    assert resident_mib() - before < 150
    for client in clients:
        client.vanish()


@pytest.mark.parametrize(
    ("path", "frames"),
    [(INFER, [100_000]), (STREAM, [100_000]), (STREAM, [5] * 20_000)],
    ids=["unary", "many a frame", "one a frame"],
)
def test_tiny_messages_leave_turns_to_others(server: GrpcListening, path: bytes, frames: list[int]) -> None:
    """However many messages there are in what was read, only some are looked at in one turn."""
    looked: list[int] = []
    feed = Assembler.feed

    def count(self: Assembler, *args: Any) -> Any:
        messages, rest = feed(self, *args)
        looked.append(len(messages))
        return messages, rest

    key = f"turns {len(frames)}"
    first = message(infer("takes", id=key))
    with pytest.MonkeyPatch.context() as patch, connected(server) as client:
        patch.setattr(Assembler, "feed", count)
        client.send(headers(1, request_headers(path)), data(1, first))
        if path == STREAM:
            client.until(lambda: client.replies[1].body)
        client.send(b"".join(data(1, bytes(size)) for size in frames)).ping()
        assert sum(looked) < 200
        if path == INFER:
            assert client.reply(1).code is Code.INTERNAL
            return
        released.add(key)
        client.send(data(1, end=True))
        assert client.reply(1).code is Code.OK
        assert taken[key] == sum(frames) // 5 and max(looked) <= 16


def test_a_stream_that_came_before_its_model_was_ready_for_it(server: GrpcListening) -> None:
    """All of it is kept as it came, and nothing is lost, cut or out of order."""
    requests = [infer("streams", count=1, id=f"{n}") for n in range(2_000)]
    content = b"".join(map(message, requests))
    with connected(server) as client:
        client.give(10_000_000).send(settings([(WINDOW, 10_000_000)]))
        sent = [data(1, content[at : at + 7_001]) for at in range(0, len(content), 7_001)]
        client.send(headers(1, request_headers(STREAM)) + b"".join(sent) + data(1, end=True))
        reply = client.reply(1)
        assert reply.code is Code.OK
    assembler = Assembler(float("inf"))
    answers, rest = assembler.feed(memoryview(reply.body))
    assert len(answers) == 2_000 and not rest and not assembler.incomplete


def test_a_stream_that_ends_within_a_message(server: GrpcListening) -> None:
    content = message(infer("streams", count=1)) * 50
    with connected(server) as client:
        client.send(headers(1, request_headers(STREAM)), data(1, content[:-1], end=True))
        reply = client.reply(1)
        assert reply.code is Code.INTERNAL and "within a message" in reply.text


# Windows


def test_more_than_the_window_of_a_stream(server: GrpcListening) -> None:
    with connected(server) as client:
        client.send(headers(1, request_headers(STREAM)), data(1, message(infer("takes", id="window"))))
        client.until(lambda: client.replies[1].body)
        piece = message(bytes(15_000))
        for _ in range(server.grpc.limits.stream_window // len(piece) + 2):
            client.try_to_send(data(1, piece))
        assert client.reply(1).reset is ErrorCode.FLOW_CONTROL_ERROR
        assert client.send(call(3)).reply(3).values == [1, 2]


def test_negative_windows(server: GrpcListening) -> None:
    """The client takes back what it had allowed, RFC 9113, section 6.9.2."""
    with connected(server) as client:
        client.send(call(1, infer("sized", count=60_000)))
        assert len(client.reply(1).message) > 60_000
        client.give(60_000)
        client.send(settings([(WINDOW, 65_535)]))
        client.send(call(3, infer("sized", count=100_000)))
        client.until(lambda: len(client.replies[3].body) >= 65_535 - 60_000)
        client.send(settings([(WINDOW, 0)]))
        client.give(1_000_000).ping()
        came = len(client.replies[3].body)
        client.give(came, 3).ping()
        assert len(client.replies[3].body) == came  # that was owed
        client.give(10_000, 3).ping()
        client.until(lambda: len(client.replies[3].body) == came + 10_000)
        client.send(settings([(WINDOW, 65_535)])).give(100_000, 3)
        assert len(client.reply(3).message) > 100_000


def test_streams_above_the_limit_are_refused(server: GrpcListening) -> None:
    with connected(server) as client:
        held = range(1, 2 * MAX_STREAMS, 2)
        for stream in held:
            client.send(headers(stream, OPEN))
        above = range(2 * MAX_STREAMS + 1, 2 * MAX_STREAMS + 21, 2)
        for stream in above:
            client.send(call(stream))
        for stream in above:
            assert client.reply(stream).reset is ErrorCode.REFUSED_STREAM
        for stream in held:
            client.send(data(stream, message(infer()), end=True))
        for stream in held:
            assert client.reply(stream).values == [1, 2]
        last = above[-1] + 2
        assert client.send(call(last)).reply(last).values == [1, 2]


# Messages that lie


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (message(infer(), length=5_000), Code.INTERNAL),
        (message(infer())[:-1], Code.INTERNAL),
        (message(infer())[:3], Code.INTERNAL),
        (message(infer()) + b"\0", Code.INTERNAL),
        (message(infer()) * 2, Code.INTERNAL),
        (message(infer()) * 1_000, Code.INTERNAL),
        (b"", Code.INTERNAL),
        (message(infer(), compressed=2), Code.INTERNAL),
        (message(infer(), compressed=1), Code.INTERNAL),
        (message(infer(), length=3) , Code.INTERNAL),
        (message(b"", length=MAX_MESSAGE + 1), Code.RESOURCE_EXHAUSTED),
        (message(b"", length=2**32 - 1), Code.RESOURCE_EXHAUSTED),
        (message(b"\xff" * 100), Code.INVALID_ARGUMENT),
        (message(infer().SerializeToString()[:-3]), Code.INVALID_ARGUMENT),
        (message(b"\x0a\xff\xff\xff\xff\x0f"), Code.INVALID_ARGUMENT),
    ],
    ids=[
        "longer", "cut", "prefix cut", "one byte more", "two", "thousand", "none", "flag", "uncoded",
        "shorter",
        "large", "huge", "no message", "message cut", "field",
    ],
)  # fmt: skip
@pytest.mark.parametrize("by", ["whole", "bytes"])
def test_lengths_and_contents_that_lie(server: GrpcListening, content: bytes, code: Code, by: str) -> None:
    with connected(server) as client:
        if by == "whole":
            client.send(headers(1, OPEN), data(1, content, end=True))
        else:
            content = content[:2_000]
            client.send(headers(1, OPEN, end=not content))
            pieces = [content[at : at + 1] for at in range(len(content))]
            client.send(b"".join(data(1, p, end=n == len(pieces)) for n, p in enumerate(pieces, 1)))
        assert client.reply(1).code is code
        assert client.send(call(3)).reply(3).values == [1, 2]


def test_a_length_that_is_not_believed(server: GrpcListening) -> None:
    """Whoever announces much gets no memory for it before it has sent some."""
    before = resident_mib()
    with connected(server) as client:
        for stream in range(1, 2 * MAX_STREAMS, 2):
            client.send(headers(stream, OPEN), data(stream, message(b"", length=MAX_MESSAGE)))
        client.ping()
        assert resident_mib() - before < 80


def test_large_messages_that_are_not_ended_are_counted(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Complete messages, but no END_STREAM: nothing is answered, so what is held has a limit."""
    folder = tmp_path_factory.mktemp("models")
    with grpc_server(folder) as server:
        server.grpc.most_held = 8 * 2**20
        before = resident_mib()
        with connected(server) as client:
            content = message(infer("echo", values=range(250_000)))
            for stream in range(1, 81, 2):
                client.send(headers(stream, OPEN))
                for at in range(0, len(content), 500_000):
                    client.send(data(stream, content[at : at + 500_000]))
            client.ping()
            codes = [
                client.replies[stream].code for stream in range(1, 81, 2) if client.replies[stream].ended
            ]
            assert len(codes) >= 30 and set(codes) == {Code.RESOURCE_EXHAUSTED}
            assert resident_mib() - before < 40
            assert client.send(call(99)).reply(99).values == [1, 2]
        wait_until_at_rest(server)
        assert server.alarm.lines == []


# Compression


def coded(coding: bytes) -> tuple[bytes, bytes]:
    return (b"grpc-encoding", coding)


@pytest.mark.parametrize("coding", ["snappy", "br", "zstd", "x" * 1_000])
def test_unknown_codings(server: GrpcListening, coding: str) -> None:
    with connected(server) as client:
        block = request_headers(INFER, coded(coding.encode()))
        client.send(headers(1, block), data(1, message(infer(), compressed=1), end=True))
        reply = client.reply(1)
        assert reply.code is Code.UNIMPLEMENTED
        assert set(reply.headers["grpc-accept-encoding"].replace(" ", "").split(",")) == {
            "identity", "deflate", "gzip"
        }  # fmt: skip


@pytest.mark.parametrize(
    ("coding", "content"),
    [
        ("gzip", b"no gzip at all"),
        ("deflate", gzip.compress(b"x")),
        ("gzip", gzip.compress(infer().SerializeToString())[:-10]),
        ("gzip", b""),
    ],
)
@pytest.mark.parametrize("path", [INFER, STREAM, LIVE])
def test_wrong_streams(server: GrpcListening, coding: str, content: bytes, path: bytes) -> None:
    with connected(server) as client:
        block = request_headers(path, coded(coding.encode()))
        client.send(headers(1, block), data(1, message(content, compressed=1), end=True))
        assert client.reply(1).code is Code.INTERNAL


@pytest.mark.parametrize("dialect", ["mlserver", "triton"])
def test_a_wrong_message_later_in_a_stream(server: GrpcListening, dialect: str) -> None:
    first = infer("streams", count=1, key=f"wrong {dialect}")
    if dialect == "triton":
        first.parameters["triton_enable_empty_final_response"].bool_param = False
    with connected(server) as client:
        block = request_headers(STREAM, coded(b"gzip"))
        client.send(headers(1, block), data(1, message(first)))
        client.until(lambda: client.replies[1].body)
        client.send(data(1, message(b"no gzip", compressed=1)))
        assert client.reply(1).code is Code.INTERNAL


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("path", [INFER, STREAM, LIVE])
def test_bombs(server: GrpcListening, coding: str, path: bytes) -> None:
    plain = infer("echo").SerializeToString() + b"\x12\x80\xad\xe2\x04" + b" " * 10_000_000  # a field 2
    bomb = gzip.compress(plain) if coding == "gzip" else zlib.compress(plain)
    assert len(bomb) < 20_000
    before = resident_mib()
    block = request_headers(path, coded(coding.encode()))
    with connected(server) as client:
        for stream in range(1, 61, 2):
            client.send(headers(stream, block), data(stream, message(bomb, compressed=1), end=True))
        for stream in range(1, 61, 2):
            reply = client.reply(stream)
            assert reply.code is Code.RESOURCE_EXHAUSTED and "grpc_max_message_length" in reply.text
    assert resident_mib() - before < 40


def test_many_small_bombs_of_the_size_that_is_allowed(server: GrpcListening) -> None:
    request = infer("waits", id="bombs")
    request.raw_input_contents.append(bytes(MAX_MESSAGE - 1_000))
    bomb = message(gzip.compress(request.SerializeToString()), compressed=1)
    block = request_headers(INFER, coded(b"gzip"))
    most, server.grpc.most_held = server.grpc.most_held, 5 * MAX_MESSAGE
    before = resident_mib()
    try:
        with connected(server) as client:
            streams = range(1, 81, 2)
            for stream in streams:
                client.send(headers(stream, block), data(stream, bomb, end=True))
            client.until(lambda: sum(client.replies[stream].ended for stream in streams) >= 34)
            codes = {client.replies[stream].code for stream in streams if client.replies[stream].ended}
            assert codes == {Code.RESOURCE_EXHAUSTED}
            assert resident_mib() - before < 50
            open_gates.add("bombs")
            client.until(lambda: all(client.replies[stream].ended for stream in streams))
    finally:
        server.grpc.most_held = most


# Clients that do not read

WIDE = settings([(WINDOW, MAX_WINDOW)])


def test_a_client_that_never_reads_is_given_up(hasty: GrpcListening) -> None:
    """Windows without end, but the socket is left full."""
    client = RawGrpc(hasty.connect_grpc(4096), first=WIDE)
    with client.socket:
        client.give(MAX_WINDOW - 65_535)
        connections = len(hasty.connections)
        client.send(call(1, infer("sized", count=20_000_000)))
        assert_serves(hasty)
        wait_for(lambda: len(hasty.connections) < connections, "the connection to be ended")
        with pytest.raises((Ended, ConnectionError)):
            client.reply(1)


def test_a_client_that_never_allows_is_given_up(hasty: GrpcListening) -> None:
    """It reads and answers pings, but gives no credit for its replies."""
    with connected(hasty, first=settings([(WINDOW, 0)])) as client:
        for stream in range(1, 41, 2):
            client.send(call(stream, infer("sized", count=5_000_000)))
        with pytest.raises((Ended, ConnectionError)):
            while True:
                client.ping()
                time.sleep(0.05)
        assert [came for came in client.frames if came.kind == GOAWAY][-1].code is ErrorCode.ENHANCE_YOUR_CALM


def test_an_endless_stream_waits_for_its_reader(hasty: GrpcListening) -> None:
    """Without credit: the model stops after a few, however long the client takes."""
    with connected(hasty) as client:
        client.send(headers(1, request_headers(STREAM)), data(1, message(infer("endless", id="no credit"))))
        client.until(lambda: client.replies[1].body)
        for _ in range(30):
            client.ping()
            time.sleep(0.05)
        assert made["no credit"] < 60
        before = made["no credit"]
        client.give(5_000_000).give(5_000_000, 1)
        wait_for(lambda: made["no credit"] > before, "the stream to go on")
        client.send(reset(1))


def test_an_endless_stream_into_a_full_socket(hasty: GrpcListening) -> None:
    """Credit without end, but nothing is read."""
    client = RawGrpc(hasty.connect_grpc(4096), first=WIDE)
    before = resident_mib()
    with client.socket:
        client.give(MAX_WINDOW - 65_535)
        client.send(headers(1, request_headers(STREAM)), data(1, message(infer("endless", id="full"))))
        wait_for(lambda: made["full"], "the stream to begin")
        connections = len(hasty.connections)
        wait_for(lambda: len(hasty.connections) < connections, "the connection to be ended")
        assert made["full"] < 400
        assert resident_mib() - before < 40
    wait_until_at_rest(hasty)


def test_a_client_that_only_sends_is_not_read(hasty: GrpcListening) -> None:
    client = RawGrpc(hasty.connect_grpc(4096))
    before = resident_mib()
    sent, stream = 0, 1
    with client.socket:
        client.socket.settimeout(10)
        with pytest.raises(OSError):
            while sent < 200_000_000:
                calls = b"".join(call(s) for s in range(stream, stream + 2_000, 2))
                stream += 2_000
                client.socket.sendall(calls)
                sent += len(calls)
        assert sent < 60_000_000
        assert resident_mib() - before < 60


def test_large_replies_arrive_at_a_client_with_small_windows(hasty: GrpcListening) -> None:
    """12 MB through 64 KiB: the server has to read the credits however much waits."""
    with connected(hasty) as client:
        for stream in (1, 3):
            client.send(call(stream, infer("sized", count=12_000_000)))
        given = {1: 0, 3: 0}
        while not all(client.replies[stream].ended for stream in given):
            client._more()
            for stream, was in given.items():
                came = len(client.replies[stream].body)
                if came - was > 20_000 or (came > was and client.replies[stream].ended):
                    given[stream] = came
                    client.give(came - was).give(came - was, stream)
        for stream in given:
            assert len(client.replies[stream].message) > 12_000_000


# Clients that dawdle


def dribble(client: RawGrpc, content: Callable[[int], bytes], pause: float = 0.05) -> float:
    """Send byte by byte until the server ends the connection; how long that took."""
    started = time.monotonic()
    client.socket.settimeout(pause)
    for number in range(10_000):
        if not client.try_to_send(content(number)):
            break
        try:
            client._more()
        except TimeoutError:
            continue
        except (Ended, ConnectionError):
            break
    return time.monotonic() - started


SLOW = {
    "preface": (False, b"", PREFACE),
    "frame header": (True, b"", b"\0"),
    "headers": (True, frame(HEADERS, END_HEADERS, 1, OPEN)[:12], b"\0"),
    "continuation": (True, frame(HEADERS, 0, 1, OPEN), b""),
    "data": (True, headers(1, OPEN) + data(1, bytes(10_000))[:20], b"\0"),
    "settings": (True, b"", settings([(WINDOW, 1)] * 90)),
    "nothing": (False, b"", b""),
}


@pytest.mark.parametrize("what", SLOW)
def test_a_byte_at_a_time(hasty: GrpcListening, what: str) -> None:
    greet, first, rest = SLOW[what]
    with connected(hasty, greet=greet) as client:
        client.send(first)
        took = dribble(client, lambda number: rest[number % len(rest) :][:1] if rest else b"")
        assert 0.4 < took < 3.0
        assert client.frames[-1].kind == GOAWAY


def test_a_slow_upload_is_waited_for(hasty: GrpcListening) -> None:
    """Much slower than the time for a frame, but it goes on; frames never end where reads do."""
    content = data(1, message(infer(values=range(100_000)))[:400_000])
    whole = message(infer(values=range(100_000)))
    parts = [
        data(1, whole[at : at + 16_384], at + 16_384 >= len(whole)) for at in range(0, len(whole), 16_384)
    ]
    assert len(content) > 300_000
    stream = headers(1, OPEN) + b"".join(parts)
    with connected(hasty, first=settings([(WINDOW, 10_000_000)])) as client:
        client.give(10_000_000).send(stream[:100])
        at = 100
        while at < len(stream):
            client.send(stream[at : at + 5_003])
            at += 5_003
            time.sleep(0.025)  # 2 s in all
        assert client.reply(1).values == list(range(100_000))


def test_a_slow_model_and_an_idle_client_are_waited_for(hasty: GrpcListening) -> None:
    with connected(hasty) as client:
        client.send(call(1, infer("waits", id="slow model")))
        time.sleep(1.0)
        open_gates.add("slow model")
        assert client.reply(1).code is Code.OK
        time.sleep(1.0)
        assert client.send(call(3)).reply(3).values == [1, 2]


def test_many_slow_clients_hold_nobody_up(hasty: GrpcListening) -> None:
    before = len(hasty.connections)
    slow = [hasty.connect_grpc() for _ in range(40)]
    starts = (PREFACE[:5], PREFACE + settings() + headers(1, OPEN)[:30], b"", PREFACE + settings() + b"\0")
    for number, connection in enumerate(slow):
        connection.sendall(starts[number % 4])
    for _ in range(10):
        assert_serves(hasty)
    wait_for(lambda: len(hasty.connections) <= before, "all of them to be ended")
    for connection in slow:
        connection.close()


# The end of a connection


def test_what_a_client_still_sends_at_the_end_resets_nothing(server: GrpcListening) -> None:
    """A closed socket answers with a reset, at which clients throw away what they have not read yet."""
    before = len(server.connections)
    with connected(server) as client:
        client.send(call(1), frame(GOAWAY, 0, 0, bytes(8)))
        with pytest.raises(Ended):
            client.until(lambda: False)
        for _ in range(5):
            client.send(credit(0, 1), call(3))
            time.sleep(0.02)
        assert client.socket.recv(1) == b""
        assert client.replies[1].values == [1, 2] and not client.replies[3].headers
    wait_for(lambda: len(server.connections) <= before, "the connection to be forgotten", 5)


def test_a_client_that_stays_after_the_end(server: GrpcListening) -> None:
    before = len(server.connections)
    with connected(server) as client:
        client.send(call(1), frame(GOAWAY, 0, 0, bytes(8)))
        with pytest.raises(Ended):
            client.until(lambda: False)
        wait_for(lambda: len(server.connections) <= before, "the connection to be given up", 5)


def test_calls_that_are_answered_and_never_end(server: GrpcListening) -> None:
    """They are told to stop, but for a few: those are no open calls, and leave room for others."""
    path = b"/inference.GRPCInferenceService/Nothing"
    with connected(server) as client:
        streams = range(1, 8 * MAX_STREAMS, 2)
        for stream in streams:
            client.send(headers(stream, request_headers(path)))
        client.ping()
        assert {client.replies[stream].code for stream in streams} == {Code.UNIMPLEMENTED}
        told = [stream for stream in streams if client.replies[stream].reset is not None]
        assert told == list(streams)[: -(MAX_STREAMS // 16)]
        assert {client.replies[stream].reset for stream in told} == {ErrorCode.NO_ERROR}
        wait_until_at_rest(server)
        asked = range(streams[-1] + 2, streams[-1] + 2 + 2 * MAX_STREAMS, 2)
        client.send(*(call(stream) for stream in asked))
        assert all(client.reply(stream).values == [1, 2] for stream in asked)


# Clients that vanish


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        headers(1, OPEN),
        headers(1, OPEN) + data(1, message(bytes(500_000))[:200_000]),
        headers(1, OPEN) + data(1, message(bytes(5_000)))[:3_000],
        headers(1, OPEN) + data(1, message(infer())),
        frame(HEADERS, 0, 1, OPEN),
        headers(1, request_headers(STREAM)) + data(1, message(infer("endless", id="vanished"))),
        headers(1, request_headers(STREAM)),
        headers(1, request_headers(INFER, (b"grpc-timeout", b"1H"))) + data(1, message(bytes(5_000)))[:3_000],
    ],
    ids=["idle", "headers", "message", "frame", "no end", "block", "stream", "no first", "deadline"],
)
def test_a_client_vanishes(server: GrpcListening, sent: bytes, how: str) -> None:
    before = len(server.connections)
    client = RawGrpc(server.connect_grpc())
    client.send(sent).ping() if not sent.startswith(frame(HEADERS, 0, 1, OPEN)) and not sent.endswith(
        bytes(100)
    ) else client.send(sent)
    if how == "reset":
        client.vanish()
    else:
        client.socket.close()
    wait_for(lambda: len(server.connections) <= before, "the connection to be forgotten", 5)
    wait_until_at_rest(server)


@pytest.mark.parametrize("how", ["reset", "close", "half-close", "goaway"])
def test_a_client_vanishes_while_its_model_works(server: GrpcListening, how: str) -> None:
    key = f"vanishes {how}"
    client = RawGrpc(server.connect_grpc())
    client.send(call(1, infer("waits", id=key)))
    wait_for(lambda: "begun" in seen[key], "the model to begin")
    if how == "reset":
        client.vanish()
    elif how == "close":
        client.socket.close()
    elif how == "half-close":
        client.socket.shutdown(1)
    else:
        client.send(frame(GOAWAY, 0, 0, bytes(8)))
        open_gates.add(key)
        assert client.reply(1).code is Code.OK
        with pytest.raises((Ended, ConnectionError)):  # what it sends may cross the end of the connection
            client.ping()
    if how != "goaway":
        wait_for(lambda: seen[key] == ["begun", "cancelled"], "the model to be told", 5)
    client.socket.close()


def test_calls_in_one_read_with_their_end(server: GrpcListening) -> None:
    """A read that ends in a fault: what came before it was asked in good faith, and nothing is left of it."""
    before = server.started
    for _ in range(20):
        with connected(server) as client:
            client.send(b"".join(call(stream) for stream in range(1, 41, 2)) + frame(PING, 0, 1, bytes(8)))
            assert client.goaway() is ErrorCode.PROTOCOL_ERROR
    assert server.started - before >= 20 * 20


def test_requests_that_are_no_grpc(server: GrpcListening) -> None:
    cases = {
        b"405": [(b":method", b"GET"), (b":path", INFER), (b"content-type", b"application/grpc")],
        b"415": [(b":method", b"POST"), (b":path", INFER), (b"content-type", b"application/json")],
    }
    with connected(server) as client:
        for stream, (status, fields) in zip((1, 3), cases.items(), strict=True):
            client.send(headers(stream, encode_headers([(b":scheme", b"http"), *fields]), end=True))
            assert client.reply(stream).headers[":status"] == status.decode()
        block = encode_headers(
            [(b":scheme", b"http"), (b":method", b"POST"), (b":path", INFER),
             (b"content-type", b"application/grpc-web")]
        )  # fmt: skip
        client.send(headers(5, block, end=True))
        assert client.reply(5).headers[":status"] == "415"
        assert client.send(call(7)).reply(7).values == [1, 2]


def test_a_response_that_is_parsed(server: GrpcListening) -> None:
    with connected(server) as client:
        reply = client.ask(infer(id="one"))
        response = pb.ModelInferResponse.FromString(reply.message)
        assert response.id == "one" and reply.trailers["ce-id"] == "one"
