"""A loaded pipeline and how it is asked: rows in groups of about the same length, answers in their form.

Runs on a thread of its own and knows nothing of requests or loops.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers

from mlserver.batching.policy import Cost
from mlserver.errors import InferenceError, MLServerError
from mlserver.logging import logger
from mlserver_huggingface.batching import Ask, Outcome, length_groups
from mlserver_huggingface.codecs.json import to_json
from mlserver_huggingface.common import prepare_padding

__all__ = ["GENERATING", "LoadedPipeline", "stop_when"]

# Tasks whose rows can share a call of the model without changing each other's answers.
_BATCHES = frozenset(
    (
        "feature-extraction",
        "fill-mask",
        "image-classification",
        "question-answering",
        "summarization",
        "text-classification",
        "text-generation",
        "text2text-generation",
        "token-classification",
        "translation",
        "zero-shot-classification",
    )
)
# Tasks whose answers contain what the padding became.
_EXACT = frozenset(("feature-extraction",))
# Arguments of generation whose answers would hold the padding of a batch.
_SHOW_PADDING = frozenset(
    (
        "output_attentions",
        "output_hidden_states",
        "output_logits",
        "output_scores",
        "return_dict_in_generate",
        "return_tensors",
        "return_type",
    )
)
# Arguments of generation that are of use only with a tokenizer, which no request can hold.
_NEED_TOKENIZER = frozenset(("stop_strings", "token_healing"))
# Tasks that end when a stopping criterion says so, and that can tell each token as it comes.
GENERATING = frozenset(("text-generation", "text2text-generation", "summarization", "translation"))

# What a call costs besides its rows, in characters or tokens, until enough calls were observed to know.
_PER_CALL = 200.0
_ENOUGH = 20

# Functions that judge what they were given. An error that came through one of them is the caller's.
_JUDGES = frozenset(
    (
        "_parse_and_tokenize",
        "_sanitize_parameters",
        "_validate_generated_length",
        "_validate_generation_mode",
        "_validate_model_kwargs",
        "check_inputs",
        "ensure_exactly_one_mask_token",
        "load_image",
        "preprocess",
        "validate",
    )
)
# Functions that use what a request and the model's own configuration say together: if the request has
# arguments, a value or type that one of them does not take is the caller's.
_USERS = frozenset(
    (
        "_get_deprecated_gen_repo",
        "_get_logits_processor",
        "_get_logits_warper",
        "_get_padding_truncation_strategies",
        "_get_stopping_criteria",
        "_prepare_generation_config",
        "_prepare_special_tokens",
        "heal_tokens",
        "postprocess",
    )
)


class LoadedPipeline:
    """A pipeline of transformers, or one of ours.

    batch_size: rows of one call of the model. keywords: the arguments that it takes.
    """

    def __init__(self, pipe: Any, task: str, batch_size: int, keywords: frozenset[str]) -> None:
        self.pipe = pipe
        self.task = task
        self._keywords = keywords
        self.generates = task in GENERATING
        self.batch_size = batch_size if task in _BATCHES else 1
        self._cost = Cost()  # of a call, over rows times the length of the longest
        decoder_only = task == "text-generation"
        if not prepare_padding(pipe, decoder_only) and self.batch_size > 1:
            logger.warning(
                "The tokenizer of task '%s' has neither pad nor end token: each row is computed by itself",
                task,
            )
            self.batch_size = 1

    @property
    def batches(self) -> bool:
        return self.batch_size > 1

    @property
    def _per_call(self) -> float:
        """What a call costs besides its rows, in units of length; learned from those that were made."""
        cost = self._cost
        if cost.observed < _ENOUGH:
            return _PER_CALL
        return cost.per_batch / cost.per_call if cost.per_call > 0 else math.inf

    @property
    def text_key(self) -> str:
        """What answers call the text that was generated."""
        return {"summarization": "summary_text", "translation": "translation_text"}.get(
            self.task, "generated_text"
        )

    def answer(self, asks: Sequence[Ask], left: Callable[[], bool]) -> list[Outcome]:
        """One outcome for each question; all have the same keyword arguments.

        left: tells whether nobody waits any more, which ends what generates.
        """
        try:
            return list(self._answer(asks, left))
        except Exception as exc:
            if len(asks) > 1:
                return [outcome for ask in asks for outcome in self.answer([ask], left)]
            return [self.explain(exc, asks[0])]

    def _answer(self, asks: Sequence[Ask], left: Callable[[], bool]) -> list[list[bytes]]:
        kwargs = asks[0].kwargs
        if self.generates:
            kwargs = {**kwargs, "stopping_criteria": stop_when(left)}
        if len(asks) == 1 and not asks[0].listed:
            return [[to_json(row) for row in _rows_of(self.call(asks[0].rows[0], kwargs))]]
        results = iter(self._each([row for ask in asks for row in ask.rows], kwargs))
        answers = []
        for ask in asks:
            own = [next(results) for _ in ask.rows]
            if not ask.listed or (self.task == "fill-mask" and len(own) == 1):
                own = _rows_of(own[0])  # a pipeline takes no list of one answer for a list of answers here
            answers.append([to_json(row) for row in own])
        return answers

    def _each(self, rows: list[Any], kwargs: dict[str, Any]) -> list[Any]:
        """A result for each row, in order."""
        if not self.batches or (self.generates and not kwargs.keys().isdisjoint(_SHOW_PADDING)):
            return [self._only(self.call([row], kwargs)) for row in rows]
        results: list[Any] = [None] * len(rows)
        exact = self.task in _EXACT
        lengths = self._token_counts(rows, kwargs) if exact else list(map(_length, rows))
        for group in length_groups(lengths, self.batch_size, self._per_call, exact):
            started = time.perf_counter()
            given = self.call([rows[index] for index in group], kwargs)
            took = time.perf_counter() - started
            self._cost.observe(len(group) * lengths[group[-1]], took)
            if len(group) == 1:
                given = [self._only(given)]
            if len(given) != len(group):
                raise MLServerError(f"the pipeline gave {len(given)} results for {len(group)} inputs", 500)
            for index, result in zip(group, given, strict=True):
                results[index] = result
        return results

    def _only(self, given: Any) -> Any:
        """The result for the row of a list of one: some pipelines drop the list around it."""
        if self.task == "fill-mask" or not (isinstance(given, list) and len(given) == 1):
            return given
        return given[0]

    def call(self, rows: Any, kwargs: dict[str, Any]) -> Any:
        """rows: a list of them, or a single one."""
        options: dict[str, Any] = {"batch_size": self.batch_size} if isinstance(rows, list) else {}
        if not kwargs.keys().isdisjoint(_NEED_TOKENIZER):
            options["tokenizer"] = self.pipe.tokenizer
        if self.task == "question-answering":
            asked = rows if isinstance(rows, list) else [rows]
            columns = {name: [row[name] for row in asked] for name in ("question", "context")}
            return self.pipe(**columns, **options, **kwargs)
        if self.task == "text-classification" and isinstance(rows, list) and all(map(_is_text, rows)):
            return self._classify(rows, kwargs)
        return self.pipe(rows, **options, **kwargs)

    def _classify(self, texts: list[str], kwargs: dict[str, Any]) -> list[Any]:
        """As the pipeline does it, but with one call of the tokenizer: a third less to compute."""
        pipe = self.pipe
        before, during, after = (
            {**own, **given}
            for own, given in zip(
                (pipe._preprocess_params, pipe._forward_params, pipe._postprocess_params),
                pipe._sanitize_parameters(**kwargs),
                strict=True,
            )
        )
        inputs = pipe.tokenizer(texts, **{"padding": len(texts) > 1, "return_tensors": "pt", **before})
        logits = pipe.forward(inputs, **during)["logits"]
        return [pipe.postprocess({"logits": logits[row : row + 1]}, **after) for row in range(len(texts))]

    def _token_counts(self, rows: list[Any], kwargs: dict[str, Any]) -> list[int]:
        truncation = kwargs.get("truncation", False)
        encoded = self.pipe.tokenizer(rows, truncation=truncation)
        return [len(ids) for ids in encoded["input_ids"]]

    # What went wrong

    def explain(self, exc: Exception, ask: Ask) -> Exception:
        """The error for a caller: what was wrong with the request, or the model's own fault as it is."""
        if isinstance(exc, MLServerError):
            return exc
        if ask.kwargs and isinstance(exc, (ValueError, TypeError)) and _comes_through(_USERS, exc):
            given = ", ".join(f"'{name}'" for name in ask.kwargs)
            fault: InferenceError | None = InferenceError(f"inputs {given}: {exc}")
        elif _comes_through(_JUDGES, exc):
            fault = InferenceError(f"{ask.names}: {exc}")
        else:
            fault = self._too_long(exc, ask)
        if fault is None:
            return exc
        fault.__cause__ = exc
        return fault

    def _too_long(self, exc: Exception, ask: Ask) -> InferenceError | None:
        tokenizer = getattr(self.pipe, "tokenizer", None)
        config = getattr(self.pipe.model, "config", None)
        limits = [
            limit
            for limit in (
                getattr(tokenizer, "model_max_length", None),
                getattr(config, "max_position_embeddings", None),
            )
            if isinstance(limit, int) and limit > 0
        ]
        if not callable(tokenizer) or not limits:
            return None
        limit = min(limits)
        # Positions that the model does not have are an index out of range.
        asked = ask.kwargs.get("max_new_tokens", 0)
        written = (asked or self._written_by_default()) if isinstance(exc, IndexError) else 0
        for index, row in enumerate(ask.rows):
            if not isinstance(row, str):
                continue
            tokens = len(tokenizer(row)["input_ids"])
            if tokens > limit:
                return InferenceError(
                    f"{ask.names}: text {index} has {tokens} tokens, the model takes {limit}; "
                    f"shorten it{self._or_truncate()}"
                )
            if tokens + written <= limit:
                continue
            if asked:
                return InferenceError(
                    f"input 'max_new_tokens' is {asked}, but text {index} has {tokens} tokens already, "
                    f"and the model takes {limit}"
                )
            return InferenceError(
                f"{ask.names}: text {index} has {tokens} tokens, and the model takes {limit}, but by "
                f"default {written} are added: ask for fewer with `max_new_tokens`"
            )
        return None

    def _or_truncate(self) -> str:
        """How to ask for a text to be cut off, as far as the pipeline can be asked."""
        if "truncation" in self._keywords:
            return ", or ask with `truncation`"
        if "tokenizer_kwargs" in self._keywords:
            return ', or ask with `tokenizer_kwargs` {"truncation": true}, content type `hg_json`'
        return ""

    def _written_by_default(self) -> int:
        """How many tokens the pipeline adds to a text at most if it is not told; 0 where nothing says."""
        for source in (
            getattr(self.pipe.model, "generation_config", None),
            getattr(self.pipe, "generation_config", None),
            getattr(self.pipe, "_default_generation_config", None),
        ):
            count = getattr(source, "max_new_tokens", None)
            if count:
                return int(count)
        return 0


