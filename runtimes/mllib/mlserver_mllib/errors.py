"""What can be wrong with the settings of a model of Spark."""

from __future__ import annotations

from mlserver.errors import MLServerError

__all__ = ["InvalidMLlibFormat"]


class InvalidMLlibFormat(MLServerError):
    """`parameters.format` names no kind of model, or another one than the saved folder holds."""

    def __init__(self, name: str, model_format: str | None = None, reason: str = "") -> None:
        given = "" if model_format is None else f" ({model_format})"
        why = f": {reason}" if reason else ""
        super().__init__(f"Invalid MLlib format specified for model {name}{given}{why}", 400)
