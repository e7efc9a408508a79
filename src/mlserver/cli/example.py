"""A request that a model can be tried with, as a line for a shell, made of what its metadata says."""

from __future__ import annotations

import json
import math
import shlex
from typing import Any
from urllib.parse import quote

from mlserver.types import MetadataModelResponse, MetadataTensor

__all__ = ["curl_line"]

_TEXT = "a text to try"
# By content type: what a BYTES tensor has to hold so that it can be decoded. The image is one grey pixel.
_TEXTS = {
    "base64": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg==",
    "datetime": "2024-01-01T00:00:00",
    "hg_json": '"a text to try"',
    "hg_jsonlist": '"a text to try"',
    "pd_json": "[]",
}
# Elements that are written out. A shell generates longer data: no command may have arguments of any length.
_MOST_WRITTEN = 1_000
_SIDE = 64  # of images of any size; some networks take none of one pixel


def curl_line(
    metadata: MetadataModelResponse, url: str, options: str = "", text: str | None = None
) -> str | None:
    """A call of curl that asks the model; None where its metadata does not say what it takes.

    url: of the server. options: further ones for curl. text: what to ask a model of text.
    """
    inputs = _one_of_each(metadata.inputs or [])
    if not inputs:
        return None
    target = f"{url}/v2/models/{quote(metadata.name, safe='')}/infer"
    command = " ".join(filter(None, ("curl -sS", options, shlex.quote(target), "-d")))
    pieces = [""]
    for tensor in inputs:
        shape = _shape(tensor)
        head = json.dumps({"name": tensor.name, "shape": shape, "datatype": tensor.datatype})[:-1]
        value = json.dumps(_value(tensor, text))
        pieces[-1] += (", " if pieces != [""] else "") + f'{head}, "data": ['
        if (size := math.prod(shape)) <= _MOST_WRITTEN:
            pieces[-1] += ", ".join([value] * size) + "]}"
        else:
            pieces += [f"yes {shlex.quote(value)} | head -n {size} | paste -sd, -", "]}"]
    pieces[0] = '{"inputs": [' + pieces[0]
    outputs = metadata.outputs or []
    asked = outputs[:1] if all(_told(tensor, "on_request") for tensor in outputs) else []
    pieces[-1] += f'], "outputs": {json.dumps([{"name": asked[0].name}])}}}' if asked else "]}"
    if len(pieces) == 1:
        return f"{command} {shlex.quote(pieces[0])}"
    steps = [step if index % 2 else f"printf %s {shlex.quote(step)}" for index, step in enumerate(pieces)]
    return f"{{ {'; '.join(steps)}; }} | {command} @-"


def _one_of_each(tensors: list[MetadataTensor]) -> list[MetadataTensor]:
    """The inputs that a request needs. Of alternatives, which have the same name, the first one."""
    needed: dict[str, MetadataTensor] = {}
    for tensor in tensors:
        if _told(tensor, "required") is not False:
            known = needed.setdefault(tensor.name, tensor)
            # A text means a path or an address where bytes would do as well.
            if known is not tensor and _content_type(tensor) == "base64":
                needed[tensor.name] = tensor
    return list(needed.values())


def _shape(tensor: MetadataTensor) -> list[int]:
    side = _SIDE if len(tensor.shape) == 4 and tensor.datatype != "BYTES" else 1
    return [size if size >= 0 else side if axis else 1 for axis, size in enumerate(tensor.shape)]


def _value(tensor: MetadataTensor, text: str | None) -> Any:
    example = _told(tensor, "example")
    if example is not None:
        return example
    if tensor.datatype == "BYTES":
        return _TEXTS.get(_content_type(tensor) or "", text or _TEXT)
    if tensor.datatype == "BOOL":
        return False
    return 0.0 if tensor.datatype.startswith("FP") else 0


def _content_type(tensor: MetadataTensor) -> str | None:
    return None if tensor.parameters is None else tensor.parameters.content_type


def _told(tensor: MetadataTensor, name: str) -> Any:
    return None if tensor.parameters is None else tensor.parameters.model_extra.get(name)
