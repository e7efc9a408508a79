# Written by `make protos` from proto/model_repository.proto: do not edit.
"""Client and server classes of `inference.model_repository.ModelRepositoryService` for grpcio."""

from typing import Any

import grpc

from mlserver.grpc import model_repository_pb2 as pb


class ModelRepositoryServiceStub:
    """Calls the methods over a channel."""

    def __init__(self, channel: Any) -> None:
        self.RepositoryIndex: Any = channel.unary_unary(
            "/inference.model_repository.ModelRepositoryService/RepositoryIndex",
            request_serializer=pb.RepositoryIndexRequest.SerializeToString,
            response_deserializer=pb.RepositoryIndexResponse.FromString,
        )
        self.RepositoryModelLoad: Any = channel.unary_unary(
            "/inference.model_repository.ModelRepositoryService/RepositoryModelLoad",
            request_serializer=pb.RepositoryModelLoadRequest.SerializeToString,
            response_deserializer=pb.RepositoryModelLoadResponse.FromString,
        )
        self.RepositoryModelUnload: Any = channel.unary_unary(
            "/inference.model_repository.ModelRepositoryService/RepositoryModelUnload",
            request_serializer=pb.RepositoryModelUnloadRequest.SerializeToString,
            response_deserializer=pb.RepositoryModelUnloadResponse.FromString,
        )


class ModelRepositoryServiceServicer:
    """To be derived from: every method refuses."""

    def RepositoryIndex(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        return _refuse(context)

    def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        return _refuse(context)


def add_ModelRepositoryServiceServicer_to_server(servicer: Any, server: Any) -> None:
    """Let `server` answer with `servicer`."""
    handlers = {
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
    }
    generic = grpc.method_handlers_generic_handler("inference.model_repository.ModelRepositoryService", handlers)
    server.add_generic_rpc_handlers((generic,))


def _refuse(context: Any) -> Any:
    context.set_code(grpc.StatusCode.UNIMPLEMENTED)
    context.set_details("Method not implemented!")
    raise NotImplementedError("Method not implemented!")
