"""What an answer is made of: status lines, headers that may stand in it, and those that may not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from mlserver.executor import describe, retry_headers
from mlserver.wire.json import encode_error

__all__ = [
    "BODILESS",
    "FRAMING",
    "JSON_HEADERS",
    "Headers",
    "checked_headers",
    "encode_headers",
    "event_lines",
    "failed",
    "final_status",
    "may_compress",
    "status_line",
    "value_of",
]

Headers = Sequence[tuple[bytes, bytes]]

JSON_HEADERS: Headers = ((b"content-type", b"application/json"),)
# Statuses whose answers have no body, and no length.
BODILESS = frozenset((204, 304))
# Where an answer ends is for the connection to say, and nobody else.
FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection"))

_STATUS_LINES = {status: f"HTTP/1.1 {status} {status.phrase}\r\n".encode() for status in HTTPStatus}
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_NO_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status  # type: ignore[call-overload]


def failed(exc: BaseException) -> tuple[int, Headers, bytes]:
    """Status, headers and JSON body that tell of an error."""
    status, text, details = describe(exc)
    headers = [*JSON_HEADERS, *encode_headers(retry_headers(exc) or {})]
    return status, headers, encode_error(text, details)


def may_compress(headers: Headers) -> bool:
    return not any(
        name == b"content-encoding" or (name == b"content-type" and value.startswith(b"text/event-stream"))
        for name, value in headers
    )


def final_status(status: Any) -> int:
    """The status of an answer. User code may choose it, and may choose what is none."""
    return status if isinstance(status, int) and 200 <= status <= 599 else 500


def value_of(wanted: bytes, headers: Headers) -> bytes | None:
    return next((value for name, value in headers if name == wanted), None)


def event_lines(events: bytes, request_id: str | None) -> bytes:
    """The header lines of CloudEvents. events: those that all answers of a model have."""
    # An id is the client's text: it becomes a header only if it cannot be read as more than that.
    if request_id and request_id.isascii() and request_id.isprintable():
        encoded = request_id.encode()
        return b"%bce-id: %b\r\nce-requestid: %b\r\n" % (events, encoded, encoded)
    return events


def encode_headers(headers: dict[str, Any]) -> Headers:
    """Headers that a model set, as they go on the wire. Raises ValueError for what cannot be a header."""
    encoded = [(str(name).encode("latin-1"), str(value).encode("latin-1")) for name, value in headers.items()]
    return [(name, value) for name, value in checked_headers(encoded) if name != b"content-type"]


def checked_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The headers with lower-case names. Raises ValueError for one that would read as something else."""
    for name, value in headers:
        if not name or not _TOKEN.issuperset(name) or _NO_VALUE.search(value):
            raise ValueError(f"cannot be the header of a response: {name!r}: {value!r}")
    return [(name.lower(), value) for name, value in headers]
