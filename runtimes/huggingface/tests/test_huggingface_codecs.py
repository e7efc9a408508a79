"""The codecs that the runtime brings along leave alone what is for others."""

from __future__ import annotations

from typing import Any

import mlserver_huggingface.codecs
import numpy as np
import pandas as pd
import pytest

from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.codecs.base import find_input_codec, find_request_codec
from mlserver.codecs.pandas import PandasCodec

ARRAYS = [np.zeros(3), np.zeros((2, 3)), np.array([]), np.array(["a", "b"]), np.array([True, False])]


def test_there_are_some() -> None:
    assert mlserver_huggingface.codecs.__all__


@pytest.mark.parametrize("payload", ARRAYS)
def test_arrays_are_numpy_s(payload: Any) -> None:
    assert find_input_codec(payload=payload) is NumpyCodec


def test_text_is_text_and_frames_are_frames() -> None:
    assert find_input_codec(payload=["a", "b"]) is StringCodec
    assert find_request_codec(payload=pd.DataFrame({"a": [1, 2]})) is PandasCodec
