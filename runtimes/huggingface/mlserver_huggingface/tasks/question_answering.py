"""Extractive question answering: the part of a context that answers a question.

A context that is too long is cut into windows that overlap; all windows of all examples go through the model
in batches. The score of a span is the probability of its start times that of its end, each among the tokens
of its window's context.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from mlserver_huggingface.tasks.base import TaskPipeline, batches

__all__ = ["QuestionAnsweringPipeline"]

Answer = dict[str, Any]


@dataclass(frozen=True)
class _Window:
    """Part of a context with its question. inputs: of the model. allowed: which tokens may be in an answer.

    offsets: where in the context each token is. words: which word each token belongs to, None without.
    null: index of the token that stands for "no answer", None without.
    """

    example: int
    inputs: dict[str, list[int]]
    allowed: np.ndarray[Any, Any]
    offsets: list[tuple[int, int]]
    words: list[int | None]
    null: int | None


class QuestionAnsweringPipeline(TaskPipeline):
    """Questions and contexts to `{"score", "start", "end", "answer"}`, start and end in characters."""

    accepts: ClassVar[frozenset[str]] = frozenset(
        (
            "align_to_words",
            "doc_stride",
            "handle_impossible_answer",
            "max_answer_len",
            "max_question_len",
            "max_seq_len",
            "padding",
            "top_k",
            "topk",
        )
    )
    auto_model: ClassVar[tuple[str, ...]] = ("AutoModelForQuestionAnswering",)

    def __call__(
        self,
        *,
        question: str | list[str],
        context: str | list[str],
        batch_size: int | None = None,
        top_k: int = 1,
        topk: int | None = None,
        doc_stride: int | None = None,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        max_question_len: int = 64,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
        padding: Any = None,
    ) -> Any:
        """One answer an example, or a list of them where `top_k` > 1; of one example without a list around.

        Raises ValueError for arguments that make no sense.
        """
        top_k = topk or top_k
        questions = [question] if isinstance(question, str) else question
        contexts = [context] if isinstance(context, str) else context
        if len(contexts) == 1 and len(questions) > 1:
            contexts = contexts * len(questions)
        if len(questions) != len(contexts):
            raise ValueError(f"{len(questions)} questions for {len(contexts)} contexts")
        for name, texts in (("question", questions), ("context", contexts)):
            if not all(text.strip() for text in texts):
                raise ValueError(f"`{name}` is empty")
        for name, value in (("top_k", top_k), ("max_answer_len", max_answer_len)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, not {value}")

        longest = max_seq_len or min(self.tokenizer.model_max_length, 384)
        stride = min(longest // 2, 128) if doc_stride is None else doc_stride
        windows = [
            window
            for index, (asked, within) in enumerate(zip(questions, contexts, strict=True))
            for window in self._windows(index, asked, within, longest, stride, max_question_len)
        ]
        found: list[list[Answer]] = [[] for _ in questions]
        nothing = [1.0] * len(questions)
        for batch in batches(windows, batch_size):
            starts, ends = self._logits(batch)
            for window, start, end in zip(batch, starts, ends, strict=True):
                text = contexts[window.example]
                spans, null = _spans(window, start, end, top_k, max_answer_len)
                found[window.example] += [_answer(window, text, *span, align_to_words) for span in spans]
                nothing[window.example] = min(nothing[window.example], null)
        rows = []
        for answers, null in zip(found, nothing, strict=True):
            if handle_impossible_answer:
                answers.append({"score": null, "start": 0, "end": 0, "answer": ""})
            best = sorted(answers, key=lambda answer: -answer["score"])[:top_k]
            rows.append(best[0] if len(best) == 1 else best)
        return rows[0] if len(rows) == 1 else rows

    def _windows(
        self, example: int, question: str, context: str, longest: int, stride: int, longest_question: int
    ) -> list[_Window]:
        tokenizer = self.tokenizer
        if not tokenizer.is_fast:
            raise RuntimeError("question answering needs a fast tokenizer")
        asked = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)
        if len(asked["input_ids"]) > longest_question:
            question = question[: asked["offset_mapping"][longest_question - 1][1]]
        room = longest - min(len(asked["input_ids"]), longest_question)
        room -= tokenizer.num_special_tokens_to_add(pair=True)
        if room < 1:
            raise ValueError(f"`max_seq_len` of {longest} leaves no room for the context")
        # Where padding comes first, so does the context: a question is short, and stays whole.
        first, second = (question, context) if tokenizer.padding_side == "right" else (context, question)
        encoded = tokenizer(
            first,
            second,
            truncation="only_second" if second is context else "only_first",
            max_length=longest,
            stride=min(stride, room - 1),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        part = 1 if second is context else 0
        names = [name for name in tokenizer.model_input_names if name in encoded]
        windows = []
        for index, ids in enumerate(encoded["input_ids"]):
            null = None if tokenizer.cls_token_id not in ids else ids.index(tokenizer.cls_token_id)
            windows.append(
                _Window(
                    example,
                    {name: encoded[name][index] for name in names},
                    np.array([of == part for of in encoded.sequence_ids(index)]),
                    encoded["offset_mapping"][index],
                    encoded.word_ids(index),
                    null,
                )
            )
        return windows

    def _logits(self, windows: Any) -> tuple[list[Any], list[Any]]:
        """Logits of start and end, for each window as many as it has tokens."""
        lengths = [len(window.inputs["input_ids"]) for window in windows]
        if len(set(lengths)) == 1:
            inputs = {
                name: torch.tensor([window.inputs[name] for window in windows]) for name in windows[0].inputs
            }
        else:
            inputs = dict(self.tokenizer.pad([window.inputs for window in windows], return_tensors="pt"))
        with torch.inference_mode():
            output = self.model(**self.to_device(inputs))
        left = self.tokenizer.padding_side == "left"
        logits = []
        for scores in (output.start_logits, output.end_logits):
            rows = scores.float().cpu().numpy()
            logits.append(
                [
                    row[-n:] if left else row[:n] for row, n in zip(rows, lengths, strict=True)
                ]  # without padding
            )
        return logits[0], logits[1]


def _spans(
    window: _Window, start: Any, end: Any, top_k: int, longest: int
) -> tuple[list[tuple[float, int, int]], float]:
    """The best spans as (score, first token, last token), and the score of "no answer"."""
    allowed = window.allowed.copy()
    if window.null is not None:
        allowed[window.null] = True  # takes what probability no word should have
    starts, ends = _softmax(start, allowed), _softmax(end, allowed)
    null = 1.0 if window.null is None else float(starts[window.null] * ends[window.null])
    if window.null is not None:
        starts[window.null] = ends[window.null] = 0.0
    scores = np.triu(np.outer(starts, ends))
    scores = np.tril(scores, longest - 1).ravel()
    best = np.argsort(-scores, kind="stable")[:top_k]
    tokens = len(starts)
    return [
        (float(scores[i]), int(i) // tokens, int(i) % tokens)
        for i in best
        if window.allowed[i // tokens] and window.allowed[i % tokens]
    ], null


def _softmax(logits: Any, allowed: Any) -> Any:
    masked = np.where(allowed, logits, -np.inf)
    exp = np.exp(masked - masked.max())
    return exp / exp.sum()


def _answer(window: _Window, context: str, score: float, first: int, last: int, whole_words: bool) -> Answer:
    if whole_words:
        first, last = _widen(window, first, -1), _widen(window, last, 1)
    start, end = window.offsets[first][0], window.offsets[last][1]
    return {"score": score, "start": start, "end": end, "answer": context[start:end]}


def _widen(window: _Window, token: int, step: int) -> int:
    """The outermost token, in one direction, of the word that a token belongs to."""
    word = window.words[token]
    while word is not None:
        beside = token + step
        if (
            not (0 <= beside < len(window.words))
            or not window.allowed[beside]
            or window.words[beside] != word
        ):
            break
        token = beside
    return token
