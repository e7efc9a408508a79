"""What can go wrong, in a few classes whose texts help.

Every error carries the HTTP status it stands for; each transport turns that status into its own words. A
runtime may raise `MLServerError`, or a subclass of its own, to choose what its caller sees. Anything else
that user code raises is a fault of the model and reaches the caller as a 500 without internals.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

__all__ = [
    "CodecError",
    "CodecNotFound",
    "DeadlineUnreachable",
    "InferenceError",
    "InputsNotFound",
    "InvalidModelURI",
    "InvalidRequest",
    "InvalidTensor",
    "MLServerError",
    "ModelNotFound",
    "ModelNotReady",
    "ModelParametersMissing",
    "OutputNotFound",
    "QueueFull",
    "StartError",
    "WorkerUnavailable",
    "user_traceback",
]


class MLServerError(Exception):
    """An error with a text for the caller and the HTTP status it stands for.

    retry_after: seconds after which it is worth while to try again; None where it is not.
    """

    retry_after: float | None = None

    def __init__(self, msg: str, status_code: int = 400) -> None:
        super().__init__(msg)
        self.status_code = status_code

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses have constructors of their own: a copy keeps text and status without calling them again.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[MLServerError], args: tuple[Any, ...], state: dict[str, Any]) -> MLServerError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


def _of_model(name: str, version: str | None) -> str:
    return f"Model {name}" if version is None else f"Model {name} with version {version}"


class InvalidModelURI(MLServerError):
    """The artefact that a model's settings name is not there."""

    def __init__(self, name: str, model_uri: str | None = None) -> None:
        where = "" if model_uri is None else f" ({model_uri})"
        super().__init__(f"Invalid URI specified for model {name}{where}", 422)


class ModelNotFound(MLServerError):
    """No model of that name (and version) is loaded, or can be loaded."""

    def __init__(self, name: str, version: str | None = None) -> None:
        super().__init__(f"{_of_model(name, version)} not found", 404)


class ModelNotReady(MLServerError):
    """The model is known, but still loading, or its `load` answered false."""

    def __init__(self, name: str, version: str | None = None) -> None:
        super().__init__(f"{_of_model(name, version)} is not ready yet.", 400)


class InferenceError(MLServerError):
    """The request cannot be answered by this model."""

    def __init__(self, msg: str) -> None:
        super().__init__(msg, 400)


class ModelParametersMissing(MLServerError):
    """A runtime needs `parameters` in the model settings and there are none."""

    def __init__(self, model_name: str) -> None:
        super().__init__(f"Parameters missing for model {model_name}", 400)


class InvalidRequest(MLServerError):
    """The body is no V2 request.

    details: one entry per fault, as {"type", "loc", "msg", "input"}, `loc` starting with "body".
    status_code: 422 over REST; gRPC calls this an invalid argument, which is 400.
    """

    def __init__(self, msg: str, details: list[dict[str, Any]] | None = None, status_code: int = 422) -> None:
        super().__init__(msg, status_code)
        self.details = details or []


class QueueFull(MLServerError):
    """The model has as many requests waiting as it is allowed to have."""

    def __init__(self, name: str, limit: int, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__(f"Model {name} has {limit} requests waiting already, try again later", 429)


class DeadlineUnreachable(MLServerError):
    """The caller's deadline would pass before the model could answer."""

    def __init__(self, name: str, left: float, expected: float) -> None:
        text = f"would wait {expected:.3f} s, and its caller {left:.3f} s"
        super().__init__(f"Model {name} is busy: the request {text}", 504)


class WorkerUnavailable(MLServerError):
    """No worker has the model loaded at this moment."""

    def __init__(self, name: str, reason: str = "", retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        why = f": {reason.rstrip('.')}" if reason else ""
        super().__init__(f"Model {name} has no worker that could answer{why}; try again later", 503)


class CodecError(MLServerError):
    """A payload does not fit its datatype, shape or content type.

    reason: the text without the words that all these errors start with.
    """

    def __init__(self, msg: str) -> None:
        self.reason = msg
        super().__init__(f"There was an error encoding / decoding the payload: {msg}", 400)


class InvalidTensor(CodecError):
    """The values of a tensor do not fill the shape and datatype that it claims."""


class CodecNotFound(MLServerError):
    """No codec fits a content type, a payload or a type hint."""

    def __init__(
        self,
        name: str | None = None,
        payload_type: str | None = None,
        is_input: bool = False,
        is_request: bool = False,
    ) -> None:
        where = {
            (True, False): "input field",
            (True, True): "input request",
            (False, False): "output field",
            (False, True): "output response",
        }[is_input, is_request]
        called = "" if name is None else f" with name '{name}'"
        typed = "" if payload_type is None else f" {'and' if called else 'with'} type {payload_type}"
        super().__init__(f"Codec not found for {where}{called}{typed}", 400)


class InputsNotFound(MLServerError):
    """A request holds inputs that the signature of `predict` does not name."""

    def __init__(self, inputs: list[Any], available: dict[str, Any]) -> None:
        names = ", ".join(f"'{i.name}'" for i in inputs)
        known = ", ".join(f"'{name}'" for name in available)
        many = len(inputs) > 1
        subject = f"Inputs {names} were" if many else f"Input {names} was"
        super().__init__(f"{subject} not found. Available inputs are {known}.", 400)


class OutputNotFound(MLServerError):
    """`predict` returned a value that none of its return hints allows."""

    def __init__(self, output_idx: int, output_type: Any, available: list[Any]) -> None:
        known = ", ".join(f"'{hint}'" for hint in available)
        super().__init__(
            f"Output at position {output_idx} of type '{output_type}' "
            f"does not match any of the return hints: {known}.",
            400,
        )


class StartError(MLServerError):
    """The server cannot start. The text is one line for whoever started it.

    exit_code: what the process answers with. 3 is a taken HTTP or metrics port, 1 is everything else.
    Raised `from` the error of user code, such as a model's `load`, it is shown with that error's traceback.
    """

    def __init__(self, msg: str, exit_code: int = 1) -> None:
        super().__init__(msg, 500)
        self.exit_code = exit_code


# Frames of these say nothing to the person whose model failed.
_MACHINERY = frozenset(("click", "mlserver", "pydantic", "pydantic_settings", "uvloop"))


def user_traceback(exc: BaseException) -> list[str]:
    """Where an error arose, from the first frame on that is no machinery of this server's; lines with ends.

    Nothing where there is no such frame, nor for errors of ours, which say all in their text.
    """
    import traceback

    frames: TracebackType | None = exc.__traceback__
    while frames is not None:
        module = str(frames.tb_frame.f_globals.get("__name__")).partition(".")[0]
        if module not in _MACHINERY and module not in sys.stdlib_module_names:
            break
        frames = frames.tb_next
    if frames is None or isinstance(exc, MLServerError):
        return []
    return traceback.format_exception(type(exc), exc, frames, chain=False)
