"""From a request to a call of the pipeline: which inputs are asked about, and which say how.

An input is a keyword argument by its name, but for those that hold what is asked about: `args`, whose only
element stands by itself, and `array_inputs`, or the pipeline's own name for it, which are lists.
What does not fit is refused here, by name, before anything is computed.
"""

from __future__ import annotations

import inspect
import json
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import transformers
from PIL import Image
from transformers.pipelines.text_classification import ClassificationFunction
from transformers.pipelines.token_classification import AggregationStrategy

from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.codecs.base import find_input_codec
from mlserver.codecs.lists import elements_of
from mlserver.errors import InferenceError
from mlserver.tensor import DTYPES
from mlserver.types import InferenceRequest, MetadataTensor, RequestInput
from mlserver_huggingface.batching import Ask
from mlserver_huggingface.codecs import (
    Conversation,
    HuggingfaceConversationCodec,
    HuggingfaceListJSONCodec,
    HuggingfaceSingleJSONCodec,
    NumpyListCodec,
    RawCodec,
)
from mlserver_huggingface.codecs.image import decode_image
from mlserver_huggingface.tasks import TaskPipeline

__all__ = ["Arguments"]

ARGS = "args"
ARRAY_INPUTS = "array_inputs"

_AUDIO = frozenset(("audio-classification", "automatic-speech-recognition", "zero-shot-audio-classification"))
_IMAGE = frozenset(
    (
        "depth-estimation",
        "image-classification",
        "image-feature-extraction",
        "image-segmentation",
        "image-to-image",
        "image-to-text",
        "keypoint-matching",
        "mask-generation",
        "object-detection",
        "zero-shot-image-classification",
        "zero-shot-object-detection",
    )
)
_OBJECTS = frozenset(
    (
        "any-to-any",
        "document-question-answering",
        "image-text-to-text",
        "table-question-answering",
        "visual-question-answering",
    )
)
# What the row of a task is called where it is not the pipeline's first parameter.
_ROW_NAMES = frozenset((ARGS, ARRAY_INPUTS, "inputs"))
_OLD_ROW_NAMES = {"images", "image", "text_inputs", "sequences", "conversations"}
_MOST_NAMES_LISTED = 40

# How a call is run is the server's business: taken from clients that send it, and left aside.
_IGNORED = frozenset(("batch_size", "num_workers"))
# Objects of Python, which no request can hold; and what would take the model's place.
_NOT_FOR_CLIENTS = frozenset(
    (
        "assistant_early_exit",  # shortens the model itself, and leaves it so where that fails
        "assistant_model",
        "assistant_tokenizer",
        "decoder",
        "feature_extractor",
        "generation_config",
        "image_processor",
        "logits_processor",
        "model",
        "prefix_allowed_tokens_fn",
        "processor",
        "stopping_criteria",
        "streamer",
        "synced_gpus",
        "tokenizer",
    )
)
# Of these a pipeline wants one text, not a list with one.
_SINGLE_TEXTS = frozenset(
    (
        "aggregation_strategy",
        "delimiter",
        "function_to_apply",
        "handle_long_generation",
        "hypothesis_template",
        "language",
        "padding",
        "prefix",
        "return_timestamps",
        "return_type",
        "src_lang",
        "stop_sequence",
        "subtask",
        "task",
        "tgt_lang",
        "truncation",
    )
)
# Whole numbers that make no sense below 1.
_COUNTS = frozenset(("max_answer_len", "max_length", "max_new_tokens", "num_beams", "num_return_sequences"))
# Other whole numbers.
_WHOLE_NUMBERS = frozenset(
    (
        "doc_stride",
        "max_question_len",
        "max_seq_len",
        "min_length",
        "min_new_tokens",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "stride",
        "top_k",
        "topk",
    )
)
# Numbers that may be fractions.
_NUMBERS = frozenset(
    (
        "diversity_penalty",
        "epsilon_cutoff",
        "eta_cutoff",
        "guidance_scale",
        "length_penalty",
        "max_time",
        "min_p",
        "penalty_alpha",
        "repetition_penalty",
        "temperature",
        "top_p",
        "typical_p",
    )
)
# Texts that are names: of these alone, in letters of either case.
_CHOICES = {"aggregation_strategy": AggregationStrategy, "function_to_apply": ClassificationFunction}
_OF_TOKENIZERS = frozenset(
    ("add_special_tokens", "max_length", "padding", "padding_side", "stride", "text_pair", "truncation")
)
# Arguments of another function: objects.
_KEYWORDS = frozenset(("generate_kwargs", "tokenize_kwargs", "tokenizer_encode_kwargs", "tokenizer_kwargs"))
_NEEDS = {
    "zero-shot-audio-classification": ("candidate_labels",),
    "zero-shot-classification": ("candidate_labels",),
    "zero-shot-image-classification": ("candidate_labels",),
    "zero-shot-object-detection": ("candidate_labels",),
}


