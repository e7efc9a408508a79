"""Message classes from the descriptors that `make protos` writes into the `*_pb2` modules.

The descriptors live in a pool of their own. In protobuf's default pool a name exists once, and the clients of
Triton and KServe define other files with the same package `inference`: whichever of two such modules is
imported second fails there. Here both work side by side; only the classes differ, so a message of one is
handed to the other as bytes.

The classes are made with protobuf's public functions and not by protoc's Python code, which refuses to be
imported beside a protobuf older than the protoc that wrote it.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

__all__ = ["POOL", "define"]

POOL: Final = DescriptorPool()


def define(module: dict[str, Any], file: bytes) -> FileDescriptor:
    """Fill a module with the classes, enums and enum values of `file`, a serialised FileDescriptorProto."""
    POOL.AddSerializedFile(file)  # what it returns depends on the release of protobuf
    name = file[2 : 2 + file[1]].decode()  # field 1, and shorter than 128 bytes
    descriptor = POOL.FindFileByName(name)
    for message in descriptor.message_types_by_name.values():
        module[message.name] = _class_of(message, module["__name__"], message.name)
    for enum in descriptor.enum_types_by_name.values():
        module[enum.name] = EnumTypeWrapper(enum)
        module.update((value.name, value.number) for value in enum.values)
    return descriptor


def _class_of(message: Descriptor, module: str, qualified_name: str) -> Any:
    cls: Any = GetMessageClass(message)
    cls.__module__, cls.__qualname__, cls.__reduce__ = module, qualified_name, _reduce
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            inner = _class_of(nested, module, f"{qualified_name}.{nested.name}")
            if not hasattr(cls, nested.name):  # protobuf in pure Python
                setattr(cls, nested.name, inner)
    return cls


def _reduce(message: Message) -> Any:
    # protobuf's own looks for the classes of nested messages in the default pool.
    return _rebuild, (type(message), message.SerializeToString())


def _rebuild(cls: Any, data: bytes) -> Any:
    return cls.FromString(data)
