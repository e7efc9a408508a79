"""The model without a server: run `pytest` in this folder."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from model import MyModel

from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.repository.load import load_model_settings
from mlserver.types import InferenceRequest


@pytest.fixture
def model() -> MyModel:
    model = MyModel(load_model_settings(Path(__file__).with_name("model-settings.json")))
    asyncio.run(model.load())
    return model


def ask(rows: list[list[float]] | list[float]) -> InferenceRequest:
    return InferenceRequest(inputs=[NumpyCodec.encode_input("x", np.array(rows))])


def test_rows_are_multiplied(model: MyModel) -> None:
    response = asyncio.run(model.predict(ask([[1.0, 2.0]])))
    assert NumpyCodec.decode_output(response.outputs[0]).tolist() == [[2.0, 4.0]]


def test_what_is_no_matrix_is_refused(model: MyModel) -> None:
    request = ask([[1.0]])
    request.inputs[0].shape = [1, 1, 1]
    with pytest.raises(InferenceError, match="expected rows"):
        asyncio.run(model.predict(request))
