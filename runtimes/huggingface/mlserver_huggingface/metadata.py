"""The tensors of each task, for the metadata of a model."""

from __future__ import annotations

from mlserver.types import MetadataTensor, Parameters

__all__ = ["METADATA", "inputs_of", "outputs_of"]

_Tensor = tuple[str, str, str]  # name, datatype, content type

_TEXTS: list[_Tensor] = [("args", "BYTES", "str")]
_TEXT_LIST: list[_Tensor] = [("array_inputs", "BYTES", "str")]
_OBJECTS: list[_Tensor] = [("array_inputs", "BYTES", "hg_jsonlist")]
_AUDIO: list[_Tensor] = [
    ("inputs", "BYTES", "str"),
    ("inputs", "BYTES", "base64"),
    ("inputs", "FP32", "nplist"),
]
_IMAGES: list[_Tensor] = [
    ("inputs", "BYTES", "str"),
    ("inputs", "BYTES", "base64"),
    ("inputs", "BYTES", "pillow_image"),
]
_SPOKEN: list[_Tensor] = [("output_*", "BYTES", "hg_json")]

METADATA: dict[str, tuple[list[_Tensor], list[_Tensor]]] = {
    "audio-classification": (_AUDIO, _SPOKEN),
    "automatic-speech-recognition": (_AUDIO, _SPOKEN),
    "feature-extraction": (_TEXTS, [("outputs", "FP64", "pd")]),
    "text-classification": (_TEXTS, [("outputs", "BYTES", "hg_json")]),
    "token-classification": (_TEXTS, []),
    "question-answering": ([("context", "BYTES", "str"), ("question", "BYTES", "str")], []),
    "table-question-answering": (_OBJECTS, []),
    "visual-question-answering": (_OBJECTS, []),
    "fill-mask": (_TEXT_LIST, []),
    "summarization": (_TEXT_LIST, []),
    "translation": (_TEXT_LIST, []),
    "text2text-generation": (_TEXT_LIST, []),
    "text-generation": (_TEXT_LIST, []),
    "zero-shot-classification": ([*_TEXT_LIST, ("candidate_labels", "BYTES", "str")], []),
    "zero-shot-image-classification": (
        [
            ("array_inputs", "BYTES", "str"),
            ("array_inputs", "BYTES", "base64"),
            ("array_inputs", "FP32", "nplist"),
            ("candidate_labels", "BYTES", "str"),
        ],
        [],
    ),
    "conversational": ([("array_inputs", "FP32", "hg_conversation")], []),
    "image-classification": (_IMAGES, []),
    "image-segmentation": (_IMAGES, []),
    "object-detection": (_IMAGES, []),
}
"""Inputs and outputs by task. Several of one name are alternatives."""


def inputs_of(task: str) -> list[MetadataTensor]:
    return [_tensor(tensor) for tensor in METADATA.get(task, ([], []))[0]]


def outputs_of(task: str) -> list[MetadataTensor]:
    return [_tensor(tensor) for tensor in METADATA.get(task, ([], []))[1]]


def _tensor(tensor: _Tensor) -> MetadataTensor:
    name, datatype, content_type = tensor
    return MetadataTensor(
        name=name, datatype=datatype, shape=[-1], parameters=Parameters(content_type=content_type)
    )
