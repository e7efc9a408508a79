"""The replicas of one model, and the calls that wait for them.

Nobody waits for company: a free replica takes what is there, all of it where calls may be merged. While all
are busy, calls gather. A replica is free when it has nothing to run, or when the model's code awaits; one
whose batches are short is given a little ahead, so that it never waits for the way from here to there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from time import perf_counter as _now
from typing import TYPE_CHECKING

from mlserver.batching.policy import BatchPolicy
from mlserver.errors import (
    DeadlineUnreachable,
    MLServerError,
    ModelNotFound,
    QueueFull,
    WorkerUnavailable,
)
from mlserver.executor import Reply, Stages, failure
from mlserver.logging import logger
from mlserver.model import MLModel
from mlserver.replica import Batch, Calls, Description, LocalReplica, Replica, Waiting
from mlserver.types import MetadataModelResponse
from mlserver.warmup import warm_up

if TYPE_CHECKING:
    from mlserver.metrics.requests import Histogram
    from mlserver.settings import ModelSettings

__all__ = ["Place", "ReplicaSet"]

Place = Callable[["ModelSettings"], Awaitable[Sequence[Replica]]]
"""Makes the replicas of a model, not yet loaded, wherever they belong."""

# So many calls at most become one batch; more would make the first wait for the last.
_MOST_CALLS = 256
# Turns of the loop, each of which has to bring more calls, that a batch may be put off.
_MOST_TURNS = 8
# Seconds of work that a replica may be given ahead, and batches that may be.
_AHEAD = 0.002
_MOST_AHEAD = 16
# Calls that one replica may have under way, awaiting.
_MOST_UNDER_WAY = 10_000


class _Batch(Batch):
    __slots__ = ("awaiting", "lane", "late", "started")

    def __init__(self, waiting: list[Waiting], lane: _Lane) -> None:
        super().__init__(waiting)
        self.lane = lane
        self.awaiting = False
        self.started = _now()
        self.late = False

    def awaits(self) -> None:
        self.lane.awaits(self)

    def done(self, replies: Sequence[Reply], seconds: float) -> None:
        self.lane.done(self, replies, seconds)

    def lost(self, reason: str) -> None:
        self.lane.lost(self, reason)


class _Lane:
    """A replica as the set sees it: what it was given, and how quick it was."""

    __slots__ = ("_set", "ahead", "batches", "busy", "cost", "replica", "talks")

    def __init__(self, replica: Replica, owner: ReplicaSet) -> None:
        self.replica = replica
        self._set = owner
        self.batches: dict[_Batch, None] = {}
        self.busy = 0  # batches that do not await
        self.talks = 0  # streams, and requests to custom handlers
        self.cost = _AHEAD  # moving average of a batch, in seconds
        self.ahead = 1

    def room(self, full: bool) -> bool:
        """full: whether what it would be given is as much as one batch can be."""
        if not self.replica.alive or self.busy >= self.ahead or len(self.batches) >= _MOST_UNDER_WAY:
            return False
        return full or self.busy == len(self.batches) or not self._set.merges

    def run(self, waiting: list[Waiting]) -> None:
        batch = _Batch(waiting, self)
        self.batches[batch] = None
        self.busy += 1
        self.replica.run(batch)

    def awaits(self, batch: _Batch) -> None:
        if batch in self.batches and not batch.awaiting:
            batch.awaiting = True
            self.busy -= 1
            self._restart_clock(batch)
            self._set.dispatch()

    def _over(self, batch: _Batch) -> None:
        del self.batches[batch]
        batch.let_go()
        if not batch.awaiting:
            self.busy -= 1

    def done(self, batch: _Batch, replies: Sequence[Reply], seconds: float) -> None:
        self._over(batch)
        self._restart_clock(batch)
        self.cost += 0.2 * (seconds - self.cost)
        self._set.policy.ran(len(batch.waiting), seconds)
        # One that awaits needs no more, and a batch that is not full yet had better wait for more calls.
        most = 1 if batch.awaiting else 2 if self._set.merges else _MOST_AHEAD
        self.ahead = max(1, min(most, int(_AHEAD / max(self.cost, 1e-6))))
        self._set.settle(batch.waiting, replies)
        self._set.dispatch()

    def _restart_clock(self, batch: _Batch) -> None:
        """A batch that was given ahead begins when the one before it lets go."""
        if self._set.settings.predict_timeout is not None:
            ahead = next((other for other in self.batches if not other.awaiting), None)
            if ahead is not None and ahead is not batch:
                ahead.started = _now()

    def running(self) -> list[_Batch]:
        """The batches whose time runs: those that await, and the first of the others."""
        awaiting = [batch for batch in self.batches if batch.awaiting]
        first = next((batch for batch in self.batches if not batch.awaiting), None)
        return awaiting if first is None else [*awaiting, first]

    def lost(self, batch: _Batch, reason: str) -> None:
        self._over(batch)
        self._set.lost(batch, reason)


class ReplicaSet:
    """Loads the replicas of a model, deals out its calls, unloads them.

    All methods belong to the loop that is running when it is made. max_waiting: calls that may wait before
    more are refused; 0 sets no limit. queue_seen: observes how many wait when one joins them.
    """

    def __init__(
        self,
        settings: ModelSettings,
        place: Place,
        max_waiting: int = 0,
        queue_seen: Histogram | None = None,
        retry_lost: bool = True,
        load_timeout: float | None = None,
    ) -> None:
        self.settings = settings
        self.merges = False
        self.description: Description | None = None
        self._loop = asyncio.get_running_loop()
        self._place = place
        self._max_waiting = max_waiting
        self._queue_seen = queue_seen
        self._retry_lost = retry_lost
        self._load_timeout = load_timeout
        self._timeout = settings.predict_timeout
        target = settings.latency_target_ms
        self.policy = BatchPolicy(
            settings.max_batch_size if settings.max_batch_size > 1 else _MOST_CALLS,
            max(settings.max_batch_time, 0.0),
            None if target is None else target / 1000,
            settings.latency_percentile,
        )
        self._most_calls = self.policy.max_calls
        self._hold: asyncio.TimerHandle | None = None
        self._hold_until = 0.0
        self._lanes: list[_Lane] = []
        self._metadata: MetadataModelResponse | None = None
        self._waiting: deque[Waiting] = deque()
        self._left = 0  # of those that wait
        self._in_flight = 0
        self._idle: asyncio.Future[None] | None = None
        self._asleep = False
        self._waking: asyncio.Future[None] | None = None
        self.last_asked = self._loop.time()
        self._dispatching = False
        self._turn_scheduled = False
        self._turns = 0  # of the loop that this one has been put off, and calls that had come by then
        self._collected = 0
        self._watch: asyncio.TimerHandle | None = None

    # Lifecycle

    async def load(self) -> Description:
        """Raises whatever the model's code raises, when no replica stays loaded."""
        self.last_asked = self._loop.time()
        replicas = await self._place(self.settings)
        loads = [asyncio.ensure_future(replica.load()) for replica in replicas]
        try:
            descriptions = await asyncio.gather(*loads)
        except BaseException:
            for load in loads:
                load.cancel()
            done = await asyncio.gather(*loads, return_exceptions=True)
            loaded = [r for r, d in zip(replicas, done, strict=True) if isinstance(d, Description)]
            await asyncio.gather(*(replica.close() for replica in loaded), return_exceptions=True)
            raise
        warming = [asyncio.ensure_future(self._warm_up(replica)) for replica in replicas]
        try:
            await asyncio.gather(*warming)
        except BaseException:
            for one in warming:
                one.cancel()
            await asyncio.gather(*warming, return_exceptions=True)
            await asyncio.gather(*(replica.close() for replica in replicas), return_exceptions=True)
            raise
        self.description = descriptions[0]
        self.merges = self.description.merges
        self._lanes = [_Lane(replica, self) for replica in replicas]
        for replica in replicas:
            replica.changed = self._changed
        return self.description

    async def _warm_up(self, replica: Replica) -> None:
        try:
            await asyncio.wait_for(warm_up(replica), self._load_timeout)
        except asyncio.TimeoutError:
            reason = f"warm-up took longer than `load_timeout` ({self._load_timeout:g} s)"
            replica.recycle(reason)
            raise MLServerError(f"Model {self.settings.name}: {reason}", 504) from None

    async def sleep(self) -> None:
        """Unload the replicas of an idle model, to be loaded again by the next call."""
        self._metadata = await self.metadata()
        if self._in_flight:
            return  # somebody came in between
        self._asleep = True
        lanes, self._lanes = self._lanes, []
        await asyncio.gather(*(lane.replica.close() for lane in lanes))

    async def _wake(self) -> None:
        """Load them for the calls that came meanwhile; when that fails, these are told so."""
        try:
            await self.load()
        except Exception as exc:
            logger.error("Model '%s' could not be loaded again: %s", self.settings.name, exc)
            self._refuse_all("it could not be loaded again")
        else:
            self._asleep = False
            self.dispatch()
        finally:
            self._waking = None

    async def close(self) -> None:
        """Finish what is in flight, then unload."""
        if self._in_flight:
            self._idle = self._idle or self._loop.create_future()
            await self._idle
        if self._waking is not None:
            await asyncio.wait({self._waking})
        lanes, self._lanes = self._lanes, []
        for timer in (self._watch, self._hold):
            if timer is not None:
                timer.cancel()
        await asyncio.gather(*(lane.replica.close() for lane in lanes))

    @property
    def replicas(self) -> list[Replica]:
        return [lane.replica for lane in self._lanes]

    @property
    def local(self) -> LocalReplica | None:
        """The one in this process, if that is where it is."""
        return self._lanes[0].replica.local if self._lanes else None

    @property
    def model(self) -> MLModel | None:
        return None if self.local is None else self.local.model

    @property
    def willing(self) -> bool:
        """Whether the model says that it is ready to be asked."""
        for lane in self._lanes:
            if lane.replica.ready:
                return True
        return self._asleep

    @property
    def asleep(self) -> bool:
        """Whether it is unloaded until somebody asks."""
        return self._asleep

    @property
    def may_sleep(self) -> bool:
        """Whether nobody waits for an answer, and nothing but an inference would have to wake it."""
        handlers = self.description is not None and self.description.handlers
        return not (self._asleep or self._in_flight or handlers)

    @property
    def ready(self) -> bool:
        """Whether a prediction can be made at this moment: one replica suffices."""
        return self._asleep or any(lane.replica.alive and lane.replica.ready for lane in self._lanes)

    @property
    def _alive(self) -> bool:
        return any(lane.replica.alive for lane in self._lanes)

    @property
    def _promising(self) -> bool:
        """Whether a call that comes now will find a replica soon."""
        for lane in self._lanes:
            if lane.replica.alive or lane.replica.coming:
                return True
        return self._asleep

    @property
    def stages(self) -> Stages:
        """Where the time of all replicas went so far."""
        total = Stages()
        for lane in self._lanes:
            total.add(lane.replica.stages)
        return total

    @property
    def queue_length(self) -> int:
        """Calls that wait for a replica."""
        return len(self._waiting) - self._left

    def _idlest(self) -> _Lane:
        """The replica with least to do. Raises WorkerUnavailable, ModelNotFound."""
        if not self._lanes:
            raise ModelNotFound(self.settings.name, self.settings.version)
        alive = [lane for lane in self._lanes if lane.replica.alive]
        if not alive:
            raise WorkerUnavailable(self.settings.name)
        return min(alive, key=lambda lane: len(lane.batches) + lane.talks)

    @contextmanager
    def talk(self) -> Iterator[Replica]:
        """The replica with least to do, for something longer than a call. It stays until this ends.

        Raises WorkerUnavailable, ModelNotFound.
        """
        lane = self._idlest()
        self.last_asked = self._loop.time()
        self._in_flight += 1
        lane.talks += 1
        try:
            yield lane.replica
        finally:
            lane.talks -= 1
            self._work_done()

    async def metadata(self) -> MetadataModelResponse:
        """What the model tells of itself. Of one in a worker, what it told when first asked."""
        if self.local is not None:
            return await self.local.metadata()
        if self._metadata is None:
            self._metadata = await self._idlest().replica.metadata()
        return self._metadata

    # Calls

    def submit(self, waiting: Waiting) -> None:
        """Queue a call; it is settled on this loop, never before this returns.

        Raises QueueFull, or WorkerUnavailable when no replica is there that could answer.
        """
        queued = len(self._waiting) - self._left
        if self._max_waiting and queued >= self._max_waiting:
            raise QueueFull(self.settings.name, self._max_waiting, self._expected_wait(queued))
        if not self._promising:
            raise WorkerUnavailable(self.settings.name)
        if waiting.deadline is not None:
            left, expected = waiting.deadline - self._loop.time(), self._expected_wait(queued)
            if left < expected:
                raise DeadlineUnreachable(self.settings.name, left, expected)
        if self._queue_seen is not None:
            self._queue_seen.observe(queued)
        self.last_asked = self._loop.time()
        if self._asleep and self._waking is None:
            self._waking = asyncio.ensure_future(self._wake())
        if self.policy.target is not None:
            waiting.since = _now()
            self.policy.arrived(waiting.since)
        self._waiting.append(waiting)
        self._in_flight += 1
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self._loop.call_soon(self._turn)

    def abandon(self, waiting: Waiting) -> None:
        """Nobody waits for this call any more: drop it if it has not started, cancel it where it awaits."""
        if waiting.left:
            return
        waiting.left = True
        batch = waiting.batch
        if batch is None:
            self._left += 1
            self._work_done()
            if self._left > _MOST_CALLS and self._left * 2 > len(self._waiting):
                self._waiting = deque(one for one in self._waiting if not one.left)
                self._left = 0
        elif isinstance(batch, _Batch) and len(batch.waiting) == 1 and batch in batch.lane.batches:
            batch.lane.replica.cancel(batch)

    def _turn(self) -> None:
        """At the end of a turn of the loop: everything that arrived in it is here now."""
        arrived = len(self._waiting)
        if self.merges and arrived > 1 and self._collected < arrived and self._turns < _MOST_TURNS:
            # More came with this turn than with the last: what is on its way can still come along.
            self._collected = arrived
            self._turns += 1
            self._loop.call_soon(self._turn)
            return
        self._collected = self._turns = 0
        self._turn_scheduled = False
        self.dispatch()

    def dispatch(self) -> None:
        """Give what waits to replicas that have room."""
        if self._dispatching:
            return  # a batch of the short lane is done before the one who gave it goes on
        self._dispatching = True
        try:
            while self._waiting and not self._turn_scheduled:
                lane = self._free_lane()
                if lane is None or (self.policy.target is not None and self._held()):
                    break
                batch = self._next_batch()
                if batch:
                    lane.run(batch)
        finally:
            self._dispatching = False
        if self._timeout is not None and self._watch is None:
            self._watch_over()

    def _held(self) -> bool:
        """Whether what waits is held for company, for which a timer is set then."""
        if not self.merges:
            return False
        now, oldest = _now(), self._waiting[0].since
        leaves = self.policy.leaves_at(self.queue_length, oldest, now)
        if leaves > now:
            if self._hold is not None and leaves < self._hold_until:
                self._hold.cancel()  # more calls take longer: they have to leave earlier
                self._hold = None
            if self._hold is None:
                self._hold = self._loop.call_later(leaves - now, self._release)
                self._hold_until = leaves
            return True
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
            self.policy.was_held(now - oldest)
        return False

    def _release(self) -> None:
        self._hold = None
        if self._waiting:
            self.policy.was_held(_now() - self._waiting[0].since)
        self.dispatch()

    def _free_lane(self) -> _Lane | None:
        full = len(self._waiting) - self._left >= self._most_calls
        free = [lane for lane in self._lanes if lane.room(full)]
        if len(free) > 1:
            return min(free, key=lambda lane: (lane.busy, len(lane.batches)))
        return free[0] if free else None

    def _next_batch(self) -> list[Waiting]:
        waiting = self._waiting
        batch: list[Waiting] = []
        most = self._most_calls if self.merges else 1
        while waiting and len(batch) < most:
            one = waiting[0]
            if one.left:
                self._left -= 1
                waiting.popleft()
            elif one.alone and batch:
                break
            else:
                batch.append(waiting.popleft())
                if one.alone:
                    break
        return batch

    def _expected_wait(self, queued: int) -> float:
        """Seconds until a call that joins `queued` others is answered, going by how it went lately.

        Of a model that answers many at once, by what awaits and not by what computes, nothing is expected.
        """
        if not self._lanes or any(lane.busy < len(lane.batches) for lane in self._lanes):
            return 0.0
        batches = queued // (self._most_calls if self.merges else 1) + sum(lane.busy for lane in self._lanes)
        return batches * sum(lane.cost for lane in self._lanes) / len(self._lanes) ** 2

    def lost(self, batch: _Batch, reason: str) -> None:
        """The replica of a batch ended. Once, its calls are tried elsewhere, each by itself."""
        for waiting in reversed(batch.waiting):
            if self._retry_lost and self._alive and not waiting.left and not waiting.lost:
                waiting.lost += 1
                waiting.alone = True
                self._waiting.appendleft(waiting)
            else:
                self.settle([waiting], [failure(waiting.call, MLServerError(reason, 503))])
        self.dispatch()

    def _changed(self) -> None:
        """A replica came or went."""
        if not self._promising:
            self._refuse_all()
        self.dispatch()

    def _refuse_all(self, reason: str = "") -> None:
        """Tell who waits that there is nothing to wait for."""
        waiting, self._waiting, self._left = self._waiting, deque(), 0
        wanted = [one for one in waiting if not one.left]
        refusal = WorkerUnavailable(self.settings.name, reason)
        self.settle(wanted, [failure(one.call, refusal) for one in wanted])

    def settle(self, calls: Sequence[Waiting], replies: Sequence[Reply]) -> None:
        for waiting, reply in zip(calls, replies, strict=True):
            self._tell(waiting, reply)
        self._work_done(len(calls))

    def _tell(self, waiting: Waiting, reply: Reply) -> None:
        """Once at most."""
        if waiting.left:
            return
        waiting.left = True
        try:
            waiting.settle(reply)
        except Exception:  # of one connection, which must not cost the others their replies
            logger.exception("a reply could not be delivered")

    def _work_done(self, calls: int = 1) -> None:
        self._in_flight -= calls
        if not self._in_flight and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _watch_over(self) -> None:
        """Find batches that take longer than they may."""
        self._watch = None
        assert self._timeout is not None
        now = _now()
        for lane in self._lanes:
            late = [b for b in lane.running() if not b.late and now - b.started >= self._timeout]
            if late:
                self._time_out(lane, late)
        started = [batch.started for lane in self._lanes for batch in lane.running() if not batch.late]
        if started:
            self._watch = self._loop.call_later(min(started) + self._timeout - now, self._watch_over)

    def _time_out(self, lane: _Lane, late: list[_Batch]) -> None:
        reason = f"predict() took longer than `predict_timeout` ({self._timeout:g} s)"
        error = MLServerError(f"Model {self.settings.name}: {reason}", 504)
        for batch in late:
            batch.late = True
            for waiting in batch.waiting:
                self._tell(waiting, failure(waiting.call, error))
            lane.replica.cancel(batch)
        lane.replica.recycle(reason)

    # Streams

    async def stream(self, calls: Calls) -> AsyncGenerator[Reply, None]:
        """The replies to a stream of calls. Closing the generator cancels the model's side."""
        if self._asleep:
            self._waking = self._waking or asyncio.ensure_future(self._wake())
            await asyncio.shield(self._waking)
            if self._asleep:
                raise WorkerUnavailable(self.settings.name, "it could not be loaded again")
        with self.talk() as replica:
            async with aclosing(replica.stream(calls)) as replies:
                async for reply in replies:
                    yield reply
