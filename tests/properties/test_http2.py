"""The HTTP/2 connection beside the `h2` library: what is right, and what is an error of which kind."""

from __future__ import annotations

import functools
import os
import random
from dataclasses import dataclass
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserver.wire.http2 import PREFACE, ErrorCode, Limits, Stream, encode_headers
from tests import http2
from tests.http2 import (
    ACK,
    BLOCK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITIZED,
    PRIORITY,
    PUSH_PROMISE,
    REQUEST,
    RST_STREAM,
    SETTINGS,
    TRAILERS,
    WINDOW_UPDATE,
    Peer,
    frame,
    padded,
    parse,
)  # fmt: skip

# Two implementations, one client

MAX_OPEN, SMALL_WINDOW = 3, 500
EXAMPLES = int(os.environ.get("HTTP2_EXAMPLES", "300"))
LIMITS = Limits(max_streams=MAX_OPEN, stream_window=SMALL_WINDOW, connection_window=65_535, max_frame=16_384)


@dataclass
class Outcome:
    """What one frame led to."""

    error: ErrorCode | None  # of the connection
    resets: list[tuple[int, ErrorCode]]
    events: list[tuple[Any, ...]]

    def __bool__(self) -> bool:
        return self.error is None

    @property
    def kind(self) -> str:
        if self.error is not None:
            return f"connection {self.error.name}"
        return ", ".join(f"stream {code.name}" for _, code in self.resets) or "fine"


class Ours:
    """Our connection; it credits no stream, so that both count the same windows."""

    def __init__(self) -> None:
        self.peer = Peer(LIMITS)
        self.peer.on["request"] = self.peer.connection.hold

    def take(self, sent: bytes) -> Outcome:
        peer = self.peer
        peer.events.clear()
        peer.send(sent)
        resets = {(s.stream, s.code) for s in peer.sent() if s.kind == RST_STREAM}
        error = peer.connection.error
        events: list[tuple[Any, ...]] = []
        for name, *rest in peer.events:
            if name == "reset" and (error is not None or tuple(rest) in resets):
                continue  # told by the error itself
            if name in ("request", "data") and rest[1] != b"":
                events.append((name, *rest[:2]))
            elif name in ("trailers", "reset"):
                events.append((name, *rest))
            if name == "trailers" or (name in ("request", "data") and rest[2]):
                events.append(("ended", rest[0]))
        return Outcome(error, sorted(resets), events)

    def answer(self, stream_id: int) -> None:
        if stream := self._open(stream_id):
            self.peer.connection.respond(stream, http2.HEAD, b"", TRAILERS)
            self.peer.sent()

    def reset(self, stream_id: int) -> None:
        if stream := self._open(stream_id):
            self.peer.connection.reset(stream)
            self.peer.sent()

    def _open(self, stream_id: int) -> Stream | None:
        stream = self.peer.streams.get(stream_id)
        return None if stream is None or stream.closed else stream


class Theirs:
    """A server made of `h2`."""

    def __init__(self) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self.connection = connection = h2.connection.H2Connection(config)
        codes = h2.settings.SettingCodes
        values = {codes.MAX_CONCURRENT_STREAMS: MAX_OPEN, codes.INITIAL_WINDOW_SIZE: SMALL_WINDOW}
        connection.local_settings = h2.settings.Settings(client=False, initial_values=values)
        connection.initiate_connection()
        connection.receive_data(PREFACE + http2.settings() + frame(SETTINGS, ACK))
        connection.data_to_send()
        self.open: set[int] = set()
        self.ended: set[int] = set()

    def take(self, sent: bytes) -> Outcome:
        error = None
        told: list[Any] = []
        if (
            sent[3] == SETTINGS
        ):  # else it changes the windows of closed streams, too, and says that they overflow
            assert self.connection.open_inbound_streams >= 0  # they are forgotten when they are counted
        try:
            told = self.connection.receive_data(sent)
        except h2.exceptions.ProtocolError as exc:
            error = ErrorCode(exc.error_code)
        resets = [(s.stream, s.code) for s in parse(self.connection.data_to_send()) if s.kind == RST_STREAM]
        events: list[tuple[Any, ...]] = []
        for event in told:
            match event:
                case h2.events.RequestReceived():
                    fields = tuple((bytes(name), bytes(value)) for name, value in event.headers)
                    events.append(("request", event.stream_id, fields))
                    self.open.add(event.stream_id)
                case h2.events.DataReceived() if event.data:
                    events.append(("data", event.stream_id, bytes(event.data)))
                case h2.events.TrailersReceived():
                    fields = tuple((bytes(name), bytes(value)) for name, value in event.headers)
                    events.append(("trailers", event.stream_id, fields))
                case h2.events.StreamEnded():
                    events.append(("ended", event.stream_id))
                    self.ended.add(event.stream_id)
                case h2.events.StreamReset():
                    self.open.discard(event.stream_id)
                    if event.remote_reset:
                        events.append(("reset", event.stream_id, event.error_code))
        return Outcome(error, sorted(resets), events)

    def answer(self, stream_id: int) -> None:
        if stream_id in self.open:
            self.open.discard(stream_id)
            self.connection.send_headers(stream_id, [(b":status", b"200")])
            self.connection.send_data(stream_id, b"", end_stream=True)
            if stream_id not in self.ended:
                self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.NO_ERROR)
            self.connection.data_to_send()

    def reset(self, stream_id: int) -> None:
        if stream_id in self.open:
            self.open.discard(stream_id)
            self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
            self.connection.data_to_send()


