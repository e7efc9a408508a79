"""Messages of gRPC: put together with one copy, taken apart within limits; statuses, timeouts, metadata."""

from __future__ import annotations

import asyncio
import math
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver.codecs import NumpyCodec
from mlserver.grpc.framing import Assembler, compress, decompress, prefix_of
from mlserver.grpc.server import Deadlines
from mlserver.grpc.status import (
    Code,
    RpcError,
    code_of,
    encode_metadata,
    encode_status,
    parse_timeout,
    read_metadata,
)
from mlserver.types import InferenceRequest, RequestInput
from mlserver.wire.http2.headers import BlockDecoder
from mlserver.wire.protobuf import decode_request, encode_request

MEGABYTE = 2**20


def fed(data: bytes, sizes: list[int], limit: float = math.inf) -> list[tuple[bytes, bool]]:
    """What an assembler makes of data that arrives in pieces of these sizes, again and again."""
    assembler = Assembler(limit)
    messages = []
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        # The pieces are in one buffer that is used again, as a connection's is.
        buffer = bytearray(data[at : at + size])
        messages += assembler.feed(memoryview(buffer))[0]
        buffer[:] = b"\xff" * len(buffer)
        at, turn = at + size, turn + 1
    assert not assembler.incomplete
    return [(bytes(body), compressed) for body, compressed in messages]


@given(
    st.lists(st.tuples(st.binary(max_size=60), st.booleans()), max_size=6),
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
)
def test_messages_are_the_same_however_they_are_cut(
    messages: list[tuple[bytes, bool]], sizes: list[int]
) -> None:
    data = b"".join(prefix_of(len(body), compressed) + body for body, compressed in messages)
    assert fed(data, sizes) == messages


@pytest.mark.parametrize("megabytes", [1, 9, 40])
def test_large_messages(megabytes: int) -> None:
    body = np.random.default_rng(0).bytes(megabytes * MEGABYTE + 3)
    assert fed(prefix_of(len(body)) + body, [100, 256 * 1024]) == [(body, False)]


def test_a_large_tensor_is_copied_once() -> None:
    """From the read buffer into its message; the array that a model decodes is that memory."""
    values = np.random.default_rng(0).random((1, MEGABYTE), dtype=np.float32)
    tensor = RequestInput(name="x", shape=[1, MEGABYTE], datatype="FP32", data=values)
    body = encode_request(InferenceRequest(inputs=[tensor]), "m", raw=True)
    data = prefix_of(len(body)) + body
    assembler = Assembler(math.inf)
    messages = []
    for at in range(0, len(data), 100_000):
        messages += assembler.feed(memoryview(data)[at : at + 100_000])[0]
    ((message, _),) = messages
    request, raw = decode_request(message)
    assert raw
    array = NumpyCodec.decode_input(request.inputs[0])
    np.testing.assert_array_equal(array, values)
    assert np.shares_memory(array, np.frombuffer(message, np.uint8))
    assert array.flags.aligned and array.flags.writeable


def test_what_is_announced_takes_little_memory() -> None:
    assembler = Assembler(math.inf)
    assert assembler.feed(memoryview(prefix_of(2**32 - 1)))[0] == []
    assert assembler.held <= 8 * MEGABYTE + 16 and assembler.incomplete


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (prefix_of(11), Code.RESOURCE_EXHAUSTED, "11 bytes or more, `grpc_max_message_length` allows 10"),
        (b"\x02\0\0\0\0", Code.INTERNAL, "begins with the byte 2"),
    ],
)
def test_what_cannot_be_a_message(data: bytes, code: Code, text: str) -> None:
    with pytest.raises(RpcError, match=text) as caught:
        Assembler(10).feed(memoryview(data))
    assert caught.value.code == code


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_compression(coding: str, size: int) -> None:
    body = b"ab" * size
    assert decompress(coding, compress(coding, body), math.inf) == body
    assert decompress(coding, compress(coding, body), len(body)) == body


