"""The HTTP/2 connection: what RFC 9113 asks for, rule by rule, and what attackers try."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hpack import Decoder, Encoder

from mlserver.wire.http2 import PREFACE, Connection, ErrorCode, Field, Limits, Stream, encode_headers
from tests.http2 import (
    ACK,
    BLOCK,
    CONTINUATION,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD,
    HEADERS,
    MAX_FRAME,
    MAX_LIST,
    MAX_STREAMS,
    MAX_WINDOW,
    PADDED,
    PING,
    PRIORITIZED,
    PRIORITY,
    PUSH_PROMISE,
    REQUEST,
    RST_STREAM,
    SETTINGS,
    TABLE_SIZE,
    TRAILERS,
    WINDOW,
    WINDOW_UPDATE,
    Peer,
    credit,
    data,
    frame,
    headers,
    padded,
    parse,
    reset,
    settings,
)  # fmt: skip

SMALL = Limits(stream_window=1_000, connection_window=70_000)


def reply_of(peer: Peer, stream: int) -> tuple[list[Field], bytes, list[Field] | None]:
    """What was sent on a stream that is complete: headers, body, trailers."""
    decoder = Decoder()
    lists: list[list[Field]] = []
    body, block, ended = b"", b"", False
    for sent in peer.sent():
        if sent.stream != stream or sent.kind == WINDOW_UPDATE:
            continue
        assert not ended
        if sent.kind == DATA:
            body += sent.payload
            ended = bool(sent.flags & END_STREAM)
        elif sent.kind in (HEADERS, CONTINUATION):
            block += sent.payload
            if sent.kind == HEADERS:
                last = bool(sent.flags & END_STREAM)
            if sent.flags & END_HEADERS:
                lists.append([(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)])
                block, ended = b"", last
    assert ended and len(lists) in (1, 2)
    return lists[0], body, lists[1] if len(lists) == 2 else None


class TestBeginning:
    def test_the_server_announces_its_limits_and_a_large_window(self) -> None:
        limits = Limits(max_streams=7, max_frame=20_000, max_header_list=3_000, stream_window=99_999)
        first, window = parse(b"".join(Connection(Peer(greet=False), limits).take_output()))
        assert first.kind == SETTINGS and first.stream == 0
        values = {
            int.from_bytes(first.payload[at : at + 2], "big"): int.from_bytes(
                first.payload[at + 2 : at + 6], "big"
            )
            for at in range(0, len(first.payload), 6)
        }
        assert values == {MAX_STREAMS: 7, WINDOW: 99_999, MAX_FRAME: 20_000, MAX_LIST: 3_000}
        assert (window.kind, window.stream) == (WINDOW_UPDATE, 0)
        assert window.number == limits.connection_window - 65_535

    @pytest.mark.parametrize("size", [1, 3, 24, 30])
    def test_bytes_that_are_no_preface_end_the_connection(self, size: int) -> None:
        peer = Peer(greet=False)
        alive = [
            peer.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"[at : at + size])
            for at in range(0, 30, size)
        ]
        assert not any(alive) and "preface" in peer.connection.reason
        assert peer.goaway() == ErrorCode.PROTOCOL_ERROR

    def test_a_preface_may_end_late_but_not_wrong(self) -> None:
        peer = Peer(greet=False)
        assert peer.send(PREFACE[:-1]) and peer.connection.incomplete
        assert not peer.send(b"x")

    @pytest.mark.parametrize(
        "first", [headers(1), frame(SETTINGS, ACK), frame(PING, 0, 0, bytes(8)), frame(77)]
    )
    def test_the_first_frame_is_settings(self, first: bytes) -> None:
        peer = Peer(greet=False)
        peer.send(PREFACE + first)
        assert peer.goaway() == ErrorCode.PROTOCOL_ERROR

    def test_settings_are_acknowledged(self) -> None:
        peer = Peer(greet=False)
        peer.send(PREFACE + settings())
        assert [(sent.kind, sent.flags) for sent in peer.sent()][-1] == (SETTINGS, ACK)
        assert not peer.connection.incomplete


class TestRequests:
    def test_a_request_with_a_body(self) -> None:
        peer = Peer()
        peer.send(headers(1), data(1, b"one"), data(1, b"two", end=True))
        assert peer.events == [
            ("request", 1, tuple(REQUEST), False),
            ("data", 1, b"one", False),
            ("data", 1, b"two", True),
        ]
        assert peer.sent() == []

    def test_a_request_without_a_body(self) -> None:
        peer = Peer()
        peer.send(headers(1, end=True))
        assert peer.events == [("request", 1, tuple(REQUEST), True)]
        assert peer.streams[1].ended

    def test_a_body_that_ends_with_an_empty_frame(self) -> None:
        peer = Peer()
        peer.send(headers(1), data(1, b"one"), data(1, end=True))
        assert peer.events[1:] == [("data", 1, b"one", False), ("data", 1, b"", True)]

    def test_trailers_of_a_request(self) -> None:
        peer = Peer()
        block = encode_headers([(b"a", b"b")])
        peer.send(headers(1), data(1, b"one"), headers(1, block, end=True))
        assert peer.events[-1] == ("trailers", 1, ((b"a", b"b"),)) and peer.streams[1].ended

    @pytest.mark.parametrize(
        ("block", "end"),
        [
            (TRAILERS, False),
            (encode_headers([(b":path", b"/")]), True),
            (encode_headers([(b"A", b"")]), True),
        ],
    )
    def test_malformed_trailers(self, block: bytes, end: bool) -> None:
        peer = Peer()
        peer.send(headers(1), headers(1, block, end=end))
        assert peer.resets() == [(1, ErrorCode.PROTOCOL_ERROR)]
        assert peer.events[-1] == ("reset", 1, ErrorCode.PROTOCOL_ERROR)

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 9, 10, 100])
    def test_frames_in_pieces(self, size: int) -> None:
        whole, pieces = Peer(), Peer()
        stream = b"".join(
            (
                headers(1),
                frame(DATA, PADDED, 1, padded(b"padded", 5)),
                frame(99, 0, 1, b"unknown"),
                frame(PING, 0, 0, b"12345678"),
                frame(HEADERS, PADDED | PRIORITIZED, 3, padded(bytes(5) + BLOCK[:5], 3)),
                frame(CONTINUATION, END_HEADERS, 3, BLOCK[5:]),
                data(1, b"x" * 50),
                frame(DATA, PADDED | END_STREAM, 1, padded(b"", 9)),
                frame(DATA, PADDED | END_STREAM, 3, padded(b"end", 9)),
                frame(GOAWAY, 0, 0, bytes(8) + b"some reason"),
                headers(5, end=True),
            )
        )
        whole.send(stream)
        for at in range(0, len(stream), size):
            assert pieces.send(stream[at : at + size])
        assert not pieces.connection.incomplete
        assert pieces.bodies == whole.bodies == {1: b"padded" + b"x" * 50, 3: b"end"}
        names = [event for event in whole.events if event[0] != "data"]
        assert [event for event in pieces.events if event[0] != "data"] == names and len(names) == 3
        assert pieces.sent() == whole.sent()

    def test_a_large_frame_is_passed_on_as_it_comes(self) -> None:
        peer = Peer()
        body = random.Random(0).randbytes(1_000_000)
        stream = headers(1) + data(1, body, end=True)
        for at in range(0, len(stream), 4096):
            peer.send(stream[at : at + 4096])
            assert len(peer.connection._partial) < 10
        assert peer.bodies[1] == body and peer.events[-1][-1] is True

    def test_equal_blocks_share_their_headers(self) -> None:
        seen = []

        class Caller(Peer):
            def request(self, stream: Stream, headers: Any, end_stream: bool) -> None:
                seen.append(headers)

        peer = Caller()
        peer.send(headers(1), headers(3))
        seen[0].user = "route"
        assert seen[1].user == "route"

    def test_the_reserved_bit_is_ignored(self) -> None:
        peer = Peer()
        peer.send(headers(1), headers(3 | 1 << 31), data(1 | 1 << 31, b"x", end=True))
        assert [event[:2] for event in peer.events] == [("request", 1), ("request", 3), ("data", 1)]


def malformed() -> dict[str, list[Field]]:
    def without(name: bytes) -> list[Field]:
        return [field for field in REQUEST if field[0] != name]

    def instead(name: bytes, value: bytes) -> list[Field]:
        return [(n, value if n == name else v) for n, v in REQUEST]

    return {
        "no method": without(b":method"),
        "no scheme": without(b":scheme"),
        "no path": without(b":path"),
        "empty path": instead(b":path", b""),
        "repeated pseudo-header": [REQUEST[0], *REQUEST],
        "unknown pseudo-header": [(b":status", b"200"), *REQUEST],
        "pseudo-header behind": [*REQUEST[1:], REQUEST[0]],
        "upper case": [*REQUEST, (b"X-a", b"b")],
        "empty name": [*REQUEST, (b"", b"b")],
        "space in name": [*REQUEST, (b"a b", b"b")],
        "colon in name": [*REQUEST, (b"a:b", b"b")],
        "newline in value": [*REQUEST, (b"a", b"b\r\nc: d")],
        "nul in value": [*REQUEST, (b"a", b"\0")],
        "space before value": [*REQUEST, (b"a", b" b")],
        "tab behind value": [*REQUEST, (b"a", b"b\t")],
        "newline in path": instead(b":path", b"/\n"),
        "connection": [*REQUEST, (b"connection", b"close")],
        "keep-alive": [*REQUEST, (b"keep-alive", b"5")],
        "proxy-connection": [*REQUEST, (b"proxy-connection", b"close")],
        "transfer-encoding": [*REQUEST, (b"transfer-encoding", b"chunked")],
        "upgrade": [*REQUEST, (b"upgrade", b"h2c")],
        "te": [*REQUEST, (b"te", b"gzip")],
        "another host": [*REQUEST, (b"host", b"elsewhere")],
        "connect with a path": instead(b":method", b"CONNECT"),
        "nothing": [],
    }


class TestHeaders:
    @pytest.mark.parametrize("name", malformed())
    def test_malformed_requests_reset_their_stream_only(self, name: str) -> None:
        peer = Peer()
        block = encode_headers(malformed()[name])
        peer.send(headers(1, block), headers(3, block), data(1, b"x"), headers(5, end=True))
        assert [event[:2] for event in peer.events] == [("request", 5)]
        assert peer.resets() == [(1, ErrorCode.PROTOCOL_ERROR), (3, ErrorCode.PROTOCOL_ERROR)]

    @pytest.mark.parametrize(
        "fields",
        [
            [*REQUEST, (b"host", b"localhost")],
            [*REQUEST, (b"a", b"")],
            [*REQUEST, (b"a", b"x\ty \xff z")],
            [(b":method", b"CONNECT"), (b":authority", b"a:1")],
            [field for field in REQUEST if field[0] != b":authority"],
        ],
    )
    def test_unusual_requests(self, fields: list[Field]) -> None:
        peer = Peer()
        peer.send(headers(1, encode_headers(fields)))
        assert peer.events == [("request", 1, tuple(fields), False)]

    def test_blocks_in_parts(self) -> None:
        peer = Peer()
        parts = [BLOCK[at : at + 7] for at in range(0, len(BLOCK), 7)]
        peer.send(frame(HEADERS, END_STREAM, 1, parts[0]))
        assert peer.connection.incomplete and not peer.events
        peer.send(*(frame(CONTINUATION, 0, 1, part) for part in parts[1:]))
        peer.send(frame(CONTINUATION, END_HEADERS, 1))
        assert peer.events == [("request", 1, tuple(REQUEST), True)]

    @pytest.mark.parametrize(
        "between",
        [
            frame(PING, 0, 0, bytes(8)), data(1, b"x"), headers(3), frame(CONTINUATION, END_HEADERS, 3),
            frame(99),
        ],
    )  # fmt: skip
    def test_nothing_comes_between_the_parts_of_a_block(self, between: bytes) -> None:
        peer = Peer()
        peer.send(frame(HEADERS, 0, 1, BLOCK[:9]), between, frame(CONTINUATION, END_HEADERS, 1, BLOCK[9:]))
        assert peer.goaway() == ErrorCode.PROTOCOL_ERROR and not peer.events

    def test_a_continuation_of_nothing(self) -> None:
        peer = Peer()
        peer.send(headers(1), frame(CONTINUATION, END_HEADERS, 1, BLOCK))
        assert peer.goaway() == ErrorCode.PROTOCOL_ERROR

    @pytest.mark.parametrize(
        "block",
        [
            b"\x80",  # index 0
            b"\xff\x80\x80\x80\x80\x80\x80\x01",  # an integer without end
            b"\xff",
            b"\xbe",  # beyond the tables
            b"\x00",
            b"\x00\x05ab",  # a string that ends early
            b"\x00\x01a\x82\xff\xff",  # Huffman code that is none
            b"\x00\x01a\x81\x00",  # padded with zeros
            b"\x3f\xe2\x1f",  # a table of 4,097 bytes
            BLOCK + b"\x20",  # a table update behind a field
            b"\x20\x3f\xe1\x1f\x20" + BLOCK,  # more than two of them
        ],
    )
    def test_blocks_that_cannot_be_decoded(self, block: bytes) -> None:
        peer = Peer()
        peer.send(headers(1, block))
        assert peer.goaway() == ErrorCode.COMPRESSION_ERROR and not peer.events

    def test_remembered_blocks_follow_the_table(self) -> None:
        """The same bytes mean something else once the table has changed."""
        peer = Peer()
        encoder = Encoder()
        fields: list[Field] = [*REQUEST, (b"a", b"1")]
        encoder.encode(fields)
        peer.send(headers(1, Encoder().encode(fields)))
        known = encoder.encode(fields)
        assert len(known) == len(fields)
        peer.send(headers(3, known), headers(5, known))
        # One field more: every index in `known` now points one entry further.
        grown = encoder.encode([*fields, (b"b", b"2")])
        peer.send(headers(7, grown))
        again = encoder.encode(fields)
        assert again != known
        peer.send(headers(9, again))
        lists = {event[1]: list(event[2]) for event in peer.events}
        assert lists == {1: fields, 3: fields, 5: fields, 7: [*fields, (b"b", b"2")], 9: fields}
        peer.send(headers(11, known))
        assert peer.resets() == [(11, ErrorCode.PROTOCOL_ERROR)]  # its first field is another now

    def test_a_table_update_empties_the_memory(self) -> None:
        peer = Peer()
        encoder = Encoder()
        peer.send(headers(1, encoder.encode(REQUEST)))
        known = encoder.encode(REQUEST)
        peer.send(headers(3, known), headers(5, b"\x20" + BLOCK))
        assert len(peer.events) == 3
        peer.send(headers(7, known))
        assert peer.goaway() == ErrorCode.COMPRESSION_ERROR

    def test_blocks_agree_with_the_library(self) -> None:
        """Tables that fill, shrink and grow, Huffman and plain, against hpack's own decoder."""
        choose = random.Random(1)
        limits = Limits(max_header_list=100_000)
        peer, encoder, decoder = Peer(limits), Encoder(), Decoder()
        for number in range(300):
            if choose.random() < 0.1:
                encoder.header_table_size = choose.choice((0, 100, 500, 4096))
            extra = [
                (b"name-%d" % choose.randrange(20), choose.randbytes(choose.randrange(60)).hex().encode())
                for _ in range(choose.randrange(8))
            ]
            fields = [*REQUEST, *(extra if choose.random() < 0.5 else [])]
            triples = [(name, value, choose.random() < 0.2) for name, value in fields]
            block = encoder.encode(triples, huffman=choose.random() < 0.5)
            expected = tuple((bytes(n), bytes(v)) for n, v in decoder.decode(block, raw=True))
            peer.send(headers(2 * number + 1, block), reset(2 * number + 1))
            assert peer.events == [("request", 2 * number + 1, expected, False), ("reset", 2 * number + 1, 8)]
            peer.events.clear()

    def test_what_is_encoded_can_be_decoded_and_changes_no_table(self) -> None:
        fields = [(b":status", b"200"), (b"a", b"b" * 300), (b"grpc-message", b""), (b"x" * 200, b"y")]
        decoder = Decoder()
        for _ in range(2):
            assert [tuple(field) for field in decoder.decode(encode_headers(fields), raw=True)] == fields
        assert not decoder.header_table.dynamic_entries
        assert encode_headers([(b":status", b"200")]) == b"\x88"

    def test_a_client_with_a_smaller_table_hears_that_ours_is_empty(self) -> None:
        peer = Peer(first=settings([(TABLE_SIZE, 100), (TABLE_SIZE, 4096)]))
        for stream in (1, 3):
            peer.send(headers(stream, end=True))
            peer.connection.respond(peer.streams[stream], HEAD, b"x", TRAILERS)
        blocks = [sent.payload for sent in peer.sent() if sent.kind == HEADERS]
        assert blocks == [b"\x20" + HEAD, TRAILERS, HEAD, TRAILERS]


