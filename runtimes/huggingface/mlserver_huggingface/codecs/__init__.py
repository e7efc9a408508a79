"""Codecs for what pipelines take and give. Importing this registers them."""

# Lookup by payload goes through codecs in order of registration, which is the order of these imports.
from mlserver_huggingface.codecs.image import PILImageCodec  # isort: skip
from mlserver_huggingface.codecs.json import (  # isort: skip
    HuggingfaceListJSONCodec,
    HuggingfaceSingleJSONCodec,
)
from mlserver_huggingface.codecs.conversation import (  # isort: skip
    Conversation,
    HuggingfaceConversationCodec,
)
from mlserver_huggingface.codecs.numpylist import NumpyListCodec  # isort: skip
from mlserver_huggingface.codecs.raw import RawCodec  # isort: skip
from mlserver_huggingface.codecs.base import HuggingfaceRequestCodec  # isort: skip

__all__ = [
    "Conversation",
    "HuggingfaceConversationCodec",
    "HuggingfaceListJSONCodec",
    "HuggingfaceRequestCodec",
    "HuggingfaceSingleJSONCodec",
    "NumpyListCodec",
    "PILImageCodec",
    "RawCodec",
]
