"""Worker processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlserver.parallel.pool import InferencePoolRegistry
    from mlserver.parallel.process import Worker

__all__ = ["InferencePoolRegistry", "Worker"]


def __getattr__(name: str) -> Any:
    # Late, so that errors of workers can be told by code that has none.
    if name == "InferencePoolRegistry":
        from mlserver.parallel.pool import InferencePoolRegistry

        return InferencePoolRegistry
    if name == "Worker":
        from mlserver.parallel.process import Worker

        return Worker
    raise AttributeError(f"module 'mlserver.parallel' has no attribute '{name}'")