class TestReplies:
    def unary(self, *, first: bytes = b"", body: bytes = b"reply") -> Peer:
        peer = Peer(first=first)
        peer.on["data"] = lambda stream: peer.connection.respond(stream, HEAD, body, TRAILERS)
        peer.send(headers(1), data(1, b"x", end=True))
        return peer

    def test_in_one_go(self) -> None:
        peer = self.unary()
        assert peer.streams[1].closed and not peer.connection.open_streams
        assert [(s.kind, s.flags, s.stream, s.payload) for s in peer.sent()] == [
            (HEADERS, END_HEADERS, 1, HEAD),
            (DATA, 0, 1, b"reply"),
            (HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS),
        ]

    @pytest.mark.parametrize("window", [0, 1, 7, 100_000])
    @pytest.mark.parametrize("size", [0, 1, 20_000, 65_535, 70_000])
    def test_under_any_window(self, window: int, size: int) -> None:
        body = random.Random(0).randbytes(size)
        peer = self.unary(first=settings([(WINDOW, window)]), body=body)
        before = peer.sent()
        assert all(len(sent.payload) <= 16_384 for sent in before)
        assert sum(len(sent.payload) for sent in before if sent.kind == DATA) == min(size, window, 65_535)
        assert peer.connection.pending_bytes == peer.streams[1].pending == size - min(size, window, 65_535)
        peer.connection._output += [
            frame(sent.kind, sent.flags, sent.stream, sent.payload) for sent in before
        ]
        peer.connection.output_bytes += sum(9 + len(sent.payload) for sent in before)
        if peer.streams[1].pending:
            peer.send(credit(0, 100_000), credit(1, 100_000))
        head, got, trailers = reply_of(peer, 1)
        assert got == body and head[0] == (b":status", b"200") and trailers == [(b"grpc-status", b"0")]
        assert not peer.connection.pending_bytes and not peer.connection.open_streams

    def test_frames_as_large_as_the_client_allows(self) -> None:
        peer = self.unary(first=settings([(MAX_FRAME, 20_000), (WINDOW, 100_000)]), body=bytes(50_000))
        assert [len(sent.payload) for sent in peer.sent() if sent.kind == DATA] == [20_000, 20_000, 10_000]

    def test_large_headers_are_continued(self) -> None:
        peer = Peer()
        peer.send(headers(1, end=True))
        block = encode_headers([(b":status", b"200"), (b"a", b"x" * 40_000)])
        peer.connection.send_headers(peer.streams[1], block, end_stream=True)
        sent = peer.sent()
        assert [(s.kind, s.flags) for s in sent] == [
            (HEADERS, END_STREAM), (CONTINUATION, 0), (CONTINUATION, END_HEADERS),
        ]  # fmt: skip
        assert b"".join(s.payload for s in sent) == block

    def test_many_buffers_are_sent_as_one(self) -> None:
        peer = Peer()
        peer.send(headers(1, end=True))
        stream = peer.streams[1]
        peer.connection.send_headers(stream, HEAD)
        parts: list[bytes | bytearray | memoryview] = [b"abc", b"", bytearray(20_000), memoryview(b"xyz")]
        peer.connection.send_data(stream, parts, end_stream=True)
        sent = peer.sent()[1:]
        assert [(len(s.payload), s.flags) for s in sent] == [(16_384, 0), (3_622, 0), (0, END_STREAM)]
        assert b"".join(s.payload for s in sent) == b"".join(parts)

    def test_an_end_without_data(self) -> None:
        peer = Peer(first=settings([(WINDOW, 0)]))
        peer.send(headers(1, end=True))
        peer.connection.send_headers(peer.streams[1], HEAD)
        peer.connection.send_data(peer.streams[1], b"", end_stream=True)
        assert [(s.kind, s.flags) for s in peer.sent()] == [(HEADERS, END_HEADERS), (DATA, END_STREAM)]

    def test_data_is_not_copied(self) -> None:
        peer = Peer()
        peer.send(headers(1, end=True))
        body = bytearray(b"before" * 5_000)
        peer.connection.send_data(peer.streams[1], body)
        body[:] = b"after!" * 5_000
        assert b"".join(s.payload for s in peer.sent() if s.kind == DATA) == bytes(body)

    def test_a_stream_hears_when_it_may_go_on(self) -> None:
        peer = Peer(first=settings([(WINDOW, 10)]))
        peer.send(headers(1, end=True))
        stream = peer.streams[1]
        peer.connection.send_headers(stream, HEAD)
        peer.connection.send_data(stream, bytes(10))
        peer.connection.send_data(stream, bytes(25))
        peer.send(credit(1, 20))
        assert stream.pending == 5 and peer.events[-1][0] == "request"
        peer.send(credit(1, 20))
        assert peer.events[-1] == ("writable", 1)

    def test_the_window_of_the_connection_is_shared_in_turns(self) -> None:
        peer = Peer(first=settings([(WINDOW, 1_000_000)]))
        peer.send(headers(1, end=True), headers(3, end=True))
        for stream in peer.streams.values():
            peer.connection.send_data(stream, bytes(200_000), end_stream=True)
        peer.sent()
        peer.send(credit(0, 200_000))
        shares = {1: 0, 3: 0}
        for sent in peer.sent():
            shares[sent.stream] += len(sent.payload)
        assert shares[1] + shares[3] == 200_000 and min(shares.values()) > 60_000

    def test_windows_may_become_negative(self) -> None:
        """RFC 9113, section 6.9.2."""
        peer = Peer(first=settings([(WINDOW, 100)]))
        peer.send(headers(1, end=True))
        stream = peer.streams[1]
        peer.connection.send_data(stream, bytes(300))
        assert stream.pending == 200
        peer.send(settings([(WINDOW, 0)]), credit(1, 100))
        assert stream.pending == 200
        peer.send(credit(1, 50))
        assert stream.pending == 150
        peer.send(settings([(WINDOW, 30)]))
        assert stream.pending == 120

    def early(self, *, streams: int = 1, limits: Limits | None = None) -> Peer:
        """Requests that were answered before they ended."""
        peer = Peer(limits or Limits())
        for stream in range(1, 2 * streams, 2):
            peer.send(headers(stream), data(stream, b"x"))
            peer.connection.respond(peer.streams[stream], HEAD, b"no", TRAILERS)
        assert peer.connection.open_streams == 0
        return peer

    @pytest.mark.parametrize(
        "last", [data(1, b"y", end=True), data(1, b"", end=True), headers(1, TRAILERS, end=True)]
    )
    def test_a_request_may_end_behind_its_reply(self, last: bytes) -> None:
        """A reset right behind the reply would not be wrong; HAProxy passes it on in place of the reply."""
        peer = self.early()
        assert peer.send(data(1, b"y"), last, headers(3))
        assert peer.resets() == [] and [event[0] for event in peer.events] == ["request", "data", "request"]
        peer.send(data(1, b"z"))
        assert peer.goaway() == ErrorCode.STREAM_CLOSED

    def test_a_request_may_be_reset_behind_its_reply(self) -> None:
        peer = self.early()
        assert peer.send(reset(1)) and peer.resets() == []
        peer.send(data(1, b"z"))
        assert peer.goaway() == ErrorCode.STREAM_CLOSED

    def test_a_client_that_goes_on_behind_its_reply_is_told_to_stop(self) -> None:
        """RFC 9113, section 8.1: where it would need credit, which it gets no more."""
        peer = self.early(limits=Limits(stream_window=100_000))
        assert peer.send(data(1, bytes(49_998))) and peer.resets() == []
        assert peer.send(data(1, b"y")) and peer.resets() == [(1, ErrorCode.NO_ERROR)]
        assert peer.send(data(1, bytes(49_000)), data(1, b"z", end=True), headers(3))
        assert [event[0] for event in peer.events] == ["request", "data", "request"]

    def test_a_client_without_credit_is_told_to_stop_at_once(self) -> None:
        peer = Peer(Limits(stream_window=100_000))
        peer.on["request"] = peer.connection.hold
        peer.send(headers(1), data(1, bytes(60_000)))
        peer.connection.respond(peer.streams[1], HEAD, b"no", TRAILERS)
        assert peer.resets() == [(1, ErrorCode.NO_ERROR)]

    def test_more_than_the_window_behind_a_reply_is_a_fault(self) -> None:
        peer = self.early(limits=Limits(stream_window=100_000))
        assert peer.send(data(1, bytes(100_000))) and peer.resets() == [(1, ErrorCode.FLOW_CONTROL_ERROR)]

    def test_headers_that_do_not_end_behind_a_reply(self) -> None:
        peer = self.early()
        assert peer.send(headers(1, TRAILERS)) and peer.resets() == []

    def test_requests_that_never_end_keep_little(self) -> None:
        """Of 16 streams that a client may have, one may go on without an end."""
        peer = self.early(streams=100, limits=Limits(max_streams=160))
        assert peer.resets() == [(stream, ErrorCode.NO_ERROR) for stream in range(1, 181, 2)]
        assert self.early(limits=Limits(max_streams=1)).resets() == [(1, ErrorCode.NO_ERROR)]

    def test_the_connection_is_credited_for_what_comes_behind_a_reply(self) -> None:
        peer = self.early(streams=20)
        peer.sent()
        for stream in range(1, 40, 2):
            peer.send(data(stream, bytes(1_000_000)))
        credit = sum(sent.number for sent in peer.sent() if sent.kind == WINDOW_UPDATE and not sent.stream)
        assert credit >= 12_000_000

    def test_what_is_sent_on_a_closed_stream_goes_nowhere(self) -> None:
        peer = self.unary()
        peer.sent()
        stream = peer.streams[1]
        connection = peer.connection
        connection.respond(stream, HEAD, b"again", TRAILERS)
        connection.send_headers(stream, HEAD)
        connection.send_data(stream, b"more")
        connection.send_trailers(stream, TRAILERS)
        connection.reset(stream)
        connection.release(stream)
        assert peer.sent() == [] and connection.pending_bytes == 0

    def test_nothing_follows_the_end(self) -> None:
        peer = Peer(first=settings([(WINDOW, 0)]))
        peer.send(headers(1, end=True))
        stream = peer.streams[1]
        peer.connection.respond(stream, HEAD, b"abc", TRAILERS)
        peer.connection.send_data(stream, b"more")
        peer.connection.send_trailers(stream, TRAILERS)
        assert stream.pending == 3

    def test_a_reset_drops_what_waits(self) -> None:
        peer = Peer(first=settings([(WINDOW, 0)]))
        peer.send(headers(1, end=True), headers(3, end=True))
        for stream in peer.streams.values():
            peer.connection.respond(stream, HEAD, bytes(1_000), TRAILERS)
        assert peer.connection.pending_bytes > 2_000
        peer.send(reset(1))
        assert peer.events[-1] == ("reset", 1, ErrorCode.CANCEL)
        peer.connection.reset(peer.streams[3], ErrorCode.INTERNAL_ERROR)
        assert peer.resets() == [(3, ErrorCode.INTERNAL_ERROR)]
        assert peer.connection.pending_bytes == 0


