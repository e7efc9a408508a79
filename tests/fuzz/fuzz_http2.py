"""Bytes that may or may not be HTTP/2, into `Connection` with a caller that answers in several ways.

Each stream is taken in one piece and in random pieces. Whatever the bytes are:

- nothing raises, and nothing is told that contradicts what was told before;
- what is sent are whole frames that a client can decode, none on a stream that is over;
- pieces make no difference;
- the connection's books are right, and its memory does not grow.

    python -m tests.fuzz.fuzz_http2 --runs 1000000
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from hpack import Decoder

from mlserver.wire.http2 import PREFACE, ErrorCode, Headers, Limits, Stream, encode_headers
from tests import http2
from tests.fuzz.mutate import Found, Mutator, Summary, command_line, resident_mib, seeds
from tests.http2 import HEAD, TRAILERS, Frame, Peer, frame

TOKENS = (
    b"\0\0\0", b"\0\0\1", b"\0@\0", b"\0\0\4\x08\0\0\0\0\1", b"\0\0\4\x03\0\0\0\0\1", b"\0\0\0\4\1\0\0\0\0",
    b"\0\0\x08\6\0\0\0\0\0", b"\0\0\0\0\1\0\0\0\1", b"\0\0\x08\7\0\0\0\0\0", b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff", b"\x80\0\0\1", b"\0\0\0\0\1", b"\0\0\0\0\3", b"\0\0\0\0\2", b"\x82", b"\x84",
    b"\xbe",
    b"\xbf", b"\xff\0", b"\x3f\xe1\x1f", b"\x20", b"\x40\1a\1b", b"\0\1A\1b", b"\x7f\x81\x01", PREFACE,
    b"\1\4\0\0\0\1", b"\1\5\0\0\0\3", b"\1\0\0\0\0\5", b"\x09\4\0\0\0\5", b"\x09\0\0\0\0\5",
    b"\0\x08\0\0\0\1",
    b"\1\x2c\0\0\0\7", b"\2\0\0\0\0\1", b"\0\0\x08\6\1\0\0\0\0shutdown",
    b"\0\0\4\x08\0\0\0\0\0",
)  # fmt: skip
LIMITS = Limits(
    max_streams=4,
    stream_window=300,
    connection_window=70_000,
    max_frame=16_384,
    max_header_list=600,
    max_header_block=900,
    max_resets=5,
    max_control_frames=30,
    max_unread_control=2_000,
)
_BODY = bytes(range(256)) * 300
_LARGE_HEAD = encode_headers([(b":status", b"200"), (b"a", b"x" * 20_000)])


class Caller(Peer):
    """Answers by the number of the stream, so that the same requests get the same answers."""

    def __init__(self) -> None:
        super().__init__(LIMITS, greet=False)
        self.over: set[int] = set()

    def request(self, stream: Stream, headers: Headers, end_stream: bool) -> None:
        assert stream.id not in self.streams and stream.id % 2 == 1
        assert headers.size <= LIMITS.max_header_list
        super().request(stream, headers, end_stream)
        if stream.id % 5 == 0:
            self.connection.hold(stream)
        elif stream.id % 5 == 2 and stream.id - 2 in self.streams:
            self.connection.release(self.streams[stream.id - 2])
        if stream.id == 13:
            self.connection.shutdown()
        if end_stream or stream.id % 11 == 0:
            self.answer(stream)

    def headers_too_large(self, stream: Stream, end_stream: bool) -> None:
        assert stream.id not in self.streams
        super().headers_too_large(stream, end_stream)
        self.connection.respond(stream, HEAD, b"431", TRAILERS)

    def data(self, stream: Stream, chunk: memoryview, end_stream: bool) -> None:
        assert stream.id not in self.over
        super().data(stream, chunk, end_stream)
        if end_stream:
            self.answer(stream)

    def trailers(self, stream: Stream, headers: Headers) -> None:
        assert stream.id not in self.over
        super().trailers(stream, headers)
        self.answer(stream)

    def reset(self, stream: Stream, code: int) -> None:
        assert stream.id not in self.over
        super().reset(stream, code)
        self.over.add(stream.id)

    def writable(self, stream: Stream) -> None:
        super().writable(stream)
        self.connection.send_trailers(stream, TRAILERS)

    def answer(self, stream: Stream) -> None:
        connection = self.connection
        manner = stream.id // 2 % 6
        if manner == 0:
            connection.respond(stream, HEAD, b"small", TRAILERS)
        elif manner == 1:
            connection.respond(stream, HEAD, _BODY, TRAILERS)
        elif manner == 2:
            connection.reset(stream)
            self.over.add(stream.id)
        elif manner == 3:
            connection.send_headers(stream, HEAD)
            connection.send_data(stream, [b"part", _BODY[:500]])
            if not stream.pending:
                connection.send_trailers(stream, TRAILERS)
        elif manner == 4:
            connection.send_headers(stream, _LARGE_HEAD)
            connection.send_data(stream, _BODY[:500], end_stream=True)
        else:
            connection.send_headers(stream, HEAD, end_stream=True)

    def told(self) -> list[Any]:
        """All events, with data in one piece."""
        joined: list[Any] = []
        for event in self.events:
            if event[0] == "data" and joined and joined[-1][:2] == event[:2]:
                joined[-1] = ("data", event[1], joined[-1][2] + event[2], event[3])
            else:
                joined.append(event)
        return joined

    def check_books(self) -> None:
        connection = self.connection
        streams = connection._streams.values()
        assert len(streams) <= LIMITS.max_streams and not any(stream.closed for stream in streams)
        assert connection.queued_bytes == sum(stream.pending for stream in streams)
        assert connection.output_bytes == 0 and len(connection._partial) <= LIMITS.max_header_block + 9
        assert len(connection._block) <= LIMITS.max_header_block
        assert len(connection._headers.known) <= 32
        assert connection.error is None or not streams
        for stream in connection._waiting.values():
            assert stream.pending and stream.id in connection._streams


class Reader:
    """A client that reads what is sent and believes nothing."""

    def __init__(self) -> None:
        self.decoder = Decoder()
        self.answered: set[int] = set()
        self.over: set[int] = set()
        self.block: bytes | None = None
        self.gone = False

    def read(self, sent: Frame) -> None:
        kind, flags, stream, payload = sent
        assert not self.gone, "frames behind the end of the connection"
        assert len(payload) <= 16_384 or self.block is None
        assert (kind == http2.CONTINUATION) == (self.block is not None)
        if kind in (http2.HEADERS, http2.CONTINUATION):
            assert stream not in self.over
            self.block = (self.block or b"") + payload
            if flags & http2.END_HEADERS:
                assert self.decoder.decode(self.block, raw=True)
                self.block = None
                self.answered.add(stream)
        elif kind == http2.DATA:
            assert stream in self.answered and stream not in self.over
        elif kind == http2.RST_STREAM:
            assert stream not in self.over or sent.code == ErrorCode.NO_ERROR
            self.over.add(stream)
        elif kind == http2.GOAWAY:
            self.gone = sent.code != ErrorCode.NO_ERROR
        else:
            assert kind in (http2.SETTINGS, http2.PING, http2.WINDOW_UPDATE)
            assert kind != http2.WINDOW_UPDATE or (sent.number and stream not in self.over)
        if kind in (http2.HEADERS, http2.DATA) and flags & http2.END_STREAM:
            self.over.add(stream)


class Fuzzer:
    """Sends streams and judges what comes of them."""

    def __init__(self, choose: random.Random) -> None:
        self.random = choose
        self.outcomes: Counter[str] = Counter()

    def check(self, data: bytes) -> None:
        """Send one stream whole and in pieces. Raises AssertionError for whatever is wrong."""
        self.check_in(data, self._cut(data))

    def check_in(self, data: bytes, pieces: Sequence[bytes]) -> None:
        whole, cut = self._run([data]), self._run(pieces)
        assert whole == cut, f"pieces make a difference:\n{whole}\n{cut}"

    def _run(self, pieces: Sequence[bytes]) -> tuple[Any, ...]:
        caller, reader = Caller(), Reader()
        sent: list[Frame] = []
        for piece in pieces:
            alive = caller.send(piece)
            assert alive == (caller.connection.error is None)
            if not alive:
                break
        for each in caller.sent():
            reader.read(each)
            sent.append(each)
        caller.check_books()
        error = caller.connection.error
        self.outcomes["fine" if error is None else error.name] += 1
        self.outcomes["answers"] += bool(reader.answered)
        assert (error is not None) == reader.gone
        told = caller.told()
        if error is None:
            caller.connection.shutdown()
            caller.connection.close()
            assert not caller.connection.open_streams and not caller.connection.queued_bytes
        return told, sent, error, caller.connection.reason

    def _cut(self, data: bytes) -> list[bytes]:
        kind = self.random.random()
        if kind < 0.2 and len(data) < 3_000:
            return [data[i : i + 1] for i in range(len(data))]
        cuts = sorted(self.random.randint(0, len(data)) for _ in range(self.random.choice((1, 2, 5, 20))))
        return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _frames_of(data: bytes) -> list[Frame]:
    return http2.parse(data[len(PREFACE) :])


def shuffled(choose: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Whole frames in another order, some changed, some of another connection."""
    frames = _frames_of(choose.choice(corpus))
    while choose.random() < 0.4:
        frames += _frames_of(choose.choice(corpus))[1:]
    for _ in range(choose.choice((0, 1, 1, 2, 3, 6))):
        at = choose.randrange(len(frames))
        kind = choose.randrange(7)
        picked = frames[at]
        if kind == 0:
            frames.insert(choose.randrange(len(frames)), picked)
        elif kind == 1:
            frames[at + 1 : at + 1] = [picked] * choose.choice((1, 2, 40))
        elif kind == 2 and len(frames) > 1:
            del frames[at]
        elif kind == 3:
            frames[at] = picked._replace(flags=picked.flags ^ 1 << choose.randrange(8))
        elif kind == 4:
            frames[at] = picked._replace(stream=choose.choice((0, 1, 2, 3, 5, 7, 9, 11, 2**31 - 1)))
        elif kind == 5:
            frames[at] = picked._replace(kind=choose.randrange(12))
        else:
            payload = bytearray(picked.payload)
            for _ in range(choose.randrange(3)):
                payload[choose.randint(0, len(payload)) :][:1] = bytes([choose.randrange(256)])
            cut = choose.randint(0, len(payload))
            frames[at] = picked._replace(payload=bytes(payload[:cut]) + choose.choice(TOKENS))
    return PREFACE + b"".join(frame(*each) for each in frames)


def run(runs: int, seed: int, report_every: float = math.inf) -> Summary:
    choose = random.Random(seed)
    fuzzer = Fuzzer(choose)
    started = reported = time.monotonic()
    before = 0.0
    for number, data in zip(range(runs), _streams(choose), strict=False):
        try:
            fuzzer.check(data)
        except Exception as exc:
            raise Found(data, seed, number, exc) from exc
        if number == runs // 10:
            before = resident_mib()
        now = time.monotonic()
        if now - reported > report_every:
            reported = now
            print(f"{number:,} {now - started:.0f} s {resident_mib():.1f} MiB", flush=True)
    return Summary(runs, time.monotonic() - started, dict(fuzzer.outcomes), before, resident_mib())


def _streams(choose: random.Random) -> Iterator[bytes]:
    corpus = seeds("http2")
    yield from corpus
    mutated = iter(Mutator(choose, corpus, TOKENS))
    while True:
        yield next(mutated) if choose.random() < 0.4 else shuffled(choose, corpus)


if __name__ == "__main__":
    command_line(run)
