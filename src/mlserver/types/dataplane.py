"""Messages of the V2 inference protocol: metadata, inference requests and responses."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mlserver.tensor import TensorData
from mlserver.types.base import BaseModel, Parameters, set_field

__all__ = [
    "Datatype",
    "InferenceErrorResponse",
    "InferenceRequest",
    "InferenceResponse",
    "MetadataModelErrorResponse",
    "MetadataModelResponse",
    "MetadataServerErrorResponse",
    "MetadataServerResponse",
    "MetadataTensor",
    "Parameters",
    "RequestInput",
    "RequestOutput",
    "ResponseOutput",
    "TensorData",
]


class Datatype(enum.Enum):
    """The datatypes of the V2 protocol. Messages hold their names as plain strings."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"


if TYPE_CHECKING:
    DatatypeName = Any
    Data = Any
else:
    DatatypeName = Literal[tuple(member.value for member in Datatype)]
    # msgspec leaves `data` as the JSON it was; `__post_init__` makes it TensorData.
    Data = msgspec.Raw


class MetadataServerResponse(BaseModel):
    name: str
    version: str
    extensions: list[str]


class MetadataServerErrorResponse(BaseModel):
    error: str


class MetadataModelErrorResponse(BaseModel):
    error: str


class MetadataTensor(BaseModel):
    """An input or output that a model declares. A dimension of -1 may have any length."""

    name: str
    datatype: DatatypeName
    shape: list[int]
    parameters: Parameters | None = None


class MetadataModelResponse(BaseModel):
    name: str
    versions: list[str] | None = None
    platform: str
    inputs: list[MetadataTensor] | None = None
    outputs: list[MetadataTensor] | None = None
    parameters: Parameters | None = None


class _Tensor(BaseModel):
    """A named tensor: `data` holds its values, row-major, flat or nested."""

    name: str
    shape: list[int]
    datatype: DatatypeName
    parameters: Parameters | None = None
    data: Data

    def __post_init__(self) -> None:
        if type(self.data) is msgspec.Raw:
            data = TensorData.from_json(self.data)
            set_field(self, "data", data)


class RequestInput(_Tensor):
    """One tensor of a request."""


class ResponseOutput(_Tensor):
    """One tensor of a response."""


class RequestOutput(BaseModel):
    """An output that a request asks for."""

    name: str
    parameters: Parameters | None = None


class InferenceRequest(BaseModel):
    id: str | None = None
    parameters: Parameters | None = None
    inputs: list[RequestInput]
    outputs: list[RequestOutput] | None = None


class InferenceResponse(BaseModel):
    model_name: str
    model_version: str | None = None
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[ResponseOutput]


class InferenceErrorResponse(BaseModel):
    error: str | None = None
