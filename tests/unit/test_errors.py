"""Errors keep their text and status wherever they go."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest

from mlserver.batching.hooks import InvalidBatchingMethod
from mlserver.codecs.errors import CodecError, CodecNotFound, InputsNotFound, InvalidTensor, OutputNotFound
from mlserver.errors import (
    InferenceError,
    InvalidModelURI,
    InvalidRequest,
    MLServerError,
    ModelNotFound,
    ModelNotReady,
    ModelParametersMissing,
    QueueFull,
)
from mlserver.kafka.errors import InvalidMessageHeaders
from mlserver.parallel.errors import EnvironmentNotFound, WorkerError, WorkerStop

ERRORS = [
    (MLServerError("text"), 400, "text"),
    (MLServerError("text", 418), 418, "text"),
    (InferenceError("text"), 400, "text"),
    (InvalidModelURI("m"), 422, "Invalid URI specified for model m"),
    (InvalidModelURI("m", "./a"), 422, "Invalid URI specified for model m (./a)"),
    (ModelNotFound("m", ""), 404, "Model m with version  not found"),
    (ModelNotReady("m", "v"), 400, "Model m with version v is not ready yet."),
    (ModelParametersMissing("m"), 400, "Parameters missing for model m"),
    (InvalidRequest("text", [{"loc": ("body",)}]), 422, "text"),
    (QueueFull("m", 5), 429, "Model m has 5 requests waiting already, try again later"),
    (CodecError("text"), 400, "There was an error encoding / decoding the payload: text"),
    (InvalidTensor("text"), 400, "There was an error encoding / decoding the payload: text"),
    (CodecNotFound(), 400, "Codec not found for output field"),
    (CodecNotFound("a", is_input=True), 400, "Codec not found for input field with name 'a'"),
    (
        CodecNotFound("a", "T", is_input=True, is_request=True),
        400,
        "Codec not found for input request with name 'a' and type T",
    ),
    (
        InputsNotFound([SimpleNamespace(name="q")], {"a": None, "b": None}),
        400,
        "Input 'q' was not found. Available inputs are 'a', 'b'.",
    ),
    (
        OutputNotFound(1, int, [str]),
        400,
        "Output at position 1 of type '<class 'int'>' does not match any of the return hints: "
        "'<class 'str'>'.",
    ),
    (WorkerStop(3), 500, "Worker process stopped unexpectedly with exit code 3."),
    (WorkerError(ValueError("bad")), 500, "builtins.ValueError: bad"),
    (WorkerError(ModelNotFound("m")), 404, "mlserver.errors.ModelNotFound: Model m not found"),
    (
        EnvironmentNotFound(SimpleNamespace(name="m", version=None), "abc"),
        500,
        "Environment with hash 'abc' was not found for model 'm'",
    ),
    (
        EnvironmentNotFound(SimpleNamespace(name="m", version="v"), "abc"),
        500,
        "Environment with hash 'abc' was not found for model 'm' with version 'v'",
    ),
    (InvalidMessageHeaders("h"), 422, "Invalid Kafka message. Expected 'h' header not found in message."),
    (InvalidBatchingMethod("f"), 400, "Method f can't be used for adaptive batching"),
    (InvalidBatchingMethod("f", "why"), 400, "Method f can't be used for adaptive batching: why"),
]


@pytest.mark.parametrize(("error", "status", "text"), ERRORS, ids=lambda value: type(value).__name__)
def test_text_and_status(error: MLServerError, status: int, text: str) -> None:
    for copied in (error, pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(copied) is type(error)
        assert str(copied) == text
        assert copied.args == (text,)
        assert copied.status_code == status
        assert vars(copied) == vars(error)