class _Stop(transformers.StoppingCriteria):  # type: ignore[misc]
    def __init__(self, condition: Callable[[], bool]) -> None:
        self._condition = condition

    def __deepcopy__(self, memo: Any) -> Any:
        return self  # older pipelines copy their arguments, but this one belongs to whoever waits

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        stop = self._condition()
        if _STOPS_AS_ONE:
            return stop
        return torch.full((len(input_ids),), stop, dtype=torch.bool, device=input_ids.device)


# Releases before 4.39 stop all rows of a batch or none.
_STOPS_AS_ONE = tuple(map(int, transformers.__version__.split(".")[:2])) < (4, 39)


def stop_when(condition: Callable[[], bool]) -> Any:
    """Stopping criteria that end a generation, after the token that it is at, once the condition holds."""
    return transformers.StoppingCriteriaList([_Stop(condition)])


def _rows_of(result: Any) -> list[Any]:
    return result if isinstance(result, list) else [result]


def _is_text(row: Any) -> bool:
    return isinstance(row, str)


def _length(row: Any) -> int:
    """Characters of text in a row, whatever it is."""
    if isinstance(row, str):
        return len(row)
    if isinstance(row, dict):
        return sum(map(_length, row.values()))
    if isinstance(row, list):
        return sum(map(_length, row))
    return 0


def _comes_through(functions: frozenset[str], exc: Exception) -> bool:
    """Whether an error came out of one of these functions of transformers, or out of a task of ours."""
    if isinstance(exc, (RuntimeError, MemoryError, OSError)):
        return False
    traceback = exc.__traceback__
    module = ""
    while traceback is not None:
        frame = traceback.tb_frame
        module = str(frame.f_globals.get("__name__"))
        if frame.f_code.co_name in functions and module.partition(".")[0] != "mlserver_huggingface":
            return True
        traceback = traceback.tb_next
    return isinstance(exc, ValueError) and module.startswith("mlserver_huggingface.tasks.")
