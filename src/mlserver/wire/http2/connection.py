"""One HTTP/2 connection, server side: bytes in, calls of `Events` out; replies in, buffers to write out.

It knows no socket, no task and no clock; the caller brings bytes and the time, and writes what
`take_output` gives once a turn of its loop. Two ideas carry the speed:

- **What everybody sends takes the short way.** `_parse` handles a whole HEADERS frame with a block that was
  seen before and a whole DATA frame within its windows in a few lines without calls. Anything else, padded,
  split, unusual or wrong, goes to `_frame`, which is written to be read. Both ways end in the same state.
- **Payload is never kept.** DATA is passed on as views of the caller's read buffer, a frame that came in
  part as parts. Only frame headers and small frames wait here for their rest (`_partial`); a header block
  waits in `_block`.

A **stream** is in `_streams` from its headers until it is over: when its reply was sent to the end, or when
either side reset it. Of a closed stream remains nothing: ids only grow, so those below `_next_id` are closed.
Three short memories tell them apart: `_reset_ids`, which *we* reset, as the client may have sent frames
before it knew; `_skipped`, which were never opened; and `_unended`, whose reply ended before their request.
Most clients end such a request when they see the reply. One that goes on is told to stop with NO_ERROR (RFC
9113, 8.1) once it would need credit; so are the most idle if they become many. Not at once: a proxy that
reads such a reset right behind the reply may pass on the reset alone.

**Windows.** What we may send is kept per stream and in total; data that fits neither waits in the stream's
queue, and streams that wait for the connection's window take turns. What the client may send is credited as
it arrives, half a window at a time, unless the caller says `hold`.

**Errors** of a stream reset it, and `Events.reset` is told; errors of the connection are raised as
`ConnectionFault` from wherever they are found, `receive` sends GOAWAY and says False from then on.
**Floods**: each frame that brings no work is counted against a budget that real work refills; resets have a
budget of their own; so have unread acknowledgements.

What is not here: priorities (RFC 9113 deprecates them), server push, and the comparison of content-length
with DATA, which is for whoever reads the body.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, Protocol

from mlserver.wire.http2 import frames
from mlserver.wire.http2.frames import DATA, END_STREAM, HEADERS, MAX_ID, ConnectionFault, ErrorCode, Limits
from mlserver.wire.http2.headers import BlockDecoder, Headers

__all__ = ["Connection", "Events", "Stream"]

Buffer = bytes | bytearray | memoryview

# A frame header: length and type as one number, flags, stream.
_FRAME = Struct(">IBI")
_unpack_frame = _FRAME.unpack_from
_pack_frame = _FRAME.pack
_FRAME_HEADER = 9
_SETTING = Struct(">HI")

# Bits of Stream._state
_ENDED = 1  # the client has sent END_STREAM
_ANSWERED = 2  # our headers are on their way
_FINISHED = 4  # so is our END_STREAM, or it waits in the queue
_CLOSED = 8
_HELD = 16

_TURN = 64 * 1024  # bytes that one stream sends while others wait for the connection's window
_SHUTDOWN_PING = b"shutdown"
_EMPTY_TABLE = b"\x20"  # RFC 7541, section 6.3: a dynamic table of 0 bytes


@dataclass(slots=True, eq=False)
class Stream:
    """One request and its reply.

    id: its number on the connection.
    user: for the caller.
    """

    id: int
    _room_in: int  # bytes that the client may still send
    _room_out: int  # and we; may be negative (RFC 9113, section 6.9.2)
    _state: int
    user: Any = None
    _queue: deque[memoryview] | None = None  # what waits for a window, None if nothing does
    # While there is a queue: its bytes, and what comes behind it. None: more may come; b"": END_STREAM; else
    # the block of the trailers.
    _pending: int = field(init=False)
    _end: bytes | None = field(init=False)

    @property
    def closed(self) -> bool:
        """Whether it is over; what is sent on it then goes nowhere."""
        return bool(self._state & _CLOSED)

    @property
    def ended(self) -> bool:
        """Whether the request is complete."""
        return bool(self._state & _ENDED)

    @property
    def answered(self) -> bool:
        """Whether the headers of the reply were sent."""
        return bool(self._state & _ANSWERED)

    @property
    def pending(self) -> int:
        """Bytes of data that wait for the client's permission."""
        return 0 if self._queue is None else self._pending


