# Written by `make protos` from proto/dataplane.proto: do not edit.
"""Messages of package `inference`."""

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.containers import MessageMap, RepeatedCompositeFieldContainer
from google.protobuf.internal.containers import RepeatedScalarFieldContainer
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor

DataType: EnumTypeWrapper
TYPE_INVALID: int
TYPE_BOOL: int
TYPE_UINT8: int
TYPE_UINT16: int
TYPE_UINT32: int
TYPE_UINT64: int
TYPE_INT8: int
TYPE_INT16: int
TYPE_INT32: int
TYPE_INT64: int
TYPE_FP16: int
TYPE_FP32: int
TYPE_FP64: int
TYPE_STRING: int
TYPE_BF16: int

class ServerLiveRequest(Message):
    def __init__(self) -> None: ...

class ServerLiveResponse(Message):
    live: bool
    def __init__(self, *, live: bool | None = ...) -> None: ...

class ServerReadyRequest(Message):
    def __init__(self) -> None: ...

class ServerReadyResponse(Message):
    ready: bool
    def __init__(self, *, ready: bool | None = ...) -> None: ...

class ModelReadyRequest(Message):
    name: str
    version: str
    def __init__(self, *, name: str | None = ..., version: str | None = ...) -> None: ...

class ModelReadyResponse(Message):
    ready: bool
    def __init__(self, *, ready: bool | None = ...) -> None: ...

class ServerMetadataRequest(Message):
    def __init__(self) -> None: ...

class ServerMetadataResponse(Message):
    name: str
    version: str
    extensions: RepeatedScalarFieldContainer[str]
    def __init__(self, *, name: str | None = ..., version: str | None = ..., extensions: Iterable[str] | None = ...) -> None: ...

class ModelMetadataRequest(Message):
    name: str
    version: str
    def __init__(self, *, name: str | None = ..., version: str | None = ...) -> None: ...

class ModelMetadataResponse(Message):
    class TensorMetadata(Message):
        name: str
        datatype: str
        shape: RepeatedScalarFieldContainer[int]
        parameters: MessageMap[str, InferParameter]
        def __init__(self, *, name: str | None = ..., datatype: str | None = ..., shape: Iterable[int] | None = ..., parameters: Mapping[str, InferParameter] | None = ...) -> None: ...
    name: str
    versions: RepeatedScalarFieldContainer[str]
    platform: str
    inputs: RepeatedCompositeFieldContainer[ModelMetadataResponse.TensorMetadata]
    outputs: RepeatedCompositeFieldContainer[ModelMetadataResponse.TensorMetadata]
    parameters: MessageMap[str, InferParameter]
    def __init__(self, *, name: str | None = ..., versions: Iterable[str] | None = ..., platform: str | None = ..., inputs: Iterable[ModelMetadataResponse.TensorMetadata | Mapping[str, Any]] | None = ..., outputs: Iterable[ModelMetadataResponse.TensorMetadata | Mapping[str, Any]] | None = ..., parameters: Mapping[str, InferParameter] | None = ...) -> None: ...

class ModelInferRequest(Message):
    class InferInputTensor(Message):
        name: str
        datatype: str
        shape: RepeatedScalarFieldContainer[int]
        parameters: MessageMap[str, InferParameter]
        contents: InferTensorContents
        def __init__(self, *, name: str | None = ..., datatype: str | None = ..., shape: Iterable[int] | None = ..., parameters: Mapping[str, InferParameter] | None = ..., contents: InferTensorContents | Mapping[str, Any] | None = ...) -> None: ...
    class InferRequestedOutputTensor(Message):
        name: str
        parameters: MessageMap[str, InferParameter]
        def __init__(self, *, name: str | None = ..., parameters: Mapping[str, InferParameter] | None = ...) -> None: ...
    model_name: str
    model_version: str
    id: str
    parameters: MessageMap[str, InferParameter]
    inputs: RepeatedCompositeFieldContainer[ModelInferRequest.InferInputTensor]
    outputs: RepeatedCompositeFieldContainer[ModelInferRequest.InferRequestedOutputTensor]
    raw_input_contents: RepeatedScalarFieldContainer[bytes]
    def __init__(self, *, model_name: str | None = ..., model_version: str | None = ..., id: str | None = ..., parameters: Mapping[str, InferParameter] | None = ..., inputs: Iterable[ModelInferRequest.InferInputTensor | Mapping[str, Any]] | None = ..., outputs: Iterable[ModelInferRequest.InferRequestedOutputTensor | Mapping[str, Any]] | None = ..., raw_input_contents: Iterable[bytes] | None = ...) -> None: ...

