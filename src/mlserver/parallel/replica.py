"""A copy of a model in a worker, as the front sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from mlserver.errors import WorkerUnavailable
from mlserver.executor import Call, Reply, Stages
from mlserver.handlers.custom import CustomHandler
from mlserver.logging import logger
from mlserver.parallel.channel import (
    Channel,
    Kind,
    Reader,
    decode_reply,
    discard,
    encode_call,
    rebuild_error,
)
from mlserver.parallel.errors import WorkerStop
from mlserver.replica import STREAM_AHEAD, Batch, Calls, Description, LocalReplica, nobody_cares
from mlserver.types import MetadataModelResponse

if TYPE_CHECKING:
    from mlserver.parallel.pool import Slot
    from mlserver.settings import ModelSettings

__all__ = ["WorkerReplica"]

Receive = Callable[[], Awaitable[Any]]


class WorkerReplica:
    """A copy in the worker of a slot: in the one that is there now, or in the one that follows it.

    number: what the worker knows it by. events: CloudEvents headers that every request shows to the model.
    gone: awaited when it has left its slot, or did not come to be in it.
    """

    local: LocalReplica | None = None

    def __init__(
        self,
        settings: ModelSettings,
        events: dict[str, str],
        slot: Slot,
        number: int,
        gone: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.settings = settings
        self.number = number
        self.events = events
        self.changed: Callable[[], None] = nobody_cares
        self.ready = False
        self.coming = False
        self.closed = False
        self._slot = slot
        self._gone = gone
        self._channel: Channel | None = None
        self._past = Stages()  # of workers that are gone
        self._stages = Stages()
        self._batches: dict[int, Batch] = {}
        self._streams: dict[int, asyncio.Queue[Any]] = {}
        self._room: dict[int, asyncio.Semaphore] = {}  # for items on their way to the worker

    @property
    def alive(self) -> bool:
        return self._channel is not None

    @property
    def stages(self) -> Stages:
        total = Stages()
        total.add(self._past)
        total.add(self._stages)
        return total

    # Lifecycle

    async def load(self) -> Description:
        try:
            return await self._slot.load(self)
        except BaseException:
            await self.close()
            raise

    def loaded(self, channel: Channel, told: dict[str, Any]) -> Description:
        """A worker has loaded it."""
        self._channel = channel
        self.coming = False
        self.ready = told["ready"]
        self.changed()
        handlers = [CustomHandler(path, method) for path, method in told["handlers"]]
        return Description(told["ready"], told["merges"], told["streams"], handlers)

    def ended(self, coming: bool) -> None:
        """Its worker ended. coming: whether another is on its way."""
        self._channel = None
        self.coming = coming
        self._past, self._stages = self.stages, Stages()

    def lose(self, reason: WorkerStop) -> None:
        """Tell everybody who waits for that worker."""
        batches, self._batches = self._batches, {}
        for queue in self._streams.values():
            queue.put_nowait(reason)
        for batch in batches.values():
            batch.lost(str(reason))
        self.changed()

    async def close(self) -> None:
        self.closed = True
        await self._slot.unload(self)
        self._channel = None
        if self._gone is not None:
            await self._gone()

    # Batches

    def run(self, batch: Batch) -> None:
        channel = self._channel
        if channel is None:
            batch.lost("its worker ended")
            return
        channel.make_room(len(batch.waiting))
        number = batch.number = self._slot.register(self)
        self._batches[number] = batch
        writer = channel.writer()
        calls = [encode_call(waiting.call, channel, writer) for waiting in batch.waiting]
        channel.send(Kind.RUN, self.number, number, calls, writer=writer)

    def cancel(self, batch: Batch) -> None:
        if self._channel is not None and batch.number in self._batches:
            self._channel.send(Kind.CANCEL, batch.number)

    def recycle(self, reason: str) -> None:
        logger.error("Model '%s': %s; its worker is ended and replaced", self.settings.name, reason)
        self._slot.kill()

    def heard(self, kind: Kind, fields: list[Any], reader: Reader) -> None:
        """DONE or AWAITS of a batch, ITEM or ENDED of a stream, of this copy."""
        number = fields[0]
        if kind == Kind.DONE:
            _, seconds, self.ready, stages, encoded = fields
            self._stages = Stages(*stages)
            replies = [decode_reply(reply, reader) for reply in encoded]
            batch = self._batches.pop(number, None)
            if batch is not None:
                batch.done(replies, seconds)
        elif kind == Kind.AWAITS:
            if number in self._batches:
                self._batches[number].awaits()
        elif number not in self._streams:
            discard(kind, fields, reader)
        elif kind == Kind.ITEM:
            self._streams[number].put_nowait((fields[1], reader.take(fields[2])))
        elif kind == Kind.MORE:
            self._room[number].release()
        else:
            self._streams[number].put_nowait(_END if fields[1] is None else rebuild_error(fields[1]))

    # Streams

    async def stream(self, calls: Calls) -> AsyncGenerator[Reply, None]:
        """The replies to a stream of calls. Closing the generator cancels the model's side."""
        calls.belong_to(asyncio.get_running_loop())
        async for (status, request_id, headers), body in self._converse(None, calls):
            yield Reply(status, body, request_id, headers)

    async def serve(self, scope: dict[str, Any], receive: Receive) -> AsyncGenerator[dict[str, Any], None]:
        """What the model's custom handlers, an application in the worker, answer, as messages of ASGI.

        scope: what of a scope can be sent there.
        """
        async for message, body in self._converse(scope, receive):
            yield {**message, "body": bytes(body)} if message["type"] == "http.response.body" else message

    async def _converse(self, scope: dict[str, Any] | None, source: Any) -> AsyncGenerator[Any, None]:
        """Open a stream, feed it from `source`, and give what comes back: pairs of an item and bytes."""
        channel = self._channel
        if channel is None:
            raise WorkerUnavailable(self.settings.name)
        number = self._slot.register(self)
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self._streams[number] = queue
        room = self._room[number] = asyncio.Semaphore(STREAM_AHEAD)
        channel.send(Kind.OPEN, number, self.number, scope)
        feed = _feed_calls if scope is None else _feed_messages
        feeding = asyncio.ensure_future(feed(channel, number, source, room))
        feeding.add_done_callback(lambda task: _tell_failure(task, queue))
        over = False
        try:
            while True:
                item = await queue.get()
                if item is _END:
                    over = True
                    return
                if isinstance(item, Exception):
                    over = True
                    raise item
                channel.send(Kind.MORE, number)
                yield item
        finally:
            feeding.cancel()
            item = None  # blocks of shared memory must not wait for the collector
            while not queue.empty():
                queue.get_nowait()
            del self._streams[number], self._room[number]
            self._slot.forget(number)
            if not over:
                channel.send(Kind.CLOSE, number)

    async def metadata(self) -> MetadataModelResponse:
        return MetadataModelResponse.model_validate(await self._slot.ask("metadata", self.number))


_END = object()


def _tell_failure(feeding: asyncio.Task[None], queue: asyncio.Queue[Any]) -> None:
    if not feeding.cancelled() and (exc := feeding.exception()) is not None:
        queue.put_nowait(exc)


async def _feed_calls(channel: Channel, number: int, calls: Calls, room: asyncio.Semaphore) -> None:
    call: Call
    async for call in calls:
        await room.acquire()
        channel.make_room(1)
        writer = channel.writer()
        wire, headers, slot = encode_call(call, channel, writer)
        channel.send(Kind.PUT, number, (wire, headers), slot, writer=writer)
    channel.send(Kind.END, number)


async def _feed_messages(channel: Channel, number: int, receive: Receive, room: asyncio.Semaphore) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            channel.send(Kind.END, number)
            return
        await room.acquire()
        writer = channel.writer()
        slot = writer.add(message.get("body", b""))
        plain = {key: value for key, value in message.items() if key != "body"}
        channel.send(Kind.PUT, number, plain, slot, writer=writer)
