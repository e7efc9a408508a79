"""What the front and a worker say to each other, over a socket and shared memory.

A frame is `[kind, *fields]` and bytes. Requests and replies travel as the bytes they are on the wire: large
ones in shared memory, where a few numbers in the frame point to, all others behind the header. What is said
in one turn of the loop leaves in one write.

Nothing here is ever pickled: the two may be of different Python versions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

from mlserver.errors import MLServerError, user_traceback
from mlserver.executor import Call, Reply
from mlserver.parallel.arena import Arena, Mapping
from mlserver.parallel.errors import RemoteError
from mlserver.wire.formats import Body, Payload
from mlserver.wire.frames import FrameReader, encode_frame

__all__ = ["Channel", "Kind", "Reader", "Writer"]

# From here on, in bytes, a payload goes through shared memory.
LARGE = 16 * 1024
# Dictionaries of headers that the other side remembers.
_MOST_HEADERS = 1024


class Kind(IntEnum):
    """The first field of a frame. Fields that follow are given here; `slot`: see `Writer.add`."""

    # Both ways
    ASK = 0  # id, what, *arguments: to be answered
    ANSWER = 1  # id, value
    FAILED = 2  # id, error (see `describe_error`)
    RELEASE = 3  # offsets of blocks of shared memory that are not looked at any more
    # Front to worker
    HEADERS = 4  # number, headers: what calls refer to from here on
    RUN = 5  # model, batch, calls as [wire, number of headers, slot]
    CANCEL = 6  # batch
    OPEN = 7  # stream, model, scope of an ASGI request or None for inferences
    PUT = 8  # stream, item, slot
    END = 9  # stream: no more items from the front
    CLOSE = 10  # stream: nobody reads it any more
    MORE = 11  # stream, both ways: an item was taken, another may be sent
    # Worker to front
    DONE = 12  # batch, seconds, ready, stages, replies as [status, id, headers, slot]
    AWAITS = 13  # batch
    ITEM = 14  # stream, item, slot
    ENDED = 15  # stream, error or None
    STATE = 16  # model, whether it says that it is ready


class Writer:
    """Puts payloads into a frame: small ones behind its header, large ones into shared memory."""

    __slots__ = ("_arena", "pieces")

    def __init__(self, arena: Arena | None) -> None:
        self._arena = arena
        self.pieces: list[bytes | bytearray | memoryview] = []

    def add(self, payload: Payload | Body) -> int | tuple[int, int]:
        """The slot that `Reader.take` wants: a size, or an offset and a size."""
        if type(payload) is bytes and len(payload) < LARGE:
            self.pieces.append(payload)
            return len(payload)
        parts = payload if isinstance(payload, list) else [payload]
        size = sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)
        if size >= LARGE and self._arena is not None:
            offset = self._arena.put(parts, size)
            if offset is not None:
                return offset, size
        self.pieces += (part.cast("B") if isinstance(part, memoryview) else part for part in parts)
        return size


class Reader:
    """Takes payloads out of a frame, in the order in which they were added."""

    __slots__ = ("_at", "_bytes", "_mapping")

    def __init__(self, behind: bytes, mapping: Mapping | None) -> None:
        self._bytes = behind
        self._mapping = mapping
        self._at = 0

    def take(self, slot: int | Sequence[int]) -> bytes | memoryview:
        if not isinstance(slot, int):
            assert self._mapping is not None
            return self._mapping.view(slot[0], slot[1])
        start, self._at = self._at, self._at + slot
        return self._bytes[start : self._at]


def discard(kind: Kind, fields: Sequence[Any], reader: Reader) -> None:
    """Let go of what came for somebody who is gone."""
    if kind == Kind.DONE:
        slots = [reply[3] for reply in fields[4]]
    else:
        slots = [fields[2]] if kind in (Kind.ITEM, Kind.PUT) else []
    for slot in slots:
        reader.take(slot)


Handler = Callable[[Kind, "list[Any]", Reader], None]


class Channel(asyncio.Protocol):
    """One end. on_frame: gets every frame but answers and releases. on_lost: called when the other goes."""

    def __init__(
        self, arena: Arena | None, mapping: Mapping | None, on_frame: Handler, on_lost: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._arena = arena
        self._mapping = mapping
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._flush_scheduled = False
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._asked_so_far = 0
        self._headers: dict[int, tuple[int, Any]] = {}  # by identity, which holds as long as they are here
        self.closed = False

    # What asyncio calls

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for header, behind in self._reader.feed(data):
            kind, *fields = header
            if kind == Kind.RELEASE:
                if self._arena is not None:
                    for offset in fields[0]:
                        self._arena.free(offset)
            elif kind == Kind.ANSWER or kind == Kind.FAILED:
                answered = self._asked.pop(fields[0], None)
                if answered is not None and not answered.done():
                    if kind == Kind.ANSWER:
                        answered.set_result(fields[1])
                    else:
                        answered.set_exception(rebuild_error(fields[1]))
            else:
                self._on_frame(Kind(kind), fields, Reader(behind, self._mapping))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._on_lost()

    # Saying something

    def send(self, kind: Kind, *fields: Any, writer: Writer | None = None) -> None:
        if self.closed:
            return
        self._out.append(encode_frame((kind, *fields), writer.pieces if writer is not None else ()))
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self.closed or self._transport is None:
            return
        if self._mapping is not None and self._mapping.released:
            released = []
            while self._mapping.released:
                released.append(self._mapping.released.popleft())
            self._out.insert(0, encode_frame((Kind.RELEASE, released)))
        out, self._out = self._out, []
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def writer(self) -> Writer:
        return Writer(self._arena)

    async def ask(self, what: str, *arguments: Any) -> Any:
        """Say something that is to be answered. Raises what the other side raised."""
        self._asked_so_far += 1
        number = self._asked_so_far
        answered = self._asked[number] = self._loop.create_future()
        self.send(Kind.ASK, number, what, *arguments)
        try:
            return await answered
        finally:
            self._asked.pop(number, None)

    def fail_asked(self, error: Exception) -> None:
        """The other side is gone: whatever it was asked, it will not answer."""
        for answered in self._asked.values():
            if not answered.done():
                answered.set_exception(error)

    def make_room(self, calls: int) -> None:
        """Before the calls of one frame are numbered: no number may be given anew until it is sent."""
        if len(self._headers) + calls > _MOST_HEADERS:
            self._headers.clear()

    def number_of(self, headers: dict[str, Any]) -> int:
        """Headers are often the same dictionary, which the other side gets once. See `make_room`."""
        known = self._headers.get(id(headers))
        if known is not None:
            return known[0]
        number = len(self._headers)
        self._headers[id(headers)] = (number, headers)
        self.send(Kind.HEADERS, number, headers)
        return number

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.close()

    def detach(self) -> None:
        """It is over: hold nothing that would keep memory of the other side here."""
        self.close()
        self._arena = self._mapping = None
        self._on_frame = _ignore_frame
        self._on_lost = _ignore


def _ignore_frame(kind: Kind, fields: list[Any], reader: Reader) -> None:
    pass


def _ignore() -> None:
    pass


def encode_call(call: Call, channel: Channel, writer: Writer) -> tuple[str, int, Any]:
    return call.wire, channel.number_of(call.headers), writer.add(call.body)


def encode_reply(reply: Reply, writer: Writer) -> tuple[int, str | None, dict[str, str] | None, Any]:
    headers = reply.headers
    if headers:
        headers = {
            str(name): value if isinstance(value, str) else str(value) for name, value in headers.items()
        }
    return reply.status, reply.id, headers, writer.add(reply.body)


def decode_reply(fields: Sequence[Any], reader: Reader) -> Reply:
    status, request_id, headers, slot = fields
    body: Any = reader.take(slot)
    return Reply(status, body, request_id, headers)


def describe_error(exc: BaseException) -> list[Any]:
    """An error for the other side: status if it has one, name of its class, text, traceback."""
    status = exc.status_code if isinstance(exc, MLServerError) else None
    kind = type(exc)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    texts = (name, str(exc), "".join(user_traceback(exc)))
    return [status, *(text.encode(errors="replace").decode() for text in texts)]


def rebuild_error(fields: Sequence[Any]) -> Exception:
    status, name, text, trace = fields
    if status is not None:
        return MLServerError(text, status)
    return RemoteError(name, text, trace)
