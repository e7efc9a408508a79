# Written by `make protos` from proto/dataplane.proto: do not edit.
"""Client and server classes of `inference.GRPCInferenceService` for grpcio."""

from typing import Any

import grpc

from mlserver.grpc import dataplane_pb2 as pb


class GRPCInferenceServiceStub:
    """Calls the methods over a channel."""

    def __init__(self, channel: Any) -> None:
        self.ServerLive: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/ServerLive",
            request_serializer=pb.ServerLiveRequest.SerializeToString,
            response_deserializer=pb.ServerLiveResponse.FromString,
        )
        self.ServerReady: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/ServerReady",
            request_serializer=pb.ServerReadyRequest.SerializeToString,
            response_deserializer=pb.ServerReadyResponse.FromString,
        )
        self.ModelReady: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelReady",
            request_serializer=pb.ModelReadyRequest.SerializeToString,
            response_deserializer=pb.ModelReadyResponse.FromString,
        )
        self.ServerMetadata: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/ServerMetadata",
            request_serializer=pb.ServerMetadataRequest.SerializeToString,
            response_deserializer=pb.ServerMetadataResponse.FromString,
        )
        self.ModelMetadata: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelMetadata",
            request_serializer=pb.ModelMetadataRequest.SerializeToString,
            response_deserializer=pb.ModelMetadataResponse.FromString,
        )
        self.ModelInfer: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        self.ModelStreamInfer: Any = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        self.RepositoryIndex: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/RepositoryIndex",
            request_serializer=pb.RepositoryIndexRequest.SerializeToString,
            response_deserializer=pb.RepositoryIndexResponse.FromString,
        )
        self.RepositoryModelLoad: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/RepositoryModelLoad",
            request_serializer=pb.RepositoryModelLoadRequest.SerializeToString,
            response_deserializer=pb.RepositoryModelLoadResponse.FromString,
        )
        self.RepositoryModelUnload: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/RepositoryModelUnload",
            request_serializer=pb.RepositoryModelUnloadRequest.SerializeToString,
            response_deserializer=pb.RepositoryModelUnloadResponse.FromString,
        )
        self.ModelConfig: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelConfig",
            request_serializer=pb.ModelConfigRequest.SerializeToString,
            response_deserializer=pb.ModelConfigResponse.FromString,
        )
        self.ModelStatistics: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelStatistics",
            request_serializer=pb.ModelStatisticsRequest.SerializeToString,
            response_deserializer=pb.ModelStatisticsResponse.FromString,
        )
        self.SystemSharedMemoryStatus: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/SystemSharedMemoryStatus",
            request_serializer=pb.SystemSharedMemoryStatusRequest.SerializeToString,
            response_deserializer=pb.SystemSharedMemoryStatusResponse.FromString,
        )
        self.SystemSharedMemoryRegister: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/SystemSharedMemoryRegister",
            request_serializer=pb.SystemSharedMemoryRegisterRequest.SerializeToString,
            response_deserializer=pb.SystemSharedMemoryRegisterResponse.FromString,
        )
        self.SystemSharedMemoryUnregister: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/SystemSharedMemoryUnregister",
            request_serializer=pb.SystemSharedMemoryUnregisterRequest.SerializeToString,
            response_deserializer=pb.SystemSharedMemoryUnregisterResponse.FromString,
        )
        self.CudaSharedMemoryStatus: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/CudaSharedMemoryStatus",
            request_serializer=pb.CudaSharedMemoryStatusRequest.SerializeToString,
            response_deserializer=pb.CudaSharedMemoryStatusResponse.FromString,
        )
        self.CudaSharedMemoryRegister: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/CudaSharedMemoryRegister",
            request_serializer=pb.CudaSharedMemoryRegisterRequest.SerializeToString,
            response_deserializer=pb.CudaSharedMemoryRegisterResponse.FromString,
        )
        self.CudaSharedMemoryUnregister: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/CudaSharedMemoryUnregister",
            request_serializer=pb.CudaSharedMemoryUnregisterRequest.SerializeToString,
            response_deserializer=pb.CudaSharedMemoryUnregisterResponse.FromString,
        )
        self.TraceSetting: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/TraceSetting",
            request_serializer=pb.TraceSettingRequest.SerializeToString,
            response_deserializer=pb.TraceSettingResponse.FromString,
        )
        self.LogSettings: Any = channel.unary_unary(
            "/inference.GRPCInferenceService/LogSettings",
            request_serializer=pb.LogSettingsRequest.SerializeToString,
            response_deserializer=pb.LogSettingsResponse.FromString,
        )


