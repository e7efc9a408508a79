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
either side reset it. A reply that ends before its request makes us reset the stream with NO_ERROR (RFC
9113, 8.1), so that nobody uploads into the void and no stream is half-closed by us. Of a closed stream
remains nothing; of those that *we* reset, the last few hundred ids, because the client may have sent frames
before it knew.

**Windows.** What we may send is kept per stream and in total; data that fits neither waits in the stream's
`_Queue`, and streams that wait for the connection's window take turns. What the client may send is credited
as it arrives, half a window at a time, unless the caller says `hold`.

**Errors** of a stream reset it, and `Events.reset` is told; errors of the connection send GOAWAY, and
`receive` says False from then on. **Floods**: each frame that brings no work is counted against a budget
that real work refills; resets have a budget of their own; so have unread acknowledgements.

What is not here: priorities (RFC 9113 deprecates them), server push, and the comparison of content-length
with DATA, which is for whoever reads the body.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from struct import Struct, unpack_from
from typing import Any, Protocol

from mlserver.wire.http2 import frames
from mlserver.wire.http2.frames import END_STREAM, MAX_ID, MAX_WINDOW, ConnectionFault, ErrorCode, Limits
from mlserver.wire.http2.headers import BlockDecoder, Headers, trailers_fault

__all__ = ["Connection", "Events", "Stream"]

Buffer = bytes | bytearray | memoryview

# A frame header: length and type as one number, flags, stream.
_FRAME = Struct(">IBI")
_unpack_frame = _FRAME.unpack_from
_frame = _FRAME.pack
_FRAME_HEADER = 9
_SETTING = Struct(">HI")

# Bits of Stream.state
_ENDED = 1  # the client has sent END_STREAM
_ANSWERED = 2  # our headers are on their way
_FINISHED = 4  # so is our END_STREAM, or it waits in the queue
_CLOSED = 8
_HELD = 16

_MOST_SETTINGS = 100  # in one frame; there are about ten kinds
_REMEMBERED_RESETS = 512
_TURN = 64 * 1024  # bytes that one stream sends while others wait for the connection's window
_SHUTDOWN_PING = b"shutdown"
_EMPTY_TABLE = b"\x20"  # RFC 7541, section 6.3: a dynamic table of 0 bytes


class Stream:
    """One request and its reply.

    id: its number on the connection.
    user: for the caller.
    """

    __slots__ = ("_queue", "_room_in", "_room_out", "_state", "id", "user")

    def __init__(self, stream_id: int, room_in: int, room_out: int, state: int) -> None:
        self.id = stream_id
        self.user: Any = None
        self._state = state
        self._room_in = room_in  # bytes that the client may still send
        self._room_out = room_out  # and we; may be negative (RFC 9113, section 6.9.2)
        self._queue: _Queue | None = None

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
        return self._queue.size if self._queue is not None else 0

    def __repr__(self) -> str:
        return f"<Stream {self.id}>"


class _Queue:
    """What a stream sends when it may."""

    __slots__ = ("blocked", "end", "end_written", "parts", "size")

    def __init__(self) -> None:
        self.parts: deque[memoryview] = deque()
        self.size = 0
        self.end: bytes | None = None  # None: more may come; b"": END_STREAM; else the block of the trailers
        self.end_written = False  # END_STREAM was on the last DATA frame
        self.blocked = False  # the caller is to hear when all is sent


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

    def pong(self, payload: bytes, /) -> None:
        """The answer to `ping`."""


