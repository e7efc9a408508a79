"""Questions about images, answered by a model that chooses among its labels."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from mlserver_huggingface.tasks.base import TaskPipeline

__all__ = ["VisualQuestionAnsweringPipeline"]


class VisualQuestionAnsweringPipeline(TaskPipeline):
    """`{"image", "question"}` to a list of `{"score", "answer"}`, the likeliest first."""

    accepts: ClassVar[frozenset[str]] = frozenset(("padding", "timeout", "top_k", "truncation"))
    auto_model: ClassVar[tuple[str, ...]] = ("AutoModelForVisualQuestionAnswering",)
    auto_processor: ClassVar[str] = "AutoProcessor"

    def __call__(
        self,
        examples: Any,
        *,
        batch_size: int | None = None,
        top_k: int = 5,
        padding: Any = True,
        truncation: Any = False,
        timeout: float | None = None,
    ) -> Any:
        """A list for each example; of a single one without a list around it."""
        from transformers.image_utils import load_image

        rows = []
        for example in examples if isinstance(examples, list) else [examples]:
            image = load_image(example["image"], timeout=timeout).convert("RGB")
            inputs = self.tokenizer(
                images=image,
                text=example["question"],
                padding=padding,
                truncation=truncation,
                return_tensors="pt",
            )
            with torch.inference_mode():
                logits = self.model(**self.to_device(inputs)).logits[0].float()
            best = logits.sigmoid().topk(min(top_k, len(logits)))
            labels = self.model.config.id2label
            rows.append(
                [
                    {"score": score, "answer": labels[index]}
                    for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
                ]
            )
        return rows if isinstance(examples, list) else rows[0]
