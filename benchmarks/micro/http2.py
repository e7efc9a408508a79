"""The HTTP/2 core alone: what one unary call costs, and how fast large messages go through.

python benchmarks/micro/http2.py

Each figure is the best of some rounds, as the noise of a machine only ever adds. The floor beside it does
what cannot be left out: walk over the frames and join the replies.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from hpack import Encoder

from mlserver.wire.http2 import PREFACE, Connection, Headers, Stream, encode_headers

STREAMS = 128
BODY = b"\0\0\0\0\x96" + bytes(150)  # about what a row of four floats takes as ModelInferRequest
REPLY = b"\0\0\0\0\x64" + bytes(100)
HEAD = encode_headers([(b":status", b"200"), (b"content-type", b"application/grpc")])
TRAILERS = encode_headers([(b"grpc-status", b"0")])
REQUEST = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
    (b":authority", b"localhost:8081"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
    (b"user-agent", b"grpc-python/1.70.0 grpc-c/45.0.0 (linux; chttp2)"),
    (b"grpc-accept-encoding", b"identity, deflate, gzip"),
]
MEGABYTE = 2**20


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


class Echo:
    """Answers at once, as a caller that does nothing would."""

    connection: Connection

    def request(self, stream: Stream, headers: Headers, end_stream: bool) -> None:
        pass

    def data(self, stream: Stream, chunk: memoryview, end_stream: bool) -> None:
        if end_stream:
            self.connection.respond(stream, HEAD, REPLY, TRAILERS)

    def other(self, *_: object) -> None:
        raise AssertionError

    headers_too_large = trailers = reset = writable = pong = other


class Client:
    """Makes the bytes of requests."""

    def __init__(self) -> None:
        self.encoder = Encoder()
        self.last_id = -1

    def request(self, body: bytes, max_frame: int = 16_384, deadline: bool = False) -> bytes:
        self.last_id += 2
        fields = list(REQUEST)
        if deadline:  # differs each time, so no block is like another
            fields.insert(4, (b"grpc-timeout", b"%dm" % (self.last_id % 100_000)))
        parts = [frame(1, 4, self.last_id, self.encoder.encode(fields))]
        chunks = [body[at : at + max_frame] for at in range(0, len(body), max_frame)]
        parts += [
            frame(0, index == len(chunks), self.last_id, chunk) for index, chunk in enumerate(chunks, 1)
        ]
        return b"".join(parts)


def open_connection(caller: Echo, max_frame: int = 16_384) -> Connection:
    """A connection to a client that allows frames of a size and has windows as large as they may be."""
    caller.connection = connection = Connection(caller)
    settings = struct.pack(">HIHI", 4, 2**31 - 1, 5, max_frame)
    window = frame(8, 0, 0, (2**31 - 1 - 65_535).to_bytes(4, "big"))
    connection.receive(PREFACE + frame(4, 0, 0, settings) + frame(4, 1, 0, b"") + window, 0.0)
    return connection


def replay(reads: list[bytes], repeats: int = 5) -> float:
    """Seconds for all reads, each in a reused buffer, each followed by one join of the output."""
    best = float("inf")
    for _ in range(repeats):
        connection = open_connection(Echo())
        buffer = bytearray(max(map(len, reads)))
        view = memoryview(buffer)
        took = 0.0
        for read in reads:
            buffer[: len(read)] = read
            piece = view[: len(read)]
            started = time.perf_counter()
            connection.receive(piece, 1.0)
            b"".join(connection.take_output())
            took += time.perf_counter() - started
        assert connection.error is None and not connection.open_streams, connection.reason
        best = min(best, took)
    return best


def floor(reads: list[bytes]) -> float:
    """Walk over the frames and join as many replies, with nothing in between."""
    unpack = struct.Struct(">IBI").unpack_from
    reply = [bytes(9), HEAD, bytes(9), REPLY, bytes(9), TRAILERS]

    def once() -> None:
        for read in reads:
            view, position, replies = memoryview(read), 0, []
            while position < len(view):
                word, flags, _ = unpack(view, position)
                view[position + 9 : position + 9 + (word >> 8)]
                position += 9 + (word >> 8)
                if flags == 1:
                    replies += reply
            b"".join(replies)

    return best_of(once)


def best_of(call: Callable[[], None], repeats: int = 5) -> float:
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best


def unary(streams: int, count: int, deadline: bool = False) -> tuple[float, float]:
    """Microseconds a request, and those of the floor."""
    client = Client()
    reads = [
        b"".join(client.request(BODY, deadline=deadline) for _ in range(streams))
        for _ in range(count // streams)
    ]
    requests = count // streams * streams
    return replay(reads) / requests * 1e6, floor(reads) / requests * 1e6


def large(max_frame: int, read_size: int, count: int = 8) -> float:
    """GB/s of 4 MB messages in frames and reads of a size."""
    client = Client()
    data = b"".join(client.request(bytes(4 * MEGABYTE), max_frame) for _ in range(count))
    reads = [data[at : at + read_size] for at in range(0, len(data), read_size)]
    return len(data) / replay(reads) / 1e9


def large_reply(max_frame: int) -> float:
    """GB/s of 4 MB replies, up to the list of buffers that is written."""
    reply = bytes(4 * MEGABYTE)

    class Large(Echo):
        def data(self, stream: Stream, chunk: memoryview, end_stream: bool) -> None:
            self.connection.respond(stream, HEAD, reply, TRAILERS)

    client, caller = Client(), Large()
    connection = open_connection(caller, max_frame)

    def once() -> None:
        connection.receive(client.request(BODY), 1.0)
        connection.take_output()

    return len(reply) / best_of(once, 50) / 1e9


def main() -> None:
    for streams in (128, 1):
        ours, least = unary(streams, 12_800)
        print(f"unary, {streams:3} streams a read: {ours:5.2f} us a request (floor {least:.2f})", flush=True)
    ours, _ = unary(128, 6_400, deadline=True)
    print(f"unary, 128 streams a read, a new deadline in each: {ours:5.2f} us a request", flush=True)
    for max_frame, read_size in (
        (16_384, 65_536),
        (16_384, MEGABYTE),
        (MEGABYTE, 65_536),
        (MEGABYTE, MEGABYTE),
    ):
        rate = large(max_frame, read_size)
        print(
            f"4 MB messages in {max_frame:9,} byte frames, {read_size:9,} byte reads: {rate:6.1f} GB/s",
            flush=True,
        )
    for max_frame in (16_384, MEGABYTE):
        rate = large_reply(max_frame)
        print(f"4 MB replies in {max_frame:9,} byte frames: {rate:6.1f} GB/s", flush=True)


if __name__ == "__main__":
    main()
