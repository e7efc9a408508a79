"""Which model, and which request, the running code belongs to. Log records and metrics read it."""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlserver.settings import ModelSettings

__all__ = ["model_context", "model_name_var", "model_version_var", "request_id_var"]

# No defaults: `get()` raises LookupError outside a model context.
model_name_var: ContextVar[str] = ContextVar("model_name")
model_version_var: ContextVar[str] = ContextVar("model_version")

# Set at the start of a request, for the task that answers it. Not reset: the next request sets its own.
request_id_var: ContextVar[str] = ContextVar("request_id")


# Named as the function that it reads as; a class is cheaper than a generator, on every request.
class model_context:  # noqa: N801
    """Context manager: code inside belongs to this model. The version is `""` for a model without one."""

    __slots__ = ("_name", "_name_token", "_version", "_version_token")

    _name_token: Token[str]
    _version_token: Token[str]

    def __init__(self, model_settings: ModelSettings) -> None:
        self._name = model_settings.name
        self._version = model_settings.version or ""

    def __enter__(self) -> None:
        self._name_token = model_name_var.set(self._name)
        self._version_token = model_version_var.set(self._version)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            model_version_var.reset(self._version_token)
            model_name_var.reset(self._name_token)
        except ValueError:
            # A dropped async generator is closed from another context, which never had these values.
            pass