_OF_ROWS: dict[Any, Any] = {RawCodec: StringCodec, HuggingfaceSingleJSONCodec: HuggingfaceListJSONCodec}


class Arguments:
    """Reads requests for one pipeline."""

    def __init__(self, pipe: Any, task: str, declared: list[MetadataTensor]) -> None:
        """declared: inputs that the model's settings describe; their content types are defaults."""
        self._pipe = pipe
        self._task = task
        self._declared = {
            tensor.name: tensor.parameters.content_type
            for tensor in declared
            if tensor.parameters is not None and tensor.parameters.content_type
        }
        self._keywords = _keywords(pipe)
        self._row_names = (_ROW_NAMES | {_first_parameter(pipe)} | _OLD_ROW_NAMES) - self._keywords
        if task in _AUDIO:
            self._read_rows, self._row = self._read_audio, "audio"
        elif task in _IMAGE:
            self._read_rows, self._row = self._read_images, "an image"
        elif task in _OBJECTS:
            self._read_rows, self._row = self._read_objects, "a JSON object"
        elif task == "conversational":
            self._read_rows, self._row = self._read_conversations, "a conversation"
        elif task == "question-answering":
            self._read_rows, self._row = self._read_objects, "a question and a context"
        else:
            self._read_rows, self._row = self._read_texts, "text"

    @property
    def keywords(self) -> frozenset[str]:
        """Names of the keyword arguments that a request may bring."""
        return self._keywords

    def read(self, request: InferenceRequest) -> Ask:
        """The call that a request asks for. Raises CodecError or InferenceError naming what does not fit."""
        kwargs: dict[str, Any] = {}
        rows: list[Any] | None = None
        listed = True
        row_name = ""
        columns: dict[str, list[Any]] = {}
        for tensor in request.inputs:
            name = tensor.name
            if self._task == "question-answering" and name in ("question", "context"):
                columns[name] = self._read_texts(tensor)
            elif name in self._row_names:
                if rows is not None:
                    raise InferenceError(f"inputs '{row_name}' and '{name}' both hold what is asked about")
                row_name = name
                rows = self._read_rows(tensor)
                listed = name != ARGS or len(rows) != 1
                if self._is_chat(rows):
                    rows, listed = [rows], False
            elif name in self._keywords:
                kwargs[name] = self._read_keyword(tensor)
            elif name not in _IGNORED:
                raise InferenceError(self._unknown(name))
        if self._task == "question-answering" and rows is None:
            rows, row_name = _pairs(columns), "question"
            listed = len(rows) > 1
        if rows is None:
            raise InferenceError(
                f"the request has no input to ask about: task '{self._task}' expects {self._row} "
                f"in '{self._expected_name()}'"
            )
        if not rows:
            raise InferenceError(f"input '{row_name}' is empty, expected {self._row}")
        for needed in _NEEDS.get(self._task, ()):
            if not kwargs.get(needed):
                raise InferenceError(f"input '{needed}' is missing or empty, task '{self._task}' needs it")
            if not _holds_text(kwargs[needed]):
                raise InferenceError(f"input '{needed}' holds {kwargs[needed]!r}, expected text")
        if kwargs:
            if request.id is None and len(rows) > 1:
                self._refuse_columns(request, len(rows), kwargs)
            self._check(kwargs)
        return Ask(rows, listed, kwargs, _key(kwargs), f"input '{row_name}'")

    def _refuse_columns(self, request: InferenceRequest, rows: int, kwargs: dict[str, Any]) -> None:
        """Requests that the core merged have no id, and a value of each keyword argument for each of them.

        Those are arguments of different calls: refused, the core asks again, one by one.
        """
        for tensor in request.inputs:
            if tensor.name in kwargs and tensor.shape and tensor.shape[0] == rows:
                raise InferenceError(f"input '{tensor.name}' has {rows} values for {rows} rows, expected one")

    def _expected_name(self) -> str:
        if self._task == "question-answering":
            return "question' and 'context"
        return "inputs" if self._task in _AUDIO | _IMAGE else ARRAY_INPUTS

    def _unknown(self, name: str) -> str:
        names = sorted(self._keywords)
        known = ", ".join(names[:_MOST_NAMES_LISTED])
        more = len(names) - _MOST_NAMES_LISTED
        return (
            f"input '{name}' is not known to task '{self._task}': expected {self._row} in "
            f"'{self._expected_name()}'"
            + (f", or one of {known}" if known else "")
            + (f" and {more} more" if more > 0 else "")
        )

    def _check(self, kwargs: dict[str, Any]) -> None:
        """Let the pipeline judge arguments before it runs, so that it can say which it does not like."""
        for name in _COUNTS & kwargs.keys():
            count = kwargs[name]
            if not _is_whole(count) or count < 1:
                raise InferenceError(f"input '{name}' is {count!r}, expected a whole number of at least 1")
        for name in _WHOLE_NUMBERS & kwargs.keys():
            if not _is_whole(kwargs[name]):
                raise InferenceError(f"input '{name}' is {kwargs[name]!r}, expected a whole number")
        for name in _NUMBERS & kwargs.keys():
            number = kwargs[name]
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise InferenceError(f"input '{name}' is {number!r}, expected a number")
        for name in _KEYWORDS & kwargs.keys():
            if not isinstance(kwargs[name], dict):
                raise InferenceError(
                    f"input '{name}' is {kwargs[name]!r}, expected a JSON object (content type `hg_json`)"
                )
        if self._task == "fill-mask" and "top_k" in kwargs:
            count, most = kwargs["top_k"], len(self._pipe.tokenizer)
            if count < 0 or (count > most and "targets" not in kwargs):
                raise InferenceError(
                    f"input 'top_k' is {count}, expected 0 to {most}, as many as it has words"
                )
        for name in _CHOICES.keys() & kwargs.keys():
            names = _CHOICES[name].__members__
            if not isinstance(kwargs[name], str) or kwargs[name].upper() not in names:
                known = ", ".join(map(str.lower, names))
                raise InferenceError(f"input '{name}' is {kwargs[name]!r}, expected one of {known}")
        judge = getattr(self._pipe, "_sanitize_parameters", None)
        if judge is None:
            return
        try:
            judge(**kwargs)
        except (TypeError, ValueError, KeyError, AttributeError) as exc:
            raise InferenceError(f"inputs {_quoted(kwargs)}: {exc}") from exc

    # What is asked about

    def _is_chat(self, rows: list[Any]) -> bool:
        """A list of messages is one row: a conversation up to now."""
        return (
            self._task == "text-generation"
            and bool(rows)
            and all(isinstance(row, dict) and {"role", "content"} <= row.keys() for row in rows)
        )

    def _read_texts(self, tensor: RequestInput) -> list[Any]:
        """Texts; where a JSON content type says so, also objects of texts, such as pairs."""
        codec = self._codec(tensor)
        if codec is None and tensor.datatype != "BYTES":
            raise InferenceError(
                f"input '{tensor.name}' has datatype {tensor.datatype}, expected BYTES: "
                f"task '{self._task}' is asked about text"
            )
        # Content types of single values hold one for each row here.
        rows = list((_OF_ROWS.get(codec, codec) or StringCodec).decode_input(tensor))
        if codec is None and len(tensor.shape) > 1 and len(rows) != tensor.shape[0]:
            raise InferenceError(
                f"input '{tensor.name}' has shape {list(tensor.shape)}, expected [rows] or [rows, 1]: "
                f"task '{self._task}' is asked about text"
            )
        for index, row in enumerate(rows):
            if isinstance(row, (str, dict)):
                continue
            if isinstance(row, list) and self._task == "text-generation":
                continue  # of messages
            if isinstance(row, bytes):
                raise InferenceError(self._misfit(tensor, index, "bytes"))
            raise InferenceError(self._misfit(tensor, index, type(row).__name__))
        for index, (row, given) in enumerate(zip(rows, elements_of(tensor.data), strict=False)):
            if codec is None and not isinstance(given, (str, bytes, bytearray, memoryview)):
                raise InferenceError(self._misfit(tensor, index, type(given).__name__))
            del row
        return rows

    def _read_images(self, tensor: RequestInput) -> list[Any]:
        """Images, or addresses of images on the web."""
        values = self._values(tensor)
        return [self._image(tensor, index, value) for index, value in enumerate(values)]

    def _image(self, tensor: RequestInput, index: int, value: Any) -> Any:
        if isinstance(value, (Image.Image, dict)) or _is_address(value):
            return value
        if isinstance(value, np.ndarray):
            if value.ndim not in (2, 3) or (value.ndim == 3 and value.shape[2] not in (1, 3, 4)):
                raise InferenceError(
                    f"input '{tensor.name}' has images of shape {list(value.shape)}, "
                    "expected [height, width, channels]"
                )
            pixels = value[..., 0] if value.ndim == 3 and value.shape[2] == 1 else value
            return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert("RGB")
        return decode_image(tensor.name, index, value)

    def _read_audio(self, tensor: RequestInput) -> list[Any]:
        """Samples, files of audio, or addresses of such files on the web."""
        rows = []
        for index, value in enumerate(self._values(tensor)):
            if isinstance(value, (np.ndarray, bytes, dict)) or _is_address(value):
                rows.append(value)
                continue
            file = _from_base64(value)
            if file is None:
                what = "text that is neither base64 nor an address" if isinstance(value, str) else ""
                raise InferenceError(self._misfit(tensor, index, what or type(value).__name__))
            rows.append(file)
        return rows

    def _read_objects(self, tensor: RequestInput) -> list[Any]:
        value = (self._codec(tensor) or HuggingfaceListJSONCodec).decode_input(tensor)
        rows = list(value) if isinstance(value, (list, np.ndarray)) else [value]
        for index, row in enumerate(rows):
            if not isinstance(row, (dict, list)):
                raise InferenceError(self._misfit(tensor, index, type(row).__name__))
            if self._task == "question-answering":
                for name in ("question", "context"):
                    if not isinstance(row.get(name) if isinstance(row, dict) else None, str):
                        raise InferenceError(
                            f"input '{tensor.name}': element {index} has no text in '{name}'"
                        )
            if isinstance(row, dict) and isinstance(row.get("image"), str) and not _is_address(row["image"]):
                row["image"] = decode_image(f"{tensor.name}.image", index, row["image"])
        return rows

    def _read_conversations(self, tensor: RequestInput) -> list[Any]:
        value = (self._codec(tensor) or HuggingfaceConversationCodec).decode_input(tensor)
        rows = list(value) if isinstance(value, (list, np.ndarray)) else [value]
        for index, row in enumerate(rows):
            if not isinstance(row, Conversation):
                raise InferenceError(self._misfit(tensor, index, type(row).__name__))
            if not row.new_user_input:
                raise InferenceError(f"input '{tensor.name}': element {index} has no `new_user_input`")
        return rows

    def _values(self, tensor: RequestInput) -> list[Any]:
        """Elements of an input of images or audio, arrays along the first dimension."""
        codec = self._codec(tensor)
        if codec is None and tensor.datatype in DTYPES:
            codec = NumpyListCodec
        value = elements_of(tensor.data) if codec is None else codec.decode_input(tensor)
        return list(value) if isinstance(value, (list, np.ndarray)) else [value]

    def _misfit(self, tensor: RequestInput, index: int, what: str) -> str:
        content_type = self._content_type(tensor)
        by = f" (content type '{content_type}')" if content_type else ""
        return (
            f"input '{tensor.name}'{by}: element {index} is {what}, task '{self._task}' expects {self._row}"
        )

    # How it is asked

    def _read_keyword(self, tensor: RequestInput) -> Any:
        """A number or text where there is one element of it, else a list; whatever its content type says."""
        codec = self._codec(tensor)
        if codec is not None:
            value = codec.decode_input(tensor)
            return value.tolist() if isinstance(value, np.ndarray) else value
        if tensor.datatype in DTYPES:
            array = NumpyCodec.decode_input(tensor)
            return array.item() if array.size == 1 else array.tolist()
        elements = elements_of(tensor.data)
        if elements and not any(isinstance(e, (str, bytes, bytearray, memoryview)) for e in elements):
            return elements[0] if len(elements) == 1 else elements  # numbers in a BYTES tensor, as JSON can
        texts = StringCodec.decode_input(tensor)
        return texts[0] if tensor.name in _SINGLE_TEXTS and len(texts) == 1 else texts

    def _codec(self, tensor: RequestInput) -> Any:
        content_type = self._content_type(tensor)
        return find_input_codec(content_type) if content_type else None

    def _content_type(self, tensor: RequestInput) -> str | None:
        own = tensor.parameters.content_type if tensor.parameters is not None else None
        return own or self._declared.get(tensor.name)