class Connection:
    """See the module. Methods on a closed stream, or on a connection that has ended, do nothing.

    error: why the connection ended, None while it has not; reason: the same for a log.
    peer_goaway: the code of the client's GOAWAY, None before. It will open no more streams.
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
        self._rest = 0  # bytes to come of a payload that is passed on in parts, padding not counted
        self._rest_padding = 0
        self._rest_stream: Stream | None = None  # whose they are; None to skip them
        self._rest_ends = False
        self._block: bytearray | None = None  # a header block that is to be continued
        self._block_id = self._block_flags = self._block_frames = 0
        self._headers = BlockDecoder(limits.max_header_list)

        # Streams
        self._streams: dict[int, Stream] = {}
        self._last_id = 0
        self._last_accepted: int | None = None  # once final: streams above it are not for us
        self._shutting_down = False
        self._reset_ids: OrderedDict[int, None] = OrderedDict()

        # Windows. Until the client acknowledges a smaller one it may use the default (RFC 9113, 6.9.2).
        self._room_in = limits.connection_window
        self._stream_room_in = max(limits.stream_window, frames.DEFAULT_WINDOW)
        self._held = False
        self._room_out = self._stream_room_out = frames.DEFAULT_WINDOW
        self._max_frame_out = frames.SMALLEST_MAX_FRAME
        self._short_reply = self._max_frame_out  # replies up to this size take the short way; -1: none does
        self._table_update = b""  # to go before the next header block

        # Output
        self._output: list[Buffer] = []
        self._output_size = 0
        self._queued = 0
        self._waiting: OrderedDict[int, Stream] = OrderedDict()  # for the connection's window only

        # Budgets
        self._now = 0.0
        self._counted_since = 0.0
        self._control = 0
        self._most_control = limits.max_control_frames
        self._resets = 0
        self._data_frames = 0
        self._work_before = 0
        self._unread_control = 0

        self._announce()

    def _announce(self) -> None:
        limits = self._limits
        settings = (
            (frames.MAX_CONCURRENT_STREAMS, limits.max_streams),
            (frames.INITIAL_WINDOW_SIZE, limits.stream_window),
            (frames.MAX_FRAME_SIZE, limits.max_frame),
            (frames.MAX_HEADER_LIST_SIZE, limits.max_header_list),
        )
        self._write(frames.SETTINGS, 0, 0, b"".join(_SETTING.pack(*setting) for setting in settings))
        if limits.connection_window > frames.DEFAULT_WINDOW:
            extra = limits.connection_window - frames.DEFAULT_WINDOW
            self._write(frames.WINDOW_UPDATE, 0, 0, extra.to_bytes(4, "big"))

    # What the caller may ask

    @property
    def pending_bytes(self) -> int:
        """What is to be sent and was not taken: output, and data that waits for windows.

        Take no output while the socket's own buffer is full, and stop reading while `output_bytes` is large.
        """
        return self._output_size + self._queued

    @property
    def output_bytes(self) -> int:
        """What `take_output` would give."""
        return self._output_size

    @property
    def queued_bytes(self) -> int:
        """Data that waits for windows. Only reading brings credit for it."""
        return self._queued

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    @property
    def incomplete(self) -> bool:
        """Whether the client is amid a preface, a frame or a header block, which should not take long."""
        return bool(
            not self._greeted or self._partial or self._rest or self._rest_padding or self._block is not None
        )

    @property
    def finished(self) -> bool:
        """Whether the socket may be closed once the output is written: nothing will follow."""
        if self.error is not None:
            return True
        going = self._last_accepted is not None or self.peer_goaway is not None
        return going and not self._streams

    def take_output(self) -> list[Buffer]:
        """Everything that is to be written, in order. Buffers of the caller are among it as they came."""
        output, self._output = self._output, []
        self._output_size = self._unread_control = 0
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
                self._counted_since = now
                view = self._read_preface(view)
            if self._partial or self._rest or self._rest_padding:
                view = self._resume(view)
            taken = self._parse(view)
            if taken < len(view):
                self._partial += view[taken:]
            if self._room_in <= self._limits.connection_window >> 1:
                self._credit_connection()
        except ConnectionFault as fault:
            self.close(fault.code, fault.reason)
        return self.error is None

    def _read_preface(self, view: memoryview) -> memoryview:
        count = min(len(self._preface), len(view))
        if self._preface[:count] != view[:count]:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "not an HTTP/2 client preface")
        self._preface = self._preface[count:]
        return view[count:]

    def _resume(self, view: memoryview) -> memoryview:
        """Complete what was begun in an earlier read; return what is behind it."""
        while self._partial and len(view):
            needed = self._needed()
            missing = needed - len(self._partial)
            self._partial += view[:missing]
            view = view[missing:]
            if len(self._partial) == needed:
                frame, self._partial = bytes(self._partial), bytearray()
                if self._parse(memoryview(frame)) == 0:
                    self._partial = bytearray(frame)  # its header is right, and asks for more
        if self._rest or self._rest_padding:
            view = self._pass_on(view)
        return view

    def _needed(self) -> int:
        """How many bytes of the partial frame must be there to go on: first its header, to be checked."""
        partial = self._partial
        if len(partial) < _FRAME_HEADER:
            return _FRAME_HEADER
        word, flags, _ = _unpack_frame(partial)
        kind: int = word & 0xFF
        length: int = word >> 8
        if kind == frames.DATA:
            return _FRAME_HEADER + bool(flags & frames.PADDED)
        if kind == frames.GOAWAY:
            return _FRAME_HEADER + min(length, 8)
        return _FRAME_HEADER + (length if kind in _HANDLERS else 0)

    def _pass_on(self, view: memoryview) -> memoryview:
        """The next part of a payload; return what is behind it."""
        count = min(self._rest, len(view))
        stream = self._rest_stream
        if count:
            self._rest -= count
            if stream is not None and not stream._state & _CLOSED:
                self._deliver(stream, view[:count], self._rest_ends and not self._rest)
            view = view[count:]
        if not self._rest:
            self._rest_stream = None
            count = min(self._rest_padding, len(view))
            self._rest_padding -= count
            view = view[count:]
        return view

    def _parse(self, view: memoryview) -> int:
        """Handle all frames of which there is enough. Returns how many bytes those were."""
        events = self._events
        on_request, on_data = events.request, events.data
        streams = self._streams
        known = self._headers.known
        limits = self._limits
        max_frame, max_streams = limits.max_frame, limits.max_streams
        low = limits.stream_window >> 1
        # Only `_frame` begins and ends a header block or draws the line for new streams.
        short_way = self._greeted and self._block is None
        end = len(view)
        position = 0
        while position + 9 <= end:
            word, flags, stream_id = _unpack_frame(view, position)
            start = position + 9
            length = word >> 8
            stop = start + length
            if stop <= end and length <= max_frame and short_way:
                kind = word & 0xFF
                if kind == 0 and flags < 2:
                    stream = streams.get(stream_id)
                    if (
                        stream is not None
                        and 0 < length <= stream._room_in
                        and length <= self._room_in
                        and not stream._state & 1
                    ):
                        self._room_in -= length
                        stream._room_in -= length
                        if flags:
                            stream._state |= 1
                            on_data(stream, view[start:stop], True)
                        else:
                            on_data(stream, view[start:stop], False)
                            if stream._room_in <= low:
                                self._credit(stream)
                        position = stop
                        continue
                elif kind == 1 and flags | 1 == 5 and self._last_id < stream_id <= MAX_ID and stream_id & 1:
                    headers = known.get(bytes(view[start:stop]))
                    if headers is not None and len(streams) < max_streams and self._last_accepted is None:
                        self._last_id = stream_id
                        stream = Stream(stream_id, self._stream_room_in, self._stream_room_out, flags & 1)
                        streams[stream_id] = stream
                        on_request(stream, headers, flags == 5)
                        position = stop
                        continue
            taken = self._frame(view, position)
            if taken < 0:
                break
            position = taken
            short_way = self._greeted and self._block is None
        return position

    # The long way: any frame

    def _frame(self, view: memoryview, position: int) -> int:
        """Handle one frame. Returns where to go on; -1 if more of the frame is needed."""
        if self.error is not None:
            return len(view)  # the caller has closed the connection from within an event
        word, flags, stream_id = _unpack_frame(view, position)
        kind: int = word & 0xFF
        length: int = word >> 8
        stream_id &= MAX_ID
        start = position + _FRAME_HEADER
        stop = start + length
        self._check_frame(kind, length, flags, stream_id)
        if kind == frames.DATA:
            return self._on_data(flags, stream_id, view, start, stop)
        if kind == frames.GOAWAY and stop > len(view) >= start + 8:
            self._on_goaway(flags, stream_id, view[start : start + 8])
            return self._skip(view, start + 8, stop)
        if kind not in _HANDLERS:  # RFC 9113, section 5.5
            self._spend()
            return self._skip(view, start, stop)
        if stop > len(view):
            return -1
        _HANDLERS[kind](self, flags, stream_id, view[start:stop])
        return stop

    def _check_frame(self, kind: int, length: int, flags: int, stream_id: int) -> None:
        """What the header of a frame says about it, before any of it is kept."""
        if length > self._limits.max_frame:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "frame too large")
        if not self._greeted and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if (self._block is not None) != (kind == frames.CONTINUATION) or (
            kind == frames.CONTINUATION and stream_id != self._block_id
        ):
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, "a header block is to be continued, and nothing else is"
            )
        if kind == frames.PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "push from a client")
        if kind in _OF_STREAMS and not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "frame without a stream")
        if kind in _OF_THE_CONNECTION and stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "frame of a stream that is of the connection")
        size = _SIZES.get(kind, length)
        if length != size and (kind != frames.GOAWAY or length < size):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "frame of the wrong size")
        if kind in (frames.HEADERS, frames.CONTINUATION) and length > self._limits.max_header_block:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "header block too large")
        if kind == frames.SETTINGS and length > _MOST_SETTINGS * _SETTING.size:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many settings")

    def _skip(self, view: memoryview, start: int, stop: int) -> int:
        end = min(stop, len(view))
        self._rest = stop - end
        return max(start, end)

    def _on_data(self, flags: int, stream_id: int, view: memoryview, start: int, stop: int) -> int:
        length = stop - start
        padding = 0
        if flags & frames.PADDED:
            if not length:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "padding in an empty frame")
            if start == len(view):
                return -1
            padding = view[start]
            start += 1
            if padding >= length:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
        # All of the frame counts, padding too (RFC 9113, section 6.9.1), and from its header on.
        if length > self._room_in:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
        self._room_in -= length
        stream = self._stream_for_data(stream_id, length)
        size = stop - padding - start
        ends = bool(flags & END_STREAM)
        if not size and not ends:
            self._spend()
        end = min(start + size, len(view))
        self._rest, self._rest_padding = start + size - end, padding
        self._rest_stream, self._rest_ends = stream, ends
        if stream is not None and (end > start or (ends and not size)):
            self._deliver(stream, view[start:end], ends and not self._rest)
        if not self._rest:
            self._rest_stream = None
            end = min(stop, len(view))
            self._rest_padding = stop - end
        return end

    def _stream_for_data(self, stream_id: int, length: int) -> Stream | None:
        """The stream that takes a DATA frame, with the frame taken off its window. None: nobody does."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self._closed_stream(stream_id)
        elif stream._state & _ENDED:
            self._reset_stream(stream, ErrorCode.STREAM_CLOSED)
        elif length > stream._room_in:
            self._reset_stream(stream, ErrorCode.FLOW_CONTROL_ERROR)
        else:
            stream._room_in -= length
            return stream
        return None

    def _deliver(self, stream: Stream, chunk: memoryview, ends: bool) -> None:
        if ends:
            stream._state |= _ENDED
        self._events.data(stream, chunk, ends)
        if not self._rest_ends and stream._room_in <= self._limits.stream_window >> 1:
            self._credit(stream)

    def _on_headers(self, flags: int, stream_id: int, payload: memoryview) -> None:
        if not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "stream of a server")
        start, end = 0, len(payload)
        if flags & frames.PADDED:
            start, end = 1, end - (payload[0] if end else 0)
        if flags & frames.PRIORITIZED:
            start += 5
        if start > end:
            short = len(payload) < start
            code = ErrorCode.FRAME_SIZE_ERROR if short else ErrorCode.PROTOCOL_ERROR
            raise ConnectionFault(code, "frame shorter than its fields and padding")
        if flags & frames.END_HEADERS:
            self._on_block(flags, stream_id, bytes(payload[start:end]))
        else:
            self._block = bytearray(payload[start:end])
            self._block_id, self._block_flags, self._block_frames = stream_id, flags, 0

    def _on_continuation(self, flags: int, stream_id: int, payload: memoryview) -> None:
        self._spend()
        block = self._block
        assert block is not None
        block += payload
        self._block_frames += 1
        if self._block_frames > self._limits.max_continuations or len(block) > self._limits.max_header_block:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "header block too large")
        if flags & frames.END_HEADERS:
            self._block = None
            self._on_block(self._block_flags, stream_id, bytes(block))

    def _on_block(self, flags: int, stream_id: int, block: bytes) -> None:
        """A complete header block. It is decoded whatever becomes of it, as the client's table changes."""
        ends = bool(flags & END_STREAM)
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._on_trailers(stream, self._headers.decode(block), ends)
        elif stream_id <= self._last_id:
            self._headers.decode(block)
            self._closed_stream(stream_id)
        else:
            headers = self._headers.known.get(block)
            fault = None
            if headers is None:
                headers, fault = self._headers.decode_request(block)
            self._open(stream_id, headers, fault, ends)

    def _open(self, stream_id: int, headers: Headers, fault: str | None, ends: bool) -> None:
        self._last_id = stream_id
        if self._last_accepted is not None:
            self._spend()  # it was on its way when we said GOAWAY; the client will try elsewhere
        elif fault is not None:
            self._refuse(stream_id, ErrorCode.PROTOCOL_ERROR)
        elif len(self._streams) >= self._limits.max_streams:
            self._refuse(stream_id, ErrorCode.REFUSED_STREAM)
        else:
            too_large = headers.size > self._limits.max_header_list
            if too_large:
                self._count_reset()
            stream = Stream(stream_id, self._stream_room_in, self._stream_room_out, _ENDED if ends else 0)
            self._streams[stream_id] = stream
            if too_large:
                self._events.headers_too_large(stream, ends)
            else:
                self._events.request(stream, headers, ends)

    def _on_trailers(self, stream: Stream, headers: Headers, ends: bool) -> None:
        if stream._state & _ENDED:
            self._reset_stream(stream, ErrorCode.STREAM_CLOSED)
        elif not ends or trailers_fault(headers.fields, set()) is not None:
            self._reset_stream(stream, ErrorCode.PROTOCOL_ERROR)
        elif headers.size > self._limits.max_header_list:
            self._reset_stream(stream, ErrorCode.ENHANCE_YOUR_CALM)
        else:
            stream._state |= _ENDED
            self._events.trailers(stream, headers)

    def _closed_stream(self, stream_id: int) -> None:
        """A frame with data or headers on a stream that is not open."""
        if self._is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "frame on an idle stream")
        ours = stream_id in self._reset_ids
        if not ours and (self._last_accepted is None or stream_id <= self._last_accepted):
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "frame on a closed stream")
        self._spend()

    def _is_idle(self, stream_id: int) -> bool:
        return stream_id > self._last_id or not stream_id & 1

    def _on_priority(self, flags: int, stream_id: int, payload: memoryview) -> None:
        self._spend()

    def _on_rst_stream(self, flags: int, stream_id: int, payload: memoryview) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._count_reset()
            self._drop(stream)
            self._events.reset(stream, int.from_bytes(payload, "big"))
        elif self._is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "reset of an idle stream")
        else:
            self._spend()

    def _on_settings(self, flags: int, stream_id: int, payload: memoryview) -> None:
        self._spend()
        if flags & frames.ACK:
            if len(payload):
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "acknowledgement with settings")
            self._on_settings_ack()
            return
        if len(payload) % _SETTING.size:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "settings of the wrong size")
        self._greeted = True
        settings = {}
        for key, value in _SETTING.iter_unpack(payload):
            _check_setting(key, value)
            settings[key] = value
            if key == frames.HEADER_TABLE_SIZE and value < frames.DEFAULT_TABLE:
                # Our blocks use no dynamic table; the client must hear so before it makes its own smaller.
                self._table_update = _EMPTY_TABLE
        if frames.MAX_FRAME_SIZE in settings:
            self._max_frame_out = settings[frames.MAX_FRAME_SIZE]
        self._short_reply = -1 if self._table_update else self._max_frame_out
        self._write_control(frames.SETTINGS, frames.ACK, 0, b"")
        if frames.INITIAL_WINDOW_SIZE in settings:
            self._change_windows(settings[frames.INITIAL_WINDOW_SIZE])

    def _change_windows(self, initial: int) -> None:
        delta = initial - self._stream_room_out
        self._stream_room_out = initial
        streams = list(self._streams.values())
        for stream in streams:
            stream._room_out += delta
            if stream._room_out > MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "window too large")
        for stream in streams:
            if delta > 0 and stream._queue is not None:
                self._pump(stream)

    def _on_settings_ack(self) -> None:
        """From now on the client keeps to our window for streams, which may be smaller than the default."""
        delta = self._limits.stream_window - self._stream_room_in
        self._stream_room_in += delta
        if delta:
            for stream in self._streams.values():
                stream._room_in += delta
                if stream._room_in <= self._limits.stream_window >> 1:
                    self._credit(stream)

    def _on_ping(self, flags: int, stream_id: int, payload: memoryview) -> None:
        self._spend()
        if not flags & frames.ACK:
            self._write_control(frames.PING, frames.ACK, 0, bytes(payload))
        elif self._shutting_down and payload == _SHUTDOWN_PING:
            self._finish_shutdown()
        else:
            self._events.pong(bytes(payload))

    def _on_goaway(self, flags: int, stream_id: int, payload: memoryview) -> None:
        self._spend()
        self.peer_goaway = unpack_from(">I", payload, 4)[0]

    def _on_window_update(self, flags: int, stream_id: int, payload: memoryview) -> None:
        self._spend()
        credit = int.from_bytes(payload, "big") & MAX_WINDOW
        if not stream_id:
            if not credit:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "credit of nothing")
            self._room_out += credit
            if self._room_out > MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "window too large")
            self._pump_waiting()
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            if self._is_idle(stream_id):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "credit for an idle stream")
        elif not credit:
            self._reset_stream(stream, ErrorCode.PROTOCOL_ERROR)
        elif stream._room_out + credit > MAX_WINDOW:
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
            self._new_budget()
            if self._control > self._most_control:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames without work")

    def _count_reset(self) -> None:
        self._spend()
        self._resets += 1
        if self._resets > self._limits.max_resets:
            self._new_budget()
            if self._resets > self._limits.max_resets:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many resets")

    def _new_budget(self) -> None:
        """Begin to count anew if it is time, else allow for the work that was done."""
        work = self._last_id // 2 + self._data_frames
        limits = self._limits
        if self._now - self._counted_since >= limits.window_s:
            self._counted_since = self._now
            self._work_before = work
            self._control = min(self._control, 1)
            self._resets = min(self._resets, 1)
        done = work - self._work_before
        self._most_control = limits.max_control_frames + limits.control_frames_per_frame * done

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
            if self.error is None:
                self._credit_connection()
        else:
            stream._state &= ~_HELD
            self._credit(stream)

    def _credit(self, stream: Stream) -> None:
        credit = self._limits.stream_window - stream._room_in
        if credit > 0 and not stream._state & (_CLOSED | _ENDED | _HELD):
            stream._room_in += credit
            self._write(frames.WINDOW_UPDATE, 0, stream.id, credit.to_bytes(4, "big"))

    def _credit_connection(self) -> None:
        credit = self._limits.connection_window - self._room_in
        if credit > 0 and not self._held:
            self._room_in += credit
            self._write(frames.WINDOW_UPDATE, 0, 0, credit.to_bytes(4, "big"))

    # What we send

    def respond(self, stream: Stream, head: bytes, body: Buffer, trailers: bytes) -> None:
        """A whole reply: headers, data and trailers. Blocks are those of `encode_headers`.

        body is not copied, so it must not change until it was written.
        """
        length = len(body)
        if (
            stream._state == _ENDED
            and length <= stream._room_out
            and length <= self._room_out
            and length + len(head) + len(trailers) <= self._short_reply
        ):
            stream_id = stream.id
            self._room_out -= length
            stream._state = _ENDED | _ANSWERED | _FINISHED | _CLOSED
            del self._streams[stream_id]
            self._output += (
                _frame(len(head) << 8 | 1, 4, stream_id),
                head,
                _frame(length << 8, 0, stream_id),
                body,
                _frame(len(trailers) << 8 | 1, 5, stream_id),
                trailers,
            )
            self._output_size += length + len(head) + len(trailers) + 27
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
        if queue is None:
            queue = stream._queue = _Queue()
        for part in (data,) if isinstance(data, bytes | bytearray | memoryview) else data:
            if len(part):
                view = memoryview(part).cast("B")
                queue.parts.append(view)
                queue.size += len(view)
                self._queued += len(view)
        if end_stream:
            queue.end = b""
            stream._state |= _FINISHED
        self._pump(stream)

    def send_trailers(self, stream: Stream, block: bytes) -> None:
        """End a reply with trailers, behind all of its data."""
        if stream._state & (_CLOSED | _FINISHED):
            return
        queue = stream._queue
        if queue is None:
            self._write_block(stream.id, block, True)
            self._finish(stream)
        else:
            queue.end = block
            stream._state |= _FINISHED
            self._pump(stream)

    def reset(self, stream: Stream, code: int = ErrorCode.CANCEL) -> None:
        """Give up a stream; what waits on it is dropped. `Events.reset` is not called."""
        if not stream._state & _CLOSED:
            self._drop(stream)
            self._write_reset(stream.id, code)

    def ping(self, payload: bytes) -> None:
        """Ask for a sign of life, with 8 bytes to recognise it by."""
        if self.error is None:
            self._write(frames.PING, 0, 0, payload)

    def shutdown(self) -> None:
        """Accept no more streams and go on with those that are open; `finished` tells when they are over.

        At first the client is only warned (RFC 9113, section 6.8), so that what it has sent till then is
        served. The line is drawn when it has heard, or at the second call, for a client that does not answer.
        """
        if self.error is not None or self._last_accepted is not None:
            return
        if self._shutting_down:
            self._finish_shutdown()
        else:
            self._shutting_down = True
            self._write(frames.GOAWAY, 0, 0, MAX_ID.to_bytes(4, "big") + bytes(4))
            self._write(frames.PING, 0, 0, _SHUTDOWN_PING)

    def _finish_shutdown(self) -> None:
        if self._last_accepted is None:
            self._last_accepted = self._last_id
            self._write(frames.GOAWAY, 0, 0, self._last_id.to_bytes(4, "big") + bytes(4))

    def close(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """End the connection now: every open stream is reset, the last output is GOAWAY."""
        if self.error is not None:
            return
        self.error = code
        self.reason = reason
        if self._last_accepted is None:
            self._last_accepted = self._last_id
        numbers = self._last_accepted.to_bytes(4, "big") + code.to_bytes(4, "big")
        self._write(frames.GOAWAY, 0, 0, numbers + reason.encode())
        for stream in list(self._streams.values()):
            self._drop(stream)
            self._events.reset(stream, code)
        self._partial.clear()
        self._block = None
        self._headers.known.clear()

    # Streams that end

    def _finish(self, stream: Stream) -> None:
        """The end of a reply is in the output."""
        ended = stream._state & _ENDED
        self._drop(stream)
        if not ended:
            self._write_reset(stream.id, ErrorCode.NO_ERROR)

    def _drop(self, stream: Stream) -> None:
        stream._state |= _CLOSED | _FINISHED
        del self._streams[stream.id]
        if stream._queue is not None:
            self._queued -= stream._queue.size
            stream._queue = None
            self._waiting.pop(stream.id, None)

    def _reset_stream(self, stream: Stream, code: ErrorCode) -> None:
        """A fault of the client on one stream."""
        self._drop(stream)
        self._events.reset(stream, code)
        self._refuse(stream.id, code)

    def _refuse(self, stream_id: int, code: ErrorCode) -> None:
        self._write_reset(stream_id, code)
        self._count_reset()
        self._check_unread(_FRAME_HEADER + 4)

    def _write_reset(self, stream_id: int, code: int) -> None:
        self._write(frames.RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))
        self._reset_ids[stream_id] = None
        if len(self._reset_ids) > _REMEMBERED_RESETS:
            self._reset_ids.popitem(last=False)

    # Output

    def _write(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        self._output.append(_frame(len(payload) << 8 | kind, flags, stream_id) + payload)
        self._output_size += _FRAME_HEADER + len(payload)

    def _write_control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Write what the client made us write."""
        self._write(kind, flags, stream_id, payload)
        self._check_unread(_FRAME_HEADER + len(payload))

    def _check_unread(self, size: int) -> None:
        self._unread_control += size
        if self._unread_control > self._limits.max_unread_control:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many answers that are not read")

    def _write_block(self, stream_id: int, block: bytes, ends: bool) -> None:
        if self._table_update:
            block = self._table_update + block
            # At 0 it fits whatever the client allows from now on.
            self._table_update = b""
            self._short_reply = self._max_frame_out
        size = self._max_frame_out
        kind, flags = frames.HEADERS, END_STREAM if ends else 0
        while len(block) > size:
            self._write(kind, flags, stream_id, block[:size])
            block = block[size:]
            kind, flags = frames.CONTINUATION, 0
        self._write(kind, flags | frames.END_HEADERS, stream_id, block)

    def _pump_waiting(self) -> None:
        """Spend the connection's window on the streams that wait for it, in turns."""
        while self._room_out > 0 and self._waiting:
            _, stream = self._waiting.popitem(last=False)
            self._pump(stream, _TURN)

    def _pump(self, stream: Stream, most: int = MAX_WINDOW) -> None:
        """Move what a stream has to send to the output, as far as the windows permit."""
        queue = stream._queue
        assert queue is not None
        while queue.parts:
            room = min(stream._room_out, self._room_out, self._max_frame_out)
            if room <= 0 or most <= 0:
                queue.blocked = True
                if stream._room_out > 0:
                    self._waiting[stream.id] = stream
                return
            most -= self._write_data(stream, queue, room)
        self._waiting.pop(stream.id, None)
        if queue.end is None:
            if queue.blocked:
                queue.blocked = False
                self._events.writable(stream)
            return
        if queue.end:
            self._write_block(stream.id, queue.end, True)
        elif not queue.end_written:
            self._write(frames.DATA, END_STREAM, stream.id, b"")
        self._finish(stream)

    def _write_data(self, stream: Stream, queue: _Queue, room: int) -> int:
        """Write one DATA frame of at most room bytes; return its size."""
        parts, payload, size = queue.parts, [], 0
        while parts and size < room:
            part = parts.popleft()
            if len(part) > room - size:
                parts.appendleft(part[room - size :])
                part = part[: room - size]
            payload.append(part)
            size += len(part)
        queue.size -= size
        self._queued -= size
        stream._room_out -= size
        self._room_out -= size
        self._data_frames += 1
        if not parts and queue.end == b"":
            queue.end_written = True
        self._output.append(_frame(size << 8, END_STREAM if queue.end_written else 0, stream.id))
        self._output += payload
        self._output_size += _FRAME_HEADER + size
        return size


def _check_setting(key: int, value: int) -> None:
    """RFC 9113, section 6.5.2."""
    if key == frames.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
        raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "window too large")
    if (
        key == frames.MAX_FRAME_SIZE and not frames.SMALLEST_MAX_FRAME <= value <= frames.LARGEST_MAX_FRAME
    ) or (key in (frames.ENABLE_PUSH, frames.ENABLE_CONNECT_PROTOCOL) and value > 1):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "invalid setting")


_OF_STREAMS = frozenset((frames.DATA, frames.HEADERS, frames.PRIORITY, frames.RST_STREAM))
_OF_THE_CONNECTION = frozenset((frames.SETTINGS, frames.PING, frames.GOAWAY))
_SIZES = {frames.PRIORITY: 5, frames.RST_STREAM: 4, frames.PING: 8, frames.GOAWAY: 8, frames.WINDOW_UPDATE: 4}
# DATA has a way of its own, PUSH_PROMISE is none of a client's.
_HANDLERS = {
    frames.HEADERS: Connection._on_headers,
    frames.PRIORITY: Connection._on_priority,
    frames.RST_STREAM: Connection._on_rst_stream,
    frames.SETTINGS: Connection._on_settings,
    frames.PING: Connection._on_ping,
    frames.GOAWAY: Connection._on_goaway,
    frames.WINDOW_UPDATE: Connection._on_window_update,
    frames.CONTINUATION: Connection._on_continuation,
}
