"""The decoded form of a tensor or request, kept on its parameters so that nobody decodes it again."""

from __future__ import annotations

from typing import Any, Final

from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)

__all__ = [
    "DecodedParameterName",
    "Parametrised",
    "decoded_as",
    "get_decoded",
    "get_decoded_or_raw",
    "has_decoded",
    "save_decoded",
]

DecodedParameterName: Final = "_decoded_payload"
_ContentTypeParameterName: Final = "_decoded_content_type"

Parametrised = InferenceRequest | InferenceResponse | RequestInput | RequestOutput | ResponseOutput


def has_decoded(parametrised: Parametrised) -> bool:
    """Whether a decoded form was kept."""
    return parametrised.parameters is not None and hasattr(parametrised.parameters, DecodedParameterName)


def get_decoded(parametrised: Parametrised) -> Any:
    """The decoded form that was kept, or None."""
    return getattr(parametrised.parameters, DecodedParameterName, None)


def get_decoded_or_raw(parametrised: Parametrised) -> Any:
    """The decoded form; without one the `data` of a tensor, or a request or response itself."""
    if has_decoded(parametrised):
        return get_decoded(parametrised)
    if isinstance(parametrised, (RequestInput, ResponseOutput)):
        return parametrised.data
    return parametrised


def decoded_as(parametrised: Parametrised) -> str | None:
    """The content type by which the decoded form was made, which may be one of the model's metadata."""
    return getattr(parametrised.parameters, _ContentTypeParameterName, None)


def save_decoded(parametrised: Parametrised, decoded: Any, content_type: str | None = None) -> None:
    """Keep `decoded`; replaces what was kept before. content_type: by which it was decoded, if by one."""
    if parametrised.parameters is None:
        parametrised.parameters = Parameters()
    setattr(parametrised.parameters, DecodedParameterName, decoded)
    setattr(parametrised.parameters, _ContentTypeParameterName, content_type)