# Where the two differ, and why ours is right: frame, what we say, what h2 says, the section of RFC 9113.
DISAGREEMENTS = {
    # A malformed request is an error of its stream.
    (HEADERS, "stream PROTOCOL_ERROR", "connection PROTOCOL_ERROR"): "8.1.1",
    (CONTINUATION, "stream PROTOCOL_ERROR", "connection PROTOCOL_ERROR"): "8.1.1",
    # So is a stream above the limit, and more data than a stream's window.
    (HEADERS, "stream REFUSED_STREAM", "connection PROTOCOL_ERROR"): "5.1.2",
    (CONTINUATION, "stream REFUSED_STREAM", "connection PROTOCOL_ERROR"): "5.1.2",
    (DATA, "stream FLOW_CONTROL_ERROR", "connection FLOW_CONTROL_ERROR"): "6.9.1",
    (WINDOW_UPDATE, "stream PROTOCOL_ERROR", "connection PROTOCOL_ERROR"): "6.9",
    # A block that cannot be decoded has an error code of its own.
    (HEADERS, "connection COMPRESSION_ERROR", "connection PROTOCOL_ERROR"): "4.3",
    (CONTINUATION, "connection COMPRESSION_ERROR", "connection PROTOCOL_ERROR"): "4.3",
    # h2 remembers how each stream ended; we know only those that we reset. Either answer is allowed.
    (DATA, "connection STREAM_CLOSED", "stream STREAM_CLOSED"): "5.1",
    (HEADERS, "connection STREAM_CLOSED", "stream STREAM_CLOSED"): "5.1",
    (CONTINUATION, "connection STREAM_CLOSED", "stream STREAM_CLOSED"): "5.1",
    # Who was answered may go on for half a window before we ask him to stop; h2 does not wait.
    (DATA, "stream NO_ERROR", "stream STREAM_CLOSED"): "8.1",
    (DATA, "stream FLOW_CONTROL_ERROR", "stream STREAM_CLOSED"): "8.1",
    # A stream of a server is wrong as soon as its headers begin.
    (HEADERS, "connection PROTOCOL_ERROR", "fine"): "5.1.1",
    # Frames may be on their way to a stream that we reset. h2 resets it again.
    (DATA, "fine", "stream STREAM_CLOSED"): "5.1",
    (HEADERS, "fine", "stream STREAM_CLOSED"): "5.1",
    (CONTINUATION, "fine", "stream STREAM_CLOSED"): "5.1",
    (WINDOW_UPDATE, "fine", "connection PROTOCOL_ERROR"): "5.1",
    # A stream that does not exist cannot be reset.
    (RST_STREAM, "connection PROTOCOL_ERROR", "fine"): "6.4",
    # Priorities are deprecated: a stream that depends on itself is nothing to speak of any more.
    (PRIORITY, "fine", "connection PROTOCOL_ERROR"): "5.3",
    (HEADERS, "fine", "connection PROTOCOL_ERROR"): "5.3; and 5.1, see below",
    # An acknowledgement with settings is of the wrong size.
    (SETTINGS, "connection FRAME_SIZE_ERROR", "connection PROTOCOL_ERROR"): "6.5",
    # A push is wrong as soon as it begins.
    (PUSH_PROMISE, "connection PROTOCOL_ERROR", "fine"): "8.4",
}

