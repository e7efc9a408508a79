"""`decode_args`: a `predict` whose signature says how to decode its inputs and encode what it returns."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Coroutine
from typing import Any

from mlserver.codecs.base import (
    InputCodecLike,
    RequestCodec,
    RequestCodecLike,
    allows_none,
    canonical_hint,
    find_input_codec_by_type_hint,
    find_request_codec_by_type_hint,
    without_none,
)
from mlserver.codecs.columns import misfit, repeated
from mlserver.codecs.datetime import DatetimeCodec
from mlserver.codecs.scalar import SCALARS
from mlserver.codecs.string import StringCodec
from mlserver.codecs.utils import DefaultOutputPrefix
from mlserver.errors import CodecNotFound, InferenceError, InputsNotFound, OutputNotFound
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput

__all__ = ["SignatureCodec", "decode_args"]


def decode_args(
    predict: Callable[..., Coroutine[Any, Any, Any]],
) -> Callable[[Any, InferenceRequest], Coroutine[Any, Any, InferenceResponse]]:
    """Make `async def predict(self, a: np.ndarray, b: list[str]) -> np.ndarray` take and give messages.

    Each parameter takes the input of its name, decoded by the codec of its type hint; a parameter whose hint
    belongs to a request codec (a DataFrame) takes all inputs that no other parameter takes; one of type
    `InferenceRequest` takes the request itself. Outputs are named `output-0`, `output-1`, ... by position.

    Raises CodecNotFound at decoration when a hint has no codec. The result raises InputsNotFound for inputs
    that nothing takes and OutputNotFound for a value that its return hint does not allow.
    """
    codec = SignatureCodec(predict)

    @functools.wraps(predict, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    async def wrapper(self: Any, request: InferenceRequest) -> InferenceResponse:
        returned = await predict(self, **codec.decode_request(request))
        return codec.encode_response(self.name, returned, self.version)

    del wrapper.__wrapped__  # its signature is not the one to show
    return wrapper


class SignatureCodec(RequestCodec):
    """Turns requests into the keyword arguments of a function, and what it returns into responses."""

    def __init__(self, predict: Callable[..., Any], is_method: bool = True) -> None:
        """is_method: whether its first parameter is the model itself.

        Without, hints may be `int`, too, inputs are refused that codecs of old take and make nonsense of, and
        lists hold None only where their hints say so.
        """
        signature = inspect.signature(predict, eval_str=True)
        self._strict = not is_method
        self._scalars = {} if is_method else SCALARS
        self._inputs: dict[str, InputCodecLike] = {}
        self._requests: dict[str, RequestCodecLike] = {}
        self._without_null: set[str] = set()
        self._whole: list[str] = []
        for name, parameter in list(signature.parameters.items())[is_method:]:
            if parameter.annotation is not parameter.empty:
                self._add_parameter(name, parameter.annotation)
        self._hints, self._any_number = _return_hints(signature.return_annotation)
        self._outputs = [self._codec_of_output(hint) for hint in self._hints]

    def _add_parameter(self, name: str, hint: Any) -> None:
        if without_none(hint) is InferenceRequest:
            self._whole.append(name)
        elif (input_codec := self._input_codec(hint)) is not None:
            self._inputs[name] = input_codec
            if self._strict and input_codec in _OF_LISTS and not _elements_allow_none(hint):
                self._without_null.add(name)
        elif (request_codec := find_request_codec_by_type_hint(hint)) is not None:
            self._requests[name] = request_codec
        else:
            raise CodecNotFound(name, str(hint), is_input=True)

    def _input_codec(self, hint: Any) -> InputCodecLike | None:
        wanted = without_none(hint)
        scalar = self._scalars.get(wanted) if isinstance(wanted, type) else None
        return scalar or find_input_codec_by_type_hint(hint)

    def _codec_of_output(self, hint: Any) -> Any:
        if canonical_hint(hint) is InferenceResponse:
            return None
        codec = self._input_codec(hint) or find_request_codec_by_type_hint(hint)
        if codec is None:
            raise CodecNotFound(payload_type=str(hint))
        return codec

    def decode_request(self, request: InferenceRequest) -> dict[str, Any]:  # type: ignore[override]
        """The keyword arguments for a request. A parameter without an input is left out."""
        if self._strict:
            _refuse(repeated(request.inputs))
        arguments: dict[str, Any] = dict.fromkeys(self._whole, request)
        others: list[RequestInput] = []
        for request_input in request.inputs:
            codec = self._inputs.get(request_input.name)
            if codec is not None:
                if self._strict and codec is StringCodec and request_input.datatype != "BYTES":
                    what = f"input '{request_input.name}' has datatype {request_input.datatype}"
                    raise InferenceError(f"{what}, but the model expects text")
                arguments[request_input.name] = values = codec.decode_input(request_input)
                if request_input.name in self._without_null and None in values:
                    expected = "text" if codec is StringCodec else "points in time"
                    what = f"input '{request_input.name}' holds null in element {values.index(None)}"
                    raise InferenceError(f"{what}, but the model expects {expected}")
            elif request_input.name in self._requests and not self._strict:
                raise CodecNotFound(request_input.name, is_input=True)
            else:
                others.append(request_input)
        if others and self._requests:
            name, request_codec = next(iter(self._requests.items()))
            if self._strict:
                _refuse(misfit(others, arrays=True))
            arguments[name] = request_codec.decode_request(
                InferenceRequest.build(id=request.id, parameters=request.parameters, inputs=others)
            )
        elif others and not self._whole:
            raise InputsNotFound(others, self._inputs)
        return arguments

    def encode_response(  # type: ignore[override]
        self, model_name: str, payload: Any, model_version: str | None = None, **kwargs: Any
    ) -> InferenceResponse:
        """The response for what the function returned: a value, a tuple of values, or None."""
        if isinstance(payload, InferenceResponse) and InferenceResponse in self._hints:
            return payload
        values = payload if isinstance(payload, tuple) else () if payload is None else (payload,)
        outputs: list[ResponseOutput] = []
        for index, value in enumerate(values):
            outputs += self._encode_value(index, value, model_name, model_version)
        return InferenceResponse.build(model_name=model_name, model_version=model_version, outputs=outputs)

    def _encode_value(
        self, index: int, value: Any, model_name: str, model_version: str | None
    ) -> list[ResponseOutput]:
        position = 0 if self._any_number else index
        if position < len(self._outputs):
            hint, codec = self._hints[position], self._outputs[position]
            if value is None and allows_none(hint):
                return []
            elements = value
            if self._strict and isinstance(value, list) and codec in _OF_LISTS and _elements_allow_none(hint):
                elements = [element for element in value if element is not None]
            if codec is not None and codec.can_encode(elements):
                if _is_request_codec(codec):
                    return list(codec.encode_response(model_name, value, model_version).outputs)
                return [codec.encode_output(f"{DefaultOutputPrefix}{index}", value)]
        raise OutputNotFound(index, type(value), self._hints)


# Codecs of lists whose elements may be null.
_OF_LISTS: Any = (StringCodec, DatetimeCodec)


def _elements_allow_none(hint: Any) -> bool:
    """Whether the hint is of a list that may hold None."""
    return any(map(allows_none, typing.get_args(without_none(hint))))


def _refuse(fault: str | None) -> None:
    if fault is not None:
        raise InferenceError(fault)


def _return_hints(annotation: Any) -> tuple[list[Any], bool]:
    """The hint of each value that is returned, and whether the only one stands for any number of values."""
    if annotation is inspect.Signature.empty or annotation is None or annotation is type(None):
        return [], False
    if isinstance(annotation, tuple):
        return list(annotation), False
    if typing.get_origin(without_none(annotation)) is tuple:
        hints = typing.get_args(without_none(annotation))
        if len(hints) == 2 and hints[1] is ...:
            return [hints[0]], True
        return list(hints), False
    return [annotation], False


def _is_request_codec(codec: Any) -> bool:
    return not hasattr(codec, "encode_output")