class ModelInferResponse(Message):
    class InferOutputTensor(Message):
        name: str
        datatype: str
        shape: RepeatedScalarFieldContainer[int]
        parameters: MessageMap[str, InferParameter]
        contents: InferTensorContents
        def __init__(self, *, name: str | None = ..., datatype: str | None = ..., shape: Iterable[int] | None = ..., parameters: Mapping[str, InferParameter] | None = ..., contents: InferTensorContents | Mapping[str, Any] | None = ...) -> None: ...
    model_name: str
    model_version: str
    id: str
    parameters: MessageMap[str, InferParameter]
    outputs: RepeatedCompositeFieldContainer[ModelInferResponse.InferOutputTensor]
    raw_output_contents: RepeatedScalarFieldContainer[bytes]
    def __init__(self, *, model_name: str | None = ..., model_version: str | None = ..., id: str | None = ..., parameters: Mapping[str, InferParameter] | None = ..., outputs: Iterable[ModelInferResponse.InferOutputTensor | Mapping[str, Any]] | None = ..., raw_output_contents: Iterable[bytes] | None = ...) -> None: ...

class ModelStreamInferResponse(Message):
    error_message: str
    infer_response: ModelInferResponse
    def __init__(self, *, error_message: str | None = ..., infer_response: ModelInferResponse | Mapping[str, Any] | None = ...) -> None: ...

class InferParameter(Message):
    bool_param: bool
    int64_param: int
    string_param: str
    double_param: float
    uint64_param: int
    def __init__(self, *, bool_param: bool | None = ..., int64_param: int | None = ..., string_param: str | None = ..., double_param: float | None = ..., uint64_param: int | None = ...) -> None: ...

class InferTensorContents(Message):
    bool_contents: RepeatedScalarFieldContainer[bool]
    int_contents: RepeatedScalarFieldContainer[int]
    int64_contents: RepeatedScalarFieldContainer[int]
    uint_contents: RepeatedScalarFieldContainer[int]
    uint64_contents: RepeatedScalarFieldContainer[int]
    fp32_contents: RepeatedScalarFieldContainer[float]
    fp64_contents: RepeatedScalarFieldContainer[float]
    bytes_contents: RepeatedScalarFieldContainer[bytes]
    def __init__(self, *, bool_contents: Iterable[bool] | None = ..., int_contents: Iterable[int] | None = ..., int64_contents: Iterable[int] | None = ..., uint_contents: Iterable[int] | None = ..., uint64_contents: Iterable[int] | None = ..., fp32_contents: Iterable[float] | None = ..., fp64_contents: Iterable[float] | None = ..., bytes_contents: Iterable[bytes] | None = ...) -> None: ...

class ModelRepositoryParameter(Message):
    bool_param: bool
    int64_param: int
    string_param: str
    bytes_param: bytes
    def __init__(self, *, bool_param: bool | None = ..., int64_param: int | None = ..., string_param: str | None = ..., bytes_param: bytes | None = ...) -> None: ...

class RepositoryIndexRequest(Message):
    repository_name: str
    ready: bool
    def __init__(self, *, repository_name: str | None = ..., ready: bool | None = ...) -> None: ...

