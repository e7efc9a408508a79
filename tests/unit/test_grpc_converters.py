"""Converters: both directions of each, and what is empty, missing or impossible."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mlserver.codecs import NumpyCodec
from mlserver.errors import CodecError, InvalidRequest, InvalidTensor
from mlserver.grpc import converters, dataplane_pb2, model_repository_pb2
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.tensor import TensorData
from mlserver.types import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataServerResponse,
    Parameters,
    RepositoryIndexResponse,
    RequestInput,
    RequestOutput,
    ResponseOutput,
    State,
)


def request(**fields: Any) -> InferenceRequest:
    tensors = [
        RequestInput(name="x", shape=[2, 2], datatype="FP32", data=[0.5, 1, 2, 3], parameters={"a": 1}),
        RequestInput(name="s", shape=[1], datatype="BYTES", data=[b"\xff"]),
    ]
    return InferenceRequest(id="i", inputs=tensors, outputs=[RequestOutput(name="y")], **fields)


@pytest.mark.parametrize("use_raw", [False, True])
def test_requests(use_raw: bool) -> None:
    one = request(parameters={"b": True})
    message = converters.ModelInferRequestConverter.from_types(one, "m", "v", use_raw)
    assert isinstance(message, pb.ModelInferRequest)
    assert (message.model_name, message.model_version, message.id) == ("m", "v", "i")
    assert len(message.raw_input_contents) == (2 if use_raw else 0)
    assert converters.ModelInferRequestConverter.to_types(message) == one == request(parameters={"b": True})
    for version in ("", None):
        message = converters.ModelInferRequestConverter.from_types(one, model_name="m", model_version=version)
        assert message.model_version == ""


@pytest.mark.parametrize("use_raw", [False, True])
def test_responses(use_raw: bool) -> None:
    outputs = [
        ResponseOutput(name="y", shape=[2], datatype="INT8", data=[-1, 2]),
        NumpyCodec.encode_output("z", np.array([[0.5, math.nan]])),
    ]
    one = InferenceResponse(model_name="m", model_version="v", id="i", outputs=outputs)
    message = converters.ModelInferResponseConverter.from_types(one, use_raw=use_raw)
    back = converters.ModelInferResponseConverter.to_types(message)
    assert (back.model_name, back.model_version, back.id) == ("m", "v", "i")
    assert list(back.outputs[0].data) == [-1, 2] and back.outputs[0].datatype == "INT8"
    np.testing.assert_array_equal(NumpyCodec.decode_output(back.outputs[1]), [[0.5, math.nan]])


def test_empty_messages() -> None:
    empty = converters.ModelInferRequestConverter.to_types(pb.ModelInferRequest())
    assert (empty.id, empty.parameters, empty.inputs, empty.outputs) == ("", None, [], None)
    response = converters.ModelInferResponseConverter.to_types(pb.ModelInferResponse())
    assert (response.id, response.model_version, response.parameters, response.outputs) == (
        "",
        None,
        None,
        [],
    )
    metadata = converters.ModelMetadataResponseConverter.to_types(pb.ModelMetadataResponse())
    assert (metadata.inputs, metadata.outputs, metadata.parameters) == (None, None, None)
    assert converters.ParametersConverter.to_types({}) is None
    assert list(converters.InferTensorContentsConverter.to_types(pb.InferTensorContents())) == []


def test_tensors() -> None:
    one = request().inputs[0]
    message = converters.InferInputTensorConverter.from_types(one)
    assert list(message.contents.fp32_contents) == [0.5, 1, 2, 3]
    assert converters.InferInputTensorConverter.to_types(message) == one
    output = ResponseOutput(name="y", shape=[1], datatype="UINT64", data=[2**64 - 1])
    told = converters.InferOutputTensorConverter.from_types(output)
    assert converters.InferOutputTensorConverter.to_types(told) == output
    wanted = RequestOutput(name="y", parameters=Parameters(content_type="np"))
    asked = converters.InferRequestedOutputTensorConverter.from_types(wanted)
    assert converters.InferRequestedOutputTensorConverter.to_types(asked) == wanted
    with pytest.raises(InvalidTensor):
        converters.InferInputTensorConverter.to_types(pb.ModelInferRequest.InferInputTensor())


@pytest.mark.parametrize("datatype", ["INT32", Datatype.INT32])
@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]], np.arange(1, 5), TensorData([1, 2, 3, 4])])
def test_contents(data: Any, datatype: Any) -> None:
    contents = converters.InferTensorContentsConverter.from_types(data, datatype)
    assert contents == pb.InferTensorContents(int_contents=[1, 2, 3, 4])
    back = converters.InferTensorContentsConverter.to_types(contents)
    assert isinstance(back, TensorData) and list(back) == [1, 2, 3, 4]


def test_text_in_contents() -> None:
    for data in (["ä"], "ä"):
        contents = converters.InferTensorContentsConverter.from_types(data, "BYTES")
        assert list(contents.bytes_contents) == ["ä".encode()]
    with pytest.raises(CodecError):
        converters.InferTensorContentsConverter.from_types(["a"], "INT32")


def test_parameters() -> None:
    values = {"content_type": "np", "b": False, "i": -1, "d": 0.5, "s": ""}
    message = converters.ParametersConverter.from_types(Parameters(**values, gone=[1], headers={"h": "1"}))
    assert message == {
        "content_type": pb.InferParameter(string_param="np"),
        "b": pb.InferParameter(bool_param=False),
        "i": pb.InferParameter(int64_param=-1),
        "d": pb.InferParameter(double_param=0.5),
        "s": pb.InferParameter(string_param=""),
    }
    assert converters.ParametersConverter.to_types(message) == Parameters(**values)
    with pytest.raises(InvalidRequest):
        converters.ParametersConverter.to_types({"content_type": pb.InferParameter(int64_param=1)})


def test_metadata() -> None:
    server = MetadataServerResponse(name="s", version="1", extensions=["a"])
    told = converters.ServerMetadataResponseConverter.from_types(server)
    assert converters.ServerMetadataResponseConverter.to_types(told) == server
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 4], "parameters": {"content_type": "np"}}
    model = MetadataModelResponse(
        name="m", versions=["1"], platform="p", inputs=[tensor], outputs=[tensor], parameters={"k": 1}
    )
    message = converters.ModelMetadataResponseConverter.from_types(model)
    assert list(message.inputs[0].shape) == [-1, 4]
    assert converters.ModelMetadataResponseConverter.to_types(message) == model
    bare = MetadataModelResponse(name="m", platform="p")
    assert converters.ModelMetadataResponseConverter.from_types(bare).name == "m"


@pytest.mark.parametrize("state", ["READY", State.READY])
@pytest.mark.parametrize("old", [False, True])
def test_the_repository(state: Any, old: bool) -> None:
    package: Any = model_repository_pb2 if old else dataplane_pb2
    index = RepositoryIndexResponse(root=[{"name": "m", "version": None, "state": state, "reason": ""}])
    index.root[0].state = state
    message = converters.RepositoryIndexResponseConverter.from_types(index, use_model_repository=old)
    assert isinstance(message, package.RepositoryIndexResponse)
    assert message.models[0] == package.RepositoryIndexResponse.ModelIndex(name="m", state="READY")
    ready = converters.RepositoryIndexRequestConverter.to_types(package.RepositoryIndexRequest(ready=True))
    assert ready.ready is True


def test_directions_that_nobody_needs() -> None:
    for call in (
        converters.RepositoryIndexRequestConverter.from_types,
        converters.RepositoryIndexResponseConverter.to_types,
        converters.RepositoryIndexResponseItemConverter.to_types,
    ):
        with pytest.raises(NotImplementedError):
            call(None)
