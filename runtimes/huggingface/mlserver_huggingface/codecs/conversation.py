"""Conversations: what a user and a model said so far, and what the user says now."""

from __future__ import annotations

import uuid as _uuid
from typing import Any, ClassVar, List  # noqa: UP035 - the hint users compare with

import orjson
import transformers

from mlserver.codecs import InputCodec, register_input_codec
from mlserver.codecs.json import decode_json_input_or_output
from mlserver.codecs.lists import column_of_bytes, is_list_of
from mlserver.errors import CodecError
from mlserver.types import RequestInput, ResponseOutput

__all__ = ["Conversation", "HuggingfaceConversationCodec", "to_dict"]


class _Conversation:
    """What transformers called `Conversation`, up to 4.41.

    text: what the user says now. The past is two lists, of what the user said and of what was answered.
    """

    def __init__(
        self,
        text: str | None = None,
        conversation_id: Any = None,
        past_user_inputs: list[str] | None = None,
        generated_responses: list[str] | None = None,
    ) -> None:
        self.uuid = conversation_id or _uuid.uuid4()
        self.past_user_inputs = list(past_user_inputs or ())
        self.generated_responses = list(generated_responses or ())
        self.new_user_input = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Conversation) and to_dict(self) == to_dict(other)

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def add_user_input(self, text: str) -> None:
        self.new_user_input = text

    def append_response(self, response: str) -> None:
        """The model has answered what the user said."""
        if self.new_user_input is not None:
            self.past_user_inputs.append(self.new_user_input)
            self.new_user_input = None
        self.generated_responses.append(response)


Conversation: Any = getattr(transformers, "Conversation", _Conversation)
"""The class of the installed transformers, or ours where it has none."""


def to_dict(conversation: Any) -> dict[str, Any]:
    return {
        "uuid": str(conversation.uuid),
        "past_user_inputs": list(conversation.past_user_inputs),
        "generated_responses": list(conversation.generated_responses),
        "new_user_input": conversation.new_user_input,
    }


@register_input_codec
class HuggingfaceConversationCodec(InputCodec):
    """List of conversations <-> BYTES tensor of shape [N, 1]: a JSON object each, with `uuid`,
    `past_user_inputs`, `generated_responses` and `new_user_input`.
    """

    ContentType: ClassVar[str] = "hg_conversation"
    TypeHint: ClassVar[Any] = List[Any]  # noqa: UP006

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, list) and len(payload) > 0 and is_list_of(payload, Conversation)

    @classmethod
    def encode_output(cls, name: str, payload: Any, use_bytes: bool = True, **kwargs: Any) -> ResponseOutput:
        """use_bytes: JSON as UTF-8 bytes, else as str."""
        texts = [orjson.dumps(to_dict(conversation)) for conversation in payload]
        return column_of_bytes(name, cls.ContentType, texts, use_bytes)

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        """A list of conversations. Raises CodecError naming the first element that is none."""
        values = decode_json_input_or_output(request_input)
        return [_from_json(request_input.name, index, value) for index, value in enumerate(values)]


def _from_json(name: str, index: int, value: Any) -> Any:
    where = f"'{name}': element {index}"
    if not isinstance(value, dict):
        raise CodecError(f"{where} is {type(value).__name__}, expected an object with `new_user_input`")
    text = value.get("new_user_input")
    if text is not None and not isinstance(text, str):
        raise CodecError(f"{where} has a `new_user_input` of type {type(text).__name__}, expected text")
    past: dict[str, list[str]] = {}
    for key in ("past_user_inputs", "generated_responses"):
        said = value.get(key) or []
        if not is_list_of(said, str):
            raise CodecError(f"{where}: `{key}` is not a list of texts")
        past[key] = said
    return Conversation(text=text, conversation_id=value.get("uuid") or None, **past)