# Of two errors in one frame we look at the stream and the place first, h2 at the size of the frame.
TWO_ERRORS = {
    ("connection PROTOCOL_ERROR", "connection FRAME_SIZE_ERROR"),
    ("connection PROTOCOL_ERROR", "connection STREAM_CLOSED"),
}


def justified(sent: http2.Frame, ours: Outcome, theirs: Outcome, full: bool) -> bool:
    """full: no more streams may be open."""
    if sent.kind > CONTINUATION:  # h2 knows more kinds; for us they are unknown (5.5)
        return ours.kind == "fine"
    if (ours.kind, theirs.kind) in TWO_ERRORS:
        return True
    if (ours.kind, theirs.kind) == ("fine", "connection PROTOCOL_ERROR") and sent.kind != WINDOW_UPDATE:
        # A stream that depends on itself, or headers for a stream that we reset
        # while no more streams may be open.
        return sent.kind == PRIORITY or bool(sent.flags & PRIORITIZED) or not ours.events
    if (ours.kind, theirs.kind) == ("connection STREAM_CLOSED", "connection PROTOCOL_ERROR"):
        return full and sent.kind in (HEADERS, CONTINUATION)  # h2 looks at the limit before the stream
    return (sent.kind, ours.kind, theirs.kind) in DISAGREEMENTS


any_ids = st.sampled_from((0, 1, 2, 3, 4, 5, 7, 11, 2**31 - 1))
blocks = st.sampled_from(
    (
        BLOCK, BLOCK, BLOCK, BLOCK, TRAILERS, TRAILERS, b"", BLOCK + b"\x40\x01a\x01b", BLOCK + b"\xbe",
        BLOCK + b"\x20", b"\x20" + BLOCK, b"\x80", encode_headers([*REQUEST, (b"Aa", b"b")]),
        encode_headers([*REQUEST, (b"te", b"gzip")]), encode_headers([*REQUEST, (b"a", b"x" * 1_000)]),
    )
)  # fmt: skip
flag = st.booleans()
numbers = st.sampled_from(
    (0, 1, 2, 100, 16_383, 16_384, 65_535, 2**24 - 1, 2**24, 2**31 - 65_536, 2**31 - 1, 2**31)
)


def in_parts(stream: int, block: bytes, cut: int, end: bool, other: int) -> bytes:
    """A header block in two frames; the second is of another stream where that is not 0."""
    return frame(HEADERS, int(end), stream, block[:cut]) + frame(
        CONTINUATION, END_HEADERS, other or stream, block[cut:]
    )


@functools.cache
def openings(stream: int) -> st.SearchStrategy[bytes]:
    """Frames that begin a stream, or end a request with trailers."""
    good = st.builds(http2.headers, st.just(stream), st.just(BLOCK), flag)
    decorated = st.builds(
        lambda padding, end: frame(
            HEADERS, PADDED | PRIORITIZED | END_HEADERS | end, stream, padded(bytes(5) + BLOCK, padding)
        ),
        st.integers(0, 5),
        flag,
    )
    some = st.just(BLOCK) | blocks
    whole = st.builds(http2.headers, st.just(stream), some, flag)
    other = st.sampled_from((0, 0, 0, 0, 0, 0, 1))
    cut = st.builds(in_parts, st.just(stream), some, st.integers(0, 40), flag, other)
    return st.one_of(good, good, good, good, whole, decorated, cut)


@functools.cache
def on_streams(stream: int) -> st.SearchStrategy[bytes]:
    """Frames on a stream that was opened."""
    bodies = st.binary(max_size=5) | st.sampled_from((bytes(200), bytes(400)))
    return st.one_of(
        st.builds(http2.data, st.just(stream), bodies, flag),
        st.builds(http2.data, st.just(stream), bodies, st.just(False)),
        st.builds(
            lambda payload, padding, end: frame(DATA, PADDED | end, stream, padded(payload, padding)),
            st.binary(max_size=5),
            st.integers(0, 100),
            flag,
        ),
        st.builds(http2.headers, st.just(stream), st.sampled_from((TRAILERS, TRAILERS, BLOCK)), flag),
        st.builds(http2.reset, st.just(stream), st.integers(0, 13)),
        st.builds(http2.credit, st.just(stream), numbers),
        st.just(frame(PRIORITY, 0, stream, bytes(5))),
    )


