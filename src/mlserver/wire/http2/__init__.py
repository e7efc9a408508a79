"""The server's side of HTTP/2 (RFC 9113) and HPACK (RFC 7541), without sockets, tasks or clocks."""

from mlserver.wire.http2.connection import Connection, Events, Stream
from mlserver.wire.http2.frames import PREFACE, ErrorCode, Limits
from mlserver.wire.http2.headers import Field, Headers, encode_headers

__all__ = [
    "PREFACE",
    "Connection",
    "ErrorCode",
    "Events",
    "Field",
    "Headers",
    "Limits",
    "Stream",
    "encode_headers",
]
