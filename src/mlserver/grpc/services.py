"""What the gRPC port answers: the V2 services, health, reflection.

ModelInfer is in `calls.InferCall`. Here is the rest: each method a coroutine from message to message, or a
generator of messages.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from mlserver.errors import ModelNotFound
from mlserver.executor import Call as Inferring
from mlserver.executor import Reply, describe
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc import health_pb2, model_repository_pb2, reflection_pb2, reflection_v1alpha_pb2
from mlserver.grpc._define import POOL
from mlserver.grpc.calls import Body, InferCall, Messages, Method, Pieces, StreamCall, UnaryCall, trailers_of
from mlserver.grpc.converters import (
    ModelMetadataResponseConverter,
    RepositoryIndexResponseConverter,
    ServerMetadataResponseConverter,
)
from mlserver.grpc.status import Code, RpcError
from mlserver.replica import Calls
from mlserver.types import RepositoryIndexResponse
from mlserver.wire.protobuf import decode_request, encode_stream_error, encode_stream_item, read_head

if TYPE_CHECKING:
    from mlserver.registry import LoadedModel
    from mlserver.service import Service
    from mlserver.settings import Settings

__all__ = ["methods"]

INFERENCE = "inference.GRPCInferenceService"
REPOSITORY = "inference.model_repository.ModelRepositoryService"
HEALTH = "grpc.health.v1.Health"
REFLECTIONS = {
    "grpc.reflection.v1.ServerReflection": reflection_pb2,
    "grpc.reflection.v1alpha.ServerReflection": reflection_v1alpha_pb2,
}

# Requests of one stream that may wait for their model, and that may be under way in Triton's dialect.
_MOST_WAITING = 16
_MOST_UNDER_WAY = 128
# Replies that may wait for their client there.
_MOST_ANSWERS = 16
# Metadata that chooses the dialect of a stream.
_DIALECT = "stream-dialect"
# Seconds between two looks at what `Watch` watches.
_WATCH = 0.25


def methods(service: Service, settings: Settings) -> list[Method]:
    """All methods of all services."""
    return [
        Method(INFERENCE, "ModelInfer", InferCall),
        *_Inference(service).methods(),
        *_Repository(service).methods(),
        *_Health(service).methods(),
        *(_Reflection(name, package).method() for name, package in REFLECTIONS.items()),
    ]


def _parse(cls: Any, message: Body) -> Any:
    try:
        return cls.FromString(bytes(message))
    except DecodeError as exc:
        raise RpcError(Code.INVALID_ARGUMENT, f"not a {cls.DESCRIPTOR.name}: {exc}") from exc


def _unary(service: str, name: str, request: Any, answer: Callable[[Any], Any]) -> Method:
    """A method that takes one message of a class and gives one message."""

    async def handler(message: Body, call: UnaryCall) -> bytes:
        reply: bytes = (await answer(_parse(request, message))).SerializeToString()
        return reply

    return Method(service, name, UnaryCall, handler)


class _Inference:
    """GRPCInferenceService, but for ModelInfer."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def methods(self) -> Iterator[Method]:
        answers = (
            (pb.ServerLiveRequest, self.live),
            (pb.ServerReadyRequest, self.ready),
            (pb.ModelReadyRequest, self.model_ready),
            (pb.ServerMetadataRequest, self.metadata),
            (pb.ModelMetadataRequest, self.model_metadata),
            (pb.ModelConfigRequest, self.model_config),
            (pb.ModelStatisticsRequest, self.model_statistics),
            (pb.SystemSharedMemoryStatusRequest, self.no_shared_memory),
            (pb.SystemSharedMemoryRegisterRequest, self.refuse_shared_memory),
            (pb.SystemSharedMemoryUnregisterRequest, self.no_shared_memory),
            (pb.CudaSharedMemoryStatusRequest, self.no_shared_memory),
            (pb.CudaSharedMemoryRegisterRequest, self.refuse_shared_memory),
            (pb.CudaSharedMemoryUnregisterRequest, self.no_shared_memory),
            (pb.TraceSettingRequest, self.no_settings),
            (pb.LogSettingsRequest, self.no_settings),
        )
        for request, answer in answers:
            yield _unary(INFERENCE, request.DESCRIPTOR.name.removesuffix("Request"), request, answer)
        yield Method(INFERENCE, "ModelStreamInfer", StreamCall, self.stream, "BIDI_STREAMING")

    async def live(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=self._service.live())

    async def ready(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._service.ready())

    async def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=self._service.model_ready(request.name, request.version or None))

    async def metadata(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return ServerMetadataResponseConverter.from_types(self._service.metadata())

    async def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        metadata = await self._service.model_metadata(request.name, request.version or None)
        return ModelMetadataResponseConverter.from_types(metadata)

    # What clients of Triton ask before they infer

    async def model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        metadata = await self._service.model_metadata(request.name, request.version or None)
        loaded = self._service.registry.find(request.name, request.version or None)
        inputs, outputs = metadata.inputs or [], metadata.outputs or []
        tensors = [*inputs, *outputs]
        # Triton's shapes are without the batch dimension, which is there when rows may be batched.
        batched = bool(tensors) and all(tensor.shape and tensor.shape[0] == -1 for tensor in tensors)
        config = pb.ModelConfig(
            name=metadata.name,
            platform=metadata.platform,
            max_batch_size=max(loaded.settings.max_batch_size, 1) if batched else 0,
        )
        config.model_transaction_policy.decoupled = _streams(loaded)
        for tensor in inputs:
            config.input.add(
                name=tensor.name, data_type=_data_type(tensor.datatype), dims=tensor.shape[batched:]
            )
        for tensor in outputs:
            config.output.add(
                name=tensor.name, data_type=_data_type(tensor.datatype), dims=tensor.shape[batched:]
            )
        return pb.ModelConfigResponse(config=config)

    async def model_statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        registry = self._service.registry
        if not request.name:
            models = registry.all()
        elif request.version:
            models = [registry.find(request.name, request.version)]
        else:
            models = registry.versions(registry.find(request.name).name)
        response = pb.ModelStatisticsResponse()
        for loaded in models:
            stages = loaded.replicas.stages
            response.model_stats.add(
                name=loaded.name,
                version=loaded.version or "",
                inference_count=stages.calls,
                execution_count=stages.batches,
                inference_stats=pb.InferStatistics(
                    success=_duration(stages.calls, stages.decode + stages.predict + stages.encode),
                    compute_input=_duration(stages.calls, stages.decode),
                    compute_infer=_duration(stages.calls, stages.predict),
                    compute_output=_duration(stages.calls, stages.encode),
                ),
            )
        return response

    async def no_shared_memory(self, request: Any) -> Any:
        return _response_of(request)

    async def refuse_shared_memory(self, request: Any) -> Any:
        raise RpcError(Code.UNIMPLEMENTED, "shared memory between client and server is not supported")

    async def no_settings(self, request: Any) -> Any:
        return _response_of(request)

    # Streams

    async def stream(self, messages: Messages, call: StreamCall) -> AsyncGenerator[Pieces, None]:
        """Replies in MLServer's dialect, or in Triton's for a client that shows that it speaks that."""
        requests = aiter(messages)
        first = await anext(requests, None)
        if first is None:
            raise RpcError(Code.INVALID_ARGUMENT, "a stream has at least one request")
        dialect = call.route.metadata.get(_DIALECT)
        if dialect is None:
            request, _ = decode_request(first)
            if getattr(request.parameters, _TRITON_FINAL, None) is not None:
                dialect = "triton"
        if dialect == "triton":
            replies = self._triton(first, requests, call)
        else:
            replies = self._mlserver(first, requests, call)
        async with aclosing(replies):
            async for pieces in replies:
                yield pieces

    async def _mlserver(
        self, first: Body, rest: AsyncIterator[Body], call: StreamCall
    ) -> AsyncGenerator[Pieces, None]:
        """One `predict_stream` of all requests; the model of the first answers all."""
        name, version, _ = read_head(first)
        target, events = call._server.target(name, version)
        metadata = call.route.metadata
        calls = _FewCalls(Inferring(first, metadata, "protobuf"))

        async def feed() -> None:
            try:
                async for message in rest:
                    calls.put(Inferring(message, metadata, "protobuf"))
                    await calls.room()
            except RpcError as exc:
                call.fail_with(exc)
            calls.end()

        feeding = asyncio.ensure_future(feed())
        try:
            async with aclosing(self._service.infer_stream(target, calls)) as replies:
                last: Reply | None = None
                async for last in replies:
                    yield _pieces(last)
                if last is not None:
                    call.trailers = trailers_of(last, events)
        finally:
            feeding.cancel()

    async def _triton(
        self, first: Body, rest: AsyncIterator[Body], call: StreamCall
    ) -> AsyncGenerator[Pieces, None]:
        """Each request by itself, those that are under way at the same time together; an error ends none of
        the others.
        """
        answers: asyncio.Queue[Pieces | None] = asyncio.Queue(_MOST_ANSWERS)
        tasks: set[asyncio.Task[None]] = set()

        async def answer(message: Body) -> None:
            async for pieces in self._triton_answers(message, call):
                await answers.put(pieces)

        async def feed() -> None:
            def start(message: Body) -> None:
                task = asyncio.ensure_future(answer(message))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

            start(first)
            try:
                async for message in rest:
                    start(message)
                    if len(tasks) >= _MOST_UNDER_WAY:
                        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            except RpcError as exc:
                call.fail_with(exc)
            if tasks:
                await asyncio.wait(tasks)
            await answers.put(None)

        feeding = asyncio.ensure_future(feed())
        try:
            while (pieces := await answers.get()) is not None:
                yield pieces
        finally:
            feeding.cancel()
            for task in tasks:
                task.cancel()

    async def _triton_answers(self, message: Body, call: StreamCall) -> AsyncIterator[Pieces]:
        request_id = ""
        try:
            request, _ = decode_request(message)
            name, version, request_id = read_head(message)
            target, _ = call._server.target(name, version)
            streams = _streams(self._service.registry.find(name, version or None))
            # The response of a model that only predicts is its last; of a stream nobody knows before its end.
            more = _NOT_FINAL if streams else _FINAL
            calls = Calls.of(Inferring(message, call.route.metadata, "protobuf"))
            async with aclosing(self._service.infer_stream(target, calls)) as replies:
                async for reply in replies:
                    yield encode_stream_item([*_pieces(reply), more])
            if streams and getattr(request.parameters, _TRITON_FINAL, False):
                final = pb.ModelInferResponse(model_name=name, model_version=version, id=request_id)
                yield encode_stream_item([final.SerializeToString(), _FINAL])
        except Exception as exc:
            yield [encode_stream_error(describe(exc)[1], request_id)]


class _FewCalls(Calls):
    """Calls that whoever puts them in waits for `room` to put in more. Made on the transport's loop."""

    def __init__(self, *calls: Inferring) -> None:
        super().__init__(*calls)
        self._front = asyncio.get_running_loop()
        self._room = asyncio.Event()

    async def room(self) -> None:
        while len(self) >= _MOST_WAITING:
            self._room.clear()
            if len(self) >= _MOST_WAITING:  # they are taken out by another thread
                await self._room.wait()

    async def _take_out(self) -> AsyncIterator[Inferring]:
        async for call in super()._take_out():
            if len(self) == _MOST_WAITING // 2:
                with suppress(RuntimeError):  # the transport's loop has ended
                    self._front.call_soon_threadsafe(self._room.set)
            yield call


_TRITON_FINAL = "triton_enable_empty_final_response"


def _final(whether: bool) -> bytes:
    """The parameter that tells whether a response is the last one, to stand behind the response."""
    response = pb.ModelInferResponse()
    response.parameters["triton_final_response"].bool_param = whether
    return response.SerializeToString()


_FINAL, _NOT_FINAL = _final(True), _final(False)


def _streams(loaded: LoadedModel) -> bool:
    """Whether the model may give any number of responses to one request."""
    description = loaded.replicas.description
    return description is not None and description.streams


def _pieces(reply: Reply) -> Pieces:
    body: Any = reply.body
    return body if type(body) is list else [body]


def _response_of(request: Any) -> Any:
    """An empty response of the same method."""
    return getattr(pb, request.DESCRIPTOR.name.replace("Request", "Response"))()


def _duration(count: int, seconds: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=round(seconds * 1e9))


def _data_type(datatype: Any) -> int:
    name = getattr(datatype, "value", datatype)
    number: int = pb.DataType.Value("TYPE_STRING" if name == "BYTES" else f"TYPE_{name}")
    return number


class _Repository:
    """The repository methods, in the service where they are now and in the one where they were."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def methods(self) -> Iterator[Method]:
        for name, package in ((INFERENCE, pb), (REPOSITORY, model_repository_pb2)):
            deprecated = name == REPOSITORY
            for method, answer in (
                ("RepositoryIndex", self.index),
                ("RepositoryModelLoad", self.load),
                ("RepositoryModelUnload", self.unload),
            ):
                request = getattr(package, f"{method}Request")
                yield _unary(name, method, request, _with_package(answer, package, method, deprecated))

    async def index(self, request: Any, package: Any) -> Any:
        items = RepositoryIndexResponse(root=await self._service.index(request.ready))
        return RepositoryIndexResponseConverter.from_types(items, package is model_repository_pb2)

    async def load(self, request: Any, package: Any) -> Any:
        given = request.parameters if hasattr(request, "parameters") else {}
        parameters = {
            key: getattr(value, str(value.WhichOneof("parameter_choice"))) for key, value in given.items()
        }
        await self._service.load(request.model_name, parameters)
        return package.RepositoryModelLoadResponse()

    async def unload(self, request: Any, package: Any) -> Any:
        await self._service.unload(request.model_name)
        return package.RepositoryModelUnloadResponse()


def _with_package(answer: Callable[..., Any], package: Any, method: str, deprecated: bool) -> Any:
    async def call(request: Any) -> Any:
        if deprecated:
            text = f"{REPOSITORY}/{method} is deprecated: {INFERENCE} has the same method"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
        return await answer(request, package)

    return call


class _Health:
    """grpc.health.v1: of the server (no name, or that of a service), or of a model by its name."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def methods(self) -> list[Method]:
        return [
            _unary(HEALTH, "Check", health_pb2.HealthCheckRequest, self.check),
            Method(HEALTH, "Watch", StreamCall, self.watch, "SERVER_STREAMING"),
        ]

    async def check(self, request: Any) -> Any:
        status = self._status(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            raise RpcError(Code.NOT_FOUND, f"there is no service or model '{request.service}'")
        return health_pb2.HealthCheckResponse(status=status)

    async def watch(self, messages: Messages, call: StreamCall) -> AsyncGenerator[Pieces, None]:
        requests = aiter(messages)
        message = await anext(requests, None)
        if message is None:
            raise RpcError(Code.INTERNAL, "Watch takes one message, there was none")
        name = _parse(health_pb2.HealthCheckRequest, message).service
        told = None
        while True:
            status = self._status(name)
            if status != told:
                told = status
                yield [health_pb2.HealthCheckResponse(status=status).SerializeToString()]
            if self._service.stopping:
                raise RpcError(Code.UNAVAILABLE, "the server is stopping")
            await asyncio.sleep(_WATCH)

    def _status(self, name: str) -> Any:
        response = health_pb2.HealthCheckResponse
        try:
            known = not name or name in (INFERENCE, REPOSITORY, HEALTH)
            serving = self._service.ready() if known else self._service.model_ready(name)
        except ModelNotFound:
            return response.SERVICE_UNKNOWN
        return response.SERVING if serving else response.NOT_SERVING


class _Reflection:
    """What there is, for clients that have no proto files. One package of messages a version."""

    def __init__(self, name: str, package: Any) -> None:
        self._name = name
        self._package = package

    def method(self) -> Method:
        return Method(self._name, "ServerReflectionInfo", StreamCall, self.info, "BIDI_STREAMING")

    async def info(self, messages: Messages, call: StreamCall) -> AsyncGenerator[Pieces, None]:
        package = self._package
        async for message in messages:
            request = _parse(package.ServerReflectionRequest, message)
            response = package.ServerReflectionResponse(valid_host=request.host)
            response.original_request.CopyFrom(request)
            try:
                self._answer(request, response)
            except KeyError as exc:
                response.error_response.error_code = Code.NOT_FOUND
                response.error_response.error_message = f"not found: {exc.args[0]}"
            yield [response.SerializeToString()]

    def _answer(self, request: Any, response: Any) -> None:
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            for name in (INFERENCE, REPOSITORY, HEALTH, *REFLECTIONS):
                response.list_services_response.service.add(name=name)
        elif kind == "file_by_filename":
            self._add_files(POOL.FindFileByName(request.file_by_filename), response)
        elif kind == "file_containing_symbol":
            self._add_files(POOL.FindFileContainingSymbol(request.file_containing_symbol), response)
        else:
            response.error_response.error_code = Code.UNIMPLEMENTED
            response.error_response.error_message = f"{kind} is not answered: no message has extensions"

    def _add_files(self, file: Any, response: Any) -> None:
        """A file and all that it imports."""
        waiting, added = [file], set()
        while waiting:
            file = waiting.pop()
            if file.name not in added:
                added.add(file.name)
                response.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
                waiting += file.dependencies
