"""Tensor data: a list to those who look, and no list until then."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest

from mlserver.errors import CodecError, InvalidTensor
from mlserver.tensor import DATATYPES, DTYPES, TensorData, count_elements, flatten, reshape
from mlserver.types import Datatype

NUMBERS = [1, 2, 3]
LONG = b"[" + b",".join(b"%d" % number for number in range(1000)) + b"]"


def of_text(value: Any) -> TensorData:
    return TensorData.from_json(json.dumps(value).encode())


def of_long_text(value: Any) -> TensorData:
    """Read by the parser for large texts."""
    return TensorData.from_json(json.dumps(value).encode() + b" " * 300)


FORMS = [TensorData, of_text, of_long_text]


def test_datatypes_are_those_of_the_messages() -> None:
    assert set(DATATYPES) == {member.value for member in Datatype}
    assert set(DATATYPES) - set(DTYPES) == {"BYTES"}


# It reads like a list


@pytest.mark.parametrize(
    "data",
    [
        TensorData(NUMBERS),
        TensorData(root=NUMBERS),
        of_text(NUMBERS),
        of_long_text(NUMBERS),
        TensorData.from_array(np.array(NUMBERS)),
    ],
    ids=["list", "keyword", "text", "long text", "array"],
)
def test_it_reads_like_a_list(data: TensorData) -> None:
    assert len(data) == 3
    assert data[0] == 1
    assert data[-1] == 3
    assert data[1:] == [2, 3]
    assert type(data[1:]) is list
    assert list(data) == NUMBERS
    assert list(reversed(data)) == [3, 2, 1]
    assert 2 in data
    assert 5 not in data
    assert np.array(data).tolist() == NUMBERS
    assert np.asarray(data, dtype="f4").dtype == np.float32
    assert data.root == NUMBERS
    assert data == TensorData(NUMBERS)
    assert data.model_dump() == NUMBERS
    assert data.model_dump_json() == "[1,2,3]"
    assert repr(data) == "TensorData(root=[1, 2, 3])"


def test_it_cannot_be_written_to_but_its_list_can() -> None:
    data = TensorData.from_array(np.array(NUMBERS))
    with pytest.raises(TypeError):
        data[0] = 5  # type: ignore[index]
    assert not hasattr(data, "append")
    data.root.append(4)
    assert list(data) == [1, 2, 3, 4]
    assert data.to_array("INT64").tolist() == [1, 2, 3, 4]
    assert bytes(memoryview(data.to_json())) == b"[1,2,3,4]"


def test_equality_and_hash() -> None:
    assert TensorData([1]) != TensorData([2])
    assert (TensorData([1]) == [1]) is False
    with pytest.raises(TypeError):
        hash(TensorData([1]))


@pytest.mark.parametrize("make", FORMS)
def test_truth(make: Any) -> None:
    assert make([1])
    assert not make([])
    assert not TensorData.from_array(np.zeros(0))
    with pytest.raises(TypeError):
        len(make(5))
    with pytest.raises(TypeError):
        bool(TensorData(5))


def test_wrapping_does_not_nest() -> None:
    inner = TensorData([1])
    assert TensorData(inner).root is inner.root
    assert TensorData(TensorData.from_array(np.ones(2))).root == [1.0, 1.0]


@pytest.mark.parametrize(
    "data", [TensorData([1, [b"a", None]]), of_text([1, 2]), TensorData.from_array(np.ones((2, 2)))], ids=repr
)
def test_copies_and_pickles(data: TensorData) -> None:
    for copied in (copy.copy(data), copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert copied == data


def test_values_and_types_of_an_array_as_a_list() -> None:
    floats = TensorData.from_array(np.array([[1.0, np.nan], [np.inf, 0.1]], dtype="f4")).root
    assert floats == [1.0, None, np.inf, 0.10000000149011612]
    assert TensorData.from_array(np.array([True])).root == [True]
    assert type(TensorData.from_array(np.array([1], dtype="u1")).root[0]) is int


# As an array


@pytest.mark.parametrize("make", FORMS)
@pytest.mark.parametrize(
    ("value", "datatype", "expected"),
    [
        ([1, 2], "FP32", np.array([1, 2], dtype="f4")),
        ([1, None], "FP64", np.array([1, np.nan])),
        ([[1, 2], [3, 4]], "INT32", np.array([[1, 2], [3, 4]], dtype="i4")),
        ([[[1], [2]]], "INT8", np.array([[[1], [2]]], dtype="i1")),
        (1.5, "FP32", np.array(1.5, dtype="f4")),
        ([], "INT64", np.array([], dtype="i8")),
        ([[], []], "FP32", np.zeros((2, 0), dtype="f4")),
        ([1.9, -1.9], "INT16", np.array([1, -1], dtype="i2")),
        ([True, False], "INT16", np.array([1, 0], dtype="i2")),
        ([2, 0, None], "BOOL", np.array([True, False, False])),
        (["1.5", "2"], "FP32", np.array([1.5, 2], dtype="f4")),
        (["15", "-2"], "INT32", np.array([15, -2], dtype="i4")),
        ([2**64 - 1, 0], "UINT64", np.array([2**64 - 1, 0], dtype="u8")),
        ([-(2**63), 2**63 - 1], "INT64", np.array([-(2**63), 2**63 - 1])),
        ([2**53 + 1, 0.5], "INT64", np.array([2**53 + 1, 0])),
        ([2**63], "UINT64", np.array([2**63], dtype="u8")),
        ([2**63, 1.5], "UINT64", np.array([2**63, 1], dtype="u8")),
        ([0.1], "FP16", np.array([0.1], dtype="f2")),
        ([1e39], "FP32", np.array([np.inf], dtype="f4")),
    ],
)
def test_to_array(make: Any, value: Any, datatype: str, expected: Any) -> None:
    array = make(value).to_array(datatype)
    assert array.dtype == expected.dtype
    assert array.dtype.num == expected.dtype.num  # others are equal, but PyTorch does not know them
    assert array.shape == expected.shape
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("make", FORMS)
@pytest.mark.parametrize(
    ("value", "datatype", "text"),
    [
        ([1, None], "INT32", "element 1 is None, which is no INT32"),
        ([1, 300], "UINT8", "element 1 is 300, which is no UINT8"),
        ([-1], "UINT64", "element 0 is -1, which is no UINT64"),
        ([2**64], "UINT64", "element 0 is 18446744073709551616, which is no UINT64"),
        ([2**63], "INT64", "which is no INT64"),
        ([0, "abc"], "FP32", "element 1 is 'abc', which is no FP32"),
        (["300"], "UINT8", "UINT8"),
        (["true"], "BOOL", "BOOL"),
        ([1, [2]], "FP32", "no tensor of FP32"),
        ([0, [0]], "INT64", "INT64"),
        ([[0, [1]], [2, 3]], "FP64", "FP64"),
        ([[1, 2], [3]], "INT32", "INT32"),
        ({"a": 1}, "FP32", "FP32"),
        ([{"a": 1}], "INT32", "INT32"),
    ],
)
def test_what_does_not_fit_is_named(make: Any, value: Any, datatype: str, text: str) -> None:
    with pytest.raises(CodecError, match="There was an error encoding / decoding the payload") as caught:
        make(value).to_array(datatype)
    assert text in str(caught.value)
    assert caught.value.status_code == 400


@pytest.mark.parametrize("value", [[1.5, float("nan")], [float("inf")]])
def test_no_integers_are_made_of_nan(value: list[float]) -> None:
    with pytest.raises(CodecError):
        TensorData(value).to_array("INT32")
    with pytest.raises(CodecError):
        TensorData.from_array(np.array(value)).to_array("INT32")


@pytest.mark.parametrize("datatype", ["BOOL", "INT32", "FP32", "FP64"])
@pytest.mark.parametrize("depth", [70, 900, 20_000])
def test_deep_nesting_is_refused(datatype: str, depth: int) -> None:
    data = TensorData.from_json(b"[" * depth + b"1" + b"]" * depth)
    with pytest.raises(CodecError):
        data.to_array(datatype)


def test_arrays_of_another_dtype_are_checked() -> None:
    assert TensorData.from_array(np.array([1.0, 2.0])).to_array("INT8").tolist() == [1, 2]
    with pytest.raises(CodecError, match="300"):
        TensorData.from_array(np.array([300])).to_array("UINT8")
    with pytest.raises(CodecError, match="-1"):
        TensorData(np.array([-1])).to_array("UINT8")


def test_an_array_is_kept_and_not_copied() -> None:
    array = np.arange(6.0).reshape(2, 3)
    data = TensorData.from_array(array)
    assert data.array is not None
    assert np.shares_memory(data.array, array)
    assert np.shares_memory(data.to_array("FP64"), array)
    assert TensorData.from_array(array.T).root == [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]


def test_nobody_makes_a_list_but_those_who_look() -> None:
    data = TensorData.from_json(LONG)
    assert data.to_array("FP32").sum() == 499_500
    assert data.to_json() is LONG
    array = TensorData.from_array(np.zeros(1000))
    assert len(array) == 1000
    assert np.array(array).sum() == 0
    assert array.array is not None


def test_an_array_read_from_text_shows_the_text_as_it_was() -> None:
    text = TensorData.from_json(b"[[1,2.0],[3,4]]")
    data = TensorData.from_array(np.array([[1.0, 2.0], [3.0, 4.0]]), lambda: text)
    assert bytes(memoryview(data.to_json())) == b"[[1,2.0],[3,4]]"
    assert data.root == [[1, 2.0], [3, 4]]
    assert len(data) == 2
    assert data.array is None


# As JSON


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1, 2.5, True, None, "é"], '[1,2.5,true,null,"é"]'),
        ([float("nan"), float("inf"), -float("inf")], "[null,null,null]"),
        ([b"abc", "d"], '["abc","d"]'),
        ([np.float32(0.1), np.int64(3), np.bool_(True)], "[0.10000000149011612,3,true]"),
        ([np.array([1, 2])], "[[1,2]]"),
        (np.array([[1, 2], [3, 4]]), "[1,2,3,4]"),
        (np.array([0.5, np.nan], dtype="f2"), "[0.5,null]"),
        ((1, 2), "[1,2]"),
        (5, "5"),
        ("abc", '"abc"'),
        (None, "null"),
        ({"a": [1]}, '{"a":[1]}'),
    ],
)
def test_to_json(value: Any, text: str) -> None:
    assert bytes(memoryview(TensorData(value).to_json())).decode() == text


@pytest.mark.parametrize("size", [3, 3000])
@pytest.mark.parametrize("datatype", DTYPES)
def test_arrays_as_json_are_their_lists_as_json(datatype: str, size: int) -> None:
    array = np.arange(size).astype(DTYPES[datatype])
    data = TensorData.from_array(array)
    assert json.loads(bytes(memoryview(data.to_json()))) == array.tolist()


@pytest.mark.parametrize("size", [1, 1000])
def test_single_precision_is_widened_before_it_is_written(size: int) -> None:
    text = bytes(memoryview(TensorData.from_array(np.full(size, 0.1, dtype="f4")).to_json()))
    assert text.startswith(b"[0.10000000149011612")


@pytest.mark.parametrize("value", [[b"\xff"], [object()], [{1: 2}], [2**70]])
def test_what_json_cannot_hold(value: Any) -> None:
    with pytest.raises(CodecError):
        TensorData(value).to_json()


def test_text_that_is_not_utf8_tells_a_way_out() -> None:
    with pytest.raises(CodecError, match="base64"):
        TensorData([b"\xff"]).to_json()


# Helpers


@pytest.mark.parametrize(("shape", "count"), [([], 1), ([3], 3), ([2, 0, 5], 0), ([2, 3], 6)])
def test_count_elements(shape: list[int], count: int) -> None:
    assert count_elements(shape) == count


def test_flatten() -> None:
    assert flatten([[1, 2], [[3]], 4, ("a",)]) == [1, 2, 3, 4, "a"]
    assert flatten("abc") == ["abc"]
    assert flatten([]) == []
    assert flatten([[], [[]]]) == []
    assert flatten(TensorData([[1], [2]])) == [1, 2]
    nested: list[Any] = [1]
    for _ in range(100_000):
        nested = [nested]
    assert flatten(nested) == [1]
    while isinstance(nested, list):  # one by one: taking it apart at once would recurse
        nested = nested.pop()


def test_reshape_names_both_numbers() -> None:
    assert reshape(np.arange(6), [2, -1]).shape == (2, 3)
    assert reshape(np.arange(1), []).shape == ()
    with pytest.raises(
        InvalidTensor, match=r"x has shape \[2, 3\], which has 6 elements, but 5 values were given"
    ):
        reshape(np.arange(5), [2, 3], "x")
    for shape in ([-1, -1], [-2], [2**70], ["a"], [None], [-1, 4]):
        with pytest.raises(InvalidTensor):
            reshape(np.arange(6), shape)