class RepositoryIndexResponse(Message):
    class ModelIndex(Message):
        name: str
        version: str
        state: str
        reason: str
        def __init__(self, *, name: str | None = ..., version: str | None = ..., state: str | None = ..., reason: str | None = ...) -> None: ...
    models: RepeatedCompositeFieldContainer[RepositoryIndexResponse.ModelIndex]
    def __init__(self, *, models: Iterable[RepositoryIndexResponse.ModelIndex | Mapping[str, Any]] | None = ...) -> None: ...

class RepositoryModelLoadRequest(Message):
    repository_name: str
    model_name: str
    parameters: MessageMap[str, ModelRepositoryParameter]
    def __init__(self, *, repository_name: str | None = ..., model_name: str | None = ..., parameters: Mapping[str, ModelRepositoryParameter] | None = ...) -> None: ...

class RepositoryModelLoadResponse(Message):
    def __init__(self) -> None: ...

class RepositoryModelUnloadRequest(Message):
    repository_name: str
    model_name: str
    parameters: MessageMap[str, ModelRepositoryParameter]
    def __init__(self, *, repository_name: str | None = ..., model_name: str | None = ..., parameters: Mapping[str, ModelRepositoryParameter] | None = ...) -> None: ...

class RepositoryModelUnloadResponse(Message):
    def __init__(self) -> None: ...

class ModelInput(Message):
    name: str
    data_type: int
    dims: RepeatedScalarFieldContainer[int]
    optional: bool
    def __init__(self, *, name: str | None = ..., data_type: int | None = ..., dims: Iterable[int] | None = ..., optional: bool | None = ...) -> None: ...

class ModelOutput(Message):
    name: str
    data_type: int
    dims: RepeatedScalarFieldContainer[int]
    label_filename: str
    def __init__(self, *, name: str | None = ..., data_type: int | None = ..., dims: Iterable[int] | None = ..., label_filename: str | None = ...) -> None: ...

class ModelDynamicBatching(Message):
    preferred_batch_size: RepeatedScalarFieldContainer[int]
    max_queue_delay_microseconds: int
    def __init__(self, *, preferred_batch_size: Iterable[int] | None = ..., max_queue_delay_microseconds: int | None = ...) -> None: ...

class ModelTransactionPolicy(Message):
    decoupled: bool
    def __init__(self, *, decoupled: bool | None = ...) -> None: ...

class ModelResponseCache(Message):
    enable: bool
    def __init__(self, *, enable: bool | None = ...) -> None: ...

class ModelConfig(Message):
    name: str
    platform: str
    max_batch_size: int
    input: RepeatedCompositeFieldContainer[ModelInput]
    output: RepeatedCompositeFieldContainer[ModelOutput]
    dynamic_batching: ModelDynamicBatching
    backend: str
    model_transaction_policy: ModelTransactionPolicy
    response_cache: ModelResponseCache
    def __init__(self, *, name: str | None = ..., platform: str | None = ..., max_batch_size: int | None = ..., input: Iterable[ModelInput | Mapping[str, Any]] | None = ..., output: Iterable[ModelOutput | Mapping[str, Any]] | None = ..., dynamic_batching: ModelDynamicBatching | Mapping[str, Any] | None = ..., backend: str | None = ..., model_transaction_policy: ModelTransactionPolicy | Mapping[str, Any] | None = ..., response_cache: ModelResponseCache | Mapping[str, Any] | None = ...) -> None: ...

class ModelConfigRequest(Message):
    name: str
    version: str
    def __init__(self, *, name: str | None = ..., version: str | None = ...) -> None: ...

class ModelConfigResponse(Message):
    config: ModelConfig
    def __init__(self, *, config: ModelConfig | Mapping[str, Any] | None = ...) -> None: ...

class StatisticDuration(Message):
    count: int
    ns: int
    def __init__(self, *, count: int | None = ..., ns: int | None = ...) -> None: ...

