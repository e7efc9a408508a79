"""Raw tensors: bytes in the layout of the protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlserver import raw
from mlserver.errors import CodecError, InvalidTensor
from mlserver.tensor import TensorData
from mlserver.types import Datatype, RequestInput, ResponseOutput


def tensor(datatype: Any, shape: list[int], data: Any = None) -> RequestInput:
    message = RequestInput(name="x", shape=shape, datatype="FP32", data=[] if data is None else data)
    message.datatype = datatype
    return message


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "content"),
    [
        ("FP32", [2], [1, None], np.array([1, np.nan], "<f4").tobytes()),
        ("FP16", [1], [0.5], np.array([0.5], "<f2").tobytes()),
        ("INT32", [2, 2], [[1, 2], [3, 4]], np.array([1, 2, 3, 4], "<i4").tobytes()),
        ("INT8", [], 5, b"\x05"),
        ("FP64", [0], [], b""),
        ("FP32", [2], np.array([1, 2]), np.array([1, 2], "<f4").tobytes()),
        ("FP32", [-1], [1, 2], np.array([1, 2], "<f4").tobytes()),
        (Datatype.INT8, [1], [5], b"\x05"),
        (Datatype.BYTES, [1], [b"a"], b"\x01\0\0\0a"),
        ("BYTES", [3], ["é", b"b", None], b"\x02\0\0\0\xc3\xa9\x01\0\0\0b\0\0\0\0"),
        ("BYTES", [2, 1], [["a"], ["b"]], b"\x01\0\0\0a\x01\0\0\0b"),
        ("BYTES", [1], "ab", b"\x02\0\0\0ab"),
        ("BYTES", [1], b"ab", b"\x02\0\0\0ab"),
        ("BYTES", [2], np.array(["a", "b"]), b"\x01\0\0\0a\x01\0\0\0b"),
        ("BYTES", [5], ["a"], b"\x01\0\0\0a"),
    ],
)
def test_pack(datatype: Any, shape: list[int], data: Any, content: bytes) -> None:
    message = tensor(datatype, shape, data)
    assert raw.pack(message) == content
    message.data = data
    assert raw.pack(message) == content


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP32", [3], [1, 2]),
        ("INT32", [1], [None]),
        ("UINT8", [1], [300]),
        ("FP32", [1], ["a"]),
        ("BYTES", [1], [5]),
    ],
)
def test_what_cannot_be_packed(datatype: str, shape: list[int], data: Any) -> None:
    with pytest.raises(CodecError) as caught:
        raw.pack(tensor(datatype, shape, data))
    assert caught.value.status_code == 400


@pytest.mark.parametrize(
    ("datatype", "shape", "content", "data"),
    [
        ("BOOL", [3], b"\0\x01\x02", [False, True, True]),
        (Datatype.INT16, [1, 2], b"\x01\0\xff\xff", [1, -1]),
        ("FP32", [], np.array([0.5], "<f4").tobytes(), [0.5]),
        ("FP32", [0, 3], b"", []),
        (Datatype.BYTES, [9], b"\x02\0\0\0ab\0\0\0\0", [b"ab", b""]),
        ("BYTES", [0], b"", []),
    ],
)
def test_unpack(datatype: Any, shape: list[int], content: bytes, data: list[Any]) -> None:
    for buffer in (content, bytearray(content), memoryview(content)):
        assert raw.unpack(tensor(datatype, shape), buffer) == data


@pytest.mark.parametrize(
    ("datatype", "shape", "content", "text"),
    [
        ("FP32", [2], b"\0" * 7, r"'x': FP32 \[2\] needs 8 bytes, got 7"),
        ("FP32", [-1], b"\0" * 4, "negative dimension"),
        ("INT64", [2**40], b"", "needs 8796093022208 bytes, got 0"),
        ("BYTES", [1], b"\x05\0\0\0ab", "'x': element 0 claims 5 bytes, but only 2 are left"),
        ("BYTES", [1], b"\0\0\0\0ab", "'x': 2 bytes are left over after element 1"),
    ],
)
def test_what_cannot_be_unpacked(datatype: str, shape: list[int], content: bytes, text: str) -> None:
    with pytest.raises(InvalidTensor, match=text) as caught:
        raw.unpack(tensor(datatype, shape), content)
    assert caught.value.status_code == 400


def test_inject_fills_what_is_empty_and_nothing_else() -> None:
    messages = [
        tensor("FP32", [1], [5.0]),
        tensor("INT8", [2]),
        tensor("BYTES", [1]),
        tensor("FP64", [0]),
    ]
    messages[1].data = TensorData.from_array(np.zeros(0, "i1"))
    contents = [b"\x01\x02", b"\x01\0\0\0a", b"", b"surplus"]
    assert raw.inject_raw(messages, contents) is messages
    assert [list(message.data) for message in messages] == [[5.0], [1, 2], [b"a"], []]


def test_injected_numbers_stay_in_their_buffer() -> None:
    content = bytearray(8)
    (message,) = raw.inject_raw([tensor("FP32", [2, 1])], [content])
    assert np.shares_memory(message.data.to_array("FP32"), np.frombuffer(content, "u1"))
    assert message.data.to_array("FP32").shape == (2, 1)


def test_too_few_buffers() -> None:
    with pytest.raises(InvalidTensor, match="2 tensors have no data, but only 1 raw buffers were sent"):
        raw.inject_raw([tensor("INT8", [1]), tensor("INT8", [1])], [b"\0"])


def test_extract_empties_the_tensors() -> None:
    outputs = [
        ResponseOutput(name="x", shape=[2], datatype="INT8", data=[1, 2]),
        ResponseOutput(name="y", shape=[1], datatype="BYTES", data=["a"]),
        ResponseOutput(name="z", shape=[0], datatype="FP32", data=[]),
    ]
    same, contents = raw.extract_raw(outputs)
    assert same is outputs
    assert contents == [b"\x01\x02", b"\x01\0\0\0a", b""]
    assert [output.data for output in outputs] == [[], [], []]
