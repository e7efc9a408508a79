"""What a model's signature says, in the words of the V2 protocol."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mlserver.codecs import Base64Codec, DatetimeCodec, NumpyCodec, NumpyRequestCodec, StringCodec
from mlserver.codecs.numpy import to_datatype
from mlserver.errors import CodecError
from mlserver.types import MetadataTensor, Parameters
from mlserver_mlflow.codecs import TensorDictCodec

if TYPE_CHECKING:
    from mlflow.types import Schema

__all__ = ["content_type_of", "tensors_of"]

# Content type of columns whose elements are JSON text each.
_JSON: Final = "pd_json"
_COLUMNS: Final = "pd"

# By name of MLflow's data type: lists, objects, maps and "any" have none.
_COLUMN_TYPES: Final = {
    "boolean": ("BOOL", NumpyCodec.ContentType),
    "integer": ("INT32", NumpyCodec.ContentType),
    "long": ("INT64", NumpyCodec.ContentType),
    "float": ("FP32", NumpyCodec.ContentType),
    "double": ("FP64", NumpyCodec.ContentType),
    "string": ("BYTES", StringCodec.ContentType),
    "binary": ("BYTES", Base64Codec.ContentType),
    "datetime": ("BYTES", DatetimeCodec.ContentType),
}


def content_type_of(schema: Schema) -> str:
    """How requests of this schema are decoded: columns as a DataFrame, tensors as a dict or as one array."""
    if not schema.is_tensor_spec():
        return _COLUMNS
    return TensorDictCodec.ContentType if schema.has_input_names() else NumpyRequestCodec.ContentType


def tensors_of(schema: Schema, prefix: str) -> list[MetadataTensor]:
    """A tensor for each column or tensor of a schema, in order. What has no name gets the prefix and its
    position, from 0.
    """
    tensors = []
    for position, spec in enumerate(schema.inputs):
        name = f"{prefix}{position}" if spec.name is None else str(spec.name)
        if schema.is_tensor_spec():
            datatype, content_type = _of_tensor(spec.type)
            shape = list(spec.shape)
        else:
            datatype, content_type = _COLUMN_TYPES.get(getattr(spec.type, "name", ""), ("BYTES", _JSON))
            shape = [-1, 1]
        parameters = Parameters(content_type=content_type)
        if content_type == _JSON and hasattr(spec.type, "to_dict"):  # types of old releases have none
            parameters.example = json.dumps(_example(spec.type.to_dict()))
        if not spec.required:
            parameters.required = False
        tensors.append(MetadataTensor(name=name, datatype=datatype, shape=shape, parameters=parameters))
    return tensors


def _example(kind: dict[str, Any]) -> Any:
    """The least value of a type, as MLflow describes types in the MLmodel file."""
    if kind["type"] == "object":
        properties = kind.get("properties", {})
        return {name: _example(of) for name, of in properties.items() if of.get("required", True)}
    return {"array": [], "map": {}, "any": None, "boolean": False, "string": ""}.get(kind["type"], 0)


def _of_tensor(dtype: np.dtype[Any]) -> tuple[str, str]:
    if dtype.kind == "M":
        return "BYTES", DatetimeCodec.ContentType
    try:
        return str(to_datatype(dtype).value), NumpyCodec.ContentType
    except CodecError:
        return "BYTES", NumpyCodec.ContentType  # complex numbers and the like: no request can hold them