def _pairs(columns: dict[str, list[Any]]) -> list[Any]:
    for name in ("question", "context"):
        if not columns.get(name):
            raise InferenceError(f"input '{name}' is missing or empty: a question and its context are needed")
    questions, contexts = columns["question"], columns["context"]
    if len(contexts) == 1:
        contexts = contexts * len(questions)
    if len(questions) != len(contexts):
        raise InferenceError(
            f"inputs 'question' and 'context' have {len(questions)} and {len(contexts)} elements, "
            "expected as many contexts as questions, or one"
        )
    for name, texts in (("question", questions), ("context", contexts)):
        for index, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise InferenceError(f"input '{name}': element {index} is empty")
    return [{"question": q, "context": c} for q, c in zip(questions, contexts, strict=True)]


def _holds_text(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(element, (str, list)) for element in value)
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _key(kwargs: dict[str, Any]) -> Any:
    """Equal for equal arguments."""
    try:
        return json.dumps(kwargs, sort_keys=True)
    except (TypeError, ValueError):
        return uuid.uuid4()


def _keywords(pipe: Any) -> frozenset[str]:
    """Keyword arguments of a pipeline, as far as the signatures of its methods tell."""
    if isinstance(pipe, TaskPipeline):
        names = set(pipe.accepts)
        generates = pipe.generates
    else:
        names = set()
        parameters = list(inspect.signature(type(pipe)._sanitize_parameters).parameters.values())
        # All arguments pass this method: what the others know gets there only if it takes more than it names.
        takes_more = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        for method in ("preprocess", "postprocess", "__call__") if takes_more else ("__call__",):
            # The first is the pipeline, the second what flows through it.
            parameters += list(inspect.signature(getattr(type(pipe), method)).parameters.values())[2:]
        for parameter in parameters[1:]:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                names.add(parameter.name)
        can_generate: Callable[[], bool] | None = getattr(pipe.model, "can_generate", None)
        generates = takes_more and can_generate is not None and bool(can_generate())
        if takes_more and not generates and pipe.tokenizer is not None:
            names |= _OF_TOKENIZERS
    if generates:
        names |= vars(transformers.GenerationConfig()).keys() | {"max_new_tokens"}
    return frozenset(name for name in names if not name.startswith("_")) - _NOT_FOR_CLIENTS - _IGNORED


def _first_parameter(pipe: Any) -> str:
    parameters = list(inspect.signature(type(pipe).__call__).parameters.values())
    for parameter in parameters[1:2]:
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            return parameter.name
    return ARRAY_INPUTS


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("http://", "https://"))


def _from_base64(value: Any) -> bytes | None:
    import base64
    import binascii

    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if not isinstance(value, str):
        return None
    try:
        return base64.b64decode(value, validate=True) or None
    except (binascii.Error, ValueError):
        return None


def _quoted(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names)
