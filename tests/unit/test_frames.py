"""Frames between front and worker: whatever the portions they come in, they come out as they went in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver.wire.frames import FrameReader, encode_frame

headers = st.lists(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text()
    | st.binary()
    | st.floats(allow_nan=False),
    max_size=6,
)


@given(st.lists(st.tuples(headers, st.lists(st.binary(max_size=50), max_size=4)), max_size=6), st.data())
def test_frames_come_out_as_they_went_in(frames: list[tuple[list[Any], list[bytes]]], data: Any) -> None:
    stream = b"".join(encode_frame(header, pieces) for header, pieces in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = FrameReader()
    got = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += list(reader.feed(stream[start:end]))
    assert got == [(header, b"".join(pieces)) for header, pieces in frames]


def test_byte_by_byte() -> None:
    stream = encode_frame([1, "a"], [b"xyz", bytearray(b"12"), memoryview(b"!")]) * 2
    reader = FrameReader()
    got = [frame for at in range(len(stream)) for frame in reader.feed(stream[at : at + 1])]
    assert got == [([1, "a"], b"xyz12!")] * 2


@pytest.mark.parametrize("portion", [64 * 1024, 1])
def test_a_large_frame_is_joined_once(portion: int) -> None:
    size = 8 * 1024 * 1024 if portion > 1 else 5_000
    stream = encode_frame([7], [b"\x01" * size])
    reader = FrameReader()
    got = [frame for at in range(0, len(stream), portion) for frame in reader.feed(stream[at : at + portion])]
    assert [(header, len(body)) for header, body in got] == [([7], size)]
