"""What can go wrong between a request and its explanation."""

from __future__ import annotations

from mlserver.errors import MLServerError

__all__ = ["InvalidExplainerSettings", "RemoteInferenceError", "remote_fault"]


class InvalidExplainerSettings(MLServerError):
    """A setting of an explainer cannot be used, or does not suit its folder."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"Model {name}: {reason}", 422)


class RemoteInferenceError(MLServerError):
    """The model that is to be explained did not answer, or not as it should."""

    def __init__(self, url: str, reason: str, status_code: int = 400) -> None:
        super().__init__(f"the model to explain, {url}, {reason}", status_code)


def remote_fault(exc: BaseException | None) -> RemoteInferenceError | None:
    """The error of the model that is to be explained, where it is what lies behind an error of Alibi."""
    while exc is not None:
        if isinstance(exc, RemoteInferenceError):
            return exc
        exc = exc.__cause__ or exc.__context__
    return None