class InferStatistics(Message):
    success: StatisticDuration
    fail: StatisticDuration
    queue: StatisticDuration
    compute_input: StatisticDuration
    compute_infer: StatisticDuration
    compute_output: StatisticDuration
    cache_hit: StatisticDuration
    cache_miss: StatisticDuration
    def __init__(self, *, success: StatisticDuration | Mapping[str, Any] | None = ..., fail: StatisticDuration | Mapping[str, Any] | None = ..., queue: StatisticDuration | Mapping[str, Any] | None = ..., compute_input: StatisticDuration | Mapping[str, Any] | None = ..., compute_infer: StatisticDuration | Mapping[str, Any] | None = ..., compute_output: StatisticDuration | Mapping[str, Any] | None = ..., cache_hit: StatisticDuration | Mapping[str, Any] | None = ..., cache_miss: StatisticDuration | Mapping[str, Any] | None = ...) -> None: ...

class InferResponseStatistics(Message):
    compute_infer: StatisticDuration
    compute_output: StatisticDuration
    success: StatisticDuration
    fail: StatisticDuration
    empty_response: StatisticDuration
    cancel: StatisticDuration
    def __init__(self, *, compute_infer: StatisticDuration | Mapping[str, Any] | None = ..., compute_output: StatisticDuration | Mapping[str, Any] | None = ..., success: StatisticDuration | Mapping[str, Any] | None = ..., fail: StatisticDuration | Mapping[str, Any] | None = ..., empty_response: StatisticDuration | Mapping[str, Any] | None = ..., cancel: StatisticDuration | Mapping[str, Any] | None = ...) -> None: ...

class InferBatchStatistics(Message):
    batch_size: int
    compute_input: StatisticDuration
    compute_infer: StatisticDuration
    compute_output: StatisticDuration
    def __init__(self, *, batch_size: int | None = ..., compute_input: StatisticDuration | Mapping[str, Any] | None = ..., compute_infer: StatisticDuration | Mapping[str, Any] | None = ..., compute_output: StatisticDuration | Mapping[str, Any] | None = ...) -> None: ...

class MemoryUsage(Message):
    type: str
    id: int
    byte_size: int
    def __init__(self, *, type: str | None = ..., id: int | None = ..., byte_size: int | None = ...) -> None: ...

class ModelStatistics(Message):
    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    batch_stats: RepeatedCompositeFieldContainer[InferBatchStatistics]
    memory_usage: RepeatedCompositeFieldContainer[MemoryUsage]
    response_stats: MessageMap[str, InferResponseStatistics]
    def __init__(self, *, name: str | None = ..., version: str | None = ..., last_inference: int | None = ..., inference_count: int | None = ..., execution_count: int | None = ..., inference_stats: InferStatistics | Mapping[str, Any] | None = ..., batch_stats: Iterable[InferBatchStatistics | Mapping[str, Any]] | None = ..., memory_usage: Iterable[MemoryUsage | Mapping[str, Any]] | None = ..., response_stats: Mapping[str, InferResponseStatistics] | None = ...) -> None: ...

class ModelStatisticsRequest(Message):
    name: str
    version: str
    def __init__(self, *, name: str | None = ..., version: str | None = ...) -> None: ...

class ModelStatisticsResponse(Message):
    model_stats: RepeatedCompositeFieldContainer[ModelStatistics]
    def __init__(self, *, model_stats: Iterable[ModelStatistics | Mapping[str, Any]] | None = ...) -> None: ...

class SystemSharedMemoryStatusRequest(Message):
    name: str
    def __init__(self, *, name: str | None = ...) -> None: ...

class SystemSharedMemoryStatusResponse(Message):
    class RegionStatus(Message):
        name: str
        key: str
        offset: int
        byte_size: int
        def __init__(self, *, name: str | None = ..., key: str | None = ..., offset: int | None = ..., byte_size: int | None = ...) -> None: ...
    regions: MessageMap[str, SystemSharedMemoryStatusResponse.RegionStatus]
    def __init__(self, *, regions: Mapping[str, SystemSharedMemoryStatusResponse.RegionStatus] | None = ...) -> None: ...

