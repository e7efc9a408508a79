"""Messages of `mlserver.types` from and to those of protobuf: for clients, and for all but inference.

    request = ModelInferRequestConverter.from_types(request, model_name="m", use_raw=True)
    response = ModelInferResponseConverter.to_types(await stub.ModelInfer(request))

Every converter has `to_types` and `from_types`; a direction that nobody needs raises NotImplementedError. An
argument is never changed. The server does not convert what it infers with: `wire.protobuf` knows the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc import model_repository_pb2 as mr_pb
from mlserver.tensor import TensorData
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataServerResponse,
    MetadataTensor,
    Parameters,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryIndexResponseItem,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)
from mlserver.wire import protobuf as wire

__all__ = [
    "InferInputTensorConverter",
    "InferOutputTensorConverter",
    "InferRequestedOutputTensorConverter",
    "InferTensorContentsConverter",
    "ModelInferRequestConverter",
    "ModelInferResponseConverter",
    "ModelMetadataResponseConverter",
    "ParametersConverter",
    "RepositoryIndexRequestConverter",
    "RepositoryIndexResponseConverter",
    "RepositoryIndexResponseItemConverter",
    "ServerMetadataResponseConverter",
    "TensorMetadataConverter",
]


class ModelInferRequestConverter:
    @staticmethod
    def to_types(pb_object: pb.ModelInferRequest) -> InferenceRequest:
        """A request, typed or raw. An id that was not sent is empty, `outputs` that were not are None.

        Raises InvalidRequest and InvalidTensor for what the protocol does not allow.
        """
        request, _ = wire.decode_request(pb_object.SerializeToString())
        request.id = pb_object.id
        return request

    @staticmethod
    def from_types(
        type_object: InferenceRequest, model_name: str, model_version: str | None = "", use_raw: bool = False
    ) -> pb.ModelInferRequest:
        """use_raw: tensors go to `raw_input_contents`, which is quicker and asks for an answer likewise.

        Raises CodecError for values that do not fit their datatype.
        """
        data = wire.encode_request(type_object, model_name, model_version, use_raw)
        return pb.ModelInferRequest.FromString(data)


class ModelInferResponseConverter:
    @staticmethod
    def to_types(pb_object: pb.ModelInferResponse) -> InferenceResponse:
        """A response, typed or raw. An id that was not sent is empty, a version that was not is None.

        Raises InvalidRequest and InvalidTensor for what the protocol does not allow.
        """
        response = wire.decode_response(pb_object.SerializeToString())
        response.id = pb_object.id
        return response

    @staticmethod
    def from_types(type_object: InferenceResponse, use_raw: bool = False) -> pb.ModelInferResponse:
        """Raises MLServerError for values that do not fit their datatype."""
        return pb.ModelInferResponse.FromString(wire.encode_response(type_object, use_raw))


class InferInputTensorConverter:
    @staticmethod
    def to_types(pb_object: pb.ModelInferRequest.InferInputTensor) -> RequestInput:
        return _request(inputs=[pb_object]).inputs[0]

    @staticmethod
    def from_types(type_object: RequestInput) -> pb.ModelInferRequest.InferInputTensor:
        return _message(inputs=[type_object]).inputs[0]


class InferRequestedOutputTensorConverter:
    @staticmethod
    def to_types(pb_object: pb.ModelInferRequest.InferRequestedOutputTensor) -> RequestOutput:
        return (_request(outputs=[pb_object]).outputs or [])[0]

    @staticmethod
    def from_types(type_object: RequestOutput) -> pb.ModelInferRequest.InferRequestedOutputTensor:
        return _message(outputs=[type_object]).outputs[0]


class InferOutputTensorConverter:
    @staticmethod
    def to_types(pb_object: pb.ModelInferResponse.InferOutputTensor) -> ResponseOutput:
        response = wire.decode_response(pb.ModelInferResponse(outputs=[pb_object]).SerializeToString())
        return response.outputs[0]

    @staticmethod
    def from_types(type_object: ResponseOutput) -> pb.ModelInferResponse.InferOutputTensor:
        response = InferenceResponse.build(model_name="", outputs=[type_object])
        return pb.ModelInferResponse.FromString(wire.encode_response(response, raw=False)).outputs[0]


class InferTensorContentsConverter:
    @staticmethod
    def to_types(pb_object: pb.InferTensorContents) -> TensorData:
        """The values of the first field that has any."""
        tensor = pb.ModelInferRequest.InferInputTensor(datatype="BYTES", contents=pb_object)
        return InferInputTensorConverter.to_types(tensor).data  # type: ignore[no-any-return]

    @staticmethod
    def from_types(type_object: Any, datatype: str) -> pb.InferTensorContents:
        """type_object: TensorData, a list, flat or nested, or an array."""
        tensor = RequestInput.build(name="", shape=[], datatype=datatype, data=type_object)
        return InferInputTensorConverter.from_types(tensor).contents


class ParametersConverter:
    """bool, int, float and str. Values of any other type are left out."""

    @staticmethod
    def to_types(pb_object: Mapping[str, pb.InferParameter]) -> Parameters | None:
        """None where there are none. Raises InvalidRequest for a `content_type` that is no text."""
        return wire.to_parameters(pb_object)

    @staticmethod
    def from_types(type_object: Parameters) -> dict[str, pb.InferParameter]:
        return dict(_message(parameters=type_object).parameters)


class ServerMetadataResponseConverter:
    @staticmethod
    def to_types(pb_object: pb.ServerMetadataResponse) -> MetadataServerResponse:
        return MetadataServerResponse(
            name=pb_object.name, version=pb_object.version, extensions=list(pb_object.extensions)
        )

    @staticmethod
    def from_types(type_object: MetadataServerResponse) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name=type_object.name, version=type_object.version, extensions=type_object.extensions
        )


class ModelMetadataResponseConverter:
    @staticmethod
    def to_types(pb_object: pb.ModelMetadataResponse) -> MetadataModelResponse:
        """`inputs` and `outputs` that were not sent are None."""
        return MetadataModelResponse(
            name=pb_object.name,
            versions=list(pb_object.versions),
            platform=pb_object.platform,
            inputs=[TensorMetadataConverter.to_types(tensor) for tensor in pb_object.inputs] or None,
            outputs=[TensorMetadataConverter.to_types(tensor) for tensor in pb_object.outputs] or None,
            parameters=ParametersConverter.to_types(pb_object.parameters),
        )

    @staticmethod
    def from_types(type_object: MetadataModelResponse) -> pb.ModelMetadataResponse:
        return pb.ModelMetadataResponse(
            name=type_object.name,
            versions=type_object.versions,
            platform=type_object.platform,
            inputs=[TensorMetadataConverter.from_types(tensor) for tensor in type_object.inputs or ()],
            outputs=[TensorMetadataConverter.from_types(tensor) for tensor in type_object.outputs or ()],
            parameters=_to_map(type_object.parameters),
        )


class TensorMetadataConverter:
    @staticmethod
    def to_types(pb_object: pb.ModelMetadataResponse.TensorMetadata) -> MetadataTensor:
        """Raises pydantic.ValidationError for an unknown datatype."""
        return MetadataTensor(
            name=pb_object.name,
            datatype=pb_object.datatype,
            shape=list(pb_object.shape),
            parameters=ParametersConverter.to_types(pb_object.parameters),
        )

    @staticmethod
    def from_types(type_object: MetadataTensor) -> pb.ModelMetadataResponse.TensorMetadata:
        return pb.ModelMetadataResponse.TensorMetadata(
            name=type_object.name,
            datatype=_name_of(type_object.datatype),
            shape=type_object.shape,
            parameters=_to_map(type_object.parameters),
        )


class RepositoryIndexRequestConverter:
    @staticmethod
    def to_types(
        pb_object: pb.RepositoryIndexRequest | mr_pb.RepositoryIndexRequest,
    ) -> RepositoryIndexRequest:
        return RepositoryIndexRequest(ready=pb_object.ready)

    @staticmethod
    def from_types(type_object: RepositoryIndexRequest) -> pb.RepositoryIndexRequest:
        raise NotImplementedError("not needed")


class RepositoryIndexResponseConverter:
    @staticmethod
    def to_types(pb_object: pb.RepositoryIndexResponse) -> RepositoryIndexResponse:
        raise NotImplementedError("not needed")

    @staticmethod
    def from_types(type_object: RepositoryIndexResponse, use_model_repository: bool = False) -> Any:
        """use_model_repository: a message of the deprecated package `inference.model_repository`."""
        package: Any = mr_pb if use_model_repository else pb
        return package.RepositoryIndexResponse(
            models=[
                RepositoryIndexResponseItemConverter.from_types(item, use_model_repository)
                for item in type_object
            ]
        )


class RepositoryIndexResponseItemConverter:
    @staticmethod
    def to_types(pb_object: pb.RepositoryIndexResponse.ModelIndex) -> RepositoryIndexResponseItem:
        raise NotImplementedError("not needed")

    @staticmethod
    def from_types(type_object: RepositoryIndexResponseItem, use_model_repository: bool = False) -> Any:
        package: Any = mr_pb if use_model_repository else pb
        return package.RepositoryIndexResponse.ModelIndex(
            name=type_object.name,
            version=type_object.version or "",
            state=_name_of(type_object.state),  # exactly: clients compare it
            reason=type_object.reason or "",
        )


def _request(**fields: Any) -> InferenceRequest:
    request, _ = wire.decode_request(pb.ModelInferRequest(**fields).SerializeToString())
    return request


def _message(**fields: Any) -> pb.ModelInferRequest:
    request = InferenceRequest.build(**{"inputs": [], **fields})
    return pb.ModelInferRequest.FromString(wire.encode_request(request, ""))


def _to_map(parameters: Parameters | None) -> dict[str, pb.InferParameter]:
    return {} if parameters is None else ParametersConverter.from_types(parameters)


def _name_of(member: Any) -> Any:
    """The name itself, or that of the enum member that user code assigned."""
    return getattr(member, "value", member)
