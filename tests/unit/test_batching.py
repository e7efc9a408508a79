"""Requests into one and responses back, row by row of the contract."""

from __future__ import annotations

import numpy as np
import pytest

from mlserver.batching import BatchedRequests, fits, merge, split
from mlserver.errors import CodecError, MLServerError
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)


def request(shape: list[int], data: object, datatype: str = "FP32", **kwargs: object) -> InferenceRequest:
    tensor = RequestInput(name="x", shape=shape, datatype=datatype, data=data)
    return InferenceRequest(**{"inputs": [tensor], **kwargs})


def response(shape: list[int], data: object, datatype: str = "FP32", **kwargs: object) -> InferenceResponse:
    output = ResponseOutput(name="y", shape=shape, datatype=datatype, data=data, **kwargs)
    return InferenceResponse(model_name="m", model_version="v1", outputs=[output])


def test_rows_are_joined_along_the_first_axis() -> None:
    merged = merge([request([1, 2], [1, 2]), request([2, 2], [[3, 4], [5, 6]])])
    assert merged.inputs[0].shape == [3, 2]
    assert list(merged.inputs[0].data) == [1, 2, 3, 4, 5, 6]
    assert merged.id is None
    assert merged.outputs is None


def test_inputs_go_by_name_in_order_of_first_appearance() -> None:
    def tensor(name: str, value: int) -> RequestInput:
        return RequestInput(name=name, shape=[1], datatype="INT64", data=[value])

    merged = merge(
        [InferenceRequest(inputs=[tensor("b", 1), tensor("a", 2)]), InferenceRequest(inputs=[tensor("a", 3)])]
    )
    assert [(i.name, list(i.data)) for i in merged.inputs] == [("b", [1]), ("a", [2, 3])]


@pytest.mark.parametrize(("parts", "joined"), [(["ab", "c"], "abc"), ([b"ab", b"c"], b"abc")])
def test_bare_text_is_joined(parts: list[object], joined: object) -> None:
    merged = merge([request([1], part, "BYTES") for part in parts])
    assert merged.inputs[0].data.root == joined


def test_outputs_asked_for_are_united_and_parameters_overlaid() -> None:
    first = request([1], [1], outputs=[RequestOutput(name="a")], parameters=Parameters(p=1, q=1))
    second = request([1], [2], outputs=[RequestOutput(name="b")], parameters=Parameters(q=2))
    merged = merge([first, second])
    assert [output.name for output in merged.outputs or []] == ["a", "b"]
    assert merged.parameters.model_dump() == {"p": 1, "q": 2}


def test_parameters_of_inputs_become_lists() -> None:
    def part(**parameters: object) -> InferenceRequest:
        made = request([1], [1])
        made.inputs[0].parameters = Parameters(**parameters)
        return made

    merged = merge(
        [
            part(**{"custom-param": "value-1", "content_type": "np"}),
            part(**{"custom-param": "value-2", "once": 1}),
        ]
    )
    assert merged.inputs[0].parameters.model_dump() == {
        "content_type": "np",
        "custom-param": ["value-1", "value-2"],
        "once": 1,
    }


def test_lists_in_output_parameters_are_dealt_out_by_row() -> None:
    merged = response(
        [3], [1, 2, 3], parameters=Parameters(foo=["a", "b"], bar=["x", "y", "z"], all=7, content_type="np")
    )
    parts = split(merged, [1, 1, 1], ["1", "2", "3"])
    assert [part.outputs[0].parameters.model_dump() for part in parts] == [
        {"content_type": "np", "foo": "a", "bar": "x", "all": 7},
        {"content_type": "np", "foo": "b", "bar": "y", "all": 7},
        {"content_type": "np", "bar": "z", "all": 7},
    ]


def test_each_member_gets_its_rows_its_id_and_parameters_of_its_own() -> None:
    merged = response([3, 2], np.arange(6, dtype=np.float32))
    merged.parameters = Parameters(headers={"x": "1"})
    first, second = split(merged, [1, 2], ["a", None])
    assert (first.id, first.outputs[0].shape, list(first.outputs[0].data)) == ("a", [1, 2], [0, 1])
    assert (second.id, second.outputs[0].shape, list(second.outputs[0].data)) == (None, [2, 2], [2, 3, 4, 5])
    assert first.parameters is not second.parameters
    assert (first.model_name, first.model_version) == ("m", "v1")


def test_nested_rows_are_cut_between_rows() -> None:
    first, second = split(response([2, 2], [[1, 2], [3, 4]]), [1, 1], ["a", "b"])
    assert (first.outputs[0].data.root, second.outputs[0].data.root) == ([[1, 2]], [[3, 4]])


def test_text_is_cut_between_elements() -> None:
    parts = split(response([2, 1], [b"ab", "c"], "BYTES"), [1, 1], ["a", "b"])
    assert [part.outputs[0].data.root for part in parts] == [[b"ab"], ["c"]]


