# Written by `make protos` from proto/model_repository.proto: do not edit.
"""Messages of package `inference.model_repository`."""

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.containers import MessageMap, RepeatedCompositeFieldContainer
from google.protobuf.internal.containers import RepeatedScalarFieldContainer
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor

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
    def __init__(self, *, repository_name: str | None = ..., model_name: str | None = ...) -> None: ...

class RepositoryModelLoadResponse(Message):
    def __init__(self) -> None: ...

class RepositoryModelUnloadRequest(Message):
    repository_name: str
    model_name: str
    def __init__(self, *, repository_name: str | None = ..., model_name: str | None = ...) -> None: ...

class RepositoryModelUnloadResponse(Message):
    def __init__(self) -> None: ...