class GRPCInferenceServiceServicer:
    """To be derived from: every method refuses."""

    def ServerLive(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def ServerReady(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def ModelReady(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def ServerMetadata(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def ModelInfer(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def ModelStreamInfer(self, request_iterator: Any, context: Any) -> Any:
        return _refuse(context)

    def RepositoryIndex(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def ModelConfig(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def ModelStatistics(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def SystemSharedMemoryStatus(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def CudaSharedMemoryStatus(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def CudaSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def CudaSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def TraceSetting(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def LogSettings(self, request: Any, context: Any) -> Any:
        return _refuse(context)


def add_GRPCInferenceServiceServicer_to_server(servicer: Any, server: Any) -> None:
    """Let `server` answer with `servicer`."""
    handlers = {
        "ServerLive": grpc.unary_unary_rpc_method_handler(
            servicer.ServerLive,
            request_deserializer=pb.ServerLiveRequest.FromString,
            response_serializer=pb.ServerLiveResponse.SerializeToString,
        ),
        "ServerReady": grpc.unary_unary_rpc_method_handler(
            servicer.ServerReady,
            request_deserializer=pb.ServerReadyRequest.FromString,
            response_serializer=pb.ServerReadyResponse.SerializeToString,
        ),
        "ModelReady": grpc.unary_unary_rpc_method_handler(
            servicer.ModelReady,
            request_deserializer=pb.ModelReadyRequest.FromString,
            response_serializer=pb.ModelReadyResponse.SerializeToString,
        ),
        "ServerMetadata": grpc.unary_unary_rpc_method_handler(
            servicer.ServerMetadata,
            request_deserializer=pb.ServerMetadataRequest.FromString,
            response_serializer=pb.ServerMetadataResponse.SerializeToString,
        ),
        "ModelMetadata": grpc.unary_unary_rpc_method_handler(
            servicer.ModelMetadata,
            request_deserializer=pb.ModelMetadataRequest.FromString,
            response_serializer=pb.ModelMetadataResponse.SerializeToString,
        ),
        "ModelInfer": grpc.unary_unary_rpc_method_handler(
            servicer.ModelInfer,
            request_deserializer=pb.ModelInferRequest.FromString,
            response_serializer=pb.ModelInferResponse.SerializeToString,
        ),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
            servicer.ModelStreamInfer,
            request_deserializer=pb.ModelInferRequest.FromString,
            response_serializer=pb.ModelInferResponse.SerializeToString,
        ),
        "RepositoryIndex": grpc.unary_unary_rpc_method_handler(
            servicer.RepositoryIndex,
            request_deserializer=pb.RepositoryIndexRequest.FromString,
            response_serializer=pb.RepositoryIndexResponse.SerializeToString,
        ),
        "RepositoryModelLoad": grpc.unary_unary_rpc_method_handler(
            servicer.RepositoryModelLoad,
            request_deserializer=pb.RepositoryModelLoadRequest.FromString,
            response_serializer=pb.RepositoryModelLoadResponse.SerializeToString,
        ),
        "RepositoryModelUnload": grpc.unary_unary_rpc_method_handler(
            servicer.RepositoryModelUnload,
            request_deserializer=pb.RepositoryModelUnloadRequest.FromString,
            response_serializer=pb.RepositoryModelUnloadResponse.SerializeToString,
        ),
        "ModelConfig": grpc.unary_unary_rpc_method_handler(
            servicer.ModelConfig,
            request_deserializer=pb.ModelConfigRequest.FromString,
            response_serializer=pb.ModelConfigResponse.SerializeToString,
        ),
        "ModelStatistics": grpc.unary_unary_rpc_method_handler(
            servicer.ModelStatistics,
            request_deserializer=pb.ModelStatisticsRequest.FromString,
            response_serializer=pb.ModelStatisticsResponse.SerializeToString,
        ),
        "SystemSharedMemoryStatus": grpc.unary_unary_rpc_method_handler(
            servicer.SystemSharedMemoryStatus,
            request_deserializer=pb.SystemSharedMemoryStatusRequest.FromString,
            response_serializer=pb.SystemSharedMemoryStatusResponse.SerializeToString,
        ),
        "SystemSharedMemoryRegister": grpc.unary_unary_rpc_method_handler(
            servicer.SystemSharedMemoryRegister,
            request_deserializer=pb.SystemSharedMemoryRegisterRequest.FromString,
            response_serializer=pb.SystemSharedMemoryRegisterResponse.SerializeToString,
        ),
        "SystemSharedMemoryUnregister": grpc.unary_unary_rpc_method_handler(
            servicer.SystemSharedMemoryUnregister,
            request_deserializer=pb.SystemSharedMemoryUnregisterRequest.FromString,
            response_serializer=pb.SystemSharedMemoryUnregisterResponse.SerializeToString,
        ),
        "CudaSharedMemoryStatus": grpc.unary_unary_rpc_method_handler(
            servicer.CudaSharedMemoryStatus,
            request_deserializer=pb.CudaSharedMemoryStatusRequest.FromString,
            response_serializer=pb.CudaSharedMemoryStatusResponse.SerializeToString,
        ),
        "CudaSharedMemoryRegister": grpc.unary_unary_rpc_method_handler(
            servicer.CudaSharedMemoryRegister,
            request_deserializer=pb.CudaSharedMemoryRegisterRequest.FromString,
            response_serializer=pb.CudaSharedMemoryRegisterResponse.SerializeToString,
        ),
        "CudaSharedMemoryUnregister": grpc.unary_unary_rpc_method_handler(
            servicer.CudaSharedMemoryUnregister,
            request_deserializer=pb.CudaSharedMemoryUnregisterRequest.FromString,
            response_serializer=pb.CudaSharedMemoryUnregisterResponse.SerializeToString,
        ),
        "TraceSetting": grpc.unary_unary_rpc_method_handler(
            servicer.TraceSetting,
            request_deserializer=pb.TraceSettingRequest.FromString,
            response_serializer=pb.TraceSettingResponse.SerializeToString,
        ),
        "LogSettings": grpc.unary_unary_rpc_method_handler(
            servicer.LogSettings,
            request_deserializer=pb.LogSettingsRequest.FromString,
            response_serializer=pb.LogSettingsResponse.SerializeToString,
        ),
    }
    generic = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)
    server.add_generic_rpc_handlers((generic,))


def _refuse(context: Any) -> Any:
    context.set_code(grpc.StatusCode.UNIMPLEMENTED)
    context.set_details("Method not implemented!")
    raise NotImplementedError("Method not implemented!")
