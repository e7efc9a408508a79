"""Errors of codecs, under the name users import them by."""

from mlserver.errors import CodecError, CodecNotFound, InputsNotFound, InvalidTensor, OutputNotFound

__all__ = ["CodecError", "CodecNotFound", "InputsNotFound", "InvalidTensor", "OutputNotFound"]
