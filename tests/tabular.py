"""Data, and ways to ask, for tests of runtimes of rows and columns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlserver import MLModel, ModelSettings
from mlserver.codecs import NumpyCodec, NumpyRequestCodec, PandasCodec, StringCodec
from mlserver.errors import MLServerError
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, MetadataTensor, RequestOutput, ResponseOutput

Serve = Callable[..., Awaitable[Any]]

X = np.random.default_rng(0).random((90, 3)).astype(np.float32)
BINARY = (X[:, 0] > 0.5).astype(int)
THREE = np.digitize(X[:, 1], [0.3, 0.7])
VALUES = X @ np.array([1, 2, 3], dtype=np.float32)
COLUMNS = ["width", "height", "depth"]
FRAME = pd.DataFrame(X, columns=COLUMNS)


async def load(cls: type[MLModel], path: Path, **settings: Any) -> Any:
    """A model `m`, version `v1`, of a runtime, with the artefact at `path`."""
    parameters = ModelParameters(uri=str(path), version="v1")
    model = cls(ModelSettings(name="m", implementation=cls, parameters=parameters, **settings))
    model.ready = await model.load()
    return model


def request(data: Any, *outputs: str) -> InferenceRequest:
    """A request of an array or a frame for some outputs."""
    codec: Any = PandasCodec if isinstance(data, pd.DataFrame) else NumpyRequestCodec
    made: InferenceRequest = codec.encode_request(data)
    made.outputs = [RequestOutput(name=name) for name in outputs] or None
    return made


async def answer(model: MLModel, data: Any, *outputs: str) -> ResponseOutput:
    """The one output of the answer, `predict` where none is named."""
    response = await model.predict(request(data, *outputs))
    assert (response.model_name, response.model_version) == ("m", "v1")
    (output,) = response.outputs
    assert output.name == (outputs or ("predict",))[0]
    return output


async def refused(model: MLModel, made: InferenceRequest) -> str:
    """The text of the 400 that the request gets."""
    with pytest.raises(MLServerError) as caught:
        await model.predict(made)
    assert caught.value.status_code == 400
    return str(caught.value)


def same(output: ResponseOutput, expected: Any) -> None:
    """The output holds these very values, and a column where they have one dimension."""
    expected = np.asarray(expected)
    assert output.shape == list(expected.shape if expected.ndim > 1 else (len(expected), 1))
    if expected.dtype.kind in "OU":
        assert StringCodec.decode_output(output) == expected.ravel().tolist()
    else:
        np.testing.assert_array_equal(NumpyCodec.decode_output(output).reshape(expected.shape), expected)


def described(tensors: list[MetadataTensor] | None) -> list[tuple[str, str, list[int]]]:
    return [(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors or []]


# What models that were fitted on FRAME are asked by mistake, and how the answer begins.
MISFITS = [
    (X[:, :2], "input 'input-1' has 2 features per row (shape [90, 2]), but the model expects 3"),
    (X[None], "input 'input-1' has shape [1, 90, 3], but the model expects [rows, 3]"),
    (X[:0, :2], "input 'input-1' has 2 features per row (shape [0, 2])"),
    (X[:0], "input 'input-1' has no rows (shape [0, 3])"),
    (FRAME[:0], "the request has no rows (shape [0, 3])"),
    (FRAME[["width", "depth"]], "the request lacks column 'height': the model expects 'width', 'height', "),
    (FRAME.assign(colour=1.0), "the request has unknown column 'colour'"),
    (FRAME.rename(columns={"depth": "d"}), "the request lacks column 'depth' and has unknown column 'd'"),
    (FRAME.assign(width="a"), "the request holds no numbers in column 'width'"),
    (np.array([["a", "b", "c"]]), "input 'input-1' holds text, but the model expects numbers"),
]
