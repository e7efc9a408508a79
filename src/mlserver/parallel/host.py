"""A worker process: copies of models, run for the front that started it.

Its arguments are descriptors that the front left open: of a socket, and of the memory that replies and
requests are passed in (-1 where there is none). A worker is what the front is to a model without workers:
the place where `LocalReplica`s live. It ends with the front, whatever way that one goes.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mlserver.audit.policy import close_path
from mlserver.audit.policy import configure as configure_trust
from mlserver.errors import MLServerError
from mlserver.executor import Call, Reply, failure
from mlserver.importing import in_turn
from mlserver.logging import configure_logger, logger
from mlserver.memory import (
    FREEZE_AFTER,
    calm_collector,
    freeze_what_stays,
    give_back_memory,
    keep_blocks_warm,
)
from mlserver.metrics import configure_metrics
from mlserver.model import MLModel
from mlserver.parallel.arena import Arena, Mapping
from mlserver.parallel.channel import (
    Channel,
    Kind,
    Reader,
    describe_error,
    discard,
    encode_reply,
)
from mlserver.replica import STREAM_AHEAD, Batch, Calls, LocalReplica, Waiting
from mlserver.settings import ModelSettings, Settings
from mlserver.utils import AsyncManager

__all__ = ["main"]

# Seconds between two looks at what models say of their readiness.
_STATES = 0.2


class _Batch(Batch):
    __slots__ = ("_host", "model")

    def __init__(self, waiting: list[Waiting], host: _Host, model: int, number: int) -> None:
        super().__init__(waiting)
        self._host = host
        self.model = model
        self.number = number

    def awaits(self) -> None:
        self._host.channel.send(Kind.AWAITS, self.number)

    def done(self, replies: Sequence[Reply], seconds: float) -> None:
        self._host.done(self, replies, seconds)


class _Stream:
    """A stream of calls to a model, or of messages to its custom handlers."""

    def __init__(self, taken: Callable[[], None]) -> None:
        """taken: called when the model has taken a call out, on whatever thread that is."""
        self.calls = Calls(taken=taken)
        self.received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.room = asyncio.Semaphore(STREAM_AHEAD)
        self.task: asyncio.Task[None] | None = None


class _Host:
    """All copies in this process, by the numbers that the front gave them."""

    channel: Channel

    def __init__(self, loaded: dict[int, MLModel]) -> None:
        """loaded: models that came with this process, by number."""
        self._loaded = loaded
        self._loop = asyncio.get_running_loop()
        self._replicas: dict[int, LocalReplica] = {}
        self._told: dict[int, bool] = {}  # what the front was last told of their readiness
        self._loading: set[int] = set()
        self._unwanted: set[int] = set()  # of those
        self._handlers: dict[int, Any] = {}
        self._headers: dict[int, dict[str, Any]] = {}
        self._batches: dict[int, _Batch] = {}
        self._streams: dict[int, _Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def heard(self, kind: Kind, fields: list[Any], reader: Reader) -> None:
        if kind == Kind.RUN:
            self._run(reader, *fields)
        elif kind == Kind.HEADERS:
            self._headers[fields[0]] = fields[1]
        elif kind == Kind.CANCEL:
            batch = self._batches.get(fields[0])
            if batch is not None:
                batch.waiting[0].left = True
                self._replicas[batch.model].cancel(batch)
        elif kind == Kind.ASK:
            self._spawn(self._answer(*fields))
        elif kind == Kind.OPEN:
            self._open(*fields)
        else:
            stream = self._streams.get(fields[0])
            if stream is None:
                discard(kind, fields, reader)
            else:
                self._heard_of_stream(stream, kind, fields, reader)

    def tell_states(self) -> None:
        for model, replica in self._replicas.items():
            if self._told.get(model) != replica.ready:
                self._told[model] = replica.ready
                self.channel.send(Kind.STATE, model, replica.ready)

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Batches

    def _run(self, reader: Reader, model: int, number: int, calls: list[Any]) -> None:
        waiting = [Waiting(Call(reader.take(slot), self._headers[h], wire)) for wire, h, slot in calls]
        batch = self._batches[number] = _Batch(waiting, self, model, number)
        self._replicas[model].run(batch)

    def done(self, batch: _Batch, replies: Sequence[Reply], seconds: float) -> None:
        del self._batches[batch.number]
        batch.let_go()
        replica = self._replicas[batch.model]
        head = (batch.number, seconds, replica.ready, replica.stages.totals())
        self._told[batch.model] = replica.ready
        try:
            self._send_replies(head, replies)
        except Exception as exc:  # of one model's headers, which may be anything
            logger.error("replies of model '%s' cannot be sent", replica.settings.name, exc_info=exc)
            error = RuntimeError("a reply cannot be sent")
            self._send_replies(head, [failure(waiting.call, error) for waiting in batch.waiting])

    def _send_replies(self, head: tuple[Any, ...], replies: Sequence[Reply]) -> None:
        writer = self.channel.writer()
        encoded = [encode_reply(reply, writer) for reply in replies]
        self.channel.send(Kind.DONE, *head, encoded, writer=writer)

    # Streams

    def _open(self, number: int, model: int, scope: dict[str, Any] | None) -> None:
        stream = self._streams[number] = _Stream(partial(self._taken, number))
        work = self._infer(number, model, stream) if scope is None else None
        stream.task = self._spawn(work or self._serve(number, model, stream, scope or {}))
        # A callback, since a task that is cancelled at once never gets to its own end.
        stream.task.add_done_callback(partial(self._stream_ended, number))

    def _taken(self, number: int) -> None:
        """The model took an item out of a stream, on its own thread."""
        self._loop.call_soon_threadsafe(self.channel.send, Kind.MORE, number)

    def _stream_ended(self, number: int, task: asyncio.Task[None]) -> None:
        del self._streams[number]
        exc = None if task.cancelled() else task.exception()
        self.channel.send(Kind.ENDED, number, None if exc is None else describe_error(exc))

    def _heard_of_stream(self, stream: _Stream, kind: Kind, fields: list[Any], reader: Reader) -> None:
        if kind == Kind.PUT:
            item, body = fields[1], reader.take(fields[2])
            if isinstance(item, dict):
                stream.received.put_nowait({**item, "body": bytes(body)})
                self.channel.send(Kind.MORE, fields[0])
            else:
                wire, headers = item
                stream.calls.put(Call(body, self._headers[headers], wire))
        elif kind == Kind.END:
            stream.calls.end()
            stream.received.put_nowait({"type": "http.disconnect"})
        elif kind == Kind.MORE:
            stream.room.release()
        elif kind == Kind.CLOSE and stream.task is not None:
            stream.task.cancel()

    async def _send(self, number: int, stream: _Stream, item: Any, body: Any) -> None:
        await stream.room.acquire()
        writer = self.channel.writer()
        slot = writer.add(body)
        self.channel.send(Kind.ITEM, number, item, slot, writer=writer)

    async def _infer(self, number: int, model: int, stream: _Stream) -> None:
        replies = self._replicas[model].stream(stream.calls)
        try:
            async for reply in replies:
                await self._send(number, stream, (reply.status, reply.id, reply.headers), reply.body)
        finally:
            await replies.aclose()

    async def _serve(self, number: int, model: int, stream: _Stream, scope: dict[str, Any]) -> None:
        """A request to a custom handler, as ASGI: the application runs here, its messages go to the front."""
        from mlserver.rest.custom import scope_in_worker
        from mlserver.rest.responses import error_response

        begun = False

        async def send(message: Any) -> None:
            nonlocal begun
            begun = True
            body = message.get("body", b"")
            plain = {key: value for key, value in message.items() if key != "body"}
            await self._send(number, stream, plain, body)

        given = scope_in_worker(scope)
        try:
            await self._handlers[model](given, stream.received.get, send)
        except Exception as exc:
            if begun:
                raise
            await error_response(exc)(given, stream.received.get, send)

    # What the front asks

    async def _answer(self, number: int, what: str, *arguments: Any) -> None:
        try:
            value = await getattr(self, f"answer_{what}")(*arguments)
        except (Exception, SystemExit) as exc:
            self.channel.send(Kind.FAILED, number, describe_error(exc))
        else:
            self.channel.send(Kind.ANSWER, number, value)

    async def answer_configure(
        self, settings: dict[str, Any], path: list[str], models: list[dict[str, Any]]
    ) -> str:
        """path: what `sys.path` begins with. models: settings of those that are going to be loaded."""
        configure(settings, path)
        self._spawn(self._preload(models))
        return sys.version

    async def _preload(self, models: list[dict[str, Any]]) -> None:
        """Import the classes of models."""
        await asyncio.to_thread(_import_classes, models)

    async def answer_load(
        self, model: int, settings: dict[str, Any], events: dict[str, str]
    ) -> dict[str, Any]:
        loaded = self._loaded.pop(model, None)
        replica = LocalReplica(ModelSettings.model_validate(settings), events, loaded)
        self._loading.add(model)
        try:
            description = await replica.load()
        finally:
            self._loading.discard(model)
        if model in self._unwanted:
            # The front has given up on it, and forgotten it.
            self._unwanted.discard(model)
            await replica.close()
            raise MLServerError(f"model '{replica.settings.name}' was unloaded before it was loaded", 409)
        self._replicas[model] = replica
        self._told[model] = description.ready
        if description.handlers:
            from mlserver.rest.custom import build_handlers

            try:
                self._handlers[model] = build_handlers(replica)
            except BaseException:
                await self.answer_unload(model)
                raise
        self._loop.call_later(FREEZE_AFTER, freeze_what_stays)
        return {
            "ready": description.ready,
            "merges": description.merges,
            "streams": description.streams,
            "handlers": [(handler.rest_path, handler.rest_method) for handler in description.handlers],
        }

    async def answer_unload(self, model: int) -> None:
        if model in self._loading:
            self._unwanted.add(model)
        replica = self._replicas.get(model)
        if replica is not None:
            await replica.close()
            self._replicas.pop(model, None)
            self._handlers.pop(model, None)
            self._told.pop(model, None)
            del replica
            give_back_memory()

    async def answer_metadata(self, model: int) -> dict[str, Any]:
        metadata = await self._replicas[model].metadata()
        dumped: dict[str, Any] = metadata.model_dump(mode="json")
        return dumped

    async def answer_stop(self) -> None:
        """Unload what is loaded. The front closes the socket then, which ends this process."""
        await asyncio.gather(*(self.answer_unload(model) for model in list(self._replicas)))


def _import_classes(models: list[dict[str, Any]]) -> None:
    for settings in models:
        try:
            with in_turn():
                _ = ModelSettings.model_validate(settings).implementation
        except Exception:
            logger.debug("an early import failed; loading will say why", exc_info=True)


def configure(settings: dict[str, Any], path: list[str]) -> None:
    """Be as the front is. path: what `sys.path` begins with."""
    for entry in path:
        if entry in sys.path:
            sys.path.remove(entry)
    sys.path[:0] = path
    server = Settings.model_validate(settings)
    configure_logger(server)
    configure_trust(server)
    if server.unsafe_artefacts == "refuse":
        close_path()  # the interpreter put it there
    configure_metrics(server, worker=True)


def main() -> None:
    calm_collector()
    keep_blocks_warm()
    work([int(argument) for argument in sys.argv[1:]], {})


def work(descriptors: Sequence[int], loaded: dict[int, MLModel]) -> None:
    """Serve the front until it goes. loaded: models that came with this process."""
    AsyncManager().run(_serve(loaded, *descriptors))


async def _tell_states(host: _Host) -> None:
    """A model may change its mind about being ready while nobody asks it anything."""
    while True:
        await asyncio.sleep(_STATES)
        host.tell_states()


async def _serve(loaded: dict[int, MLModel], descriptor: int, replies: int = -1, requests: int = -1) -> None:
    over = asyncio.Event()
    host = _Host(loaded)
    arena = Arena(replies) if replies >= 0 else None
    mapping = Mapping(requests) if requests >= 0 else None
    host.channel = Channel(arena, mapping, host.heard, over.set)
    connection = socket.socket(fileno=descriptor)
    connection.setblocking(False)
    await asyncio.get_running_loop().create_connection(lambda: host.channel, sock=connection)
    telling = asyncio.ensure_future(_tell_states(host))
    await over.wait()
    telling.cancel()
    sys.stdout.flush()
    sys.stderr.flush()
    _run_exit_hooks()
    # Threads of models may be computing for ever: nobody waits for them.
    os._exit(0)


def _run_exit_hooks() -> None:
    import atexit

    atexit._run_exitfuncs()