anywhere = st.one_of(
    st.builds(http2.credit, st.just(0), st.sampled_from((1, 1, 1, 100, 2**30))),
    st.builds(lambda key, value: http2.settings([(key, value)]), st.integers(0, 9), numbers),
    st.builds(lambda payload, ack: frame(PING, ack, 0, payload), st.binary(min_size=8, max_size=8), flag),
)
wrong = st.one_of(
    st.builds(frame, st.integers(0, 20), st.integers(0, 255), any_ids, st.binary(max_size=12)),
    any_ids.flatmap(openings),
    any_ids.flatmap(on_streams),
)

Script = list[bytes | tuple[str, int]]


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """What a client sends, mostly right, and what the server does in between."""
    script: Script = []
    last = -1
    for _ in range(draw(st.integers(1, 20))):
        what = draw(st.integers(0, 40))
        stream = draw(st.integers(0, max(0, last // 2))) * 2 + 1
        if what < 10 or last < 0:
            last += draw(st.sampled_from((2, 2, 2, 4)))  # some ids are skipped
            script.append(draw(openings(last)))
        elif what < 30:
            script.append(draw(on_streams(stream)))
        elif what < 35:
            script.append((draw(st.sampled_from(("answer", "answer", "reset"))), stream))
        else:
            script.append(draw(anywhere if what < 40 else wrong))
    return script


@settings(max_examples=EXAMPLES, deadline=None)
@given(scripts())
def test_ours_and_h2_say_the_same(script: Script) -> None:
    ours, theirs = Ours(), Theirs()
    left = False
    for step in script:
        if isinstance(step, tuple):
            getattr(ours, step[0])(step[1])
            getattr(theirs, step[0])(step[1])
            continue
        sent = parse(step)[-1]
        left |= sent.kind == GOAWAY
        if left:  # h2 takes nothing more from a client that says goodbye, while 6.8 lets it go on
            break
        full = ours.peer.connection.open_streams >= MAX_OPEN
        mine, other = ours.take(step), theirs.take(step)
        if mine != other:
            assert justified(sent, mine, other, full), (sent, mine, other)
            break
        if mine.error is not None:
            break


@settings(max_examples=300, deadline=None)
@given(scripts(), st.lists(st.integers(1, 60), min_size=1, max_size=40))
def test_cuts_change_nothing(script: Script, cuts: list[int]) -> None:
    whole, pieces = Peer(LIMITS), Peer(LIMITS)
    for peer in (whole, pieces):
        peer.on["trailers"] = lambda stream, peer=peer: peer.connection.respond(
            stream, http2.HEAD, b"x" * 70_000, TRAILERS
        )
        peer.on["data"] = lambda stream, peer=peer: (
            peer.connection.respond(stream, http2.HEAD, b"x", TRAILERS) if stream.ended else None
        )
    data = b"".join(step for step in script if isinstance(step, bytes))
    whole.send(data)
    at = 0
    while at < len(data):
        size = cuts[at % len(cuts)]
        pieces.send(data[at : at + size])
        at += size

    def told(peer: Peer) -> list[Any]:
        """Data in one piece, wherever it was cut."""
        joined: list[Any] = []
        for event in peer.events:
            if event[0] == "data" and joined and joined[-1][:2] == event[:2]:
                joined[-1] = ("data", event[1], joined[-1][2] + event[2], event[3])
            else:
                joined.append(event)
        return joined

    assert told(whole) == told(pieces)
    assert whole.connection.error == pieces.connection.error
    assert b"".join(whole.connection.take_output()) == b"".join(pieces.connection.take_output())


# A whole conversation


class Server(Peer):
    """Answers each request with its body, in its own manner."""

    def __init__(self, choose: random.Random, limits: Limits) -> None:
        super().__init__(limits, greet=False)
        self.random = choose
        self.held: list[Stream] = []

    def request(self, stream: Stream, headers: Any, end_stream: bool) -> None:
        super().request(stream, headers, end_stream)
        if self.random.random() < 0.3:
            self.connection.hold(stream)
            self.held.append(stream)
        if end_stream:
            self.answer(stream)

    def data(self, stream: Stream, chunk: memoryview, end_stream: bool) -> None:
        super().data(stream, chunk, end_stream)
        if end_stream:
            self.answer(stream)

    def trailers(self, stream: Stream, headers: Any) -> None:
        super().trailers(stream, headers)
        self.answer(stream)

    def answer(self, stream: Stream) -> None:
        connection, body = self.connection, self.bodies.get(stream.id, b"")
        head = encode_headers([(b":status", b"200"), (b"x-large", b"y" * self.random.choice((0, 5, 30_000)))])
        manner = self.random.randrange(4)
        if manner == 0:
            connection.respond(stream, head, body, TRAILERS)
            return
        connection.send_headers(stream, head)
        size = self.random.choice((1_000, 20_000, 10**6))
        parts = [body[at : at + size] for at in range(0, len(body), size)]
        if manner == 1:
            connection.send_data(stream, parts, end_stream=True)
            return
        for part in parts:
            connection.send_data(stream, part)
        if manner == 2:
            connection.send_trailers(stream, TRAILERS)
        else:
            connection.send_data(stream, b"", end_stream=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_a_conversation_with_h2_as_client(seed: int) -> None:
    choose = random.Random(seed)
    limits = Limits(
        max_streams=choose.choice((2, 100)),
        stream_window=choose.choice((1, 100, 70_000, 10**6)) if choose.random() < 0.5 else 65_535,
        connection_window=choose.choice((65_535, 10**6)),
        max_frame=choose.choice((16_384, 100_000)),
        max_control_frames=10**6,
    )
    server = Server(choose, limits)
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    client.initiate_connection()
    client.update_settings(
        {
            h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: choose.choice((0, 10, 1_000, 65_535, 10**6)),
            h2.settings.SettingCodes.MAX_FRAME_SIZE: choose.choice((16_384, 50_000)),
            h2.settings.SettingCodes.HEADER_TABLE_SIZE: choose.choice((0, 100, 4_096)),
        }
    )
    if limits.stream_window < 65_535:  # smaller than a client may expect before it has heard of it
        server.send(client.data_to_send())
        client.receive_data(b"".join(frame(*s) for s in server.sent()))
    sizes = (0, 1, 100, 3_000, 70_000) if limits.stream_window >= 1_000 else (0, 1, 100, 1_000)
    waiting = [choose.randbytes(choose.choice(sizes)) for _ in range(choose.randrange(1, 8))]
    sending: dict[int, bytes] = {}
    expected: dict[int, bytes] = {}
    got: dict[int, bytes] = {}
    done: set[int] = set()
    total = len(waiting)
    for _ in range(5_000):
        # The client: a request, a part of a body, its output, in pieces.
        if waiting and client.open_outbound_streams < min(client.remote_settings.max_concurrent_streams, 100):
            stream_id = client.get_next_available_stream_id()
            sending[stream_id] = expected[stream_id] = waiting.pop()
            got[stream_id] = b""
            client.send_headers(stream_id, [*REQUEST, (b"x-number", b"%d" % stream_id)])
        for stream_id, body in list(sending.items()):
            room = min(client.local_flow_control_window(stream_id), client.max_outbound_frame_size)
            room = max(room, 0)
            client.send_data(stream_id, body[:room])
            sending[stream_id] = body = body[room:]
            if not body:
                del sending[stream_id]
                if choose.random() < 0.5:
                    client.end_stream(stream_id)
                else:
                    client.send_headers(stream_id, [(b"x-trailer", b"1")], end_stream=True)
        out = client.data_to_send()
        while out:
            size = choose.choice((1, 9, 1_000, 10**6))
            assert server.send(out[:size]), server.connection.reason
            out = out[size:]
        while server.held and choose.random() < 0.7:
            server.connection.release(server.held.pop())
        # The server's output to the client, which gives credit for what it has read.
        # One frame at a time: h2 looks at its own limits only between calls.
        for event in [e for s in server.sent() for e in client.receive_data(frame(*s))]:
            assert not isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated), event
            if isinstance(event, h2.events.DataReceived):
                got[event.stream_id] += event.data
                client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                done.add(event.stream_id)
        small = [s for s in got if s not in done and s in expected and client.streams.get(s) is not None]
        for stream_id in small:
            if client.remote_flow_control_window(stream_id) < 100 and choose.random() < 0.5:
                client.increment_flow_control_window(choose.choice((1, 50_000)), stream_id)
        if len(done) == total:
            break
    assert len(done) == total and got == expected == {**dict.fromkeys(expected, b""), **server.bodies}
    assert not server.connection.open_streams and not server.connection.pending_bytes
    assert not server.connection.incomplete