@pytest.mark.parametrize(
    ("coding", "message", "limit", "code"),
    [
        ("gzip", compress("gzip", bytes(1000)), 999, Code.RESOURCE_EXHAUSTED),
        ("gzip", b"nonsense", 999, Code.INTERNAL),
        ("gzip", compress("gzip", b"abc")[:-3], 999, Code.INTERNAL),
        ("deflate", zlib.compress(b"abc")[:-3], 999, Code.INTERNAL),
        ("snappy", b"", 999, Code.UNIMPLEMENTED),
        ("identity", b"", 999, Code.INTERNAL),
        (None, b"", 999, Code.INTERNAL),
    ],
)
def test_what_cannot_be_decompressed(coding: str | None, message: bytes, limit: int, code: Code) -> None:
    with pytest.raises(RpcError) as caught:
        decompress(coding, message, limit)
    assert caught.value.code == code


# Statuses, timeouts, metadata


def fields_of(block: bytes) -> list[tuple[bytes, bytes]]:
    headers, _ = BlockDecoder(10_000).decode(block, request=False)
    return list(headers.fields)


def test_statuses() -> None:
    assert fields_of(encode_status(Code.OK)) == [(b"grpc-status", b"0")]
    fields = dict(fields_of(encode_status(Code.NOT_FOUND, "100 % of 'é'\n")))
    assert fields == {b"grpc-status": b"5", b"grpc-message": b"100 %25 of '%C3%A9'%0A"}
    assert len(encode_status(Code.INTERNAL, "x" * 1_000_000)) < 10_000


@pytest.mark.parametrize(
    ("status", "code"), [(400, 3), (404, 5), (422, 9), (500, 13), (418, 2), (503, 2), (429, 8)]
)
def test_codes(status: int, code: int) -> None:
    assert code_of(status) == code


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 5e-6), (b"99999999n", 0.1)],
)
def test_timeouts(value: bytes, seconds: float) -> None:
    assert parse_timeout(value) == pytest.approx(seconds, rel=1e-6)


@pytest.mark.parametrize("value", [b"", b"1", b"S", b"-1S", b"123456789S", b"1s", b"1.5S", b"1SS"])
def test_what_is_no_timeout(value: bytes) -> None:
    with pytest.raises(RpcError, match="grpc-timeout"):
        parse_timeout(value)


def test_metadata_in() -> None:
    fields = [(b":path", b"/"), (b"a", b"1"), (b"a", b"2"), (b"b-bin", b"AP8"), (b"c-bin", b"AP8=,AQ==")]
    assert read_metadata(fields) == {"a": "2", "b-bin": b"\x00\xff", "c-bin": b"\x01"}
    with pytest.raises(RpcError, match="'x-bin' is not base64"):
        read_metadata([(b"x-bin", b"*")])


def test_metadata_out() -> None:
    block = encode_metadata({"X-Own": 1, "raw-bin": b"\x00\xff", "empty": ""})
    assert fields_of(block) == [(b"x-own", b"1"), (b"raw-bin", b"AP8"), (b"empty", b"")]


@pytest.mark.parametrize(
    "metadata", [{"a b": "1"}, {"a": "1\n2"}, {"a": "é"}, {"grpc-status": "0"}, {":path": "/"}]
)
def test_what_cannot_be_metadata(metadata: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be metadata"):
        encode_metadata(metadata)


# Deadlines


class Expiring:
    def __init__(self, log: list[Any], name: str) -> None:
        self.deadline: int | None = None
        self._log, self._name = log, name

    def expire(self) -> None:
        self._log.append((self._name, asyncio.get_running_loop().time()))


async def test_deadlines_come_in_order_and_not_too_early() -> None:
    loop = asyncio.get_running_loop()
    deadlines: Any = Deadlines(loop)
    log: list[Any] = []
    started = loop.time()
    calls = {seconds: Expiring(log, str(seconds)) for seconds in (0.05, 0.0, 0.12, 0.02, 3600.0)}
    for seconds, call in calls.items():
        deadlines.add(call, seconds)
    removed = Expiring(log, "removed")
    deadlines.add(removed, 0.03)
    deadlines.remove(removed)
    while len(log) < 4:  # noqa: ASYNC110 - time has to pass
        await asyncio.sleep(0.01)
    assert [name for name, _ in log] == ["0.0", "0.02", "0.05", "0.12"]
    assert all(at - started >= float(name) for name, at in log)
    deadlines.remove(calls[3600.0])
    await asyncio.sleep(0.05)
    assert not deadlines._ticking and not deadlines._slots
