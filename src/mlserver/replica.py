"""A replica: one loaded copy of a model, and the place where its code runs.

`LocalReplica` is a copy in this process, be it the front or a worker. Two lanes lead to its executor. User
code runs on a thread of the model's own with its own event loop, always the same one, so that nothing it does
holds up the loop that talks to clients. A model that promises a short pure `predict` takes the short cut: it
runs right where the calls arrived, for as long as it keeps that promise; a slow run or a large body sends its
calls to the thread until it is quick again.

A replica is given batches and gives them back answered. It has no queue of its own worth the name: who waits,
and for which replica, is decided in `replicas`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mlserver.context import model_context
from mlserver.errors import ModelNotFound
from mlserver.executor import Call, Executor, Reply, Stages, failure
from mlserver.handlers.custom import CustomHandler, get_custom_handlers
from mlserver.importing import in_turns
from mlserver.logging import logger
from mlserver.model import MLModel, promises
from mlserver.types import MetadataModelResponse

if TYPE_CHECKING:
    from mlserver.settings import ModelSettings

__all__ = [
    "STREAM_AHEAD",
    "Batch",
    "Calls",
    "Description",
    "LocalReplica",
    "Replica",
    "Waiting",
    "nobody_cares",
]

T = TypeVar("T")

# A run of the short lane may hold up the loop this long, in seconds, on average.
_SHORT_RUN = 0.005
# Bodies above this many bytes take longer to parse than the hop to the thread costs.
_SHORT_BODY = 64 * 1024
# Items of a stream that may wait for whoever takes them: a slow client, or a model that is behind.
STREAM_AHEAD = 8


class Waiting:
    """A call, and whether anybody still wants its reply, which `settle` takes.

    batch: the one that it runs in, once it does. alone: it may not share one. lost: how often the worker that
    had it ended before it answered. since: when it came, where that matters.
    """

    __slots__ = ("alone", "batch", "call", "deadline", "left", "lost", "since")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.left = False
        self.alone = False
        self.lost = 0
        self.batch: Batch | None = None
        self.deadline: float | None = None
        self.since = 0.0

    def settle(self, reply: Reply) -> None:
        """Called on the front's loop, unless the caller has left."""
        raise NotImplementedError


class Batch:
    """Calls that a replica is given as one piece of work.

    Its replica tells it, on the loop that gave it, how far it is: maybe `awaits`, then `done`; or `lost`.
    """

    # number, task: what a replica knows it by.
    __slots__ = ("number", "task", "waiting")

    def __init__(self, waiting: list[Waiting]) -> None:
        self.waiting = waiting
        self.number = -1
        self.task: asyncio.Task[None] | None = None
        for one in waiting:
            one.batch = self

    def awaits(self) -> None:
        """The model's code awaits something: its loop is free to start more."""

    def done(self, replies: Sequence[Reply], seconds: float) -> None:
        """replies: one for each call, in order. seconds: that the executor took."""
        raise NotImplementedError

    def lost(self, reason: str) -> None:
        """The replica ended before it answered."""
        raise NotImplementedError

    def let_go(self) -> None:
        """It is over. Calls and batch refer to each other, and bodies must not wait for the collector."""
        for waiting in self.waiting:
            waiting.batch = None
        self.task = None

    def wanted(self) -> list[Waiting]:
        return [waiting for waiting in self.waiting if not waiting.left]

    def aligned(self, wanted: Sequence[Waiting], replies: Sequence[Reply]) -> Sequence[Reply]:
        """A reply for each call, where only the wanted ones were run."""
        if len(wanted) == len(self.waiting):
            return replies
        by_call = {id(waiting): reply for waiting, reply in zip(wanted, replies, strict=True)}
        return [by_call.get(id(waiting)) or Reply(499, b"") for waiting in self.waiting]


@dataclass(slots=True)
class Description:
    """What a loaded copy tells of its model.

    ready: what `load` returned. merges: whether calls may share a batch. streams: whether it has a
    `predict_stream` of its own. handlers: custom REST routes.
    """

    ready: bool
    merges: bool
    streams: bool = False
    handlers: list[CustomHandler] = field(default_factory=list)


