"""Calls: from messages that arrive on a stream to the status that ends it.

Three kinds. An inference takes the fast lane: its message goes to the service as it came, the reply is one
`respond`; no task. Any other unary call is a coroutine in a task. So is a streaming call, which takes its
messages from a queue.

A call ends once, by `finish`, `fail` or `cancel`, whichever is first: with its answer, with a status, because
its deadline passed, because the client reset it or left. What it had under way ends with it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from mlserver.executor import Call as Inferring
from mlserver.executor import Reply, describe, retry_headers
from mlserver.grpc.framing import Assembler, Message, compress, decompress, prefix_of
from mlserver.grpc.status import Code, RpcError, code_of, encode_metadata, encode_status
from mlserver.wire.http2 import Stream
from mlserver.wire.protobuf import read_head

if TYPE_CHECKING:
    from mlserver.grpc.connection import GrpcProtocol
    from mlserver.grpc.server import GrpcServer
    from mlserver.metrics.requests import MethodCounters

__all__ = ["Call", "InferCall", "Messages", "Method", "RefusedCall", "Route", "StreamCall", "UnaryCall"]

Body = bytes | bytearray | memoryview
Pieces = list[bytes | bytearray | memoryview]
UnaryHandler = Callable[[Body, "UnaryCall"], Awaitable[bytes]]
StreamHandler = Callable[["Messages", "StreamCall"], AsyncGenerator[Pieces, None]]

# Messages of a stream that may wait for their model before the client gets no more credit. What came before
# it heard so waits as the bytes that came: five of them may be a message.
_MOST_WAITING = 16
# Messages of a stream that are taken in one turn of the loop, however small they are.
_MOST_A_TURN = 32
# What a message takes beside its bytes, roughly.
_MESSAGE_OVERHEAD = 200
_TINY = 512
# What waits to be sent on a stream before what answers it has to wait.
_MOST_PENDING = 1024 * 1024
# Below this size, compressing takes a moment, and saves nothing.
_WORTH_COMPRESSING = 1024
_LARGE = 64 * 1024

_OK = encode_status(Code.OK)
_ID = b"\x00\x05ce-id"
_REQUEST_ID = b"\x00\x0cce-requestid"


class Method:
    """One method of a service. `call`: what answers it. `handler`: see the kind of call."""

    __slots__ = ("call", "counters", "handler", "kind", "name", "service")

    def __init__(
        self,
        service: str,
        name: str,
        call: type[Call],
        handler: UnaryHandler | StreamHandler | None = None,
        kind: str = "UNARY",
    ) -> None:
        self.service = service
        self.name = name
        self.call = call
        self.handler = handler
        self.kind = kind
        self.counters: MethodCounters | None = None

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


class Route:
    """What equal headers have in common: method, metadata, time, codings."""

    __slots__ = ("accepts", "call", "coding", "head", "metadata", "method", "timeout")

    def __init__(
        self,
        call: Callable[[GrpcProtocol, Stream, Route], Call],
        method: Method | None,
        metadata: dict[str, Any],
        timeout: float | None,
        coding: str | None,
        accepts: frozenset[str],
        head: bytes,
    ) -> None:
        self.call = call
        self.method = method
        self.metadata = metadata
        self.timeout = timeout  # seconds
        self.coding = coding  # of compressed messages
        self.accepts = accepts
        self.head = head  # header block of replies


class Call:
    """What all kinds have in common: the deadline, the end, the count."""

    __slots__ = (
        "_assembler", "_connection", "_held", "_over", "_server", "_started", "deadline", "route", "stream"
    )  # fmt: skip

    def __init__(self, connection: GrpcProtocol, stream: Stream, route: Route) -> None:
        self._connection = connection
        self._server = connection._server
        self.stream = stream
        self.route = route
        self._over = False
        self._assembler: Assembler | None = None
        self._held = 0  # of the connection's `held`
        self._started = time.perf_counter()
        self.deadline: int | None = None  # in which slot of `Deadlines`
        if route.method is not None and route.method.counters is not None:
            route.method.counters.started += 1
        if route.timeout is not None:
            self._server.deadlines.add(self, route.timeout)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._over

    # From the client

    def data(self, chunk: memoryview) -> None:
        """Part of the request's messages; a view that is gone afterwards."""
        if self._over:
            return
        assembler = self._assembler
        if assembler is None:
            # Most requests are one message, and come at once.
            size = len(chunk) - 5
            whole = size >= 0 and not chunk[0] and size == int.from_bytes(chunk[1:5], "big")
            if whole and size <= self._server.max_message:
                self.message(bytes(chunk[5:]), False)
                return
            assembler = self._assembler = Assembler(self._server.max_message)
        elif assembler.take(chunk):
            self._connection.expected = assembler.missing
            return
        self.assemble(assembler, chunk)

    def assemble(self, assembler: Assembler, chunk: memoryview) -> None:
        """Put together what is no simple case."""
        try:
            messages, _ = assembler.feed(chunk, 2)  # a second is one too many, a third is nothing new
        except RpcError as exc:
            self.fail(exc.code, str(exc))
            return
        self._connection.expected = assembler.missing
        for body, compressed in messages:
            self.message(body, compressed)
        self.hold()

    def hold(self, more: int = 0) -> None:
        """Count the memory that the request takes, and `more`; fail if one connection has too much."""
        if self._over:
            return
        size = self.waiting + more
        if self._assembler is not None:
            size += self._assembler.held
        connection = self._connection
        connection.held += size - self._held
        self._held = size
        if not connection.crowd():
            self.fail(Code.RESOURCE_EXHAUSTED, "too many large messages at once on this connection")

    @property
    def waiting(self) -> int:
        """Bytes of messages that are complete and were not answered."""
        return 0

    def message(self, body: Body, compressed: bool) -> None:
        """One message of the request."""
        raise NotImplementedError

    def end(self) -> None:
        """The client sends no more."""
        if self._over:
            return
        if self._assembler is not None and self._assembler.incomplete:
            self.fail(Code.INTERNAL, "the request ends within a message")
        else:
            self.complete()

    def complete(self) -> None:
        """The request has arrived as a whole."""
        raise NotImplementedError

    def cancel(self) -> None:
        """The client has given it up, or left."""
        if not self._over:
            self._end(Code.CANCELLED)

    def writable(self) -> None:
        """All that waited to be sent is on its way."""

    # To the client

    def expire(self) -> None:
        """Its deadline has passed."""
        self.fail(Code.DEADLINE_EXCEEDED, "the deadline has passed")

    def fail(self, code: Code, text: str, headers: dict[str, Any] | None = None) -> None:
        """End with an error. headers: metadata that goes with it."""
        trailers = encode_status(code, text)
        self.finish(trailers + encode_metadata(headers) if headers else trailers, code)

    def fail_with(self, exc: BaseException) -> None:
        """End with what an error says to callers."""
        if isinstance(exc, RpcError):
            self.fail(exc.code, str(exc))
        else:
            status, text, _ = describe(exc)
            self.fail(code_of(status), text, retry_headers(exc))

    def finish(self, trailers: bytes, code: Code = Code.OK, pieces: Pieces | None = None) -> None:
        """End with a status, behind the message of a unary reply if there is one.

        trailers: the header block. pieces: of the message, with what stands before it.
        """
        if self._over:
            return
        http2, stream = self._connection.http2, self.stream
        if pieces is None:
            http2.send_trailers(stream, trailers if stream.answered else self.route.head + trailers)
        elif len(pieces) == 1:
            http2.respond(stream, self.route.head, pieces[0], trailers)
        else:
            http2.send_headers(stream, self.route.head)
            http2.send_data(stream, pieces)
            http2.send_trailers(stream, trailers)
        self._connection.flush_later()
        self._end(code)

    def _end(self, code: Code) -> None:
        self._over = True
        self.stream.user = None  # no cycle: what it holds, large messages too, goes at once
        if self.deadline is not None:
            self._server.deadlines.remove(self)
        if self._held:
            self._connection.held -= self._held
            self._connection.uncrowd()
        self._assembler = None
        self._server.count(self.route.method, code, time.perf_counter() - self._started)
        self.abandon()

    def abandon(self) -> None:
        """Stop what is under way; nobody waits for it any more."""


