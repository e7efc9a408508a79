"""The head of an HTTP/1.1 request: from bytes to what they mean, for this server and for nobody else.

What a head means depends on its bytes alone: not on how they were cut into packets, not on what came before.
llhttp (through httptools) parses heads and is strict; what it lets pass and we do not is refused here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httptools

if TYPE_CHECKING:
    from mlserver.metrics.requests import Gauge
    from mlserver.service import Target

__all__ = [
    "BINARY_TENSORS",
    "Head",
    "InferRoute",
    "Refusal",
    "accepts_gzip",
    "check_start",
    "parse_head",
    "without_empty_lines",
]


# How clients of Triton say where the JSON of a body ends and binary tensors begin, which is not spoken here.
BINARY_TENSORS = "inference-header-content-length"


class InferRoute:
    """Where an inference request goes, and what its answers have in common."""

    __slots__ = ("counters", "events", "target", "template")

    def __init__(self, target: Target, template: str, events: bytes) -> None:
        self.target = target
        self.template = template
        self.events = events  # CloudEvents response headers, ready to be written
        self.counters: dict[int, Any] = {}


class Head:
    """The head of a request. Equal bytes share one, so nothing may change it."""

    __slots__ = (
        "accepts_gzip",
        "chunked",
        "content_encoding",
        "content_length",
        "expects_continue",
        "headers",
        "in_progress",
        "infer",
        "keep_alive",
        "method",
        "plain",
        "raw_headers",
        "target",
        "version",
    )

    method: str
    target: bytes
    version: str
    raw_headers: list[tuple[bytes, bytes]]
    headers: dict[str, str]
    content_length: int  # 0 for a body in chunks
    chunked: bool
    content_encoding: str
    keep_alive: bool
    plain: bool  # HTTP/1.1 that is kept alive: its answers need not speak of the connection
    expects_continue: bool
    accepts_gzip: bool
    infer: InferRoute | None
    in_progress: Gauge


class Refusal(Exception):
    """This connection is answered with an error and closed."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


_BEGINS_LIKE_A_REQUEST = re.compile(rb"(?:[A-Z-]{1,32}(?: |\Z)|\r?\Z)")
_REQUEST_LINE = re.compile(rb"[A-Z-]{1,32} [^ \r\n]+ HTTP/([0-9]\.[0-9])\r\n")
# Control characters, a CR or LF without the other, and a line that continues the one above.
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|\Z)|(?<!\r)\n|\n[ \t]")
_EMPTY_LINES = re.compile(rb"(?:\r\n)*")
_HOST = re.compile(r"(?:\[[\w.:%~-]*\]|[\w.~%!$&'()*+,;=-]*)(?::\d*)?", re.ASCII)


class _Fields:
    """What llhttp finds in a head."""

    __slots__ = ("complete", "headers", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def without_empty_lines(data: bytes) -> bytes:
    """What is left of `data` without the empty lines that may stand before a request."""
    return data[_EMPTY_LINES.match(data).end() :]  # type: ignore[union-attr]


def check_start(data: bytes, checked: int) -> None:
    """Refuse what cannot be the beginning of a head, so that nobody waits for its end. Raises Refusal.

    checked: bytes at the start that were checked before.
    """
    if not _BEGINS_LIKE_A_REQUEST.match(data):
        raise Refusal(400, "not an HTTP request")
    if _FORBIDDEN.search(data, max(checked - 2, 0)):
        raise Refusal(400, "the request head holds a control character, a bare CR or LF, or a folded line")


def parse_head(whole: bytes) -> Head:
    """A head from its bytes, empty line included. Depends on nothing else. Raises Refusal.

    Leaves `accepts_gzip`, `infer` and `in_progress` to the server.
    """
    check_start(whole, 0)
    line = _REQUEST_LINE.match(whole)
    if line is None:
        raise Refusal(400, "the request line is not `METHOD target HTTP/1.1`")
    version = line[1].decode()
    if version not in ("1.1", "1.0"):
        raise Refusal(505, f"HTTP/{version} is not spoken here, HTTP/1.1 is")
    fields = _Fields()
    parser = httptools.HttpRequestParser(fields)
    fault = None
    try:
        parser.feed_data(whole)
    except httptools.HttpParserUpgrade:
        pass  # an offer to upgrade may be passed over
    except httptools.HttpParserInvalidMethodError as exc:
        raise Refusal(501, "the request method is not known") from exc
    except httptools.HttpParserError as exc:
        fault = Refusal(400, f"not a valid HTTP/1.1 request: {exc}")
    if not fields.complete:
        raise fault or Refusal(400, "not a valid HTTP/1.1 request")
    head = Head()
    head.method = parser.get_method().decode("ascii")
    head.version = version
    head.target = fields.target
    head.raw_headers = fields.headers
    _understand(head)
    if fault is not None:
        raise fault
    return head


def _understand(head: Head) -> None:
    """What the headers say of the message. Refuses everything that two parties could read in two ways."""
    headers: dict[str, str] = {}
    head.headers = headers
    lengths, codings, hosts = [], [], []
    connection: set[str] = set()
    for raw_name, raw_value in head.raw_headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers.setdefault(name, value)
        if name == "content-length":
            lengths.append(value)
        elif name == "transfer-encoding":
            codings.append(value)
        elif name == "host":
            hosts.append(value)
        elif name == "connection":
            connection.update(token.strip().lower() for token in value.split(","))
    if lengths and codings:
        raise Refusal(400, "a request has either `Content-Length` or `Transfer-Encoding`, not both")
    if len(lengths) > 1 or any(not (text.isascii() and text.isdigit()) for text in lengths):
        raise Refusal(400, "`Content-Length` is not one number")
    if codings and head.version == "1.0":
        raise Refusal(400, "HTTP/1.0 knows no `Transfer-Encoding`")
    if codings and (len(codings) > 1 or codings[0].lower() != "chunked"):
        raise Refusal(501, "the only transfer coding understood is `chunked`")
    if len(hosts) > 1 or (not hosts and head.version == "1.1"):
        raise Refusal(400, "an HTTP/1.1 request has exactly one `Host`")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise Refusal(400, "`Host` is no host")
    if head.method == "CONNECT":
        raise Refusal(501, "this server is no proxy")
    if not head.target.startswith((b"/", b"http://", b"https://")) and (
        head.target != b"*" or head.method != "OPTIONS"
    ):
        raise Refusal(400, "the request target is no path")
    head.chunked = bool(codings)
    head.content_length = int(lengths[0]) if lengths else 0
    head.keep_alive = "close" not in connection and (head.version == "1.1" or "keep-alive" in connection)
    head.plain = head.keep_alive and head.version == "1.1"
    # Other expectations are passed over, and so is this one where HTTP/1.0 has it.
    head.expects_continue = head.version == "1.1" and headers.get("expect", "").lower() == "100-continue"
    head.content_encoding = headers.get("content-encoding", "").lower()


_NO_GZIP = re.compile(r"q=0(\.0*)?")


def accepts_gzip(accept: str | None) -> bool:
    if not accept or "gzip" not in accept.lower():
        return False
    for part in accept.lower().split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() == "gzip":
            return not _NO_GZIP.fullmatch(weight.replace(" ", ""))
    return False
