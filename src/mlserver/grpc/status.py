"""What gRPC says around messages: status codes, their text, timeouts, metadata."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any

from mlserver.wire.http2 import Field, encode_headers

__all__ = [
    "Code",
    "RpcError",
    "code_of",
    "encode_metadata",
    "encode_status",
    "parse_timeout",
    "read_metadata",
]


class Code(IntEnum):
    """gRPC's status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """Ends a call with a status."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


_CODES = {
    400: Code.INVALID_ARGUMENT,
    404: Code.NOT_FOUND,
    413: Code.RESOURCE_EXHAUSTED,
    422: Code.FAILED_PRECONDITION,
    429: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
    500: Code.INTERNAL,
    504: Code.DEADLINE_EXCEEDED,
}


def code_of(status: int) -> Code:
    """The code for an HTTP-style status; UNKNOWN for those that have none."""
    return _CODES.get(status, Code.UNKNOWN)


def encode_status(code: Code, text: str = "") -> bytes:
    """The header block of a status, to stand in trailers."""
    fields = [(b"grpc-status", b"%d" % code)]
    if text:
        fields.append((b"grpc-message", _percent_encode(text)))
    return encode_headers(fields)


# What a header value may hold, but for the percent sign itself.
_ESCAPED = re.compile(rb"[^\x20-\x24\x26-\x7e]")
# Encoded, in bytes: clients take 8 KiB of metadata in all, and no status from a reply that has more.
_LONGEST_TEXT = 4096


def _percent_encode(text: str) -> bytes:
    text = text[:_LONGEST_TEXT]
    while True:
        encoded = _ESCAPED.sub(lambda match: b"%%%02X" % match[0][0], text.encode("utf-8", "replace"))
        if len(encoded) <= _LONGEST_TEXT:
            return encoded
        text = text[: len(text) * _LONGEST_TEXT // len(encoded)]


_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def parse_timeout(value: bytes) -> float:
    """Seconds of a `grpc-timeout`. Raises RpcError."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        shown = value[:40].decode("latin-1")
        raise RpcError(Code.INTERNAL, f"grpc-timeout is {shown!r}, which is not a number and a unit")
    return int(match[1]) * _UNITS[match[2]]


def read_metadata(fields: Iterable[Field]) -> dict[str, Any]:
    """Metadata by name, the last of equal names; bytes where the name ends in `-bin`. Raises RpcError."""
    metadata: dict[str, Any] = {}
    for name, value in fields:
        if name.startswith(b":"):
            continue
        key = name.decode("latin-1")
        metadata[key] = _decode_binary(key, value) if key.endswith("-bin") else value.decode("latin-1")
    return metadata


def _decode_binary(name: str, value: bytes) -> bytes:
    last = value.rpartition(b",")[2].strip()
    try:
        return base64.b64decode(last + b"=" * (-len(last) % 4), validate=True)
    except binascii.Error as exc:
        raise RpcError(Code.INTERNAL, f"metadata '{name}' is not base64") from exc


_NAME = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)?")
_RESERVED = re.compile(
    # What gRPC says itself, and what HTTP forbids in trailers: clients and proxies drop a reply that has it.
    r"grpc-.*|te|content-type|content-length|transfer-encoding|connection|keep-alive|proxy-connection|upgrade"
)


def encode_metadata(metadata: Mapping[str, Any]) -> bytes:
    """The header block of metadata that a model set. Raises ValueError for what cannot be metadata."""
    fields: list[Field] = []
    for key, value in metadata.items():
        name = str(key).lower()
        if name.endswith("-bin") and isinstance(value, bytes):
            value = base64.b64encode(value).rstrip(b"=").decode()
        text = str(value)
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(text) or _RESERVED.fullmatch(name):
            raise ValueError(f"cannot be metadata of a response: {key!r}: {value!r}")
        fields.append((name.encode(), text.encode()))
    return encode_headers(fields)
