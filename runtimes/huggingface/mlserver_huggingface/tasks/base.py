"""What our pipelines have in common: a model on a device, and what they are called with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import torch

__all__ = ["TaskPipeline", "batches", "generation_defaults"]

T = TypeVar("T")


class TaskPipeline:
    """A model, what turns its inputs into tensors, and a way to ask it.

    accepts: keyword arguments of a call. generates: whether those of `generate()` are taken as well.
    auto_model, auto_processor: the classes of transformers that load the two.
    """

    accepts: ClassVar[frozenset[str]] = frozenset()
    generates: ClassVar[bool] = False
    auto_model: ClassVar[tuple[str, ...]] = ()
    auto_processor: ClassVar[str] = "AutoTokenizer"

    def __init__(self, task: str, model: Any, tokenizer: Any, device: Any) -> None:
        self.task = task
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.tokenizer = tokenizer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def to_device(self, inputs: Any) -> dict[str, Any]:
        return {
            name: value.to(self.device) if isinstance(value, torch.Tensor) else value
            for name, value in inputs.items()
        }


def batches(rows: Sequence[T], size: int | None) -> Iterator[Sequence[T]]:
    """The rows in pieces of `size`; each by itself without one."""
    size = size or 1
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def generation_defaults(model: Any, task: str) -> dict[str, Any]:
    """What the model's configuration says of a task: keyword arguments of `generate()`, and a prefix."""
    by_task = getattr(model.config, "task_specific_params", None) or {}
    return dict(by_task.get(task) or {})
