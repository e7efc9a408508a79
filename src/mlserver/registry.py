"""What is loaded: models by name and version, and the swap of one copy for another without a gap.

A name has one default version: the unversioned model where there is one, else the highest version. A reload
brings the new copy up beside the old one, then swaps, then lets the old one finish what it has; callers
never find nothing.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from mlserver.errors import ModelNotFound
from mlserver.logging import logger
from mlserver.memory import collect_frozen
from mlserver.model import MLModel
from mlserver.parallel.errors import RemoteError
from mlserver.replicas import ReplicaSet
from mlserver.rollout import Plan, Rollout
from mlserver.types import State

if TYPE_CHECKING:
    from mlserver.settings import ModelSettings

__all__ = ["LoadedModel", "ModelRegistry"]

ReplicasFactory = Callable[["ModelSettings"], ReplicaSet]
Hook = Callable[["LoadedModel", "LoadedModel | None"], Awaitable[None]]


class LoadedModel:
    """One version of one model: its settings, its replicas, and how far it has come."""

    def __init__(self, settings: ModelSettings, replicas: ReplicaSet) -> None:
        self.settings = settings
        self.replicas = replicas
        self.state = State.LOADING
        # A version of it that is on trial, or the last that was.
        self.rollout: Rollout | None = None

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def version(self) -> str | None:
        return self.settings.version

    @property
    def model(self) -> MLModel | None:
        """The model itself, where it is in this process."""
        return self.replicas.model

    @property
    def ready(self) -> bool:
        """Whether it can answer at this moment."""
        return self.state is State.READY and self.replicas.ready

    @property
    def willing(self) -> bool:
        """Whether it may be asked: it is ready, or will be again when its workers are."""
        return self.state is State.READY and self.replicas.willing


def newer(a: str, b: str) -> int:
    """Order two versions: as numbers where both are integers, else as text."""
    if a.isdecimal() and b.isdecimal():
        return int(a) - int(b)
    return (a > b) - (a < b)


class ModelRegistry:
    """The loaded models, and those that were asked for and failed.

    make_replicas: gives the replicas for a model's settings, not yet loaded. on_loaded, on_unloaded: awaited
    with (new, old) before a model is swapped in, and with (old, new) when one goes.
    """

    def __init__(self, make_replicas: ReplicasFactory) -> None:
        self._make_replicas = make_replicas
        self._versions: dict[str, dict[str | None, LoadedModel]] = {}
        self._defaults: dict[str, LoadedModel] = {}
        self._loads: weakref.WeakValueDictionary[tuple[str, str | None], asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        self._closing = False
        self._ending: set[asyncio.Future[None]] = set()  # of trials
        self.age = 0  # counts the changes of what `find` finds
        # Models that were to be loaded and could not be: name and version to the reason.
        self.failures: dict[tuple[str, str | None], str] = {}
        # Those without which the server is not ready.
        self.required: set[tuple[str, str | None]] = set()
        self.on_loaded: list[Hook] = []
        self.on_unloaded: list[Hook] = []

    # Finding

    def find(self, name: str, version: str | None = None) -> LoadedModel:
        """The loaded model of that name and version, or of the name's default version.

        Raises ModelNotFound.
        """
        loaded = self._versions.get(name, {}).get(version) if version else self._defaults.get(name)
        if loaded is None:
            raise ModelNotFound(name, version or None)
        return loaded

    def all(self) -> list[LoadedModel]:
        return [loaded for versions in self._versions.values() for loaded in versions.values()]

    def versions(self, name: str) -> list[LoadedModel]:
        return list(self._versions.get(name, {}).values())

    @property
    def ready(self) -> bool:
        """Whether every loaded model can answer, and none that was to be there at start-up is missing."""
        loaded = self.all()
        if self.required & self.failures.keys():
            return False
        return all(model.ready for model in loaded) if loaded else not self.failures

    async def get_model(self, name: str, version: str | None = None) -> MLModel:
        model = self.find(name, version).model
        if model is None:
            raise ModelNotFound(name, version)
        return model

    async def get_models(self, name: str | None = None) -> list[MLModel]:
        loaded = self.all() if name is None else self.versions(name)
        if name is not None and not loaded:
            raise ModelNotFound(name)
        return [m.model for m in loaded if m.model is not None]

    # Changing

    async def load(self, settings: ModelSettings, plan: Plan | None = None) -> MLModel | None:
        """Load a model, or reload one that is loaded already; the old copy serves until the new one is ready.

        Returns the model, where it is in this process. plan: how it has to prove itself first, if one serves.

        Loads of one version wait for each other. Raises what the model's code raises, when a copy that
        serves already goes on serving; ModelNotFound when the model was unloaded meanwhile.
        """
        async with self._lock(settings):
            return await self._load(settings, plan)

    def _lock(self, settings: ModelSettings) -> asyncio.Lock:
        return self._loads.setdefault((settings.name, settings.version), asyncio.Lock())

    async def _load(self, settings: ModelSettings, plan: Plan | None) -> MLModel | None:
        if settings.parallel_workers is not None:
            logger.warning(
                "Model '%s': `parallel_workers` in a model's settings is deprecated, set it for the server",
                describe(settings),
            )
        new = LoadedModel(settings, self._make_replicas(settings))
        old = self._registered(new)
        if old is None:
            self._put(new)
        try:
            description = await new.replicas.load()
            try:
                if self._registered(new) is not (old or new):
                    raise ModelNotFound(new.name, new.version)
                new.state = State.READY if description.ready else State.UNKNOWN
                if plan is not None and old is not None and old.ready:
                    self._try_out(new, old, plan)
                    return new.model
                await self._introduce(new, old)
            except BaseException:
                await new.replicas.close()
                raise
        except BaseException as exc:
            if self._registered(new) is new:
                self._drop(new)
                if not isinstance(exc, asyncio.CancelledError):
                    kind = exc.kind if isinstance(exc, RemoteError) else type(exc).__name__
                    self.failures[new.name, new.version] = f"{kind}: {exc}"
            raise
        await self._take_over(new, old)
        return new.model

    async def _introduce(self, new: LoadedModel, old: LoadedModel | None) -> None:
        """Tell those who want to know. Raises ModelNotFound when it was unloaded meanwhile."""
        for hook in self.on_loaded:
            await hook(new, old)
        if self._registered(new) is not (old or new):
            for hook in self.on_unloaded:
                await hook(new, None)
            raise ModelNotFound(new.name, new.version)

    async def _take_over(self, new: LoadedModel, old: LoadedModel | None) -> None:
        self._put(new)
        self.failures.pop((new.name, new.version), None)
        logger.info("Loaded model '%s' successfully.", describe(new.settings))
        if old is not None:
            await self._retire(old, new)

    def _try_out(self, new: LoadedModel, old: LoadedModel, plan: Plan) -> None:
        """Let a new copy prove itself on the calls of the one that serves."""

        def decide(promoted: bool) -> None:
            ending = asyncio.ensure_future(self._end_trial(new, old, promoted))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

        if old.rollout is not None:
            old.rollout.stop()
        new.rollout = old.rollout = Rollout(plan, old.replicas, new.replicas, decide)
        logger.info("Model '%s' is on trial: %s", describe(new.settings), plan)

    async def _end_trial(self, new: LoadedModel, old: LoadedModel, promoted: bool) -> None:
        assert new.rollout is not None
        logger.info("Model '%s' was %s", describe(new.settings), new.rollout.decision)
        try:
            async with self._lock(new.settings):
                if promoted and self._registered(new) is old:
                    await self._introduce(new, old)
                    await self._take_over(new, old)
                    return
        except Exception:
            logger.exception("Model '%s' could not take over", describe(new.settings))
        await self._retire(new, old)

    async def unload(self, name: str) -> None:
        """Unload all versions of a model. Raises ModelNotFound."""
        loaded = self.versions(name)
        failed = [key for key in self.failures if key[0] == name]
        if not loaded and not failed:
            raise ModelNotFound(name)
        for key in failed:
            del self.failures[key]
        for one in loaded:
            self._drop(one)
        await asyncio.gather(*(self._retire(one, None) for one in loaded))

    async def unload_version(self, name: str, version: str | None = None) -> None:
        """Unload one version of a model. Raises ModelNotFound."""
        loaded = self._versions.get(name, {}).get(version)
        if loaded is None:
            if self.failures.pop((name, version), None) is not None:
                return
            raise ModelNotFound(name, version)
        self._drop(loaded)
        await self._retire(loaded, None)

    async def close(self) -> None:
        """Unload everything."""
        self._closing = True
        await asyncio.gather(*(self.unload(name) for name in list(self._versions)), return_exceptions=True)
        if self._ending:
            await asyncio.wait(self._ending)

    def _registered(self, loaded: LoadedModel) -> LoadedModel | None:
        """What is registered under its name and version."""
        return self._versions.get(loaded.name, {}).get(loaded.version)

    def _put(self, loaded: LoadedModel) -> None:
        self._versions.setdefault(loaded.name, {})[loaded.version] = loaded
        self._choose_default(loaded.name)

    def _drop(self, loaded: LoadedModel) -> None:
        versions = self._versions[loaded.name]
        del versions[loaded.version]
        if not versions:
            del self._versions[loaded.name]
        self._choose_default(loaded.name)

    def _choose_default(self, name: str) -> None:
        self.age += 1
        versions = self._versions.get(name)
        if not versions:
            self._defaults.pop(name, None)
            return
        # While the newest is still loading for the first time, the one that can answer stays the default.
        candidates = {v: m for v, m in versions.items() if m.state is not State.LOADING} or versions
        if None in candidates:
            self._defaults[name] = candidates[None]
        else:
            newest = max((v for v in candidates if v is not None), key=functools.cmp_to_key(newer))
            self._defaults[name] = candidates[newest]

    async def _retire(self, loaded: LoadedModel, successor: LoadedModel | None) -> None:
        state = loaded.state
        loaded.state = State.UNLOADING
        if loaded.rollout is not None:
            loaded.rollout.stop()
        for hook in self.on_unloaded:
            await hook(loaded, successor)
        if state is State.LOADING:
            return  # its own load notices and cleans up
        gone = None if loaded.model is None else weakref.ref(loaded.model)
        await loaded.replicas.close()
        if gone is not None and gone() is not None and not self._closing:
            collect_frozen()  # it is part of a cycle, maybe of one that the collector does not look at
        if successor is None:
            logger.info("Unloaded model '%s' successfully.", describe(loaded.settings))


def describe(settings: ModelSettings) -> str:
    return f"{settings.name}:{settings.version}" if settings.version else settings.name


# The names that embedders know.
MultiModelRegistry = ModelRegistry