class TestFlowControl:
    def test_credit_comes_back_by_halves(self) -> None:
        peer = Peer(SMALL)
        peer.send(headers(1), data(1, bytes(499)))
        assert peer.sent() == []
        peer.send(data(1, bytes(1)))
        assert [(s.kind, s.stream, s.number) for s in peer.sent()] == [(WINDOW_UPDATE, 1, 500)]

    def test_credit_of_the_connection(self) -> None:
        peer = Peer(Limits(connection_window=100_000))
        peer.send(headers(1), data(1, bytes(30_000)), data(1, bytes(19_999)))
        assert peer.sent() == []
        peer.send(frame(DATA, PADDED, 1, padded(b"", 0)))
        assert [(s.kind, s.stream, s.number) for s in peer.sent()] == [(WINDOW_UPDATE, 0, 50_000)]

    def test_credit_can_be_withheld(self) -> None:
        peer = Peer(SMALL)
        peer.on["request"] = peer.connection.hold
        peer.send(headers(1), *[data(1, bytes(100))] * 10)
        assert peer.sent() == []
        peer.connection.release(peer.streams[1])
        assert [(s.stream, s.number) for s in peer.sent()] == [(1, 1_000)]
        peer.send(data(1, bytes(500)))
        assert [(s.stream, s.number) for s in peer.sent()] == [(1, 500)]
        peer.connection.hold()
        for stream in range(3, 103, 2):
            peer.send(headers(stream), data(stream, bytes(1_000), end=True))
        assert WINDOW_UPDATE not in peer.kinds()
        peer.connection.release()
        assert [(s.stream, s.number) for s in peer.sent()] == [(0, 51_500)]

    def test_no_credit_for_a_request_that_is_complete(self) -> None:
        peer = Peer(SMALL)
        peer.send(headers(1), data(1, bytes(900), end=True))
        assert peer.sent() == []

    @pytest.mark.parametrize("pieces", [1, 1_010])
    def test_more_data_than_a_streams_window(self, pieces: int) -> None:
        peer = Peer(SMALL)
        stream = headers(1) + data(1, bytes(1_001))
        size = -(-len(stream) // pieces)
        for at in range(0, len(stream), size):
            peer.send(stream[at : at + size])
        assert peer.resets() == [(1, ErrorCode.FLOW_CONTROL_ERROR)]
        assert peer.events[-1] == ("reset", 1, ErrorCode.FLOW_CONTROL_ERROR)

    def test_padding_counts(self) -> None:
        peer = Peer(SMALL)
        peer.send(headers(1), data(1, bytes(900)), frame(DATA, PADDED, 1, padded(b"x", 250)))
        assert [(s.stream, s.number) for s in peer.sent()] == [(1, 900)]
        assert (peer.streams[1]._room_in, peer.connection._room_in) == (1_000 - 252, 70_000 - 900 - 252)

    def test_more_data_than_the_connections_window(self) -> None:
        peer = Peer(Limits(connection_window=65_535))
        # In one read, since credit for the connection is given between reads.
        peer.send(headers(1), *[data(1, bytes(16_000))] * 4, data(1, bytes(1_536)))
        assert peer.goaway() == ErrorCode.FLOW_CONTROL_ERROR

    def test_data_for_streams_that_we_reset_counts_for_the_connection(self) -> None:
        peer = Peer(Limits(connection_window=100_000))
        peer.send(headers(1))
        peer.connection.reset(peer.streams[1])
        peer.sent()
        peer.send(*[data(1, bytes(10_000))] * 9)
        assert peer.connection.error is None
        assert [(s.kind, s.stream, s.number) for s in peer.sent()] == [(WINDOW_UPDATE, 0, 90_000)]

    def test_credit_of_nothing(self) -> None:
        peer = Peer()
        peer.send(headers(1), credit(1, 0))
        assert peer.resets() == [(1, ErrorCode.PROTOCOL_ERROR)]
        peer.send(credit(1, 0))  # it is closed
        assert peer.connection.error is None
        peer.send(credit(0, 0))
        assert peer.goaway() == ErrorCode.PROTOCOL_ERROR

    def test_windows_that_overflow(self) -> None:
        peer = Peer()
        peer.send(headers(1), credit(1, MAX_WINDOW - 65_535), credit(0, MAX_WINDOW - 65_535))
        assert peer.connection.error is None
        peer.send(credit(1, 1))
        assert peer.resets() == [(1, ErrorCode.FLOW_CONTROL_ERROR)]
        peer.send(credit(0, 1))
        assert peer.goaway() == ErrorCode.FLOW_CONTROL_ERROR

    def test_settings_that_make_a_window_overflow(self) -> None:
        peer = Peer()
        peer.send(headers(1), credit(1, MAX_WINDOW - 65_535), settings([(WINDOW, 65_536)]))
        assert peer.goaway() == ErrorCode.FLOW_CONTROL_ERROR
        assert peer.events[-1] == ("reset", 1, ErrorCode.FLOW_CONTROL_ERROR)


CODES = {
    "protocol": ErrorCode.PROTOCOL_ERROR,
    "size": ErrorCode.FRAME_SIZE_ERROR,
    "closed": ErrorCode.STREAM_CLOSED,
    "flow": ErrorCode.FLOW_CONTROL_ERROR,
}


class TestFrames:
    @pytest.mark.parametrize(
        ("code", "sent"),
        [
            ("size", settings()[:-9] + frame(SETTINGS, 0, 0, bytes(5))),
            ("size", frame(SETTINGS, ACK, 0, bytes(6))),
            ("protocol", frame(SETTINGS, 0, 1)),
            ("protocol", settings([(ENABLE_PUSH, 2)])),
            ("protocol", settings([(8, 2)])),
            ("flow", settings([(WINDOW, MAX_WINDOW + 1)])),
            ("protocol", settings([(MAX_FRAME, 16_383)])),
            ("protocol", settings([(MAX_FRAME, 2**24)])),
            ("size", frame(PING, 0, 0, bytes(7))),
            ("protocol", frame(PING, 0, 1, bytes(8))),
            ("size", frame(RST_STREAM, 0, 1, bytes(5))),
            ("protocol", frame(RST_STREAM, 0, 0, bytes(4))),
            ("protocol", reset(3)),
            ("protocol", reset(2)),
            ("size", frame(PRIORITY, 0, 1, bytes(4))),
            ("protocol", frame(PRIORITY, 0, 0, bytes(5))),
            ("size", frame(WINDOW_UPDATE, 0, 1, bytes(3))),
            ("protocol", credit(3, 1)),
            ("size", frame(GOAWAY, 0, 0, bytes(7))),
            ("protocol", frame(GOAWAY, 0, 1, bytes(8))),
            ("protocol", frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4) + BLOCK)),
            ("protocol", data(0, b"x")),
            ("protocol", data(3, b"x")),
            ("protocol", data(2, b"x")),
            ("protocol", headers(0)),
            ("protocol", headers(2)),
            ("size", frame(DATA, PADDED, 1)),
            ("protocol", frame(DATA, PADDED, 1, b"\5aaaa")),
            ("size", frame(HEADERS, PADDED | END_HEADERS, 3)),
            ("protocol", frame(HEADERS, PADDED | END_HEADERS, 3, b"\5aaaa")),
            ("size", frame(HEADERS, PRIORITIZED | END_HEADERS, 3, bytes(4))),
            ("protocol", frame(HEADERS, PADDED | PRIORITIZED | END_HEADERS, 3, b"\1" + bytes(5))),
            ("size", (2**20 + 1 << 8 | DATA).to_bytes(4, "big") + b"\0\0\0\0\1"),
            ("size", (2**20 + 1 << 8 | 200).to_bytes(4, "big") + b"\0\0\0\0\0"),
        ],
    )  # fmt: skip
    def test_errors_of_the_connection(self, code: str, sent: bytes) -> None:
        peer = Peer()
        peer.send(headers(1))
        peer.send(sent)
        assert peer.goaway() == CODES[code], peer.connection.reason
        assert peer.events[-1] == ("reset", 1, CODES[code])

    @pytest.mark.parametrize(
        "sent",
        [
            frame(PRIORITY, 0, 1, bytes(5)), frame(PRIORITY, 0, 77, bytes(5)), frame(99, 255, 3, bytes(100)),
            frame(99), settings([(ENABLE_PUSH, 0), (99, 2**32 - 1)]), frame(SETTINGS, ACK), credit(0, 1),
            frame(PING, ACK, 0, bytes(8)), frame(PING, ACK, 0, b"shutdown"),
        ],
    )  # fmt: skip
    def test_frames_that_change_nothing(self, sent: bytes) -> None:
        peer = Peer()
        peer.send(headers(1), sent, data(1, b"x", end=True))
        assert peer.events[-1] == ("data", 1, b"x", True)

    def test_pings_are_answered(self) -> None:
        peer = Peer()
        peer.send(frame(PING, 0, 0, b"abcdefgh"), frame(PING, ACK, 0, b"12345678"))
        assert [tuple(sent) for sent in peer.sent()] == [(PING, ACK, 0, b"abcdefgh")]
        peer.connection.ping(b"87654321")
        assert [tuple(sent) for sent in peer.sent()] == [(PING, 0, 0, b"87654321")]

    @pytest.mark.parametrize(
        "sent",
        [headers(3), headers(3, encode_headers([*REQUEST, (b"a", b"b")])), frame(HEADERS, 0, 3)
         + frame(CONTINUATION, END_HEADERS, 3, BLOCK)],
    )  # fmt: skip
    def test_a_stream_that_was_skipped(self, sent: bytes) -> None:
        """RFC 9113, section 5.1.1."""
        peer = Peer()
        peer.send(headers(1), headers(5), headers(7), headers(11), sent)
        assert [event[:2] for event in peer.events if event[0] == "request"] == [
            ("request", 1), ("request", 5), ("request", 7), ("request", 11),
        ]  # fmt: skip
        assert peer.goaway() == ErrorCode.PROTOCOL_ERROR

    @pytest.mark.parametrize("sent", [credit(3, 1), reset(3), frame(PRIORITY, 0, 3, bytes(5))])
    def test_a_stream_that_was_skipped_is_closed(self, sent: bytes) -> None:
        """RFC 9113, section 5.1.1: so it is no longer idle."""
        peer = Peer()
        assert peer.send(headers(5), sent) and peer.sent() == []

    @pytest.mark.parametrize("first", [5, 7])
    def test_a_stream_that_was_open_above_those_that_were_skipped(self, first: int) -> None:
        """Neither is it taken for one of them, whoever ended it."""
        peer = Peer()
        peer.send(headers(first), headers(11), reset(first))
        peer.connection.reset(peer.streams[11])
        assert peer.send(headers(11, TRAILERS, end=True))
        peer.send(headers(first, TRAILERS, end=True))
        assert peer.goaway() == ErrorCode.STREAM_CLOSED

    def test_the_last_stream_there_is(self) -> None:
        peer = Peer()
        last = MAX_WINDOW
        peer.send(headers(last - 2), headers(last, end=True))
        assert [event[1] for event in peer.events] == [last - 2, last]
        peer.send(data(last - 2, b"x", end=True), headers(1 | 1 << 31))
        assert peer.goaway() == ErrorCode.PROTOCOL_ERROR

    @pytest.mark.parametrize("sent", [data(1, b"x"), headers(1, TRAILERS, end=True)])
    def test_a_request_that_goes_on_after_its_end(self, sent: bytes) -> None:
        peer = Peer()
        peer.send(headers(1, end=True), sent)
        assert peer.resets() == [(1, ErrorCode.STREAM_CLOSED)]

    @pytest.mark.parametrize("sent", [data(1, b"x"), headers(1, TRAILERS, end=True)])
    def test_a_stream_that_the_client_closed(self, sent: bytes) -> None:
        peer = Peer()
        peer.send(headers(1), reset(1), sent)
        assert peer.goaway() == ErrorCode.STREAM_CLOSED

    @pytest.mark.parametrize("sent", [data(1, b"x"), headers(1, TRAILERS, end=True)])
    def test_a_stream_that_was_answered(self, sent: bytes) -> None:
        peer = Peer()
        peer.send(headers(1, end=True))
        peer.connection.respond(peer.streams[1], HEAD, b"", TRAILERS)
        assert peer.send(credit(1, 1), reset(1), frame(PRIORITY, 0, 1, bytes(5)))
        peer.send(sent)
        assert peer.goaway() == ErrorCode.STREAM_CLOSED

    def test_a_stream_that_we_reset_may_have_frames_on_their_way(self) -> None:
        peer = Peer()
        encoder = Encoder()
        peer.send(headers(1, encoder.encode(REQUEST)))
        peer.connection.reset(peer.streams[1])
        peer.send(data(1, b"x"), credit(1, 1), reset(1))
        # Its trailers must be decoded: the next block needs what they put into the table.
        peer.send(headers(1, encoder.encode([(b"a", b"new")]), end=True))
        peer.send(headers(3, encoder.encode([*REQUEST, (b"a", b"new")])))
        assert [event[:2] for event in peer.events] == [("request", 1), ("request", 3)]
        assert (b"a", b"new") in peer.events[-1][2]

    def test_a_stream_that_is_reset_while_a_frame_comes_in(self) -> None:
        peer = Peer()
        peer.on["data"] = peer.connection.reset
        stream = headers(1) + data(1, bytes(100), end=True) + headers(3)
        for at in range(0, len(stream), 10):
            assert peer.send(stream[at : at + 10])
        assert [event[0] for event in peer.events] == ["request", "data", "request"]

    def test_a_connection_that_is_closed_within_an_event(self) -> None:
        peer = Peer()
        peer.on["request"] = lambda stream: peer.connection.close()
        assert not peer.send(headers(1), headers(3), data(3, b"x"))
        assert peer.events[1:] == [("reset", 1, ErrorCode.NO_ERROR)]
        assert peer.goaway() == ErrorCode.NO_ERROR


