"""What can be wrong with a method that is to be batched."""

from __future__ import annotations

from mlserver.errors import MLServerError

__all__ = ["InvalidBatchingMethod"]


class InvalidBatchingMethod(MLServerError):
    """Requests to this method cannot be merged into one."""

    def __init__(self, method_name: str, reason: str | None = None) -> None:
        why = "" if reason is None else f": {reason}"
        super().__init__(f"Method {method_name} can't be used for adaptive batching{why}", 400)
