"""What a request to a pipeline gets wrong, told before Tempo calls the pipeline's function with it."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np

from mlserver.errors import InferenceError
from mlserver.tabular import quoted
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput

__all__ = ["check", "guard"]

_ONE_EACH = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def guard(runtime: Any) -> None:
    """Let Tempo's runtime class check each request first."""
    predict = runtime.predict

    @functools.wraps(predict)
    async def checked(self: Any, request: InferenceRequest) -> InferenceResponse:
        check(request, self._model)
        response: InferenceResponse = await predict(self, request)
        return response

    runtime.predict = checked


def check(request: InferenceRequest, model: Any) -> None:
    """Raises InferenceError that names the input which does not suit a model of Tempo.

    One input goes to the function by position, whatever its name; several go by their names.
    """
    inputs = request.inputs
    _check_names([tensor.name for tensor in inputs], model)
    for position, tensor in enumerate(inputs):
        kind = model.details.inputs[tensor.name] or model.details.inputs[position] or np.ndarray
        _check_datatype(tensor, kind)


def _check_names(given: list[str], model: Any) -> None:
    twice = [name for name in dict.fromkeys(given) if given.count(name) > 1]
    if twice:
        raise InferenceError(f"the request has more than one input {quoted(twice)}")
    parameters = _parameters(model)
    if parameters is None:
        if not given:
            raise InferenceError("the request has no inputs")
        return
    needed = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    if len(given) == 1 and len(needed) == 1:
        return
    missing = [name for name in needed if name not in given]
    unknown = [name for name in given if name not in parameters]
    faults = [
        f"{words} {quoted(names)}"
        for words, names in (("lacks input", missing), ("has unknown input", unknown))
        if names
    ]
    if faults:
        raise InferenceError(f"the request {' and '.join(faults)}: the model expects {quoted(parameters)}")


def _parameters(model: Any) -> dict[str, inspect.Parameter] | None:
    """Those of the model's function; None where it has none of its own, or takes any."""
    function = getattr(model, "_user_func", None)
    if function is None:
        return None
    parameters = dict(inspect.signature(function).parameters)
    if not all(parameter.kind in _ONE_EACH for parameter in parameters.values()):
        return None
    return parameters


def _check_datatype(tensor: RequestInput, kind: Any) -> None:
    if tensor.datatype != "BYTES":
        if kind is not np.ndarray:
            name = getattr(kind, "__name__", kind)
            raise InferenceError(
                f"input '{tensor.name}' has datatype {tensor.datatype}, but the model expects {name}"
            )
    elif not all(isinstance(element, int) and 0 <= element < 256 for element in tensor.data.root):
        raise InferenceError(
            f"input '{tensor.name}' must be a text as the numbers of its bytes, such as [72, 105] for 'Hi'"
        )