class TestGoaway:
    def test_the_client_leaves(self) -> None:
        peer = Peer()
        peer.send(headers(1, end=True), frame(GOAWAY, 0, 0, bytes(7) + b"\x0b" + b"reason"))
        assert (peer.connection.peer_goaway, peer.connection.finished) == (ErrorCode.ENHANCE_YOUR_CALM, False)
        peer.connection.respond(peer.streams[1], HEAD, b"", TRAILERS)
        assert peer.connection.finished

    def test_in_two_steps(self) -> None:
        peer = Peer()
        peer.send(headers(1))
        peer.connection.shutdown()
        warning, ping = peer.sent()
        assert (warning.kind, warning.number, warning.code) == (GOAWAY, MAX_WINDOW, ErrorCode.NO_ERROR)
        peer.send(headers(3))  # it was on its way
        assert not peer.connection.finished
        peer.send(frame(PING, ACK, 0, ping.payload))
        assert [(s.kind, s.number) for s in peer.sent()] == [(GOAWAY, 3)]
        # Later ones are not for us, but their headers and data still count.
        encoder = Encoder()
        peer.send(headers(5, encoder.encode([*REQUEST, (b"a", b"b")])), data(5, bytes(70_000), end=True))
        assert peer.send(data(1, b"x", end=True), data(3, b"y", end=True))
        assert [event[:2] for event in peer.events] == [
            ("request", 1), ("request", 3), ("data", 1), ("data", 3),
        ]  # fmt: skip
        for stream in peer.streams.values():
            peer.connection.respond(stream, HEAD, b"", TRAILERS)
        assert (peer.connection.finished, peer.connection.error) == (True, None)
        assert peer.connection._room_in == 16 * 2**20 - 70_002

    def test_a_client_that_does_not_answer_the_warning(self) -> None:
        peer = Peer()
        for _ in range(3):
            peer.connection.shutdown()
        assert peer.kinds() == [GOAWAY, PING, GOAWAY] and peer.connection.finished

    def test_closing_resets_every_stream_once(self) -> None:
        peer = Peer()
        peer.send(headers(1), headers(3, end=True))
        peer.connection.close(ErrorCode.ENHANCE_YOUR_CALM, "too slow")
        peer.connection.close()
        assert peer.events[2:] == [("reset", 1, 11), ("reset", 3, 11)]
        last = peer.sent()[-1]
        assert (last.number, last.code, last.payload[8:]) == (3, 11, b"too slow")
        peer.connection.ping(bytes(8))
        peer.connection.shutdown()
        peer.connection.release(peer.streams[1])
        assert peer.sent() == []