class RefusedCall(Call):
    """One that no method answers: over as soon as its headers are read."""

    __slots__ = ()


class _OneMessage(Call):
    """A call whose request is one message."""

    __slots__ = ("_answering", "_compressed", "_message", "_task")

    def __init__(self, connection: GrpcProtocol, stream: Stream, route: Route) -> None:
        self._answering = False
        self._message: Body | None = None
        self._compressed = False
        self._task: Any = None  # what is under way
        Call.__init__(self, connection, stream, route)

    def message(self, body: Body, compressed: bool) -> None:
        if self._over:
            return
        if self._message is not None:
            self.fail(Code.INTERNAL, "a unary call has one message, not several")
            return
        self._message, self._compressed = body, compressed

    @property
    def waiting(self) -> int:
        return 0 if self._message is None else len(self._message)

    def complete(self) -> None:
        message, self._message = self._message, None
        if message is None:
            self.fail(Code.INTERNAL, "a unary call has one message, there was none")
            return
        if self._held:
            self._answering = True
            self._connection.answering += 1
        if self._compressed:
            self._server.spawn(self._decompress(message))
        else:
            self.answer(message)

    async def _decompress(self, message: Body) -> None:
        try:
            plain = await unpacked(self._server, self.route, message)
        except RpcError as exc:
            self.fail(exc.code, str(exc))
            return
        self.hold(len(plain))
        if not self._over:
            self.answer(plain)

    def answer(self, message: Body) -> None:
        raise NotImplementedError

    def _end(self, code: Code) -> None:
        if self._answering:
            self._connection.answering -= 1
        super()._end(code)

    def reply(self, pieces: Pieces, trailers: bytes) -> None:
        """End with a message. Compressed if the request was."""
        coding = self.route.coding if self._compressed else None
        if coding in self.route.accepts and sum(map(len, pieces)) >= _WORTH_COMPRESSING:
            self._server.spawn(self._compress_and_finish(pieces, trailers, str(coding)))
            return
        self._finish(pieces, trailers)

    async def _compress_and_finish(self, pieces: Pieces, trailers: bytes, coding: str) -> None:
        packed = await asyncio.to_thread(compress, coding, b"".join(pieces))
        self._finish([packed], trailers, compressed=True)

    def _finish(self, pieces: Pieces, trailers: bytes, compressed: bool = False) -> None:
        size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        if size > self._server.max_message:
            limit = self._server.max_message
            text = f"the reply has {size} bytes, `grpc_max_message_length` allows {limit:.0f}"
            self.fail(Code.RESOURCE_EXHAUSTED, text)
        elif size > _LARGE and self._connection.http2.pending_bytes + size > self._server.most_unread:
            self.fail(Code.RESOURCE_EXHAUSTED, "too many large replies wait on this connection to be read")
        elif size < _LARGE:
            self.finish(trailers, Code.OK, [b"".join((prefix_of(size, compressed), *pieces))])
        else:
            self.finish(trailers, Code.OK, [prefix_of(size, compressed), *pieces])


