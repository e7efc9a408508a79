"""A replica: one loaded copy of a model, the calls that wait for it, and where its code runs.

Two lanes lead to the executor. User code runs on a thread of the model's own with its own event loop,
always the same one, so that nothing it does holds up the loop that talks to clients. A model that promises
a short pure `predict` takes the short cut: it runs right where the calls arrived, as soon as everything
that came in one turn of the loop has been collected, for as long as it keeps that promise; a slow turn or a
large body sends its calls to the thread until it is quick again.

Nobody waits for company: a free replica takes what is there, all of it where calls may be merged. While it
is busy, they gather.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from mlserver.context import model_context
from mlserver.errors import ModelNotFound, QueueFull
from mlserver.executor import Call, Executor, Reply, Stages, failure
from mlserver.logging import logger
from mlserver.model import MLModel, promises

if TYPE_CHECKING:
    from mlserver.settings import ModelSettings

__all__ = ["Calls", "Replica", "Waiting"]

T = TypeVar("T")

# A turn of the short lane may hold up the loop this long, in seconds, on average.
_SHORT_TURN = 0.005
# Bodies above this many bytes take longer to parse than the hop to the thread costs.
_SHORT_BODY = 64 * 1024
# So many calls at most become one run; more would make the first wait for the last.
_MOST_CALLS = 256
# Turns of the loop, each of which has to bring more calls, that a run may be put off.
_MOST_TURNS = 8
# Responses of a stream that may wait for a slow client.
_STREAM_AHEAD = 8


class Waiting:
    """A call, and whether anybody still wants its reply, which `settle` takes."""

    __slots__ = ("call", "left", "task")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.left = False
        self.task: asyncio.Task[None] | None = None

    def settle(self, reply: Reply) -> None:
        """Called on the front's loop, unless the caller has left."""
        raise NotImplementedError


class Calls:
    """A stream of calls: a transport puts them in on its loop, a model takes them out on its own."""

    def __init__(self, *calls: Call, ended: bool = False) -> None:
        self._calls = deque(calls)
        self._ended = ended
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
                yield self._calls.popleft()
            if self._ended and not self._calls:
                return
            # Whoever puts one in from here on wakes this up, which cannot happen before it waits.
            self._waiter = self._loop.create_future()
            await self._waiter


