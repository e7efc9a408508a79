"""Words of HTTP/2 that the other modules share: numbers of RFC 9113, limits, what can go wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Plain integers: frames are dispatched on them.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 0x1, 0x1, 0x4, 0x8, 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 1, 2, 3
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 4, 5, 6
ENABLE_CONNECT_PROTOCOL = 8  # RFC 8441

DEFAULT_WINDOW = 65_535
DEFAULT_TABLE = 4_096  # of HPACK; we announce no other
SMALLEST_MAX_FRAME = 16_384
LARGEST_MAX_FRAME = 2**24 - 1
MAX_WINDOW = MAX_ID = 2**31 - 1


# RFC 9113, section 7, in the order of their numbers.
ErrorCode = IntEnum(
    "ErrorCode",
    "NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED "
    "FRAME_SIZE_ERROR REFUSED_STREAM CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM "
    "INADEQUATE_SECURITY HTTP_1_1_REQUIRED",
    start=0,
)


class ConnectionFault(Exception):
    """The peer did what ends a connection: an ErrorCode and a reason. Never leaves `Connection`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer may ask of one connection. Sizes are bytes, times are seconds.

    max_streams: open at a time; one above that is refused with REFUSED_STREAM, which clients may retry.
    stream_window: what a client may send on one stream before it is given credit; from 65,535, which it may
        use before it has heard of this, to 2**31 - 1.
    connection_window: the same over all streams; at least 65,535.
    max_frame: the largest frame that we take, 16,384 to 2**24 - 1. Costs no memory, as DATA is passed on as
        it comes.
    max_header_list: decoded headers of one request, counted as in RFC 7541, section 4.1. Above it
        `headers_too_large` is called, above four times that the connection ends.
    max_header_block: encoded headers of one request, and the largest frame that is kept until it is complete;
        above it the connection ends.
    window_s: the time over which the next two are counted.
    max_resets: streams that the client cancels, or makes us reset (CVE-2023-44487, CVE-2025-8671).
    max_control_frames: frames that carry no request: PING, SETTINGS, WINDOW_UPDATE, CONTINUATION, empty DATA
        and the like.
    control_frames_per_frame: what is added to them for each request that came and each DATA frame that went.
    max_unread_control: acknowledgements and resets, of which the client is the cause, that wait for
        `take_output`.
    """

    max_streams: int = 1_000
    stream_window: int = 4 * 2**20
    connection_window: int = 16 * 2**20
    max_frame: int = 2**20
    max_header_list: int = 16 * 2**10
    max_header_block: int = 32 * 2**10
    window_s: float = 10.0
    max_resets: int = 2_000
    max_control_frames: int = 10_000
    control_frames_per_frame: int = 8
    max_unread_control: int = 64 * 2**10


# RFC 9113, section 6.5.2: the least and the most that a setting may be, and what is wrong beyond.
SETTING_RANGES = {
    ENABLE_PUSH: (0, 1, ErrorCode.PROTOCOL_ERROR),
    INITIAL_WINDOW_SIZE: (0, MAX_WINDOW, ErrorCode.FLOW_CONTROL_ERROR),
    MAX_FRAME_SIZE: (SMALLEST_MAX_FRAME, LARGEST_MAX_FRAME, ErrorCode.PROTOCOL_ERROR),
    ENABLE_CONNECT_PROTOCOL: (0, 1, ErrorCode.PROTOCOL_ERROR),
}