class SystemSharedMemoryRegisterRequest(Message):
    name: str
    key: str
    offset: int
    byte_size: int
    def __init__(self, *, name: str | None = ..., key: str | None = ..., offset: int | None = ..., byte_size: int | None = ...) -> None: ...

class SystemSharedMemoryRegisterResponse(Message):
    def __init__(self) -> None: ...

class SystemSharedMemoryUnregisterRequest(Message):
    name: str
    def __init__(self, *, name: str | None = ...) -> None: ...

class SystemSharedMemoryUnregisterResponse(Message):
    def __init__(self) -> None: ...

class CudaSharedMemoryStatusRequest(Message):
    name: str
    def __init__(self, *, name: str | None = ...) -> None: ...

class CudaSharedMemoryStatusResponse(Message):
    class RegionStatus(Message):
        name: str
        device_id: int
        byte_size: int
        def __init__(self, *, name: str | None = ..., device_id: int | None = ..., byte_size: int | None = ...) -> None: ...
    regions: MessageMap[str, CudaSharedMemoryStatusResponse.RegionStatus]
    def __init__(self, *, regions: Mapping[str, CudaSharedMemoryStatusResponse.RegionStatus] | None = ...) -> None: ...

class CudaSharedMemoryRegisterRequest(Message):
    name: str
    raw_handle: bytes
    device_id: int
    byte_size: int
    def __init__(self, *, name: str | None = ..., raw_handle: bytes | None = ..., device_id: int | None = ..., byte_size: int | None = ...) -> None: ...

class CudaSharedMemoryRegisterResponse(Message):
    def __init__(self) -> None: ...

class CudaSharedMemoryUnregisterRequest(Message):
    name: str
    def __init__(self, *, name: str | None = ...) -> None: ...

class CudaSharedMemoryUnregisterResponse(Message):
    def __init__(self) -> None: ...

class TraceSettingRequest(Message):
    class SettingValue(Message):
        value: RepeatedScalarFieldContainer[str]
        def __init__(self, *, value: Iterable[str] | None = ...) -> None: ...
    settings: MessageMap[str, TraceSettingRequest.SettingValue]
    model_name: str
    def __init__(self, *, settings: Mapping[str, TraceSettingRequest.SettingValue] | None = ..., model_name: str | None = ...) -> None: ...

class TraceSettingResponse(Message):
    class SettingValue(Message):
        value: RepeatedScalarFieldContainer[str]
        def __init__(self, *, value: Iterable[str] | None = ...) -> None: ...
    settings: MessageMap[str, TraceSettingResponse.SettingValue]
    def __init__(self, *, settings: Mapping[str, TraceSettingResponse.SettingValue] | None = ...) -> None: ...

class LogSettingsRequest(Message):
    class SettingValue(Message):
        bool_param: bool
        uint32_param: int
        string_param: str
        def __init__(self, *, bool_param: bool | None = ..., uint32_param: int | None = ..., string_param: str | None = ...) -> None: ...
    settings: MessageMap[str, LogSettingsRequest.SettingValue]
    def __init__(self, *, settings: Mapping[str, LogSettingsRequest.SettingValue] | None = ...) -> None: ...

class LogSettingsResponse(Message):
    class SettingValue(Message):
        bool_param: bool
        uint32_param: int
        string_param: str
        def __init__(self, *, bool_param: bool | None = ..., uint32_param: int | None = ..., string_param: str | None = ...) -> None: ...
    settings: MessageMap[str, LogSettingsResponse.SettingValue]
    def __init__(self, *, settings: Mapping[str, LogSettingsResponse.SettingValue] | None = ...) -> None: ...