@pytest.mark.parametrize(("shape", "data"), [([1, 1], [1.0]), ([4], [1.0, 2.0, 3.0, 4.0]), ([], [1.0])])
def test_a_wrong_number_of_rows_is_an_error_that_counts(shape: list[int], data: list[float]) -> None:
    with pytest.raises(MLServerError, match=rf"returned {shape[0] if shape else 1} rows for 3") as caught:
        split(response(shape, data), [1, 1, 1], ["a", "b", "c"])
    assert caught.value.status_code == 500


def test_values_that_do_not_fill_the_rows_are_an_error() -> None:
    with pytest.raises(MLServerError, match="returned 2 values"):
        split(response([3], [1.0, 2.0]), [1, 2], ["a", "b"])


def test_no_outputs_are_no_outputs_for_everybody() -> None:
    parts = split(InferenceResponse(model_name="m", outputs=[]), [1, 1], ["a", "b"])
    assert [(part.id, part.outputs) for part in parts] == [("a", []), ("b", [])]


def test_values_that_do_not_fill_their_shape_are_refused() -> None:
    with pytest.raises(
        CodecError, match=r"has shape \[1, 3\], which has 3 elements, but 2 values were given"
    ):
        merge([request([1, 3], [1, 2, 3]), request([1, 3], [1, 2])])


@pytest.mark.parametrize(
    "other",
    [
        request([1, 3], [1, 2, 3]),
        request([1, 2], [1, 2], "FP64"),
        request([1, 2], [1, 2], outputs=[RequestOutput(name="y")]),
        request([1, 2], [1, 2], parameters=Parameters(content_type="pd")),
        InferenceRequest(inputs=[RequestInput(name="z", shape=[1, 2], datatype="FP32", data=[1, 2])]),
    ],
)
def test_what_differs_does_not_fit(other: InferenceRequest) -> None:
    assert fits(request([1, 2], [1, 2])) == fits(request([5, 2], [0] * 10)) is not None
    assert fits(other) != fits(request([1, 2], [1, 2]))


@pytest.mark.parametrize(
    "alone",
    [
        InferenceRequest(inputs=[]),
        request([], [1]),
        request([-1, 2], [1, 2]),
        request([1, 2], [1, 2], parameters=Parameters(threshold=0.5)),
    ],
)
def test_what_cannot_be_joined_goes_alone(alone: InferenceRequest) -> None:
    assert fits(alone) is None


def test_batched_requests_keep_their_keys() -> None:
    batched = BatchedRequests({"k1": request([1], [1], id="a"), "k2": request([2], [2, 3], id="b")})
    assert batched.merged_request.inputs[0].shape == [3]
    parts = batched.split_response(response([3], [10.0, 20.0, 30.0]))
    assert {key: (part.id, list(part.outputs[0].data)) for key, part in parts.items()} == {
        "k1": ("a", [10.0]),
        "k2": ("b", [20.0, 30.0]),
    }
    assert batched.split_response(InferenceResponse(model_name="m", outputs=[])) == {}


# Padding


def of_length(name: str, *rows: list[int], datatype: str = "INT64") -> RequestInput:
    data = [value for row in rows for value in row]
    return RequestInput(name=name, shape=[len(rows), len(rows[0])], datatype=datatype, data=data)


def test_inputs_that_may_be_padded_fit_whatever_their_length() -> None:
    short = InferenceRequest(inputs=[of_length("ids", [1, 2]), of_length("mask", [1, 1])])
    long = InferenceRequest(
        inputs=[of_length("ids", [3, 4, 5], [6, 7, 8]), of_length("mask", [1] * 3, [1] * 3)]
    )
    padding = {"ids": 9, "mask": 0}
    assert fits(short) != fits(long)
    assert fits(short, {"ids": 9}) != fits(long, {"ids": 9})  # the other still differs
    assert fits(short, padding) == fits(long, padding) is not None
    ids, mask = merge([short, long], padding).inputs
    assert ids.shape == [3, 3] and list(ids.data) == [1, 2, 9, 3, 4, 5, 6, 7, 8]
    assert mask.shape == [3, 3] and list(mask.data) == [1, 1, 0, 1, 1, 1, 1, 1, 1]


def test_rank_and_datatype_still_have_to_agree() -> None:
    flat = InferenceRequest(inputs=[RequestInput(name="x", shape=[2], datatype="FP32", data=[1.0, 2.0])])
    square = InferenceRequest(inputs=[of_length("x", [1, 2], datatype="FP32")])
    whole = InferenceRequest(inputs=[of_length("x", [1, 2])])
    assert len({fits(request, {"x": 0}) for request in (flat, square, whole)}) == 3


def test_what_cannot_fill_its_shape_is_not_padded() -> None:
    wrong = InferenceRequest(inputs=[RequestInput(name="x", shape=[1, 3], datatype="FP32", data=[1.0])])
    right = InferenceRequest(inputs=[of_length("x", [1, 2], datatype="FP32")])
    with pytest.raises(MLServerError, match="x"):
        merge([right, wrong], {"x": 0})
