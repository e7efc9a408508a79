"""The one door: every transport asks here, and here alone.

The way of an inference:

    transport: bytes of one request
      -> Service.infer       which model, is it ready, is there room
      -> ReplicaSet.submit   wait for a free replica, together with what else has arrived     (replicas.py)
      -> Replica.run         here, on the model's thread, or in a worker  (replica.py, parallel/)
      -> Executor.run        decode, group, merge, predict, split, encode                     (executor.py)
      -> Inference.settle    count it
    transport: bytes of one reply
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from mlserver.cache import Asked, Key, ResponseCache
from mlserver.errors import MLServerError, ModelNotFound, ModelNotReady
from mlserver.executor import Call, Reply, describe
from mlserver.model import describe_model
from mlserver.registry import LoadedModel, ModelRegistry
from mlserver.replica import Calls, Waiting
from mlserver.replicas import ReplicaSet
from mlserver.rollout import Pending as OnTrial
from mlserver.rollout import read_plan
from mlserver.types import (
    MetadataModelResponse,
    MetadataServerResponse,
    RepositoryIndexResponseItem,
    State,
)

if TYPE_CHECKING:
    from mlserver.metrics.requests import ModelCounters, RequestMetrics
    from mlserver.repository import ModelRepository
    from mlserver.settings import ModelSettings, Settings

__all__ = ["CachedInference", "Inference", "Pending", "Service", "Target"]

_now = time.perf_counter


class Target:
    """A model as a client addresses it.

    Remembers what it found for as long as the registry does not change.
    """

    __slots__ = ("_age", "_loaded", "counters", "label", "name", "version")

    def __init__(self, name: str, version: str | None, label: str | None = None) -> None:
        """label: the version as metrics show it, where that is not its text."""
        self.name = name
        self.label = str(version) if label is None else label
        self.version = version
        self._age = -1
        self._loaded: LoadedModel
        self.counters: ModelCounters

    def find(self, service: Service) -> LoadedModel:
        """Raises ModelNotFound, ModelNotReady."""
        registry = service.registry
        if self._age != registry.age:
            self._loaded = registry.find(self.name, self.version)
            self.counters = service.metrics.model(self.name, self.label)
            self._age = registry.age
        loaded = self._loaded
        if not loaded.willing:
            raise ModelNotReady(self.name, self.version or None)
        return loaded


class Inference(Waiting):
    """One inference under way. `abandon` it when its caller is gone."""

    __slots__ = ("_answer", "_counters", "_replicas", "_started")

    def __init__(
        self, call: Call, target: Target, replicas: ReplicaSet, answer: Callable[[Reply], None]
    ) -> None:
        super().__init__(call)
        self._counters = target.counters
        self._replicas = replicas
        self._answer = answer
        self._started = _now()

    def settle(self, reply: Reply) -> None:
        self._counters.observe(reply.status < 400, _now() - self._started)
        self._answer(reply)

    def abandon(self) -> None:
        self._replicas.abandon(self)


class CachedInference:
    """An inference whose answer was known, or is on its way. `abandon` it when its caller is gone."""

    __slots__ = ("_asked", "_cache", "_key")

    def __init__(self, cache: ResponseCache, key: Key, asked: Asked) -> None:
        self._cache = cache
        self._key = key
        self._asked = asked

    def settle_soon(self, reply: Reply) -> None:
        asyncio.get_running_loop().call_soon(self._settle, reply)

    def _settle(self, reply: Reply) -> None:
        if not self._asked.left:
            self._asked.answer(reply)

    def abandon(self) -> None:
        self._cache.leave(self._key, self._asked)


Pending = Inference | CachedInference | OnTrial


class Service:
    """The data plane and the model repository, whatever the transport.

    starting: true until the models that the server was started with are loaded or have failed.
    """

    def __init__(
        self,
        settings: Settings,
        registry: ModelRegistry,
        repository: ModelRepository,
        metrics: RequestMetrics,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.repository = repository
        self.metrics = metrics
        self.starting = False
        self.stopping = False
        self._cache: ResponseCache | None = None
        if settings.cache_enabled:
            self._cache = ResponseCache(settings.cache_size, settings.cache_max_bytes, settings.cache_ttl)
            registry.on_unloaded.append(self._forget)

    async def _forget(self, old: LoadedModel, successor: LoadedModel | None) -> None:
        assert self._cache is not None
        self._cache.forget(old)

    # Data plane

    def infer(
        self, target: Target, call: Call, answer: Callable[[Reply], None], deadline: float | None = None
    ) -> Pending:
        """Start an inference; `answer` gets its reply on this loop, after this has returned.

        deadline: time of this loop at which nobody wants the reply any more.
        Raises ModelNotFound, ModelNotReady, QueueFull when the model has no room, DeadlineUnreachable, or
        WorkerUnavailable.
        """
        try:
            loaded = target.find(self)
            if self._cache is not None and loaded.settings.cache_enabled:
                return self._infer_once(target, loaded, call, answer, deadline)
            return self._submit(target, loaded, call, answer, deadline)
        except MLServerError as exc:
            self._count_refusal(target, exc)
            raise

    def _submit(
        self,
        target: Target,
        loaded: LoadedModel,
        call: Call,
        answer: Callable[[Reply], None],
        deadline: float | None,
    ) -> Inference | OnTrial:
        inference = Inference(call, target, loaded.replicas, answer)
        inference.deadline = deadline
        if loaded.rollout is not None and loaded.rollout.decision is None:
            return loaded.rollout.submit(inference)
        loaded.replicas.submit(inference)
        return inference

    def _infer_once(
        self,
        target: Target,
        loaded: LoadedModel,
        call: Call,
        answer: Callable[[Reply], None],
        deadline: float | None,
    ) -> Pending:
        """As `_submit`, unless the answer is known, or on its way to somebody else."""
        assert self._cache is not None
        cache, counters = self._cache, self.metrics.cache(target.name, target.label)
        found = cache.ask(loaded, call, answer)
        if found is None:
            return self._submit(target, loaded, call, answer, deadline)
        key, asked = found
        inference = CachedInference(cache, key, asked)
        reply = cache.find(key, asked)
        if reply is not None:
            counters.hits += 1
            target.counters.observe(True, 0.0)
            inference.settle_soon(reply)
        elif cache.join(key, asked):
            counters.hits += 1
            target.counters.observe(True, 0.0)
        else:
            counters.misses += 1
            # Whoever asks the same meanwhile may have more time: the deadline is not passed on.

            def landed(reply: Reply) -> None:
                cache.landed(key, reply, keep=loaded.state is State.READY)

            cache.begin(key, asked, self._submit(target, loaded, call, landed, None))
        return inference

    async def infer_stream(self, target: Target, calls: Calls) -> AsyncGenerator[Reply, None]:
        """The model's replies to a stream of requests.

        Raises what `infer` raises, and MLServerError when the model fails, before the first reply or later.
        """
        try:
            replicas = target.find(self).replicas
        except MLServerError as exc:
            self._count_refusal(target, exc)
            raise
        started = _now()
        succeeded = False
        try:
            async with aclosing(replicas.stream(calls)) as replies:
                async for reply in replies:
                    yield reply
            succeeded = True
        except MLServerError:
            raise
        except Exception as exc:
            status, text, _ = describe(exc)
            raise MLServerError(text, status) from exc
        finally:
            target.counters.observe(succeeded, _now() - started)

    def _count_refusal(self, target: Target, exc: MLServerError) -> None:
        known = not isinstance(exc, ModelNotFound)
        self.metrics.model(target.name, target.label, known).observe(False, 0.0)

    def live(self) -> bool:
        return True

    def ready(self) -> bool:
        """Whether every model that should answer can, and the server means to go on."""
        return not self.starting and not self.stopping and self.registry.ready

    def model_ready(self, name: str, version: str | None = None) -> bool:
        """Raises ModelNotFound."""
        return self.registry.find(name, version).ready

    def metadata(self) -> MetadataServerResponse:
        settings = self.settings
        return MetadataServerResponse(
            name=settings.server_name, version=settings.server_version, extensions=settings.extensions
        )

    async def model_metadata(self, name: str, version: str | None = None) -> MetadataModelResponse:
        """What a model tells of itself; while it is loading, what its settings tell. Raises ModelNotFound."""
        loaded = self.registry.find(name, version)
        if loaded.replicas.description is None:
            return describe_model(loaded.settings, loaded.settings.inputs, loaded.settings.outputs)
        return await loaded.replicas.metadata()

    def batching(self, name: str, version: str | None = None) -> dict[str, Any]:
        """What was learned of a model's batches, and what is decided by it. Raises ModelNotFound."""
        replicas = self.registry.find(name, version).replicas
        stages = replicas.stages
        return {
            "merges": replicas.merges,
            "waiting": replicas.queue_length,
            "batches": stages.batches,
            "calls": stages.calls,
            **replicas.policy.describe(),
        }

    # Model repository

    async def index(self, only_ready: bool = False) -> list[RepositoryIndexResponseItem]:
        """Every entry of the repository, with the state of its own version."""
        entries = [entry for entry in await self.repository.list() if entry.name]
        items = [self._index_item(entry) for entry in entries]
        return [item for item in items if item.state == State.READY.value] if only_ready else items

    def _index_item(self, entry: ModelSettings) -> RepositoryIndexResponseItem:
        state, reason = State.UNAVAILABLE, "not loaded"
        for loaded in self.registry.versions(entry.name):
            if loaded.version == entry.version:
                state = State.READY if loaded.ready else loaded.state
                if state is State.READY and not loaded.ready:
                    state = State.UNKNOWN
                reason = "load() has not made it ready" if state is State.UNKNOWN else ""
                break
        else:
            reason = self.registry.failures.get((entry.name, entry.version), reason)
        return RepositoryIndexResponseItem(
            name=entry.name, version=entry.version, state=state.value, reason=reason
        )

    def rollout(self, name: str, version: str | None = None) -> dict[str, Any] | None:
        """How a new copy of a model that is on trial does, or how the last did. Raises ModelNotFound."""
        rollout = self.registry.find(name, version).rollout
        return None if rollout is None else rollout.describe()

    async def load(self, name: str, parameters: dict[str, Any] | None = None) -> None:
        """(Re)load every version that the repository has of a model, then unload those that it has no more.

        parameters: of `rollout.Plan`, if the new has to prove itself beside what serves.

        Raises ModelNotFound when it has none, else the first error; versions that did load are served all
        the same.
        """
        found = await self.repository.find(name)
        plan = read_plan(parameters or {})
        loads = (self.registry.load(settings, plan) for settings in found)
        results = await asyncio.gather(*loads, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        versions = {settings.version for settings in found}
        for loaded in self.registry.versions(name):
            if loaded.version not in versions:
                await self.registry.unload_version(name, loaded.version)

    async def unload(self, name: str) -> None:
        """Unload every version of a model. Raises ModelNotFound."""
        await self.registry.unload(name)