class UnaryCall(_OneMessage):
    """A unary call that a coroutine answers: `handler(message, call)` gives the message of the reply."""

    __slots__ = ()

    def answer(self, message: Body) -> None:
        self._task = self._server.spawn(self._run(message))

    async def _run(self, message: Body) -> None:
        assert self.route.method is not None
        handler: Any = self.route.method.handler
        try:
            reply = await handler(message, self)
        except asyncio.CancelledError:
            self.fail(Code.CANCELLED, "the call was broken off")  # if it has not ended: it was not the client
            raise
        except Exception as exc:
            self._task = None
            self.fail_with(exc)
        else:
            self._task = None
            self.reply([reply], _OK)

    def abandon(self) -> None:
        if self._task is not None:
            self._task.cancel()


class InferCall(_OneMessage):
    """An inference: from the message to the service, from its reply to the client, without a task."""

    __slots__ = ("_events",)

    def answer(self, message: Body) -> None:
        server = self._server
        try:
            name, version, _ = read_head(message)
            target, self._events = server.target(name, version)
            inferring = Inferring(message, self.route.metadata, "protobuf")
            deadline = server.deadlines.time_of(self)
            self._task = server.service.infer(target, inferring, self._answered, deadline)
        except Exception as exc:
            self.fail_with(exc)

    def _answered(self, reply: Reply) -> None:
        self._task = None
        if self._over:
            return
        body: Any = reply.body
        if reply.status != 200:
            self.fail(code_of(reply.status), bytes(body).decode(), reply.headers)
            return
        try:
            trailers = trailers_of(reply, self._events)
        except Exception as exc:
            self.fail_with(exc)
            return
        self.reply(body if type(body) is list else [body], trailers)

    def abandon(self) -> None:
        if self._task is not None:
            self._task.abandon()
            self._task = None


def trailers_of(reply: Reply, events: bytes) -> bytes:
    """The header block that ends a successful reply: status, the model's headers, CloudEvents.

    Raises ValueError for headers that cannot be metadata.
    """
    trailers = _OK if not reply.headers else _OK + encode_metadata(reply.headers)
    request_id = reply.id
    if request_id and len(request_id) < 127 and request_id.isascii() and request_id.isprintable():
        encoded = request_id.encode()
        value = b"%c%b" % (len(encoded), encoded)
        return b"".join((trailers, events, _ID, value, _REQUEST_ID, value))
    return trailers + events


class Messages:
    """The messages of a request stream, as they come. A client that is ahead gets no more credit."""

    def __init__(self, call: StreamCall) -> None:
        self._call = call
        self._taken = 0
        self._messages: deque[Message] = deque()
        self.size = 0  # in memory, roughly
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, message: Message) -> None:
        self._messages.append(message)
        self.size += len(message[0]) + _MESSAGE_OVERHEAD
        if len(self._messages) == _MOST_WAITING:
            self._call.stop_credit()
        self._wake()

    @property
    def room(self) -> int:
        """How many more may wait."""
        return _MOST_WAITING - len(self._messages)

    def end(self) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def __aiter__(self) -> AsyncIterator[Body]:
        while True:
            while self._messages:
                body, compressed = self._messages.popleft()
                self.size -= len(body) + _MESSAGE_OVERHEAD
                self._call.hold()
                if len(self._messages) == _MOST_WAITING // 2:
                    self._call.resume()
                self._taken += 1
                if self._taken % _MOST_A_TURN == 0:
                    await asyncio.sleep(0)
                yield await unpacked(self._call._server, self._call.route, body) if compressed else body
            if self._ended:
                return
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter


