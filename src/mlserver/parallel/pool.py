"""Pools of workers: which model is loaded in which, and another worker for each that ends.

A pool has a number of slots. In each lives a worker, and when it ends another one, with the same models.
Models share the default pool, unless they name a group or an environment of their own.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlserver.env import Environment, environment_of, own_environment
from mlserver.errors import MLServerError, ModelNotFound
from mlserver.logging import logger
from mlserver.parallel.channel import Kind, Reader, discard
from mlserver.parallel.errors import WorkerStop
from mlserver.parallel.launch import thread_variables
from mlserver.parallel.process import SHARED_SETTINGS, Worker
from mlserver.parallel.replica import WorkerReplica
from mlserver.parallel.template import Template
from mlserver.replica import Description

if TYPE_CHECKING:
    from mlserver.metrics.requests import Histogram
    from mlserver.settings import ModelSettings, Settings

__all__ = ["InferencePool", "InferencePoolRegistry", "Slot"]

# Seconds between two attempts to bring a worker up again: doubled each time, up to the second.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
# A worker that lived this long, in seconds, was no failed attempt.
_STABLE = 10.0


class Slot:
    """A place for a worker, and for the one that follows when it ends."""

    def __init__(
        self,
        settings: Settings,
        environment: Environment,
        variables: dict[str, str],
        name: str,
        queue_seen: Histogram | None = None,
    ) -> None:
        self.replicas: dict[int, WorkerReplica] = {}
        self.placed: set[WorkerReplica] = set()  # these, and those that are still to be loaded
        # Where workers are forked from, once it has loaded what it is to have; None to start them afresh.
        self.template: asyncio.Future[Template | None] | None = None
        self._settings = settings
        self._environment = environment
        self._variables = variables
        self._name = name
        self._queue_seen = queue_seen
        self._worker: Worker | None = None
        self._starting: asyncio.Task[Worker] | None = None
        self._restarting: asyncio.Task[None] | None = None
        self._numbers = itertools.count()
        self._owners: dict[int, WorkerReplica] = {}  # of batches and streams
        self._closing = False
        self._born = 0.0
        self._pause = 0.0

    @property
    def pid(self) -> int:
        return self._worker.pid if self._worker is not None else 0

    # The worker

    async def worker(self, preload: Sequence[dict[str, Any]] = ()) -> Worker:
        """The worker that is there, or the one that is being started. Raises WorkerStop, OSError."""
        if self._worker is not None:
            return self._worker
        if self._restarting is not None:
            await asyncio.shield(self._restarting)
            return await self.worker()
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start(preload))
        return await asyncio.shield(self._starting)

    async def _start(self, preload: Sequence[dict[str, Any]] = ()) -> Worker:
        worker = Worker(self._settings, self._environment, self._variables, self._heard, self._ended)
        self._born = time.monotonic()
        try:
            await worker.start(preload, None if self.template is None else await self.template)
        except BaseException:
            worker.discard()
            raise
        finally:
            self._starting = None
        if worker.ended.done():
            raise WorkerStop(worker.ended.result())
        self._worker = worker
        return worker

    async def ask(self, what: str, *arguments: Any) -> Any:
        return await (await self.worker()).ask(what, *arguments)

    def kill(self) -> None:
        if self._worker is not None:
            self._worker.kill()

    async def close(self) -> None:
        self._closing = True
        for task in (self._restarting, self._starting):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        if self._worker is not None:
            await self._worker.stop(self._settings.parallel_workers_timeout)

    # Its models

    async def load(self, replica: WorkerReplica) -> Description:
        """Raises what the model's code raises, WorkerStop when the worker ends over it."""
        worker = await self.worker()
        told = await self._load_in(worker, replica)
        if replica.closed:
            raise ModelNotFound(replica.settings.name, replica.settings.version)
        if self._worker is not worker or worker.channel is None:
            raise WorkerStop(worker.ended.result() if worker.ended.done() else 0)
        self.replicas[replica.number] = replica
        return replica.loaded(worker.channel, told)

    async def _load_in(self, worker: Worker, replica: WorkerReplica) -> dict[str, Any]:
        settings = _plain(replica.settings)
        loading = worker.ask("load", replica.number, settings, replica.events)
        told: dict[str, Any] = await _within(self._settings.load_timeout, loading, replica.settings.name)
        return told

    async def unload(self, replica: WorkerReplica) -> None:
        self.replicas.pop(replica.number, None)
        self.placed.discard(replica)
        if self._worker is not None:
            try:
                await self._worker.ask("unload", replica.number)
            except WorkerStop:
                pass

    # What it says

    def register(self, replica: WorkerReplica) -> int:
        """A number for a batch or a stream."""
        if self._queue_seen is not None:
            self._queue_seen.observe(len(self._owners))
        number = next(self._numbers)
        self._owners[number] = replica
        return number

    def forget(self, number: int) -> None:
        self._owners.pop(number, None)

    def _heard(self, kind: Kind, fields: list[Any], reader: Reader) -> None:
        number = fields[0]
        if kind == Kind.STATE:
            replica = self.replicas.get(number)
            if replica is not None:
                replica.ready = fields[1]
                replica.changed()
            return
        owner = self._owners.get(number)
        if owner is None:
            discard(kind, fields, reader)
            return
        if kind == Kind.DONE:
            del self._owners[number]
        owner.heard(kind, fields, reader)

    # Its end, and the next one

    def _ended(self, worker: Worker, code: int) -> None:
        if self._worker is not worker:
            return  # it had not started yet, which whoever started it is told
        self._worker = None
        if self._closing:
            return
        reason = WorkerStop(code)
        logger.error("Worker %d of %s ended: %s", worker.pid, self._name, reason)
        lived = time.monotonic() - self._born
        self._pause = 0.0 if lived > _STABLE else min(max(_FIRST_PAUSE, 2 * self._pause), _LONGEST_PAUSE)
        # The first time it is no more than a mishap.
        pause = self._pause if self._pause > _FIRST_PAUSE else 0.0
        replicas = list(self.replicas.values())
        for replica in replicas:
            replica.ended(coming=not pause)
        self._owners.clear()
        if self._restarting is None:  # else that one has lost what it was about to load
            self._restarting = asyncio.ensure_future(self._restart(pause))
        for replica in replicas:
            replica.lose(reason)

    async def _restart(self, pause: float) -> None:
        while True:
            if pause:
                for replica in self.replicas.values():
                    replica.ended(coming=False)
                    replica.changed()
                logger.info("The next worker of %s is started in %.1f s", self._name, pause)
                await asyncio.sleep(pause)
            try:
                worker = await self._start()
                await self._load_again(worker)
            except Exception as exc:  # whatever it is, the slot must not stay empty
                logger.error("A worker of %s could not be started: %s", self._name, exc)
                self._pause = pause = min(max(_FIRST_PAUSE, 2 * self._pause), _LONGEST_PAUSE)
                continue
            self._restarting = None
            logger.info("Worker %d of %s has taken over", worker.pid, self._name)
            return

    async def _load_again(self, worker: Worker) -> None:
        """Load what its predecessor had loaded. Raises WorkerStop when it ends over that."""
        for replica in list(self.replicas.values()):
            try:
                told = await self._load_in(worker, replica)
            except WorkerStop:
                raise
            except Exception as exc:
                # It could be loaded once. The others must not wait for what is wrong with it now.
                logger.error("Model '%s' could not be loaded again: %s", replica.settings.name, exc)
                replica.ended(coming=False)
                replica.changed()
                continue
            if self._worker is not worker or worker.channel is None:
                raise WorkerStop(worker.ended.result() if worker.ended.done() else 0)
            if replica.closed:
                await worker.ask("unload", replica.number)
            else:
                replica.loaded(worker.channel, told)


