"""A plain function as a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np

from mlserver.codecs.base import allows_none
from mlserver.codecs.decorator import SignatureCodec
from mlserver.errors import InferenceError, MLServerError, OutputNotFound
from mlserver.model import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, RequestOutput, ResponseOutput

if TYPE_CHECKING:
    from mlserver.signature import TensorSpec

__all__ = ["FunctionModel", "from_function"]

Function = Callable[..., Any]


class FunctionModel(MLModel):
    """What `from_function` makes. `function` is the plain function."""

    function: ClassVar[Function]
    _codec: ClassVar[SignatureCodec]
    _required: ClassVar[list[str]]
    _optional: ClassVar[list[str]]
    _may_return_none: ClassVar[bool]

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        arguments: dict[str, Any] = {**dict.fromkeys(self._optional), **self._codec.decode_request(payload)}
        missing = [f"'{name}'" for name in self._required if name not in arguments]
        if missing:
            raise InferenceError(f"the request lacks input{'s'[: len(missing) > 1]} {', '.join(missing)}")
        self._fit_shapes(arguments)
        returned = type(self).function(**arguments)
        if inspect.isawaitable(returned):
            returned = await returned
        if returned is None and not self._may_return_none:
            raise MLServerError(f"The function of model '{self.name}' returned nothing", 500)
        try:
            response = self._codec.encode_response(self.name, returned, self.version)
        except OutputNotFound as exc:
            raise MLServerError(str(exc), 500) from exc  # the function did not keep to its own hint
        if payload.outputs and response is not returned:
            response.outputs = self._asked_for(payload.outputs, response.outputs)
        return response

    def _asked_for(self, wanted: list[RequestOutput], given: list[ResponseOutput]) -> list[ResponseOutput]:
        from mlserver.signature import check_outputs

        outputs = {output.name: output for output in given}
        check_outputs([output.name for output in wanted], outputs)
        return [outputs[output.name] for output in wanted]

    @cached_property
    def _declared(self) -> dict[str, TensorSpec]:
        if not self.settings.inputs:
            return {}
        from mlserver.signature import TensorSpec

        return {tensor.name: TensorSpec.declared(tensor) for tensor in self.settings.inputs}

    def _fit_shapes(self, arguments: dict[str, Any]) -> None:
        """Hints say nothing of an array's shape, but settings may. Raises InferenceError naming an input."""
        for name, spec in self._declared.items():
            array = arguments.get(name)
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
                continue
            arguments[name] = array = spec.arranged(array)
            fault = spec.misfit(array.shape)
            if fault is not None:
                raise InferenceError(f"input '{name}' {fault}")


@overload
def from_function(function: Function, *, rows_independent: bool = ...) -> type[FunctionModel]: ...
@overload
def from_function(*, rows_independent: bool = ...) -> Callable[[Function], type[FunctionModel]]: ...
def from_function(function: Function | None = None, *, rows_independent: bool = False) -> Any:
    """A runtime class that answers with what a function returns; also a decorator.

    The type hints of the function say how inputs are decoded and outputs encoded, as in `decode_args`:
    arrays, lists, DataFrames; and single values. Each parameter takes the input of its name; those with a
    default, and `Optional` ones, may be left out. The function may be `async`. A plain one runs on the thread
    of the model and may take its time.

    rows_independent: promises that each output row depends on the same input row alone.
    Raises TypeError for a parameter without a hint or a name, and where no hint says what is returned;
    CodecNotFound for a hint that nothing decodes.
    """
    if function is None:
        return lambda function: from_function(function, rows_independent=rows_independent)
    signature = inspect.signature(function, eval_str=True)
    called = getattr(function, "__name__", "the function")
    for name, parameter in signature.parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{called}: parameter '{name}' cannot be given by its name")
        if parameter.annotation is parameter.empty:
            raise TypeError(f"{called}: parameter '{name}' needs a type hint")
    if signature.return_annotation is signature.empty:
        raise TypeError(f"{called}: what it returns needs a type hint")
    without_default = [p for p in signature.parameters.values() if p.default is p.empty]
    optional = [p.name for p in without_default if allows_none(p.annotation)]
    members = {
        "__doc__": function.__doc__,
        "__module__": function.__module__,
        "__qualname__": getattr(function, "__qualname__", called),
        "function": staticmethod(function),
        "predict": _predict,
        "rows_independent": rows_independent,
        "_codec": SignatureCodec(function, is_method=False),
        "_required": [p.name for p in without_default if p.name not in optional],
        "_optional": optional,
        "_may_return_none": allows_none(signature.return_annotation),
    }
    return type(called, (FunctionModel,), members)


async def _predict(self: Any, payload: InferenceRequest) -> InferenceResponse:
    # Promises hold for the class that has its own `predict`.
    return await FunctionModel.predict(self, payload)
