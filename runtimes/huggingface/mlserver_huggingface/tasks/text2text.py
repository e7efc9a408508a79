"""Text to text: summaries, translations, and whatever else an encoder and a decoder were trained for."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from mlserver_huggingface.tasks.base import TaskPipeline, batches, generation_defaults

__all__ = ["Text2TextPipeline"]

_KEYS = {"summarization": "summary", "translation": "translation"}


class Text2TextPipeline(TaskPipeline):
    """Texts through a sequence-to-sequence model: `{"generated_text"}`, `{"summary_text"}`,
    `{"translation_text"}`.
    """

    accepts: ClassVar[frozenset[str]] = frozenset(
        (
            "clean_up_tokenization_spaces",
            "return_tensors",
            "return_text",
            "src_lang",
            "tgt_lang",
            "truncation",
        )
    )
    generates: ClassVar[bool] = True
    auto_model: ClassVar[tuple[str, ...]] = ("AutoModelForSeq2SeqLM",)

    def __init__(self, task: str, model: Any, tokenizer: Any, device: Any) -> None:
        super().__init__(task, model, tokenizer, device)
        defaults = generation_defaults(model, task)
        self._prefix = defaults.pop("prefix", None) or getattr(model.config, "prefix", None) or ""
        known = vars(model.generation_config)
        self._defaults = {name: value for name, value in defaults.items() if name in known}
        family, *languages = task.split("_")
        self._key = _KEYS.get(family, "generated")
        self._languages: dict[str, str] = {}
        if len(languages) == 3:  # from, "to", to
            self._languages = {"src_lang": languages[0], "tgt_lang": languages[2]}

    def __call__(
        self,
        texts: str | list[str],
        *,
        batch_size: int | None = None,
        truncation: Any = False,
        return_tensors: bool = False,
        return_text: bool = True,
        clean_up_tokenization_spaces: bool | None = None,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        **generate_kwargs: Any,
    ) -> list[Any]:
        """A dict a text; a list of dicts a text where `num_return_sequences` asks for several."""
        languages = {
            name: value for name, value in (("src_lang", src_lang), ("tgt_lang", tgt_lang)) if value
        } or self._languages
        rows: list[Any] = []
        for batch in batches([texts] if isinstance(texts, str) else texts, batch_size):
            inputs = self._tokenize([self._prefix + text for text in batch], truncation, languages)
            with torch.inference_mode():
                ids = self.model.generate(**self.to_device(inputs), **{**self._defaults, **generate_kwargs})
            each = len(ids) // len(batch)
            records = [
                {f"{self._key}_token_ids": sequence.tolist()}
                if return_tensors
                else {
                    f"{self._key}_text": self.tokenizer.decode(
                        sequence,
                        skip_special_tokens=True,
                        clean_up_tokenization_spaces=clean_up_tokenization_spaces,
                    )
                }
                for sequence in ids
            ]
            rows += records if each == 1 else [records[i : i + each] for i in range(0, len(records), each)]
        return rows

    def _tokenize(self, texts: list[str], truncation: Any, languages: dict[str, str]) -> dict[str, Any]:
        options: dict[str, Any] = {"return_tensors": "pt", "truncation": truncation}
        if len(texts) > 1:
            options["padding"] = True
        build = getattr(self.tokenizer, "_build_translation_inputs", None)
        if build is not None and languages:  # a tokenizer of many languages
            inputs = build(texts, **options, **languages)
        else:
            inputs = self.tokenizer(texts, **options)
        inputs.pop("token_type_ids", None)  # which generate() does not take
        return dict(inputs)
