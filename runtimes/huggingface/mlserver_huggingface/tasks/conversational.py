"""Conversations: the model answers what a user said last, in the light of what was said before."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from mlserver_huggingface.tasks.base import TaskPipeline, generation_defaults

__all__ = ["ConversationalPipeline"]

# Tokens of an answer, where neither the request nor the model's configuration sets a limit.
_LONGEST_ANSWER = 256


class ConversationalPipeline(TaskPipeline):
    """Conversations in, the same conversations with an answer out."""

    accepts: ClassVar[frozenset[str]] = frozenset(
        ("clean_up_tokenization_spaces", "min_length_for_response", "minimum_tokens")
    )
    generates: ClassVar[bool] = True
    auto_model: ClassVar[tuple[str, ...]] = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")

    def __init__(self, task: str, model: Any, tokenizer: Any, device: Any) -> None:
        super().__init__(task, model, tokenizer, device)
        known = vars(model.generation_config)
        self._defaults = {
            name: value for name, value in generation_defaults(model, task).items() if name in known
        }

    def __call__(
        self,
        conversations: Any,
        *,
        batch_size: int | None = None,
        minimum_tokens: int = 10,
        min_length_for_response: int | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        **generate_kwargs: Any,
    ) -> Any:
        """Raises ValueError where the user says nothing new. One conversation comes back without a list."""
        several = isinstance(conversations, list)
        rows = conversations if several else [conversations]
        for conversation in rows:
            if not conversation.new_user_input:
                raise ValueError(f"conversation {conversation.uuid} has no `new_user_input` to answer")
            answer = self._answer(conversation, minimum_tokens, generate_kwargs)
            text = self.tokenizer.decode(
                answer, skip_special_tokens=True, clean_up_tokenization_spaces=clean_up_tokenization_spaces
            )
            conversation.append_response(text)
        return rows if several and len(rows) > 1 else rows[0]

    def _answer(self, conversation: Any, minimum_tokens: int, generate_kwargs: dict[str, Any]) -> Any:
        options = {**self._defaults, **generate_kwargs}
        ids = self._prompt(conversation)
        longest = self.tokenizer.model_max_length
        for limit in (options.get("max_length"), getattr(self.model.config, "max_position_embeddings", None)):
            longest = min(longest, limit or longest)
        ids = ids[-max(1, longest - minimum_tokens) :]  # what was said first is forgotten first
        if not options.keys() & {"max_length", "max_new_tokens"}:
            options["max_new_tokens"] = max(1, min(_LONGEST_ANSWER, longest - len(ids)))
        prompt = torch.tensor([ids], device=self.device)
        with torch.inference_mode():
            output = self.model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **options)[
                0
            ]
        return output[1 if self.model.config.is_encoder_decoder else len(ids) :]

    def _prompt(self, conversation: Any) -> list[int]:
        texts = [*conversation.past_user_inputs, conversation.new_user_input]
        answers = conversation.generated_responses
        if getattr(self.tokenizer, "chat_template", None):
            messages = []
            for index, text in enumerate(texts):
                messages.append({"role": "user", "content": text})
                if index < len(answers):
                    messages.append({"role": "assistant", "content": answers[index]})
            prompt = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            return list(self.tokenizer(prompt, add_special_tokens=False)["input_ids"])
        # Models from before there were templates were trained on turns with an end after each.
        end = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        ids: list[int] = []
        for index, text in enumerate(texts):
            for said in (text, *answers[index : index + 1]):
                ids += self.tokenizer(said, add_special_tokens=False)["input_ids"] + end
        return ids