class Replica:
    """Loads a model, answers its calls, unloads it.

    All methods belong to the loop that is running when the replica is made. `max_waiting`: calls that may
    wait before more are refused; 0 sets no limit.
    """

    def __init__(self, settings: ModelSettings, request_events: dict[str, str], max_waiting: int = 0) -> None:
        self.settings = settings
        self._request_events = request_events
        self._max_waiting = max_waiting
        self._front = asyncio.get_running_loop()
        self._loop = _new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name=f"model-{settings.name}", daemon=True)
        self._model: MLModel | None = None
        self._executor: Executor | None = None
        self._inline = False
        self._turn_cost = _SHORT_TURN  # moving average, in seconds; unproven until the first runs
        self._waiting: deque[Waiting] = deque()
        self._done: deque[tuple[Waiting, Reply]] = deque()
        self._in_flight = 0
        self._closed = False
        self._idle: asyncio.Future[None] | None = None
        self._turn_scheduled = False
        self._turns = 0  # of the loop that this one has been put off, and calls that had come by then
        self._collected = 0
        self._take_scheduled = False
        self._deliver_scheduled = False
        self._thread_runs = 0
        self._pumps: set[asyncio.Task[Any]] = set()  # of streams that have not ended, on the model's loop

    # Lifecycle

    async def load(self) -> MLModel:
        """Import, construct and load the model on its own loop. Raises whatever its code raises."""
        self._thread.start()
        try:
            return await self._on_loop(self._load())
        except BaseException:
            await self._discard()
            raise

    async def _load(self) -> MLModel:
        model = self._model = self.settings.implementation(self.settings)
        model.ready = bool(await model.load())
        self._executor = Executor(model, self._request_events)
        self._inline = promises(model, "inline")
        return model

    async def close(self) -> None:
        """Finish what is in flight, unload the model, end its thread."""
        if self._in_flight:
            self._idle = self._idle or self._front.create_future()
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

    # Calls

    def submit(self, waiting: Waiting) -> None:
        """Queue a call; it is settled on this loop, never before this returns. Raises QueueFull."""
        if self._max_waiting and len(self._waiting) >= self._max_waiting:
            raise QueueFull(self.settings.name, self._max_waiting)
        self._waiting.append(waiting)
        self._in_flight += 1
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self._front.call_soon(self._turn)

    def abandon(self, waiting: Waiting) -> None:
        """Nobody waits for this call any more: drop it if it has not started, cancel it where it awaits."""
        waiting.left = True
        task = waiting.task
        if task is not None:
            self._loop.call_soon_threadsafe(task.cancel)

    @property
    def stages(self) -> Stages:
        """Where its time went so far."""
        return self._executor.stages if self._executor is not None else Stages()

    @property
    def queue_length(self) -> int:
        return len(self._waiting)

    def _turn(self) -> None:
        """At the end of a turn of the front's loop: everything that arrived in it is here now."""
        if self._short_lane():
            arrived = len(self._waiting)
            if arrived > 1 and self._collected < arrived and self._turns < _MOST_TURNS:
                # More came with this turn than with the last: what is on its way can still come along.
                self._collected = arrived
                self._turns += 1
                self._front.call_soon(self._turn)
                return
            self._collected = self._turns = 0
            self._run_here()
        self._turn_scheduled = False
        if self._waiting and not self._take_scheduled:
            self._take_scheduled = True
            self._loop.call_soon_threadsafe(self._take)

    def _short_lane(self) -> bool:
        if not self._inline or self._turn_cost >= _SHORT_TURN or self._thread_runs or self._take_scheduled:
            return False
        return sum(len(waiting.call.body) for waiting in self._waiting) < _SHORT_BODY

    def _run_here(self) -> None:
        assert self._executor is not None
        while self._waiting:
            batch = []
            for waiting in self._next_batch():
                if waiting.left:
                    self._work_done()
                else:
                    batch.append(waiting)
            started = time.perf_counter()
            run = self._executor.run([waiting.call for waiting in batch])
            try:
                run.send(None)
            except StopIteration as done:
                replies: list[Reply] = done.value
            except asyncio.CancelledError as exc:
                replies = [_cut_short(waiting, exc) for waiting in batch]
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
                self._waiting.extendleft(reversed(batch))
                return
            self._note_cost(time.perf_counter() - started)
            for waiting, reply in zip(batch, replies, strict=True):
                self._settle(waiting, reply)

    def _next_batch(self) -> list[Waiting]:
        waiting = self._waiting
        batch: list[Waiting] = []
        while waiting and len(batch) < _MOST_CALLS:
            try:
                batch.append(waiting.popleft())
            except IndexError:
                break
        return batch

    def _note_cost(self, seconds: float) -> None:
        self._turn_cost += 0.2 * (min(seconds, 0.1) - self._turn_cost)

    # On the model's loop

    def _take(self) -> None:
        self._take_scheduled = False
        assert self._executor is not None
        if not self._executor.merges:
            for waiting in self._next_batch():
                self._start([waiting])
            if self._waiting:
                self._loop.call_soon(self._take)
        elif self._waiting and not self._thread_runs:
            self._start(self._next_batch())

    def _start(self, batch: list[Waiting]) -> None:
        # Counted here, not when the task first runs: what comes in between must see that the model is busy.
        self._thread_runs += 1
        task = self._loop.create_task(self._run(batch))
        if len(batch) == 1:
            batch[0].task = task

    async def _run(self, batch: Sequence[Waiting]) -> None:
        assert self._executor is not None
        started = time.perf_counter()
        wanted = [waiting for waiting in batch if not waiting.left]
        try:
            replies = await self._executor.run([waiting.call for waiting in wanted]) if wanted else []
        except asyncio.CancelledError as exc:
            replies = [_cut_short(waiting, exc) for waiting in wanted]
        finally:
            self._thread_runs -= 1
        if self._inline:
            self._note_cost(time.perf_counter() - started)
        self._done.extend(zip(wanted, replies, strict=True))
        if len(wanted) < len(batch):
            self._done.extend((waiting, Reply(499, b"")) for waiting in batch if waiting not in wanted)
        if not self._deliver_scheduled:
            self._deliver_scheduled = True
            self._front.call_soon_threadsafe(self._deliver)
        if self._waiting and not self._take_scheduled:
            self._take()

    # Back on the front's loop

    def _deliver(self) -> None:
        self._deliver_scheduled = False
        while self._done:
            self._settle(*self._done.popleft())

    def _settle(self, waiting: Waiting, reply: Reply) -> None:
        waiting.task = None
        try:
            if not waiting.left:
                waiting.settle(reply)
        except Exception:  # of one connection, which must not cost the others their replies
            logger.exception("a reply could not be delivered")
        finally:
            self._work_done()

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
        queue: asyncio.Queue[Any] = asyncio.Queue(_STREAM_AHEAD)
        wanted = True

        async def put(item: Any) -> None:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(queue.put(item), self._front))

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


async def _contained(coroutine: Coroutine[Any, Any, T]) -> T:
    """A model that calls `sys.exit()` has failed; its thread, and who waits for it, live on."""
    try:
        return await coroutine
    except SystemExit as exc:
        raise RuntimeError(f"the model called sys.exit({exc.code!r})") from exc


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