class StreamCall(Call):
    """A streaming call: `handler(messages, call)` gives the messages of the reply, in pieces.

    trailers: the header block that ends the reply; the handler may set it.
    """

    __slots__ = ("_backlog", "_drained", "_ended", "_messages", "_task", "trailers")

    def __init__(self, connection: GrpcProtocol, stream: Stream, route: Route) -> None:
        self._messages = Messages(self)
        self._backlog = bytearray()  # what came when enough messages waited
        self._ended = False
        self._drained: asyncio.Future[None] | None = None
        self.trailers = _OK
        super().__init__(connection, stream, route)
        self._task: asyncio.Task[None] = self._server.spawn(self._run())

    def data(self, chunk: memoryview) -> None:
        if self._backlog or self._messages.room <= 0:
            self._backlog += chunk
            self.hold()
        else:
            super().data(chunk)

    def assemble(self, assembler: Assembler, chunk: memoryview) -> None:
        self._backlog += chunk[self._take(assembler, chunk) :]
        self.hold()

    def _take(self, assembler: Assembler, chunk: memoryview | bytearray) -> int:
        """Take as many messages as there is room for; how many bytes they were."""
        try:
            messages, rest = assembler.feed(memoryview(chunk), self._messages.room)
        except RpcError as exc:
            self.fail(exc.code, str(exc))
            return len(chunk)
        for body, compressed in messages:
            self.message(body, compressed)
        return len(chunk) - len(rest)

    def end(self) -> None:
        self._ended = True
        if not self._backlog:
            super().end()

    def resume(self) -> None:
        """There is room for messages again."""
        if self._backlog:
            if self._assembler is None:
                self._assembler = Assembler(self._server.max_message)
            del self._backlog[: self._take(self._assembler, self._backlog)]  # moves nothing
            self.hold()
            if self._ended and not self._backlog:
                super().end()
        if self._messages.room >= _MOST_WAITING // 2:
            self.give_credit()

    def message(self, body: Body, compressed: bool) -> None:
        self._count(received=1)
        # Tiny ones are many: a view and its block take ten times as much.
        self._messages.put((body if len(body) > _TINY else bytes(body), compressed))
        self.hold()

    def complete(self) -> None:
        self._messages.end()

    async def _run(self) -> None:
        assert self.route.method is not None
        handler: Any = self.route.method.handler
        try:
            async with aclosing(handler(self._messages, self)) as replies:
                async for pieces in replies:
                    await self._send(pieces)
        except asyncio.CancelledError:
            self.fail(Code.CANCELLED, "the call was broken off")  # if it has not ended: it was not the client
            raise
        except Exception as exc:
            self.fail_with(exc)
        else:
            self.finish(self.trailers)

    async def _send(self, pieces: Pieces) -> None:
        size = sum(map(len, pieces))
        if size > self._server.max_message:
            limit = self._server.max_message
            text = f"a reply has {size} bytes, `grpc_max_message_length` allows {limit:.0f}"
            raise RpcError(Code.RESOURCE_EXHAUSTED, text)
        http2, stream = self._connection.http2, self.stream
        http2.send_headers(stream, self.route.head)
        http2.send_data(stream, [prefix_of(size), *pieces])
        self._count(sent=1)
        self._connection.flush_later()
        if self._connection.crowded:
            await self._connection.room()
        if stream.pending > _MOST_PENDING:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def writable(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    @property
    def waiting(self) -> int:
        return self._messages.size + len(self._backlog)

    def stop_credit(self) -> None:
        self._connection.http2.hold(self.stream)

    def give_credit(self) -> None:
        self._connection.http2.release(self.stream)
        self._connection.flush_later()

    def _count(self, received: int = 0, sent: int = 0) -> None:
        counters = self.route.method.counters if self.route.method is not None else None
        if counters is not None:
            counters.received += received
            counters.sent += sent

    def abandon(self) -> None:
        self._backlog = bytearray()
        if not self._task.done() and self._task is not asyncio.current_task():
            self._task.cancel()


async def unpacked(server: GrpcServer, route: Route, message: Body) -> bytes:
    """A compressed message as it was. Raises RpcError."""
    if len(message) > _WORTH_COMPRESSING:
        return await asyncio.to_thread(decompress, route.coding, message, server.max_message)
    return decompress(route.coding, message, server.max_message)