def flood(peer: Peer, make: Callable[[int], bytes], most: int, take: bool = True) -> int:
    """Send frames until the connection ends; the number that were taken."""
    for number in range(most):
        if not peer.send(make(number)):
            assert peer.connection.error == ErrorCode.ENHANCE_YOUR_CALM, peer.connection.reason
            return number
        if take:
            peer.connection.take_output()
    raise AssertionError("it was never enough")


class TestAttacks:
    def test_too_many_streams(self) -> None:
        peer = Peer(Limits(max_streams=3))
        peer.send(*(headers(stream, end=True) for stream in range(1, 11, 2)))
        assert peer.resets() == [(7, ErrorCode.REFUSED_STREAM), (9, ErrorCode.REFUSED_STREAM)]
        peer.connection.respond(peer.streams[1], HEAD, b"", TRAILERS)
        peer.send(headers(11, end=True))
        assert peer.events[-1][:2] == ("request", 11)

    def test_rapid_reset(self) -> None:
        """CVE-2023-44487."""
        peer = Peer(Limits(max_resets=100))
        assert flood(peer, lambda n: headers(2 * n + 1) + reset(2 * n + 1), 200) == 100

    def test_resets_over_a_long_time_are_no_attack(self) -> None:
        peer = Peer(Limits(max_resets=100, window_s=10.0))
        for number in range(1_000):
            peer.now += 0.11
            assert peer.send(headers(2 * number + 1), reset(2 * number + 1))

    @pytest.mark.parametrize(
        "sent",
        [
            lambda n: headers(2 * n + 1, end=True) + data(2 * n + 1, b"x"),
            lambda n: headers(2 * n + 1) + credit(2 * n + 1, 0),
            lambda n: headers(2 * n + 1) + credit(2 * n + 1, MAX_WINDOW),
            lambda n: headers(2 * n + 1, encode_headers([(b"a", b"b")])),
            lambda n: headers(2 * n + 1, encode_headers([*REQUEST, (b"a", b"b" * 20_000)])),
            lambda n: headers(2 * n + 1) + headers(2 * n + 1, TRAILERS),
        ],
        ids=["closed", "nothing", "overflow", "malformed", "large", "trailers"],
    )
    def test_making_us_reset(self, sent: Callable[[int], bytes]) -> None:
        """CVE-2025-8671."""
        assert flood(Peer(Limits(max_resets=100)), sent, 200) == 100

    def test_refused_streams_count_as_resets(self) -> None:
        peer = Peer(Limits(max_streams=1, max_resets=100))
        assert flood(peer, lambda n: headers(2 * n + 1), 200) == 101

    @pytest.mark.parametrize(
        "sent",
        [
            frame(PING, 0, 0, bytes(8)), frame(PING, ACK, 0, bytes(8)), settings(), frame(SETTINGS, ACK),
            settings([(WINDOW, 5)] * 50), frame(PRIORITY, 0, 1, bytes(5)), frame(PRIORITY, 0, 7, bytes(5)),
            data(1), frame(DATA, PADDED, 1, padded(b"", 200)), credit(0, 1), credit(1, 1), frame(99),
            frame(GOAWAY, 0, 0, bytes(8)),
            data(3, b"x"), reset(3), credit(3, 1),
        ],
    )  # fmt: skip
    def test_frames_that_bring_no_work(self, sent: bytes) -> None:
        """CVE-2019-9512, 9513, 9515, 9518 and their like."""
        peer = Peer(Limits(max_control_frames=500))
        peer.send(headers(1), headers(3))
        peer.connection.reset(peer.streams[3])
        assert 450 < flood(peer, lambda _: sent, 600) <= 500 + 8 * 2

    def test_headers_on_streams_that_we_reset(self) -> None:
        peer = Peer(Limits(max_control_frames=500))
        peer.send(headers(1))
        peer.connection.reset(peer.streams[1])
        assert flood(peer, lambda _: headers(1, TRAILERS), 600) > 450

    def test_streams_that_are_skipped_are_no_work(self) -> None:
        """Else one request with a high number would pay for millions of pings."""
        peer = Peer(Limits(max_control_frames=100))
        peer.send(headers(1), headers(2**30 + 1))
        assert flood(peer, lambda _: frame(PING, 0, 0, bytes(8)), 200) <= 100 + 2 * 8

    @pytest.mark.parametrize(
        "sent", [frame(GOAWAY, 0, 0, bytes(40_000)), frame(SETTINGS, 0, 0, bytes(40_002))]
    )
    def test_frames_that_are_too_large_to_be_kept(self, sent: bytes) -> None:
        peer = Peer()
        for at in range(0, 9, 3):
            peer.send(sent[at : at + 3])
        assert peer.goaway() == ErrorCode.ENHANCE_YOUR_CALM

    def test_work_pays_for_frames(self) -> None:
        peer = Peer(Limits(max_control_frames=100))
        peer.on["request"] = lambda stream: peer.connection.respond(stream, HEAD, b"x", TRAILERS)
        for number in range(1_000):
            ping = frame(PING, 0, 0, bytes(8))
            assert peer.send(headers(2 * number + 1, end=True), credit(0, 1), credit(2 * number + 1, 1), ping)
            peer.sent()

    def test_a_long_reply_pays_for_credit(self) -> None:
        peer = Peer(Limits(max_control_frames=100), first=settings([(WINDOW, 0)]))
        peer.send(headers(1, end=True))
        peer.connection.send_data(peer.streams[1], bytes(5_000))
        for _ in range(5_000):
            assert peer.send(credit(1, 1))
        assert not peer.streams[1].pending

    def test_answers_that_nobody_reads(self) -> None:
        peer = Peer(Limits(max_unread_control=1_000))
        assert flood(peer, lambda _: frame(PING, 0, 0, bytes(8)), 100, take=False) == 1_000 // 17
        peer = Peer(Limits(max_unread_control=1_000, max_streams=1))
        assert flood(peer, lambda n: headers(2 * n + 1), 100, take=False) == 1 + 1_000 // 13

    def test_a_block_without_end(self) -> None:
        """CVE-2024-27316 and its like."""
        for size, most in ((0, 98), (1, 98), (10_000, 3), (40_000, 0)):
            peer = Peer(Limits(max_control_frames=100))
            peer.send(frame(HEADERS, 0, 1, BLOCK))
            assert abs(flood(peer, lambda _, n=size: frame(CONTINUATION, 0, 1, bytes(n)), 200) - most) <= 1
            assert not peer.connection._block and not peer.connection._partial

    @pytest.mark.parametrize("size", [1, 5, 9])
    @pytest.mark.parametrize(("length", "code"), [(40_000, 11), (2**20 + 1, 6)])
    def test_large_frames_are_refused_by_their_header(self, size: int, length: int, code: int) -> None:
        peer = Peer()
        header = frame(HEADERS, END_HEADERS, 1, bytes(length))[:9]
        for at in range(0, 9, size):
            peer.send(header[at : at + size])
        assert peer.goaway() == code

    def test_too_many_settings(self) -> None:
        peer = Peer()
        peer.send(settings([(WINDOW, 1)] * 5_462))
        assert peer.goaway() == ErrorCode.ENHANCE_YOUR_CALM

    def test_headers_above_the_limit_are_told_and_the_table_stays_right(self) -> None:
        peer = Peer(Limits(max_header_list=1_000))
        encoder = Encoder()
        large = [*REQUEST, *((b"name-%d" % number, b"x" * 100) for number in range(10))]
        peer.send(headers(1, encoder.encode(large), end=True))
        assert peer.events == [("too large", 1, True)]
        peer.connection.respond(peer.streams[1], HEAD, b"", TRAILERS)
        peer.send(headers(3, encoder.encode([*REQUEST, large[-1]])))
        assert peer.events[-1] == ("request", 3, (*REQUEST, large[-1]), False)
        peer.send(headers(3, encoder.encode(large[6:]), end=True))
        assert peer.events[-1] == ("reset", 3, ErrorCode.ENHANCE_YOUR_CALM)
        peer.send(headers(5, encoder.encode([*REQUEST, large[-2]])))
        assert peer.events[-1] == ("request", 5, (*REQUEST, large[-2]), False)

    def test_hpack_bomb(self) -> None:
        """One large entry in the table, thousands of references to it."""
        peer = Peer()
        encoder = Encoder()
        peer.send(headers(1, encoder.encode([*REQUEST, (b"a", b"x" * 3_900)])))
        peer.send(headers(3, BLOCK + b"\xbe" * 30_000))
        assert peer.goaway() == ErrorCode.ENHANCE_YOUR_CALM
        assert [event[:2] for event in peer.events] == [("request", 1), ("reset", 1)]

    def test_memory_is_flat(self) -> None:
        """Whatever streams were: answered, reset by either side, refused."""
        choose = random.Random(0)
        encoder = Encoder()

        class Caller(Peer):
            def _note(self, name: str, stream: Stream, *rest: Any) -> None:
                if name == "request":
                    ending = choose.randrange(3)
                    if ending == 0:
                        self.connection.respond(stream, HEAD, b"x", TRAILERS)
                    elif ending == 1:
                        self.connection.reset(stream)

        peer = Caller(Limits(max_streams=1, max_resets=10**9, max_control_frames=10**9))

        def some(first: int, count: int) -> None:
            for number in range(first, first + count):
                block = encoder.encode([*REQUEST, (b"a", b"%d" % number, choose.random() < 0.5)])
                peer.send(headers(2 * number + 1, block, choose.random() < 0.5), reset(2 * number + 1))
                peer.connection.take_output()
            gc.collect()

        tracemalloc.start()
        some(0, 3_000)
        before, _ = tracemalloc.get_traced_memory()
        some(3_000, 5_000)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert after - before < 50_000

    def test_a_client_that_reads_nothing_can_be_seen(self) -> None:
        peer = Peer(first=settings([(WINDOW, 0)]))
        peer.on["request"] = lambda stream: peer.connection.respond(stream, HEAD, bytes(10_000), TRAILERS)
        peer.send(*(headers(stream, end=True) for stream in range(1, 201, 2)))
        assert peer.connection.pending_bytes > 100 * 10_000
        peer.sent()
        assert peer.connection.pending_bytes == 100 * 10_000