class InferencePool:
    """Workers of one environment for one group of models."""

    def __init__(
        self, settings: Settings, environment: Environment, name: str, queue_seen: Histogram | None = None
    ) -> None:
        self._queue_seen = queue_seen
        self._template: asyncio.Future[Template | None] | None = None
        self.environment = environment
        self._settings = settings
        self._name = name
        self.slots = [self._slot(index) for index in range(settings.parallel_workers)]

    def _slot(self, index: int) -> Slot:
        variables = thread_variables(self._settings.parallel_workers)
        gpus = self._settings.worker_gpus
        if gpus:
            variables["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
        name = f"{self._name}, slot {index}"
        return Slot(self._settings, self.environment, variables, name, self._queue_seen)

    def choose(self, replicas: int | None) -> list[Slot]:
        """The slots for the copies of a model: all, or as many as it wants, the emptiest first."""
        if replicas is None:
            return self.slots[: self._settings.parallel_workers]
        while len(self.slots) < replicas:
            self.slots.append(self._slot(len(self.slots)))
        return sorted(self.slots, key=lambda slot: len(slot.placed))[:replicas]

    @property
    def empty(self) -> bool:
        return not any(slot.placed for slot in self.slots)

    @property
    def serves(self) -> bool:
        return any(slot.replicas for slot in self.slots)

    async def shrink(self) -> None:
        """End the workers that a model had added, and that nobody needs any more."""
        own = self._settings.parallel_workers
        unused = [slot for slot in self.slots[own:] if not slot.placed]
        self.slots = [slot for slot in self.slots if slot not in unused]
        await asyncio.gather(*(slot.close() for slot in unused))

    def start(self, models: dict[int, dict[str, Any]]) -> None:
        """Start the workers before the first model asks for them. models: those that will, by number."""
        # A GPU is chosen by the environment of a process, and cannot be after a fork.
        if self._settings.copy_on_write and models and not self._settings.worker_gpus:
            self._template = asyncio.ensure_future(self._load_template(models))
            for slot in self.slots:
                slot.template = self._template
        for slot in self.slots:
            task = asyncio.ensure_future(slot.worker(list(models.values())))
            task.add_done_callback(_heed)

    async def _load_template(self, models: dict[int, dict[str, Any]]) -> Template | None:
        try:
            template = Template(self.environment, thread_variables(self._settings.parallel_workers))
            await template.configure(
                self._settings.model_dump(mode="json", include=SHARED_SETTINGS), self.environment.path
            )
            for number, settings in models.items():
                await template.load(number, settings)
        except (OSError, WorkerStop) as exc:
            logger.error("Workers cannot be forked from a template, and are started afresh: %s", exc)
            return None
        return template

    async def try_load(self, settings: ModelSettings, events: dict[str, str]) -> None:
        """Load a model in a process of its own, and end that. Raises what loading raises."""
        slot = self._slot(0)
        try:
            await slot.load(WorkerReplica(settings, events, slot, 0))
        except WorkerStop as exc:
            raise MLServerError(f"load() of model '{settings.name}' ended its process: {exc}", 500) from exc
        finally:
            slot.kill()
            await slot.close()

    async def close(self) -> None:
        await asyncio.gather(*(slot.close() for slot in self.slots))
        if self._template is not None and (template := await self._template) is not None:
            await template.close()
        self.environment.remove()


class InferencePoolRegistry:
    """All pools of a server."""

    def __init__(self, settings: Settings, queue_seen: Histogram | None = None) -> None:
        """queue_seen: observes how many messages workers have not answered yet, when one is sent."""
        self._settings = settings
        self._pools: dict[str, InferencePool] = {}
        self._numbers = itertools.count(1)
        self._queue_seen = queue_seen
        self._reserved: dict[int, int] = {}  # by identity of settings that live as long as the start does
        self._unpacking = asyncio.Lock()

    def start(self, models: Sequence[ModelSettings]) -> None:
        """Start the default pool, whose workers begin to import what these models need."""
        shared = {next(self._numbers): model for model in models if _in_default_pool(model)}
        self._reserved = {id(model): number for number, model in shared.items()}
        plain = {number: _plain(model) for number, model in shared.items()}
        self._pool("", own_environment()).start(plain)

    def _pool(self, key: str, environment: Environment) -> InferencePool:
        pool = self._pools.get(key)
        if pool is None:
            name = f"pool '{key}'" if key else "the default pool"
            pool = self._pools[key] = InferencePool(self._settings, environment, name, self._queue_seen)
        return pool

    async def place(self, settings: ModelSettings, events: dict[str, str]) -> list[WorkerReplica]:
        """Copies of a model in the slots where they belong, not yet loaded.

        Raises MLServerError when there is no such environment, and what a trial of loading raises.
        """
        gid = settings.parameters.inference_pool_gid if settings.parameters is not None else None
        async with self._unpacking:
            environment = await asyncio.to_thread(environment_of, settings, self._settings)
            key = "-".join(filter(None, (environment.key, gid)))
            pool = self._pool(key, environment)
        if self._settings.trial_load and pool.serves:
            await pool.try_load(settings, events)
        # What was loaded ahead for these settings is theirs alone: a reload has others.
        number = self._reserved.pop(id(settings), 0) or next(self._numbers)
        slots = pool.choose(settings.replicas)
        gone = functools.partial(self._release, key)
        replicas = [WorkerReplica(settings, events, slot, number, gone) for slot in slots]
        for slot, replica in zip(slots, replicas, strict=True):
            slot.placed.add(replica)
        return replicas

    async def _release(self, key: str) -> None:
        """A copy left this pool. One that nobody is in any more is closed, but for the default one."""
        pool = self._pools.get(key)
        if pool is None:
            return
        if key and pool.empty:
            del self._pools[key]
            await pool.close()
        else:
            await pool.shrink()

    @property
    def pools(self) -> list[InferencePool]:
        return list(self._pools.values())

    @property
    def pids(self) -> list[int]:
        """Of the workers that are there."""
        return [slot.pid for pool in self.pools for slot in pool.slots if slot.pid]

    async def close(self) -> None:
        pools, self._pools = self.pools, {}
        await asyncio.gather(*(pool.close() for pool in pools))


def _in_default_pool(settings: ModelSettings) -> bool:
    if runs_here(settings):
        return False
    parameters = settings.parameters
    return parameters is None or not (
        parameters.inference_pool_gid or parameters.environment_path or parameters.environment_tarball
    )


def runs_here(settings: ModelSettings) -> bool:
    """Whether a model opts out of workers."""
    return settings.parallel_workers is not None and settings.parallel_workers <= 0


async def _within(seconds: float | None, loading: Any, name: str) -> Any:
    """What loading gives. Raises MLServerError when it takes longer than it may."""
    try:
        return await asyncio.wait_for(loading, seconds)
    except asyncio.TimeoutError:
        raise MLServerError(
            f"load() of model '{name}' took longer than `load_timeout` ({seconds:g} s)", 504
        ) from None


def _plain(settings: ModelSettings) -> dict[str, Any]:
    """Settings of a model for another process, which builds them anew from this."""
    values: dict[str, Any] = settings.model_dump(mode="json", by_alias=True)
    if settings._source is not None:
        values["_source"] = settings._source
    return values


def _heed(task: asyncio.Task[Any]) -> None:
    """What went wrong is told again to whoever loads the first model."""
    if not task.cancelled() and task.exception() is not None:
        logger.debug("a worker could not be started early", exc_info=task.exception())
