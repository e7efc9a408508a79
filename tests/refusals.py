"""Requests that models have to refuse, asked of a real server over REST and gRPC, and the words of refusals.

Each case is a list of inputs and a pattern of the text, which names the offender.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

import grpc
import numpy as np
import pytest

from mlserver.grpc.dataplane_pb2 import ModelInferRequest
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

Input = dict[str, Any]
Case = tuple[list[Input], str]

_CONTENTS = {
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "BYTES": "bytes_contents",
}


class Server(Protocol):
    @property
    def grpc_port(self) -> int: ...

    def infer(self, model: str, body: Any) -> Any:
        """The response over REST."""


def tensor(name: str, values: Any, datatype: str = "FP64", content_type: str | None = None) -> Input:
    array = np.asarray(values)
    made = {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}
    return made if content_type is None else {**made, "parameters": {"content_type": content_type}}


def check_refused(server: Server, model: str, inputs: list[Input], pattern: str) -> None:
    """Both transports refuse the inputs as the caller's fault, in words that the pattern is found in."""
    answer = server.infer(model, {"inputs": inputs})
    assert 400 <= answer.status_code < 500, answer.text
    assert re.search(pattern, answer.json()["error"]), answer.json()["error"]
    asked = ModelInferRequest(model_name=model)
    for given in inputs:
        made = asked.inputs.add(name=given["name"], datatype=given["datatype"], shape=given["shape"])
        values = [value.encode() if isinstance(value, str) else value for value in given["data"]]
        getattr(made.contents, _CONTENTS[given["datatype"]]).extend(values)
        for key, value in given.get("parameters", {}).items():
            made.parameters[key].string_param = value
    with (
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        GRPCInferenceServiceStub(channel).ModelInfer(asked, timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    assert re.search(pattern, caught.value.details()), caught.value.details()


def of_matrix(name: str = "x", datatype: str = "FP64", features: int = 3) -> dict[str, Case]:
    """What a model of one tensor [rows, features] refuses."""

    def floats(*shape: int) -> list[Input]:
        return [tensor(name, np.full(shape, 0.5), datatype)]

    return {
        "text": ([tensor(name, [["a"] * features], "BYTES")], f"'{name}'.* (text|BYTES|<U1|.S1)"),
        "extra input": ([*floats(2, features), tensor("colour", [[1.0]], datatype)], "'colour'"),
        "twice": (floats(2, features) * 2, f"'{name}'"),
        "rank 0": ([{**floats(1)[0], "shape": []}], f"'{name}'"),
        "rank 3": (floats(1, 2, features), rf"'{name}'.*[\[(]1, 2, {features}[\])]"),
        "too few features": (floats(2, features - 1), f"'{name}'.*{features - 1}"),
        "too many features": (floats(2, features + 1), f"'{name}'.*{features + 1}"),
        "no features": (floats(2, 0), f"'{name}'.*0"),
        "no rows": (floats(0, features), f"'{name}' (has no rows|is empty)"),
        "no inputs": ([], f"0 were received|no inputs|'{name}'|'width', 'height', 'depth'|but got none"),
    }


# The same of a vector, which some models take for a row.
OF_RANK_1: Case = ([tensor("x", [0.5] * 3)], r"'x'.*[\[(]3,?[\])]")


def as_parameters(cases: dict[str, dict[str, Case]]) -> list[Any]:
    """Cases by the name of their model, for tests that are given a model, inputs and a pattern."""
    return [
        pytest.param(model.strip(), *case, id=f"{model}-{key}")
        for model, found in cases.items()
        for key, case in found.items()
    ]


def of_columns() -> dict[str, Case]:
    """What a model that was fitted on columns of numbers `width`, `height` and `depth` refuses."""
    columns = [tensor(name, [[0.5], [0.6]]) for name in ("width", "height", "depth")]
    most = columns[:2]
    return {
        "wrong name": ([*most, tensor("colour", [[1.0], [2.0]])], "lacks .*'depth' and has .*'colour'"),
        "text": ([*most, tensor("depth", [["a"], ["b"]], "BYTES")], "'depth'"),
        "text as str": ([*most, tensor("depth", [["a"], ["b"]], "BYTES", "str")], "'depth'"),
        "missing column": (most, "lacks .*'depth'"),
        "extra column": ([*columns, tensor("colour", [[1.0], [2.0]])], "has unknown .*'colour'"),
        "two in a row": ([*most, tensor("depth", np.ones((2, 2)))], r"'depth'.*\[2, 2\]"),
        "rank 3": ([*most, tensor("depth", np.ones((2, 1, 1)))], r"'depth' has shape \[2, 1, 1\]"),
        "fewer rows": ([*most, tensor("depth", [[0.5]])], "'depth' has 1 rows, but input 'width' has 2"),
        "twice": ([*columns, columns[2]], "'depth' is given twice"),
        "no rows": ([{**column, "shape": [0, 1], "data": []} for column in columns], "no rows"),
        "no inputs": ([], "lacks .*'width', 'height', 'depth'"),
    }


def of_pair(datatype: str = "FP32") -> dict[str, Case]:
    """What a model of two tensors `a` and `b`, both [rows, 2], refuses."""
    a, b = (tensor(name, np.ones((2, 2)), datatype) for name in "ab")
    return {
        "wrong name": ([a, {**b, "name": "c"}], "lacks .*'b' and has .*'c'"),
        "text": ([a, tensor("b", [["x", "y"]] * 2, "BYTES")], "'b'.* (BYTES|<U1|.S1)"),
        "missing input": ([a], "lacks .*'b'"),
        "extra input": ([a, b, {**b, "name": "c"}], "'c'"),
        "twice": ([a, b, b], "'b' is given twice"),
        "rank 1": ([a, tensor("b", [1.0, 1.0], datatype)], r"'b'.*[\[(]2,?[\])]"),
        "rank 3": ([a, tensor("b", np.ones((2, 2, 1)), datatype)], r"'b'.*[\[(]2, 2, 1[\])]"),
        "features": ([a, tensor("b", np.ones((2, 3)), datatype)], r"'b'.*[\[(]2, 3[\])]"),
        "no rows": ([{**each, "shape": [0, 2], "data": []} for each in (a, b)], "'a' is empty"),
        "no inputs": ([], "lacks .*'a', 'b'"),
    }
