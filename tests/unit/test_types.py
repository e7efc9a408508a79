"""The public message types behave as the pydantic models that users know."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel as PydanticModel
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from mlserver import types
from mlserver.tensor import DATATYPES
from mlserver.types import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    Parameters,
    RepositoryIndexResponse,
    RequestInput,
    RequestOutput,
    ResponseOutput,
    State,
    TensorData,
)

NAMES = [
    "MetadataServerResponse",
    "MetadataServerErrorResponse",
    "Datatype",
    "MetadataTensor",
    "MetadataModelErrorResponse",
    "Parameters",
    "TensorData",
    "RequestInput",
    "RequestOutput",
    "ResponseOutput",
    "InferenceRequest",
    "InferenceResponse",
    "InferenceErrorResponse",
    "MetadataModelResponse",
    "RepositoryIndexRequest",
    "RepositoryIndexResponse",
    "RepositoryIndexResponseItem",
    "State",
    "RepositoryLoadErrorResponse",
    "RepositoryUnloadErrorResponse",
]


def tensor(**kwargs: Any) -> RequestInput:
    return RequestInput(**{"name": "x", "shape": [1], "datatype": "FP32", "data": [1], **kwargs})


def request(**kwargs: Any) -> InferenceRequest:
    return InferenceRequest(**{"inputs": [tensor()], **kwargs})


def faults_of(make: Any) -> list[tuple[Any, ...]]:
    with pytest.raises(ValidationError) as caught:
        make()
    return [error["loc"] for error in caught.value.errors()]


# Names


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str) -> None:
    assert hasattr(types, name)


def test_modules() -> None:
    import mlserver.types.base
    import mlserver.types.dataplane
    import mlserver.types.model_repository

    assert issubclass(RequestInput, mlserver.types.base.BaseModel)


# Fields

REQUIRED = {
    "InferenceRequest": {"inputs": []},
    "RequestInput": {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]},
    "RequestOutput": {"name": "x"},
    "InferenceResponse": {"model_name": "m", "outputs": []},
    "ResponseOutput": {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]},
    "MetadataTensor": {"name": "x", "datatype": "FP32", "shape": [1]},
    "MetadataModelResponse": {"name": "m", "platform": ""},
    "MetadataServerResponse": {"name": "s", "version": "1", "extensions": []},
    "RepositoryIndexRequest": {},
    "RepositoryIndexResponseItem": {"name": "m", "state": "READY", "reason": ""},
    "MetadataServerErrorResponse": {"error": "e"},
    "MetadataModelErrorResponse": {"error": "e"},
    "InferenceErrorResponse": {},
    "RepositoryLoadErrorResponse": {},
    "RepositoryUnloadErrorResponse": {},
}
OPTIONAL = {
    "InferenceRequest": ["id", "parameters", "outputs"],
    "RequestInput": ["parameters"],
    "RequestOutput": ["parameters"],
    "InferenceResponse": ["model_version", "id", "parameters"],
    "ResponseOutput": ["parameters"],
    "MetadataTensor": ["parameters"],
    "MetadataModelResponse": ["versions", "inputs", "outputs", "parameters"],
    "RepositoryIndexRequest": ["ready"],
    "RepositoryIndexResponseItem": ["version"],
    "InferenceErrorResponse": ["error"],
    "RepositoryLoadErrorResponse": ["error"],
    "RepositoryUnloadErrorResponse": ["error"],
}


@pytest.mark.parametrize("name", REQUIRED)
def test_required_fields_suffice_and_each_is_needed(name: str) -> None:
    cls, fields = getattr(types, name), REQUIRED[name]
    message = cls(**fields)
    assert message.model_dump() == fields
    for field in OPTIONAL.get(name, ()):
        assert getattr(message, field) is None
    for field in fields:
        without = {key: value for key, value in fields.items() if key != field}
        assert faults_of(lambda without=without: cls(**without)) == [(field,)]


def test_every_missing_field_is_named() -> None:
    assert faults_of(lambda: RequestInput(name="x")) == [("shape",), ("datatype",), ("data",)]


def test_datatype() -> None:
    assert [member.name for member in Datatype] == list(DATATYPES)
    assert all(member.value == member.name for member in Datatype)
    assert Datatype.FP32 != "FP32"
    assert str(Datatype.FP32) == "Datatype.FP32"


def test_state() -> None:
    assert [member.value for member in State] == ["UNKNOWN", "READY", "UNAVAILABLE", "LOADING", "UNLOADING"]


def test_an_index_is_a_list() -> None:
    item = {"name": "m", "state": "READY", "reason": ""}
    for index in (
        RepositoryIndexResponse.model_validate([item]),
        RepositoryIndexResponse(root=[item]),
        RepositoryIndexResponse([types.RepositoryIndexResponseItem(**item)]),
    ):
        assert len(index) == 1
        assert index[0].name == "m"
        assert [found.state for found in index] == ["READY"]
        assert index.root[0] is index[0]


# Dumps


def test_dumps_drop_what_is_none_or_unset_at_every_level() -> None:
    message = request(
        parameters=Parameters(content_type=None, a=None, b=1, nested={"c": None}),
        inputs=[tensor(parameters=None, data=[None, 1])],
    )
    assert message.model_dump() == {
        "parameters": {"b": 1, "nested": {"c": None}},
        "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [None, 1]}],
    }
    assert json.loads(message.model_dump_json()) == message.model_dump()


def test_none_data_is_dumped() -> None:
    assert tensor(data=None).model_dump()["data"] is None


def test_each_of_the_defaults_can_be_turned_off_alone() -> None:
    output = RequestOutput(name="x", parameters=None)
    assert output.model_dump(exclude_none=False) == {"name": "x", "parameters": None}
    assert RequestOutput(name="x").model_dump(exclude_none=False) == {"name": "x"}
    assert RequestOutput(name="x").model_dump(exclude_unset=False) == {"name": "x"}
    both = RequestOutput(name="x").model_dump(exclude_unset=False, exclude_none=False)
    assert both == {"name": "x", "parameters": None}


def test_an_index_dumps_with_stock_defaults() -> None:
    index = RepositoryIndexResponse.model_validate([{"name": "a", "state": "READY", "reason": ""}])
    assert index.model_dump() == [{"name": "a", "version": None, "state": "READY", "reason": ""}]


def test_json_of_odd_values() -> None:
    assert json.loads(tensor(data=[float("nan"), float("inf")]).model_dump_json())["data"] == [None, None]
    assert json.loads(tensor(datatype="BYTES", data=["é".encode()]).model_dump_json())["data"] == ["é"]
    for value in (b"\xff", np.zeros(1)):
        with pytest.raises(PydanticSerializationError):
            tensor(datatype="BYTES", data=[value]).model_dump_json()
    with pytest.raises(PydanticSerializationError):
        tensor(data=np.zeros(1)).model_dump_json()


def test_key_order() -> None:
    message = InferenceResponse(
        outputs=[], parameters=Parameters(z=1, headers={}, a=2, content_type="np"), id="i", model_name="m"
    )
    assert list(message.model_dump()) == ["model_name", "id", "parameters", "outputs"]
    assert list(message.model_dump()["parameters"]) == ["content_type", "headers", "z", "a"]
    assert list(tensor(parameters=Parameters(a=1)).model_dump()) == [
        "name",
        "shape",
        "datatype",
        "parameters",
        "data",
    ]


def test_old_dump_names_keep_none() -> None:
    with pytest.warns(DeprecationWarning):
        assert tensor().dict()["parameters"] is None
    with pytest.warns(DeprecationWarning):
        assert json.loads(tensor().json())["parameters"] is None


def test_nested_exclude_and_include() -> None:
    message = request(id="a", inputs=[tensor(name="a"), tensor(name="b")])
    with pytest.warns(DeprecationWarning):
        dumped = message.dict(exclude={"id": True, "inputs": {"__all__": {"data"}}})
    assert dumped["inputs"][0] == {"name": "a", "shape": [1], "datatype": "FP32", "parameters": None}
    assert "id" not in dumped
    assert message.model_dump(exclude={"inputs"}) == {"id": "a"}
    assert message.model_dump(include={"inputs": {1: {"name"}}}) == {"inputs": [{"name": "b"}]}


# Validation


@pytest.mark.parametrize(
    ("make", "loc"),
    [
        (lambda: request(id=1), ("id",)),
        (lambda: tensor(name=1), ("name",)),
        (lambda: Parameters(content_type=1), ("content_type",)),
        (lambda: Parameters(headers="h"), ("headers",)),
        (lambda: tensor(datatype="fp32"), ("datatype",)),
        (lambda: tensor(datatype="FLOAT"), ("datatype",)),
        (lambda: tensor(datatype=None), ("datatype",)),
        (lambda: tensor(shape=[2.5]), ("shape", 0)),
        (lambda: tensor(shape=3), ("shape",)),
        (lambda: tensor(shape="3"), ("shape",)),
        (lambda: request(inputs=[{"name": "x", "shape": [1], "datatype": "FP32"}]), ("inputs", 0, "data")),
        (lambda: request(inputs=None), ("inputs",)),
        (lambda: request(parameters=[1]), ("parameters",)),
        (lambda: request(parameters={"content_type": 1}), ("parameters", "content_type")),
    ],
)
def test_what_is_refused(make: Any, loc: tuple[Any, ...]) -> None:
    assert faults_of(make) == [loc]


def test_positional_arguments_are_refused() -> None:
    with pytest.raises(TypeError):
        RequestOutput("x")
    with pytest.raises(TypeError):
        Parameters("np")
    assert TensorData([1]).root == TensorData(root=[1]).root == [1]


def test_undeclared_attributes() -> None:
    message = request()
    with pytest.raises(ValueError, match="colour"):
        message.colour = "red"
    message._colour = "red"
    assert message._colour == "red"
    assert "_colour" not in message.model_dump()


def test_unknown_keys_are_ignored() -> None:
    assert tensor(colour="red").model_dump() == tensor().model_dump()


def test_parameters_keep_unknown_keys() -> None:
    parameters = Parameters(content_type="np", headers={"a": "b"}, threshold=0.5)
    assert parameters.threshold == 0.5
    assert parameters.model_extra == {"threshold": 0.5}
    parameters.newkey = 3
    assert parameters.model_dump() == {
        "content_type": "np",
        "headers": {"a": "b"},
        "threshold": 0.5,
        "newkey": 3,
    }
    with pytest.raises(AttributeError):
        parameters.absent  # noqa: B018


@pytest.mark.parametrize("datatype", ["FP32", Datatype.FP32])
def test_enums_are_stored_as_text(datatype: Any) -> None:
    assert type(tensor(datatype=datatype).datatype) is str
    assert tensor(datatype=datatype).datatype == "FP32"


def test_assignment_is_not_validated() -> None:
    message = tensor()
    message.datatype = Datatype.FP64
    assert message.model_dump()["datatype"] is Datatype.FP64
    assert json.loads(message.model_dump_json())["datatype"] == "FP64"
    message.shape = (1,)
    assert message.shape == (1,)
    message.data = [1, 2]
    assert type(message.data) is list


@pytest.mark.parametrize(
    ("shape", "stored"),
    [
        ((1, 2), [1, 2]),
        (np.array([1, 2]), [1, 2]),
        (np.zeros((1, 2)).shape, [1, 2]),
        (iter([1, 2]), [1, 2]),
        ([1.0, "2", True], [1, 2, 1]),
    ],
)
def test_shapes_that_are_taken(shape: Any, stored: list[int]) -> None:
    kept = tensor(shape=shape).shape
    assert kept == stored
    assert type(kept) is list
    assert all(type(dimension) is int for dimension in kept)


def test_a_shape_is_a_new_list() -> None:
    shape = [1, 2]
    assert tensor(shape=shape).shape is not shape
    assert RequestInput.construct(name="x", shape=(1,), datatype="FP32", data=[1]).shape == (1,)


# Data


def test_data_is_wrapped_and_lists_are_copied() -> None:
    values = [1, 2]
    message = tensor(data=values)
    assert isinstance(message.data, TensorData)
    assert message.data.root == values
    assert message.data.root is not values


@pytest.mark.parametrize(
    "value", [(1, 2), range(3), np.zeros(3), {"a": 1}, "abc", b"abc", None, 3, 1.5], ids=str
)
def test_other_data_is_kept_as_it_is(value: Any) -> None:
    assert tensor(data=value).data.root is value


def test_tensor_data_is_reused() -> None:
    data = TensorData([1])
    assert tensor(data=data).data is data


def test_assigned_and_constructed_data_stays_bare() -> None:
    message = tensor()
    message.data = [5]
    assert message.data == [5]
    assert RequestInput.construct(name="x", shape=[1], datatype="FP32", data=[5]).data == [5]


def test_elements_keep_their_types() -> None:
    values = [1, True, 1.0, "a", b"b", None]
    kept = tensor(datatype="BYTES", data=values).data.root
    assert [type(value) for value in kept] == [int, bool, float, str, bytes, type(None)]


# Private attributes of Parameters


def test_decoded_payload_by_attribute() -> None:
    parameters = Parameters(content_type="np")
    assert not hasattr(parameters, "_decoded_payload")
    parameters._decoded_payload = np.zeros(2)
    assert hasattr(parameters, "_decoded_payload")
    assert parameters.model_dump() == {"content_type": "np"}
    assert json.loads(parameters.model_dump_json()) == {"content_type": "np"}
    assert parameters == Parameters(content_type="np")
    for copied in (
        copy.copy(parameters),
        copy.deepcopy(parameters),
        pickle.loads(pickle.dumps(parameters)),
        parameters.copy(),
        parameters.model_copy(deep=True),
    ):
        assert copied._decoded_payload.shape == (2,)


def test_decoded_payload_as_keyword_is_an_ordinary_key() -> None:
    parameters = Parameters(_decoded_payload=[1])
    assert parameters._decoded_payload == [1]
    assert parameters.model_dump() == {"_decoded_payload": [1]}


def test_private_attributes_survive_copies_of_whole_messages() -> None:
    message = request(parameters=Parameters(a=1))
    message.parameters._decoded_payload = 5
    for copied in (message.copy(deep=True), copy.deepcopy(message), pickle.loads(pickle.dumps(message))):
        assert copied.parameters._decoded_payload == 5
        assert copied == message


# Making and copying


def test_ways_to_make_one(tmp_path: Path) -> None:
    body = {"id": "a", "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}
    text = json.dumps(body)
    path = tmp_path / "request.json"
    path.write_text(text)
    for message in (
        InferenceRequest(**body),
        InferenceRequest.model_validate(body),
        InferenceRequest.parse_obj(body),
        InferenceRequest.model_validate_json(text),
        InferenceRequest.parse_raw(text),
        InferenceRequest.parse_raw(text.encode()),
        InferenceRequest.parse_file(path),
        InferenceRequest.parse_file(str(path)),
        InferenceRequest.model_validate(InferenceRequest(**body)),
    ):
        assert message.model_dump() == body
        assert type(message.inputs[0]) is RequestInput


def test_bad_json_is_a_validation_error() -> None:
    with pytest.raises(ValidationError):
        InferenceRequest.model_validate_json("{")


def test_construct() -> None:
    message = InferenceRequest.construct(inputs=[])
    assert message.id is None
    assert message.inputs == []


def test_copies() -> None:
    message = request(id="a")
    shallow, deep = message.copy(), message.copy(deep=True)
    assert shallow.inputs is message.inputs
    assert deep.inputs is not message.inputs
    assert deep == message
    assert message.copy(update={"id": "b"}).id == "b"
    assert message.model_copy(update={"id": "b"}).inputs == message.inputs
    deep.inputs[0].data.root.append(7)
    assert message.inputs[0].data.root == [1]


@pytest.mark.parametrize("name", [*REQUIRED, "Parameters"])
def test_pickling(name: str) -> None:
    message = getattr(types, name)(**REQUIRED.get(name, {"content_type": "np", "a": 1}))
    assert pickle.loads(pickle.dumps(message)) == message


def test_messages_are_fields_of_pydantic_models() -> None:
    class Body(PydanticModel):
        request: InferenceRequest

    body = Body(request={"inputs": []})
    assert type(body.request) is InferenceRequest
    assert body.model_dump() == {"request": {"inputs": []}}
    with pytest.raises(ValidationError):
        Body(request={})


def test_a_response_from_a_model() -> None:
    output = ResponseOutput(name="x", shape=[1], datatype="FP32", data=[1])
    response = InferenceResponse(model_name="m", outputs=[output])
    assert response.outputs[0] is output
    assert MetadataTensor(name="x", shape=[-1], datatype="FP32").shape == [-1]


# Idioms of clients


def test_parameters_of_any_kind() -> None:
    parameters = types.Parameters(content_type="str", headers={"a": "b"}, any_key=1)
    assert parameters.any_key == 1


def test_data_reads_like_a_list() -> None:
    payload = request(inputs=[tensor(data=[1, 2, 3])])
    assert payload.inputs[0].data[0] == 1
    assert [x for x in payload.inputs[0].data] == [1, 2, 3]  # noqa: C416
    assert len(payload.inputs[0].data) == 3
    assert payload.inputs[0].data.root == [1, 2, 3]


def test_shape_and_data_of_an_array() -> None:
    array = np.arange(6.0).reshape(2, 3)
    message = RequestInput(name="x", datatype="FP64", data=array.tolist(), shape=array.shape)
    assert message.shape == [2, 3]
    assert message.data[1] == [3.0, 4.0, 5.0]


def test_responses_of_http_clients() -> None:
    body = {"model_name": "m", "id": "a", "parameters": {}, "outputs": [REQUIRED["ResponseOutput"]]}
    assert InferenceResponse(**body) == InferenceResponse.parse_raw(json.dumps(body))