class Replica(Protocol):
    """A copy of a model, wherever it runs. All methods belong to the loop that made it.

    alive: whether it can be given work. coming: if not, whether it will be in a moment. ready: what the model
    says of itself, or said last. local: the copy itself, if it is in this process. changed: to be called when
    `alive` or `coming` changed.
    """

    settings: ModelSettings
    changed: Callable[[], None]

    @property
    def alive(self) -> bool: ...

    @property
    def coming(self) -> bool: ...

    @property
    def ready(self) -> bool: ...

    @property
    def local(self) -> LocalReplica | None: ...

    @property
    def stages(self) -> Stages: ...

    async def load(self) -> Description:
        """Raises whatever the model's code raises."""

    async def close(self) -> None:
        """Finish what is in flight, unload the model."""

    def run(self, batch: Batch) -> None: ...

    def cancel(self, batch: Batch) -> None:
        """Nobody waits for this batch of one any more: break it off where it awaits."""

    def recycle(self, reason: str) -> None:
        """It is stuck: end it if that is possible; its batches are lost."""

    def stream(self, calls: Calls) -> AsyncGenerator[Reply, None]: ...

    async def metadata(self) -> MetadataModelResponse: ...


class Calls:
    """A stream of calls: a transport puts them in on its loop, a model takes them out on its own.

    taken: called for each that is taken out, where that happens.
    """

    def __init__(self, *calls: Call, ended: bool = False, taken: Callable[[], None] | None = None) -> None:
        self._calls = deque(calls)
        self._ended = ended
        self._taken = taken
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiter: asyncio.Future[None] | None = None

    @classmethod
    def of(cls, call: Call) -> Calls:
        """A single one."""
        return cls(call, ended=True)

    def put(self, call: Call) -> None:
        self._calls.append(call)
        self._wake()

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._wake()

    def __len__(self) -> int:
        return len(self._calls)

    def _wake(self) -> None:
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._woken)
            except RuntimeError:
                pass  # the model has been unloaded since

    # On the model's loop

    def belong_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop on which they will be taken out. Before that happens."""
        self._loop = loop

    def _woken(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> AsyncIterator[Call]:
        return self._take_out()

    async def _take_out(self) -> AsyncIterator[Call]:
        assert self._loop is not None
        while True:
            while self._calls:
                call = self._calls.popleft()
                if self._taken is not None:
                    self._taken()
                yield call
            if self._ended and not self._calls:
                return
            # Whoever puts one in from here on wakes this up, which cannot happen before it waits.
            self._waiter = self._loop.create_future()
            await self._waiter


class LocalReplica:
    """A copy of a model in this process: loads it, runs its batches, unloads it."""

    def __init__(
        self, settings: ModelSettings, request_events: dict[str, str], loaded: MLModel | None = None
    ) -> None:
        """request_events: CloudEvents headers that every request shows to the model.

        loaded: the model, if it was loaded already before this process was forked.
        """
        self.settings = settings
        self.changed: Callable[[], None] = nobody_cares
        self._request_events = request_events
        self._host = asyncio.get_running_loop()
        self._loop = _new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name=f"model-{settings.name}", daemon=True)
        self._model = loaded
        self._executor: Executor | None = None
        self._inline = False
        self._run_cost = _SHORT_RUN  # moving average, in seconds; unproven until the first runs
        self._given: deque[Batch] = deque()
        # (batch, replies, seconds), or (batch, None, 0) for one that awaits
        self._told: deque[tuple[Batch, Sequence[Reply] | None, float]] = deque()
        self._on_thread = 0  # batches
        self._awaiting: set[Batch] = set()  # those of them that have let go of the thread's loop
        self._take_scheduled = False
        self._tell_scheduled = False
        self._in_flight = 0
        self._closed = False
        self._stuck = False
        self._idle: asyncio.Future[None] | None = None
        self._pumps: set[asyncio.Task[Any]] = set()  # of streams that have not ended, on the model's loop

    @property
    def local(self) -> LocalReplica:
        return self

    @property
    def model(self) -> MLModel | None:
        return self._model

    @property
    def alive(self) -> bool:
        return self._executor is not None and not self._stuck

    @property
    def coming(self) -> bool:
        return False

    @property
    def ready(self) -> bool:
        return self._model is not None and self._executor is not None and bool(self._model.ready)

    @property
    def stages(self) -> Stages:
        """Where its time went so far."""
        return self._executor.stages if self._executor is not None else Stages()

    # Lifecycle

    async def load(self) -> Description:
        """Import, construct and load the model on its own loop. Raises whatever its code raises."""
        self._thread.start()
        try:
            return await self._on_loop(self._load())
        except BaseException:
            await self._discard()
            raise

    async def _load(self) -> Description:
        model = self._model
        if model is None:
            model = await in_turns(self._create())
        executor = Executor(model, self._request_events)
        self._inline = promises(model, "inline")
        self._executor = executor
        handlers = [handler for handler, _ in get_custom_handlers(model)]
        streams = type(model).predict_stream is not MLModel.predict_stream
        return Description(model.ready, executor.merges, streams, handlers)

    async def _create(self) -> MLModel:
        model = self._model = self.settings.implementation(self.settings)
        model.ready = bool(await model.load())
        return model

    async def close(self) -> None:
        """Finish what is in flight, unload the model, end its thread; of one that is stuck, do not wait."""
        if self._stuck:
            self._closed, self._model, self._executor = True, None, None
            self._loop.call_soon_threadsafe(self._loop.stop)
            return
        if self._in_flight:
            self._idle = self._idle or self._host.create_future()
            await self._idle
        await self._discard()

    async def _discard(self) -> None:
        self._closed = True
        model, self._model = self._model, None
        if model is not None:
            try:
                model.ready = not await self._on_loop(self._unload(model))
            except Exception:
                logger.exception("unload() of model '%s' failed", self.settings.name)
        self._executor = None
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _unload(self, model: MLModel) -> bool:
        # Nobody reads these streams any more, but their generators may still be putting things back.
        if self._pumps:
            await asyncio.wait(self._pumps)
        return await model.unload()

    def _run_loop(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            # What the model left behind ends with it.
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            asyncio.set_event_loop(None)
            loop.close()

    async def on_model_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the model's where all its code runs. The model stays until it has ended."""
        if self._closed:
            coroutine.close()
            raise ModelNotFound(self.settings.name, self.settings.version)
        with self._at_work():
            return await self._on_loop(coroutine)

    def _on_loop(self, coroutine: Coroutine[Any, Any, T]) -> Awaitable[T]:
        with model_context(self.settings):  # which the coroutine inherits
            return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_contained(coroutine), self._loop))

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self._in_flight += 1
        try:
            yield
        finally:
            self._work_done()

    def _work_done(self) -> None:
        self._in_flight -= 1
        if not self._in_flight and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def metadata(self) -> MetadataModelResponse:
        model = self._model
        if model is None:
            raise ModelNotFound(self.settings.name, self.settings.version)
        if type(model).metadata is MLModel.metadata:
            return await model.metadata()
        return await self.on_model_loop(model.metadata())

    # Batches

    def run(self, batch: Batch) -> None:
        """Its `done` is called on this loop: for a batch of the short lane before this returns."""
        self._in_flight += 1
        if self._short_lane(batch) and self._run_here(batch):
            return
        self._given.append(batch)
        if not self._take_scheduled:
            self._take_scheduled = True
            self._loop.call_soon_threadsafe(self._take)

    def cancel(self, batch: Batch) -> None:
        task = batch.task
        if task is not None:
            self._loop.call_soon_threadsafe(task.cancel)

    def recycle(self, reason: str) -> None:
        """A thread cannot be ended from outside: until it comes back by itself, it is of no use."""
        logger.error("Model '%s': %s; its thread cannot be ended from outside", self.settings.name, reason)
        self._stuck = True
        self.changed()

    def _short_lane(self, batch: Batch) -> bool:
        if not self._inline or self._run_cost >= _SHORT_RUN or self._on_thread or self._given:
            return False
        return sum(len(waiting.call.body) for waiting in batch.waiting) < _SHORT_BODY

    def _run_here(self, batch: Batch) -> bool:
        """Whether that is how it ran."""
        assert self._executor is not None
        wanted = batch.wanted()
        started = time.perf_counter()
        run = self._executor.run([waiting.call for waiting in wanted])
        try:
            run.send(None)
        except StopIteration as done:
            replies: Sequence[Reply] = done.value
        except asyncio.CancelledError as exc:
            replies = [_cut_short(waiting, exc) for waiting in wanted]
        except Exception as exc:
            replies = [failure(waiting.call, exc) for waiting in wanted]
        else:
            try:
                run.close()
            except RuntimeError:
                pass  # it awaits even in its `finally`
            logger.warning(
                "%s declares `inline`, but its predict() awaits: it runs on its thread from now on",
                type(self._model).__name__,
            )
            self._inline = False
            return False
        seconds = time.perf_counter() - started
        self._note_cost(seconds)
        try:
            batch.done(batch.aligned(wanted, replies), seconds)
        finally:
            self._work_done()
        return True

    def _note_cost(self, seconds: float) -> None:
        self._run_cost += 0.2 * (min(seconds, 0.1) - self._run_cost)

    # On the model's loop

    def _take(self) -> None:
        self._take_scheduled = False
        assert self._executor is not None
        started = []
        # Batches of a model that merges are large enough to have the loop each for itself.
        while self._given and not (self._executor.merges and self._on_thread > len(self._awaiting)):
            # Counted first: the other thread must not find it in neither place.
            self._on_thread += 1
            batch = self._given.popleft()
            batch.task = self._loop.create_task(self._run(batch))
            started.append(batch)
        if started:
            self._loop.call_soon(self._look_at, started)

    def _look_at(self, started: list[Batch]) -> None:
        """By now they have run as far as they get without awaiting."""
        for batch in started:
            if batch.task is not None and not batch.task.done():
                self._awaiting.add(batch)
                self._tell(batch, None, 0.0)
        if self._given and not self._take_scheduled:
            self._take()

    async def _run(self, batch: Batch) -> None:
        assert self._executor is not None
        started = time.perf_counter()
        wanted = batch.wanted()
        try:
            replies = await self._executor.run([waiting.call for waiting in wanted]) if wanted else []
        except asyncio.CancelledError as exc:
            replies = [_cut_short(waiting, exc) for waiting in wanted]
        except Exception as exc:
            replies = [failure(waiting.call, exc) for waiting in wanted]
        finally:
            self._on_thread -= 1
            self._awaiting.discard(batch)
        seconds = time.perf_counter() - started
        if self._inline:
            self._note_cost(seconds)
        self._tell(batch, batch.aligned(wanted, replies), seconds)
        if self._given and not self._take_scheduled:
            self._take()

    def _tell(self, batch: Batch, replies: Sequence[Reply] | None, seconds: float) -> None:
        self._told.append((batch, replies, seconds))
        if not self._tell_scheduled:
            self._tell_scheduled = True
            self._host.call_soon_threadsafe(self._hear)

    # Back on the host's loop

    def _hear(self) -> None:
        self._tell_scheduled = False
        while self._told:
            batch, replies, seconds = self._told.popleft()
            if replies is None:
                batch.awaits()
                continue
            try:
                batch.done(replies, seconds)
            finally:
                self._work_done()
            if self._stuck:
                self._stuck = False
                self.changed()

    # Streams

    def stream(self, calls: Calls) -> AsyncGenerator[Reply, None]:
        """The replies to a stream of calls.

        Closing the generator cancels the model's side.
        """
        if self._executor is None:
            raise ModelNotFound(self.settings.name, self.settings.version)
        calls.belong_to(self._loop)
        return self.iterate(self._executor.stream(aiter(calls)))

    async def iterate(self, items: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        """The items of a generator of the model's, which runs where all its code runs.

        Closing this closes that.
        """
        queue: asyncio.Queue[Any] = asyncio.Queue(STREAM_AHEAD)
        wanted = True

        async def put(item: Any) -> None:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(queue.put(item), self._host))

        async def pump() -> None:
            end: Any = _END
            this = asyncio.current_task()
            assert this is not None
            self._pumps.add(this)
            this.add_done_callback(self._pumps.discard)
            try:
                async for item in items:
                    await put(item)
            except BaseException as exc:
                end = exc
            if wanted:
                await put(end)
            elif isinstance(items, AsyncGenerator):
                await items.aclose()

        if self._closed:
            raise ModelNotFound(self.settings.name, self.settings.version)
        with self._at_work():
            with model_context(self.settings):
                pumping = asyncio.run_coroutine_threadsafe(pump(), self._loop)
            try:
                while (item := await queue.get()) is not _END:
                    if isinstance(item, Exception):
                        raise item
                    if isinstance(item, BaseException):
                        raise RuntimeError(f"the stream was ended by {item!r}") from item
                    yield item
            finally:
                wanted = False
                pumping.cancel()


_END = object()


def nobody_cares() -> None:
    """What `Replica.changed` is until somebody does."""


async def _contained(coroutine: Coroutine[Any, Any, T]) -> T:
    """A model that calls `sys.exit()` has failed; its thread, and who waits for it, live on."""
    try:
        return await coroutine
    except SystemExit as exc:
        raise RuntimeError(f"the model called sys.exit({exc.code!r})") from exc
    except KeyboardInterrupt as exc:
        raise RuntimeError("the model raised KeyboardInterrupt") from exc


def _cut_short(waiting: Waiting, exc: asyncio.CancelledError) -> Reply:
    """The reply to a call that was cancelled: because its caller left, or by the model's own code."""
    if waiting.left:
        return Reply(499, b"")
    error = RuntimeError("predict() was cancelled")
    error.__cause__ = exc
    return failure(waiting.call, error)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
