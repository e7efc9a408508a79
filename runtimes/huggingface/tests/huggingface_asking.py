"""Requests of each task, and what their answers hold."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from mlserver_huggingface import HuggingFaceRuntime
from PIL import Image

from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestInput

Serve = Callable[..., Awaitable[HuggingFaceRuntime]]

DATATYPES = {bool: "BOOL", int: "INT64", float: "FP64"}


def tensor(
    name: str, data: Any, content_type: str | None = None, datatype: str | None = None
) -> RequestInput:
    values = data if isinstance(data, list) else [data]
    return RequestInput(
        name=name,
        shape=list(np.shape(values)) if datatype not in (None, "BYTES") else [len(values)],
        datatype=datatype or DATATYPES.get(type(values[0]) if values else str, "BYTES"),
        data=values,
        parameters=Parameters(content_type=content_type) if content_type else None,
    )


def request(*inputs: RequestInput, id: str | None = "1", **values: Any) -> InferenceRequest:
    """values: data of further inputs by name."""
    return InferenceRequest(id=id, inputs=[*inputs, *(tensor(name, data) for name, data in values.items())])


def rows(response: InferenceResponse) -> list[Any]:
    """What the only output holds, row by row."""
    (output,) = response.outputs
    assert output.name == "output"
    assert output.datatype == "BYTES"
    assert output.parameters is not None
    assert output.parameters.content_type == "hg_jsonlist"
    assert list(output.shape) == [len(output.data), 1]
    return [json.loads(element) for element in output.data]


def picture(color: str = "red", form: str = "PNG") -> str:
    """An image file as base64."""
    file = io.BytesIO()
    Image.new("RGB", (40, 30), color).save(file, form)
    return base64.b64encode(file.getvalue()).decode()