class Events(Protocol):
    """What a connection tells its caller, during `receive` only (`reset` also during `close`).

    The methods may call any method of the connection but `receive`, and must not raise.
    """

    def request(self, stream: Stream, headers: Headers, end_stream: bool, /) -> None:
        """A request begins; with end_stream that was all of it."""

    def headers_too_large(self, stream: Stream, end_stream: bool, /) -> None:
        """In place of `request`: headers above `Limits.max_header_list`. To be answered, or reset."""

    def data(self, stream: Stream, chunk: memoryview, end_stream: bool, /) -> None:
        """Part of a body; empty only at its end. A view of what `receive` was given: copy to keep."""

    def trailers(self, stream: Stream, headers: Headers, /) -> None:
        """The end of a request that has trailers."""

    def reset(self, stream: Stream, code: int, /) -> None:
        """A stream is over before its reply was: by the client, a fault, or the end of the connection."""

    def writable(self, stream: Stream, /) -> None:
        """All that waited on this stream is in the output. For streams whose end was not queued yet."""


class Connection:
    """See the module. Methods on a closed stream, or on a connection that has ended, do nothing.

    error: why the connection ended, None while it has not; reason: the same for a log.
    peer_goaway: the code of the client's GOAWAY, None before. It will open no more streams.
    output_bytes: what `take_output` would give. Take none while the socket's own buffer is full, and stop
        reading while this is large.
    queued_bytes: data that waits for windows. Only reading brings credit for it.
    """

    def __init__(self, events: Events, limits: Limits | None = None) -> None:
        self._limits = limits = limits or Limits()
        self._events = events
        self.error: ErrorCode | None = None
        self.reason = ""
        self.peer_goaway: int | None = None

        # Reading
        self._preface: bytes = frames.PREFACE  # as much of it as is still to come
        self._greeted = False  # the client's SETTINGS came
        self._partial = bytearray()  # the start of a frame
        self._needed = _FRAME_HEADER  # how much of it is needed to go on: first its header, to be checked
        self._rest = 0  # bytes to come of a payload that is passed on in parts
        self._rest_padding = 0  # and behind them, to be skipped
        self._rest_stream: Stream | None = None  # whose they are
        self._rest_ends = False
        self._headers = BlockDecoder(limits.max_header_list)
        self._block = bytearray()  # a header block that is to be continued
        self._block_id: int | None = None  # on which stream; None: there is none
        self._block_ends = False

        # Streams
        self._streams: dict[int, Stream] = {}
        self._next_id = 1  # the smallest that the client may open
        self._skipped: deque[range] = deque(maxlen=64)
        self._reset_ids: deque[int] = deque(maxlen=512)
        self._unended: dict[int, int] = {}  # and what their clients may still send
        self._shutting_down = False
        self._last_accepted = MAX_ID + 1  # less once the line is drawn: streams above it are not for us

        # Windows
        self._room_in = limits.connection_window
        self._held = False  # whether the client gets no credit for the connection
        self._room_out = self._stream_room_out = frames.DEFAULT_WINDOW
        self._max_frame_out = frames.SMALLEST_MAX_FRAME
        self._table_update = b""  # to go before the next header block

        # Output
        self._output: list[Buffer] = []
        self.output_bytes = 0
        self.queued_bytes = 0
        self._waiting: OrderedDict[int, Stream] = OrderedDict()  # for the connection's window only

        # Budgets
        self._now = self._counted_since = 0.0
        self._control = self._resets = self._unread_control = 0
        self._most_control = limits.max_control_frames
        self._work = self._work_before = 0  # DATA frames that were sent, less ids that were skipped

        settings = (
            (frames.MAX_CONCURRENT_STREAMS, limits.max_streams),
            (frames.INITIAL_WINDOW_SIZE, limits.stream_window),
            (frames.MAX_FRAME_SIZE, limits.max_frame),
            (frames.MAX_HEADER_LIST_SIZE, limits.max_header_list),
        )
        self._write(frames.SETTINGS, 0, 0, b"".join(_SETTING.pack(*setting) for setting in settings))
        if limits.connection_window > frames.DEFAULT_WINDOW:
            self._write_credit(0, limits.connection_window - frames.DEFAULT_WINDOW)

    # What the caller may ask

    @property
    def pending_bytes(self) -> int:
        """What is to be sent and was not taken: output, and data that waits for windows."""
        return self.output_bytes + self.queued_bytes

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    @property
    def incomplete(self) -> bool:
        """Whether the client is amid a preface, a frame or a header block, which should not take long."""
        begun = self._partial or self._rest or self._rest_padding or self._block_id is not None
        return bool(begun or not self._greeted)

    @property
    def finished(self) -> bool:
        """Whether the socket may be closed once the output is written: nothing will follow."""
        going = self._last_accepted <= MAX_ID or self.peer_goaway is not None
        return self.error is not None or (going and not self._streams)

    def take_output(self) -> list[Buffer]:
        """Everything that is to be written, in order. Buffers of the caller are among it as they came."""
        output, self._output = self._output, []
        self.output_bytes = self._unread_control = 0
        return output

    # Reading

    def receive(self, data: Buffer, now: float) -> bool:
        """Take what was read; tell the events. Keeps no reference to data.

        now: seconds, from any clock that does not go back.
        Returns False if the connection is over: write the output and close.
        """
        if self.error is not None:
            return False
        self._now = now
        view = memoryview(data)
        try:
            if self._preface:
                view = self._read_preface(view)
            if self._partial or self._rest or self._rest_padding:
                view = self._resume(view)
            taken = self._parse(view)
            if taken < len(view):
                self._partial += view[taken:]
            if self._room_in <= self._limits.connection_window >> 1:
                self._credit_connection()
        except ConnectionFault as fault:
            self.close(*fault.args)
        return self.error is None

    def _read_preface(self, view: memoryview) -> memoryview:
        self._counted_since = self._now
        count = min(len(self._preface), len(view))
        if self._preface[:count] != view[:count]:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "not an HTTP/2 client preface")
        self._preface = self._preface[count:]
        return view[count:]

    def _resume(self, view: memoryview) -> memoryview:
        """Complete what was begun in an earlier read; return what is behind it."""
        while self._partial and len(view):
            missing = self._needed - len(self._partial)
            self._partial += view[:missing]
            view = view[missing:]
            if len(self._partial) == self._needed:
                frame, self._partial, self._needed = bytes(self._partial), bytearray(), _FRAME_HEADER
                if self._parse(memoryview(frame)) == 0:
                    self._partial += frame  # its header is right, and asks for more
        return self._pass_on(view)

    def _parse(self, view: memoryview) -> int:
        """Handle all frames of which there is enough. Returns how many bytes those were."""
        on_request, on_data = self._events.request, self._events.data
        streams, known = self._streams, self._headers.known
        limits = self._limits
        max_frame, max_streams = limits.max_frame, limits.max_streams
        low = limits.stream_window >> 1
        # Only `_frame` begins and ends a header block or draws the line for new streams.
        short_way = self._greeted and self._block_id is None
        end = len(view)
        position = 0
        while position + 9 <= end:
            word, flags, stream_id = _unpack_frame(view, position)
            start = position + 9
            length = word >> 8
            stop = start + length
            if stop <= end and length <= max_frame and short_way:
                kind = word & 0xFF
                if kind == DATA and flags < 2:
                    stream = streams.get(stream_id)
                    if (
                        stream is not None
                        and 0 < length <= stream._room_in
                        and length <= self._room_in
                        and not stream._state & _ENDED
                    ):
                        self._room_in -= length
                        stream._room_in -= length
                        if flags:
                            stream._state |= _ENDED
                            on_data(stream, view[start:stop], True)
                        else:
                            on_data(stream, view[start:stop], False)
                            if stream._room_in <= low:
                                self._credit(stream)
                        position = stop
                        continue
                elif kind == HEADERS and flags | 1 == 5 and stream_id == self._next_id <= self._last_accepted:
                    headers = known.get(bytes(view[start:stop]))
                    if headers is not None and len(streams) < max_streams:
                        self._next_id = stream_id + 2
                        stream = Stream(stream_id, limits.stream_window, self._stream_room_out, flags & 1)
                        streams[stream_id] = stream
                        on_request(stream, headers, flags == 5)
                        position = stop
                        continue
            taken = self._frame(view, start, word, flags, stream_id & MAX_ID)
            if taken < 0:
                break
            position = taken
            short_way = self._greeted and self._block_id is None
        return position

    # The long way: any frame

    def _frame(self, view: memoryview, start: int, word: int, flags: int, stream_id: int) -> int:
        """Handle the frame whose payload begins at start. Returns where to go on; -1 if more is needed."""
        if self.error is not None:
            return len(view)  # the caller has closed the connection from within an event
        kind, length = word & 0xFF, word >> 8
        handler, of_a_stream, least, most = _KINDS.get(kind, _UNKNOWN)
        # What the header says about the frame, before any of it is kept.
        if length > self._limits.max_frame:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "frame too large")
        if not self._greeted and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._block_id != (stream_id if kind == frames.CONTINUATION else None):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "only a header block is continued, and at once")
        if kind == frames.PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "push from a client")
        if of_a_stream not in (None, stream_id > 0):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "on a stream, or on none, against its kind")
        if not least <= length <= most:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "frame of the wrong size")
        if kind == DATA:
            return self._on_data(view, start, length, flags, stream_id)
        if handler is None:  # RFC 9113, section 5.5: what is unknown is skipped
            self._spend()
            self._rest_padding = length
            return len(view) - len(self._pass_on(view[start:]))
        if length > self._limits.max_header_block:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "frame too large to be kept")
        if start + length > len(view):
            self._needed = _FRAME_HEADER + length
            return -1
        if kind != HEADERS:
            self._spend()
        handler(self, flags, stream_id, view[start : start + length])
        return start + length

    def _on_data(self, view: memoryview, start: int, length: int, flags: int, stream_id: int) -> int:
        size, padding = length, 0
        if flags & frames.PADDED:
            if not length:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "padding in an empty frame")
            if start == len(view):
                self._needed = _FRAME_HEADER + 1
                return -1
            padding = view[start]
            start += 1
            size -= 1 + padding
            if size < 0:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
        # All of the frame counts, padding too (RFC 9113, section 6.9.1), and from its header on.
        if length > self._room_in:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
        self._room_in -= length
        stream = self._streams.get(stream_id)
        if stream is None:
            self._closed_stream(stream_id, length, bool(flags & END_STREAM))
        elif stream._state & _ENDED:
            self._reset_stream(stream, ErrorCode.STREAM_CLOSED)
        elif length > stream._room_in:
            self._reset_stream(stream, ErrorCode.FLOW_CONTROL_ERROR)
        else:
            stream._room_in -= length
        self._rest, self._rest_padding = size, padding
        self._rest_stream, self._rest_ends = stream, bool(flags & END_STREAM)
        if not size and not self._rest_ends:
            self._spend()
        return len(view) - len(self._pass_on(view[start:]))

    def _pass_on(self, view: memoryview) -> memoryview:
        """Deliver what there is of a payload that has begun; return what is behind it."""
        chunk = view[: self._rest]
        self._rest -= len(chunk)
        stream, ends = self._rest_stream, self._rest_ends and not self._rest
        if stream is not None and (len(chunk) or ends) and not stream._state & _CLOSED:
            if ends:
                stream._state |= _ENDED
            self._events.data(stream, chunk, ends)
            if not self._rest_ends and stream._room_in <= self._limits.stream_window >> 1:
                self._credit(stream)
        if not self._rest:
            self._rest_stream = None
        padding = min(self._rest_padding, len(view) - len(chunk))
        self._rest_padding -= padding
        return view[len(chunk) + padding :]

    def _on_headers(self, flags: int, stream_id: int, payload: memoryview) -> None:
        if not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "stream of a server")
        start, end = 0, len(payload)
        if flags & frames.PADDED:
            start, end = 1, end - (payload[0] if end else 0)
        if flags & frames.PRIORITIZED:
            start += 5
        if len(payload) < start:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "frame shorter than its fields")
        if end < start:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
        self._block_id, self._block_ends = stream_id, bool(flags & END_STREAM)
        self._on_block_part(flags, stream_id, payload[start:end])

    def _on_block_part(self, flags: int, stream_id: int, payload: memoryview) -> None:
        """A header block is decoded whatever becomes of it, as the client's table changes."""
        self._block += payload
        if len(self._block) > self._limits.max_header_block:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "header block too large")
        if not flags & frames.END_HEADERS:
            return
        block, self._block, self._block_id = bytes(self._block), bytearray(), None
        stream, opens = self._streams.get(stream_id), stream_id >= self._next_id
        headers, fault = self._headers.decode(block, opens)
        if stream is not None:
            self._on_trailers(stream, headers, fault)
        elif opens:
            self._open(stream_id, headers, fault)
        elif any(stream_id in gap for gap in self._skipped):  # RFC 9113, section 5.1.1
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "stream below one that was opened")
        else:
            self._closed_stream(stream_id, 0, self._block_ends)

    def _open(self, stream_id: int, headers: Headers, fault: str | None) -> None:
        if stream_id > self._next_id:
            self._skipped.append(range(self._next_id, stream_id))
            self._work -= (stream_id - self._next_id) // 2
        self._next_id = stream_id + 2
        limits, ends = self._limits, self._block_ends
        if stream_id > self._last_accepted:
            self._spend()  # it was on its way when we said GOAWAY; the client will try elsewhere
        elif fault is not None:
            self._refuse(stream_id, ErrorCode.PROTOCOL_ERROR)
        elif len(self._streams) >= limits.max_streams:
            self._refuse(stream_id, ErrorCode.REFUSED_STREAM)
        else:
            too_large = headers.size > limits.max_header_list
            if too_large:
                self._count_reset()
            state = _ENDED if ends else 0
            stream = Stream(stream_id, limits.stream_window, self._stream_room_out, state)
            self._streams[stream_id] = stream
            if too_large:
                self._events.headers_too_large(stream, ends)
            else:
                self._events.request(stream, headers, ends)

    def _on_trailers(self, stream: Stream, headers: Headers, fault: str | None) -> None:
        if stream._state & _ENDED:
            self._reset_stream(stream, ErrorCode.STREAM_CLOSED)
        elif fault is not None or not self._block_ends:
            self._reset_stream(stream, ErrorCode.PROTOCOL_ERROR)
        elif headers.size > self._limits.max_header_list:
            self._reset_stream(stream, ErrorCode.ENHANCE_YOUR_CALM)
        else:
            stream._state |= _ENDED
            self._events.trailers(stream, headers)

    def _closed_stream(self, stream_id: int, length: int, ends: bool) -> None:
        """A frame with data or headers on a stream that is not open."""
        self._check_not_idle(stream_id)
        if stream_id in self._unended:
            room = self._unended.pop(stream_id)
            if length > room:
                self._refuse(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
            elif not ends:
                self._keep_unended(stream_id, room - length)
            return
        if stream_id <= self._last_accepted and stream_id not in self._reset_ids:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "frame on a closed stream")
        self._spend()

    def _check_not_idle(self, stream_id: int) -> None:
        if stream_id >= self._next_id or not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "frame on an idle stream")

    def _on_rst_stream(self, flags: int, stream_id: int, payload: memoryview) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_not_idle(stream_id)
            self._unended.pop(stream_id, None)
            return
        self._count_reset()
        self._drop(stream)
        self._events.reset(stream, int.from_bytes(payload, "big"))

    def _on_settings(self, flags: int, stream_id: int, payload: memoryview) -> None:
        if (flags & frames.ACK and len(payload)) or len(payload) % _SETTING.size:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "settings of the wrong size")
        if flags & frames.ACK:
            return
        self._greeted = True
        settings: dict[int, int] = {}
        for key, value in _SETTING.iter_unpack(payload):
            least, most, code = frames.SETTING_RANGES.get(key, (0, value, ErrorCode.NO_ERROR))
            if not least <= value <= most:
                raise ConnectionFault(code, "invalid setting")
            settings[key] = value
            if key == frames.HEADER_TABLE_SIZE and value < frames.DEFAULT_TABLE:
                # Our blocks use no dynamic table; the client must hear so before it makes its own smaller.
                self._table_update = _EMPTY_TABLE
        self._max_frame_out = settings.get(frames.MAX_FRAME_SIZE, self._max_frame_out)
        self._answer(frames.SETTINGS, frames.ACK, 0, b"")
        change = settings.get(frames.INITIAL_WINDOW_SIZE, self._stream_room_out) - self._stream_room_out
        self._stream_room_out += change
        for stream in list(self._streams.values()) if change else ():
            stream._room_out += change
            if stream._room_out > frames.MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "window too large")
            if stream._queue is not None:
                self._pump(stream)

    def _on_ping(self, flags: int, stream_id: int, payload: memoryview) -> None:
        if not flags & frames.ACK:
            self._answer(frames.PING, frames.ACK, 0, bytes(payload))
        elif self._shutting_down and payload == _SHUTDOWN_PING:
            self.shutdown()

    def _on_goaway(self, flags: int, stream_id: int, payload: memoryview) -> None:
        self.peer_goaway = int.from_bytes(payload[4:8], "big")

    def _on_window_update(self, flags: int, stream_id: int, payload: memoryview) -> None:
        credit = int.from_bytes(payload, "big") & frames.MAX_WINDOW
        stream = self._streams.get(stream_id)
        if not stream_id:
            if not credit:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "credit of nothing")
            self._room_out += credit
            if self._room_out > frames.MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "window too large")
            while self._room_out > 0 and self._waiting:
                self._pump(self._waiting.popitem(last=False)[1], _TURN)
        elif stream is None:
            self._check_not_idle(stream_id)
        elif not credit:
            self._reset_stream(stream, ErrorCode.PROTOCOL_ERROR)
        elif stream._room_out + credit > frames.MAX_WINDOW:
            self._reset_stream(stream, ErrorCode.FLOW_CONTROL_ERROR)
        else:
            stream._room_out += credit
            if stream._queue is not None:
                self._pump(stream)

    # Budgets

    def _spend(self) -> None:
        """Count a frame that brings no work."""
        self._control += 1
        if self._control > self._most_control:
            self._check_budgets()

    def _count_reset(self) -> None:
        self._resets += 1
        if self._resets > self._limits.max_resets:
            self._check_budgets()

    def _check_budgets(self) -> None:
        """Begin to count anew if it is time, and allow for the work that was done."""
        limits = self._limits
        work = self._next_id // 2 + self._work
        if self._now - self._counted_since >= limits.window_s:
            self._counted_since, self._work_before = self._now, work
            self._control = self._resets = 1
        earned = limits.control_frames_per_frame * (work - self._work_before)
        self._most_control = limits.max_control_frames + earned
        if self._control > self._most_control:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames without work")
        if self._resets > limits.max_resets:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many resets")

    # What the client may send

    def hold(self, stream: Stream | None = None) -> None:
        """Give no more credit for a stream, or all of them, until `release`: the caller is behind."""
        if stream is None:
            self._held = True
        else:
            stream._state |= _HELD

    def release(self, stream: Stream | None = None) -> None:
        """Undo `hold`."""
        if stream is None:
            self._held = False
            self._credit_connection()
        else:
            stream._state &= ~_HELD
            self._credit(stream)

    def _credit_connection(self) -> None:
        credit = self._limits.connection_window - self._room_in
        if credit > 0 and not self._held and self.error is None:
            self._room_in += credit
            self._write_credit(0, credit)

    def _credit(self, stream: Stream) -> None:
        credit = self._limits.stream_window - stream._room_in
        if credit > 0 and not stream._state & (_CLOSED | _ENDED | _HELD):
            stream._room_in += credit
            self._write_credit(stream.id, credit)

    # What we send

    def respond(self, stream: Stream, head: bytes, body: Buffer, trailers: bytes) -> None:
        """A whole reply: headers, data and trailers. Blocks are those of `encode_headers`.

        body is not copied, so it must not change until it was written.
        """
        length = len(body)
        size = length + len(head) + len(trailers)
        if (
            stream._state == _ENDED
            and length <= stream._room_out
            and length <= self._room_out
            and size <= self._max_frame_out
            and not self._table_update
        ):
            stream_id = stream.id
            self._room_out -= length
            stream._state = _ENDED | _ANSWERED | _FINISHED | _CLOSED
            del self._streams[stream_id]
            self._output += (
                _pack_frame(len(head) << 8 | 1, 4, stream_id),
                head,
                _pack_frame(length << 8, 0, stream_id),
                body,
                _pack_frame(len(trailers) << 8 | 1, 5, stream_id),
                trailers,
            )
            self.output_bytes += size + 27
        else:
            self.send_headers(stream, head)
            self.send_data(stream, body)
            self.send_trailers(stream, trailers)

    def send_headers(self, stream: Stream, block: bytes, end_stream: bool = False) -> None:
        """Begin a reply. With end_stream that was all of it."""
        if stream._state & (_CLOSED | _ANSWERED):
            return
        stream._state |= _ANSWERED
        self._write_block(stream.id, block, end_stream)
        if end_stream:
            self._finish(stream)

    def send_data(self, stream: Stream, data: Buffer | Sequence[Buffer], end_stream: bool = False) -> None:
        """Send data, now or when the client permits. Buffers in a sequence are sent as if they were one.

        They are not copied, so they must not change until they were written. See `Stream.pending`.
        """
        if stream._state & (_CLOSED | _FINISHED):
            return
        queue = stream._queue
        waits = queue is not None
        if queue is None:
            stream._queue = queue = deque()
            stream._pending, stream._end = 0, None
        for part in (data,) if isinstance(data, bytes | bytearray | memoryview) else data:
            if len(part):
                view = memoryview(part).cast("B")
                queue.append(view)
                stream._pending += len(view)
                self.queued_bytes += len(view)
        if end_stream:
            stream._end = b""
            stream._state |= _FINISHED
        if not waits:
            self._pump(stream, tell=False)

    def send_trailers(self, stream: Stream, block: bytes) -> None:
        """End a reply with trailers, behind all of its data."""
        if stream._state & (_CLOSED | _FINISHED):
            return
        if stream._queue is None:
            self._write_block(stream.id, block, True)
            self._finish(stream)
        else:
            stream._end = block
            stream._state |= _FINISHED

    def reset(self, stream: Stream, code: int = ErrorCode.CANCEL) -> None:
        """Give up a stream; what waits on it is dropped. `Events.reset` is not called."""
        if not stream._state & _CLOSED:
            self._drop(stream)
            self._write_reset(stream.id, code)

    def ping(self, payload: bytes) -> None:
        """Ask for a sign of life, with 8 bytes of any kind."""
        if self.error is None:
            self._write(frames.PING, 0, 0, payload)

    def shutdown(self) -> None:
        """Accept no more streams and go on with those that are open; `finished` tells when they are over.

        At first the client is only warned (RFC 9113, section 6.8), so that what it has sent till then is
        served. The line is drawn when it has heard, or at the second call, for a client that does not answer.
        """
        if self.error is not None or self._last_accepted <= MAX_ID:
            return
        if self._shutting_down:
            self._write_goaway(ErrorCode.NO_ERROR, "")
        else:
            self._shutting_down = True
            self._write(frames.GOAWAY, 0, 0, MAX_ID.to_bytes(4, "big") + bytes(4))
            self._write(frames.PING, 0, 0, _SHUTDOWN_PING)

    def close(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """End the connection now: every open stream is reset, the last output is GOAWAY."""
        if self.error is not None:
            return
        self.error, self.reason = code, reason
        self._write_goaway(code, reason)
        for stream in list(self._streams.values()):
            self._drop(stream)
            self._events.reset(stream, code)
        self._partial.clear()
        self._block.clear()
        self._headers.known.clear()

    # Streams that end

    def _finish(self, stream: Stream) -> None:
        """The end of a reply is in the output."""
        self._drop(stream)
        if not stream._state & _ENDED:
            self._keep_unended(stream.id, stream._room_in)

    def _keep_unended(self, stream_id: int, room: int) -> None:
        """Wait for the end of a request that was answered, or no longer."""
        if room <= self._limits.stream_window >> 1:
            self._write_reset(stream_id, ErrorCode.NO_ERROR)
            return
        self._unended[stream_id] = room
        if len(self._unended) > self._limits.max_streams >> 4:  # the client counts them among its streams
            oldest = next(iter(self._unended))
            del self._unended[oldest]
            self._write_reset(oldest, ErrorCode.NO_ERROR)

    def _drop(self, stream: Stream) -> None:
        stream._state |= _CLOSED | _FINISHED
        del self._streams[stream.id]
        if stream._queue is not None:
            self.queued_bytes -= stream._pending
            stream._queue = None
            self._waiting.pop(stream.id, None)

    def _reset_stream(self, stream: Stream, code: ErrorCode) -> None:
        """A fault of the client on one stream."""
        self._drop(stream)
        self._events.reset(stream, code)
        self._refuse(stream.id, code)

    def _refuse(self, stream_id: int, code: ErrorCode) -> None:
        self._reset_ids.append(stream_id)
        self._answer(frames.RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))
        self._count_reset()

    def _write_reset(self, stream_id: int, code: int) -> None:
        self._reset_ids.append(stream_id)
        self._write(frames.RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))

    # Output

    def _write(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        self._output.append(_pack_frame(len(payload) << 8 | kind, flags, stream_id) + payload)
        self.output_bytes += _FRAME_HEADER + len(payload)

    def _answer(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Write what the client makes us write."""
        self._write(kind, flags, stream_id, payload)
        self._unread_control += _FRAME_HEADER + len(payload)
        if self._unread_control > self._limits.max_unread_control:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many answers that are not read")

    def _write_credit(self, stream_id: int, credit: int) -> None:
        self._write(frames.WINDOW_UPDATE, 0, stream_id, credit.to_bytes(4, "big"))

    def _write_goaway(self, code: ErrorCode, reason: str) -> None:
        """Draw the line: streams that come from now on are not for us."""
        self._last_accepted = min(self._last_accepted, max(0, self._next_id - 2))
        numbers = self._last_accepted.to_bytes(4, "big") + code.to_bytes(4, "big")
        self._write(frames.GOAWAY, 0, 0, numbers + reason.encode())

    def _write_block(self, stream_id: int, block: bytes, ends: bool) -> None:
        block, self._table_update = self._table_update + block, b""
        size = self._max_frame_out
        kind, flags = HEADERS, END_STREAM if ends else 0
        while len(block) > size:
            self._write(kind, flags, stream_id, block[:size])
            block = block[size:]
            kind, flags = frames.CONTINUATION, 0
        self._write(kind, flags | frames.END_HEADERS, stream_id, block)

    def _pump(self, stream: Stream, most: int = frames.MAX_WINDOW, tell: bool = True) -> None:
        """Move what a stream has to send to the output, as far as the windows permit; about `most` bytes."""
        queue = stream._queue
        assert queue is not None
        while queue:
            room = min(stream._room_out, self._room_out, self._max_frame_out)
            if room <= 0 or most <= 0:
                if stream._room_out > 0:
                    self._waiting[stream.id] = stream
                return
            payload, size = [], 0
            while queue and size < room:
                part = queue.popleft()
                if len(part) > room - size:
                    queue.appendleft(part[room - size :])
                    part = part[: room - size]
                payload.append(part)
                size += len(part)
            most -= size
            stream._pending -= size
            stream._room_out -= size
            self.queued_bytes -= size
            self._room_out -= size
            self._work += 1
            self._output.append(_pack_frame(size << 8, 0, stream.id))
            self._output += payload
            self.output_bytes += _FRAME_HEADER + size
        stream._queue = None
        self._waiting.pop(stream.id, None)
        if stream._end:
            self._write_block(stream.id, stream._end, True)
            self._finish(stream)
        elif stream._end is not None:
            self._write(DATA, END_STREAM, stream.id, b"")
            self._finish(stream)
        elif tell:
            self._events.writable(stream)


# How a frame is handled, whether it is of a stream or of the connection (None: either), least and most size.
# DATA has a way of its own, PRIORITY is skipped like what is unknown, PUSH_PROMISE is none of a client's.
_MOST = frames.LARGEST_MAX_FRAME
_KINDS: dict[int, tuple[Callable[..., None] | None, bool | None, int, int]] = {
    DATA: (None, True, 0, _MOST),
    HEADERS: (Connection._on_headers, True, 0, _MOST),
    frames.PRIORITY: (None, True, 5, 5),
    frames.RST_STREAM: (Connection._on_rst_stream, True, 4, 4),
    frames.SETTINGS: (Connection._on_settings, False, 0, _MOST),
    frames.PING: (Connection._on_ping, False, 8, 8),
    frames.GOAWAY: (Connection._on_goaway, False, 8, _MOST),
    frames.WINDOW_UPDATE: (Connection._on_window_update, None, 4, 4),
    frames.CONTINUATION: (Connection._on_block_part, None, 0, _MOST),
}
_UNKNOWN = (None, None, 0, _MOST)
