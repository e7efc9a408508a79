"""Payloads that are lists: of str, of bytes, of datetimes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, Union

import numpy as np

from mlserver.tensor import TensorData, count_elements, does_not_fill, flatten
from mlserver.types import Parameters, RequestInput, ResponseOutput

__all__ = [
    "ListElement",
    "ListPayload",
    "as_list",
    "column_of_bytes",
    "elements_in",
    "elements_of",
    "is_list_of",
]

ListElement = TypeVar("ListElement")
ListPayload = Union[ListElement, list[ListElement]]  # noqa: UP007 - generic


def is_list_of(payload: Any, instance_type: type | tuple[type, ...]) -> bool:
    """Whether `payload` is a list, not a tuple, of nothing but instances of the type; an empty list is."""
    return isinstance(payload, list) and all(isinstance(element, instance_type) for element in payload)


def column_of_bytes(name: str, content_type: str, elements: list[bytes], use_bytes: bool) -> ResponseOutput:
    """Encoded elements as a BYTES tensor of shape [N, 1]. use_bytes: as they are, else as str."""
    output: ResponseOutput = ResponseOutput.build(
        name=name,
        shape=[len(elements), 1],
        datatype="BYTES",
        parameters=Parameters.of_content_type(content_type),
        data=TensorData(elements if use_bytes else [element.decode() for element in elements]),
    )
    return output


def as_list(payload: Any) -> Iterator[Any]:
    """The elements of a list; anything else, a tuple or None too, is one element."""
    if isinstance(payload, (list, TensorData)) and isinstance(getattr(payload, "root", payload), list):
        yield from payload
    else:
        yield getattr(payload, "root", payload) if isinstance(payload, TensorData) else payload


def elements_of(values: Any) -> list[Any]:
    """The elements of a tensor's data as a list of its own: text, bytes and scalars count as one element."""
    if isinstance(values, TensorData):
        values = values.root
    if isinstance(values, list):
        return values.copy()
    if isinstance(values, np.ndarray):
        return values.ravel().tolist()  # type: ignore[no-any-return]
    if isinstance(values, (str, bytes, bytearray, memoryview, dict)) or not isinstance(values, Iterable):
        return [values]
    return list(values)


def elements_in(tensor: RequestInput) -> list[Any]:
    """The elements of a tensor, flat or nested, as a list of its own; they have to fill the shape unless that
    has a -1.

    A single one may have any shape: the length of a text, as clients of 1.x give for it, or what it holds.

    Raises InvalidTensor naming shape and number of elements when they disagree.
    """
    elements = elements_of(tensor.data)
    if elements and is_list_of(elements, list):
        elements = flatten(elements)
    if len(elements) != 1 and min(tensor.shape, default=0) >= 0:
        need = count_elements(tensor.shape)
        if len(elements) != need:
            raise does_not_fill(f"'{tensor.name}'", tensor.shape, len(elements))
    return elements
