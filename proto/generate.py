"""Write the modules in src/mlserver/grpc that the .proto files beside this script describe.

    python proto/generate.py [folder]        (or `make protos`)

protoc only parses: what it generates for Python differs from release to release and binds whoever imports it
to that release. Any protoc leads to the same modules.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)
from grpc_tools import protoc

PROTO = Path(__file__).parent
TARGET = PROTO.parent / "src" / "mlserver" / "grpc"

# Where the messages of each file go.
MODULES = {
    "dataplane.proto": "dataplane_pb2",
    "model_repository.proto": "model_repository_pb2",
    "grpc/health/v1/health.proto": "health_pb2",
    "grpc/reflection/v1/reflection.proto": "reflection_pb2",
    "grpc/reflection/v1alpha/reflection.proto": "reflection_v1alpha_pb2",
}
# The others are gRPC's own: whoever calls them has stubs.
WITH_STUBS = ("dataplane.proto", "model_repository.proto")

HEADER = "# Written by `make protos` from proto/{name}: do not edit.\n"


def generate(target: Path) -> None:
    """Write all modules into `target`."""
    for file in compile_protos():
        module, header = MODULES[file.name], HEADER.format(name=file.name)
        (target / f"{module}.py").write_text(header + messages(file))
        (target / f"{module}.pyi").write_text(header + hints(file))
        if file.name in WITH_STUBS:
            (target / f"{module}_grpc.py").write_text(header + stubs(file, module))


def compile_protos() -> list[FileDescriptorProto]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        args = ["protoc", f"--proto_path={PROTO}", f"--descriptor_set_out={out}", *MODULES]
        if protoc.main(args) != 0:
            raise SystemExit("protoc refused the files")
        return list(FileDescriptorSet.FromString(out.read_bytes()).file)


# The messages


def messages(file: FileDescriptorProto) -> str:
    for message in every_message(file.message_type):
        for field in message.field:
            field.ClearField("json_name")  # follows from the name
    data = file.SerializeToString(deterministic=True)
    lines = "\n".join(f"    {data[at : at + 64]!r}" for at in range(0, len(data), 64))
    return (
        f'"""Messages of package `{file.package}`."""\n\n'
        "from mlserver.grpc._define import define\n\n"
        f"DESCRIPTOR = define(\n    globals(),\n{lines},\n)\n"
    )


def every_message(messages: Iterable[DescriptorProto]) -> Iterator[DescriptorProto]:
    for message in messages:
        yield message
        yield from every_message(message.nested_type)


# Their type hints

SCALARS = {
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_STRING: "str",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
    FieldDescriptorProto.TYPE_DOUBLE: "float",
    FieldDescriptorProto.TYPE_FLOAT: "float",
}


def hints(file: FileDescriptorProto) -> str:
    lines = [
        f'"""Messages of package `{file.package}`."""',
        "",
        "from collections.abc import Iterable, Mapping",
        "from typing import Any",
        "",
        "from google.protobuf.descriptor import FileDescriptor",
        "from google.protobuf.internal.containers import MessageMap, RepeatedCompositeFieldContainer",
        "from google.protobuf.internal.containers import RepeatedScalarFieldContainer",
        "from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper",
        "from google.protobuf.message import Message",
        "",
        "DESCRIPTOR: FileDescriptor",
    ]
    for enum in file.enum_type:
        lines += ["", *enum_hints(enum)]
    for message in file.message_type:
        lines += ["", *message_hints(message, f".{file.package}.")]
    return "\n".join(lines) + "\n"


def enum_hints(enum: EnumDescriptorProto) -> list[str]:
    return [f"{enum.name}: EnumTypeWrapper", *(f"{value.name}: int" for value in enum.value)]


def message_hints(message: DescriptorProto, package: str) -> list[str]:
    maps = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    lines: list[str] = []
    for nested in message.nested_type:
        if not nested.options.map_entry:
            lines += message_hints(nested, package)
    for enum in message.enum_type:
        lines += enum_hints(enum)
    arguments = []
    for field in message.field:
        kept, taken = field_hints(field, maps, package)
        lines.append(f"{field.name}: {kept}")
        arguments.append(f"{field.name}: {taken} | None = ...")
    separator = ["*"] if arguments else []
    lines.append(f"def __init__({', '.join(['self', *separator, *arguments])}) -> None: ...")
    return [f"class {message.name}(Message):", *(f"    {line}" for line in lines)]


def field_hints(
    field: FieldDescriptorProto, maps: dict[str, DescriptorProto], package: str
) -> tuple[str, str]:
    """The type of an attribute, and that of the argument which sets it."""
    entry = maps.get(field.type_name.rpartition(".")[2])
    if entry is not None:
        value = type_name(entry.field[1], package)
        return f"MessageMap[str, {value}]", f"Mapping[str, {value}]"
    name = type_name(field, package)
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    message = field.type == FieldDescriptorProto.TYPE_MESSAGE
    taken = f"{name} | Mapping[str, Any]" if message else name
    if repeated:
        return f"Repeated{'Composite' if message else 'Scalar'}FieldContainer[{name}]", f"Iterable[{taken}]"
    return name, taken


def type_name(field: FieldDescriptorProto, package: str) -> str:
    if field.type == FieldDescriptorProto.TYPE_MESSAGE:
        return field.type_name.removeprefix(package)
    return SCALARS.get(field.type, "int")


# Stubs for grpcio


def stubs(file: FileDescriptorProto, module: str) -> str:
    (service,) = file.service
    name = f"{file.package}.{service.name}"
    lines = [
        f'"""Client and server classes of `{name}` for grpcio."""',
        "",
        "from typing import Any",
        "",
        "import grpc",
        "",
        f"from mlserver.grpc import {module} as pb",
        "",
        "",
        f"class {service.name}Stub:",
        '    """Calls the methods over a channel."""',
        "",
        "    def __init__(self, channel: Any) -> None:",
    ]
    for method in service.method:
        lines += [
            f"        self.{method.name}: Any = channel.{kind(method)}(",
            f'            "/{name}/{method.name}",',
            f"            request_serializer=pb.{type_of(method.input_type)}.SerializeToString,",
            f"            response_deserializer=pb.{type_of(method.output_type)}.FromString,",
            "        )",
        ]
    lines += ["", "", f"class {service.name}Servicer:", '    """To be derived from: every method refuses."""']
    for method in service.method:
        request = "request_iterator" if method.client_streaming else "request"
        lines += [
            "",
            f"    def {method.name}(self, {request}: Any, context: Any) -> Any:",
            "        return _refuse(context)",
        ]
    lines += [
        "",
        "",
        f"def add_{service.name}Servicer_to_server(servicer: Any, server: Any) -> None:",
        '    """Let `server` answer with `servicer`."""',
        "    handlers = {",
    ]
    for method in service.method:
        lines += [
            f'        "{method.name}": grpc.{kind(method)}_rpc_method_handler(',
            f"            servicer.{method.name},",
            f"            request_deserializer=pb.{type_of(method.input_type)}.FromString,",
            f"            response_serializer=pb.{type_of(method.output_type)}.SerializeToString,",
            "        ),",
        ]
    lines += [
        "    }",
        f'    generic = grpc.method_handlers_generic_handler("{name}", handlers)',
        "    server.add_generic_rpc_handlers((generic,))",
        "",
        "",
        "def _refuse(context: Any) -> Any:",
        "    context.set_code(grpc.StatusCode.UNIMPLEMENTED)",
        '    context.set_details("Method not implemented!")',
        '    raise NotImplementedError("Method not implemented!")',
    ]
    return "\n".join(lines) + "\n"


def kind(method: MethodDescriptorProto) -> str:
    def streams(yes: bool) -> str:
        return "stream" if yes else "unary"

    return f"{streams(method.client_streaming)}_{streams(method.server_streaming)}"


def type_of(name: str) -> str:
    return name.rpartition(".")[2]


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
