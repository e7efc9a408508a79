"""MLServer: puts the parts together, starts them inside out and stops them outside in."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

from mlserver.audit.policy import configure as configure_trust
from mlserver.cloudevents import CloudEventsTypes, kubernetes_namespace, model_headers
from mlserver.errors import ModelNotFound, StartError
from mlserver.listening import check_free
from mlserver.logging import configure_logger, logger
from mlserver.memory import (
    FREEZE_AFTER,
    freeze_what_stays,
    give_back_memory,
    keep_blocks_warm,
    resident_bytes,
)
from mlserver.metrics import RequestMetrics, configure_metrics, release_metrics
from mlserver.parallel.errors import RemoteError
from mlserver.parallel.launch import end_unused
from mlserver.parallel.pool import InferencePoolRegistry, runs_here
from mlserver.registry import ModelRegistry
from mlserver.replica import LocalReplica, Replica
from mlserver.replicas import ReplicaSet
from mlserver.repository import ModelRepositoryFactory
from mlserver.repository.watch import Watch
from mlserver.service import Service
from mlserver.settings import ModelSettings, Settings
from mlserver.tls import Tls

__all__ = ["MLServer"]

# Seconds between two looks at the memory that is taken.
_BUDGET_LOOKS = 0.5
# What listens.
_SERVERS = ("mlserver.grpc.server", "mlserver.metrics.server", "mlserver.rest.app", "mlserver.rest.server")
_SIGNALS = ("SIGINT", "SIGTERM", "SIGQUIT")


class MLServer:
    """A server for the models of one repository. Make it inside a running event loop.

    http_port, grpc_port, metrics_port: where it listens, once `listening` is set; None for what is off.
    loaded: set once the models are that it was started with.
    """

    def __init__(self, settings: Settings) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        configure_logger(settings)
        configure_trust(settings)
        keep_blocks_warm()
        configure_metrics(settings)
        self.http_port: int | None = None
        self.grpc_port: int | None = None
        self.metrics_port: int | None = None
        self.listening = asyncio.Event()
        self.loaded = asyncio.Event()
        self._stop_requested = asyncio.Event()
        self._metrics = RequestMetrics(settings.metrics_rest_server_prefix)
        self._namespace = kubernetes_namespace()
        self._pools = (
            InferencePoolRegistry(settings, self._metrics.parallel_queue())
            if settings.parallel_workers > 0
            else None
        )
        self._model_registry = ModelRegistry(self._make_replicas)
        self.service = Service(
            settings,
            self._model_registry,
            ModelRepositoryFactory.resolve_model_repository(settings),
            self._metrics,
        )

    def _make_replicas(self, settings: ModelSettings) -> ReplicaSet:
        server = self._settings
        limit = server.max_queue_size if settings.max_queue_size is None else settings.max_queue_size
        batched = settings.max_batch_size > 1
        return ReplicaSet(
            settings,
            self._place,
            limit,
            self._metrics.batch_queue(settings.name, settings.version or "") if batched else None,
            server.retry_lost_calls,
            server.load_timeout,
        )

    async def _place(self, settings: ModelSettings) -> Sequence[Replica]:
        """In workers, unless there are none or the model does not want to."""
        events = model_headers(
            CloudEventsTypes.Request, self._settings.server_name, settings.name, self._namespace
        )
        if self._pools is None or runs_here(settings):
            return [LocalReplica(settings, events)]
        return await self._pools.place(settings, events)

    async def start(self, models_settings: Sequence[ModelSettings] = ()) -> None:
        """Listen, load the models, serve until `stop` or a signal.

        Raises StartError when a port is taken, a certificate cannot be used or a model cannot be loaded.
        """
        settings = self._settings
        self._handle_signals()
        tls: Tls | None = None
        try:
            tls = Tls(settings)
            await check_free(settings.host, settings.http_port, "HTTP")
            await check_free(settings.host, settings.grpc_port, "gRPC")
            if settings.metrics_endpoint:
                await check_free(settings.host, settings.metrics_port, "metrics")
            if self._pools is not None:
                self._pools.start(models_settings)
            # On a thread, while workers are told what to import.
            await asyncio.to_thread(_import_servers)
            end_unused()
            await self._serve(models_settings, tls)
        finally:
            if self._pools is not None:
                await self._pools.close()
                release_metrics()
            if tls is not None:
                tls.close()
            self._release_signals()

    async def _serve(self, models_settings: Sequence[ModelSettings], tls: Tls) -> None:
        from mlserver.grpc.server import GrpcServer
        from mlserver.metrics.server import MetricsServer, metrics_route
        from mlserver.rest.app import create_app
        from mlserver.rest.custom import CustomHandlers
        from mlserver.rest.server import HttpServer

        settings = self._settings
        registry = self._model_registry
        custom = CustomHandlers()
        registry.on_loaded.append(custom.loaded)
        registry.on_unloaded.append(custom.unloaded)
        self.service.starting = bool(models_settings)
        extra = [metrics_route(settings.metrics_endpoint, self._metrics)] if settings.metrics_endpoint else []
        http = HttpServer(
            settings, create_app(self.service, settings, custom, extra), self.service, self._metrics
        )
        registry.on_unloaded.append(http.forget)
        grpc = GrpcServer(settings, self.service, self._metrics if settings.metrics_endpoint else None)
        registry.on_unloaded.append(grpc.forget)
        metrics = MetricsServer(settings, self._metrics) if settings.metrics_endpoint else None
        watching: list[asyncio.Future[None]] = []
        try:
            self.http_port = await http.start(settings.host, settings.http_port, "HTTP", tls.context("http"))
            self.grpc_port = await grpc.start(settings.host, settings.grpc_port, tls.context("grpc"))
            if metrics is not None:
                self.metrics_port = await metrics.start(tls.context("metrics"))
            tls.watch(self._loop)
            logger.info("REST: %s://%s:%d", tls.scheme("http"), settings.host, self.http_port)
            logger.info("gRPC: %s:%d", settings.host, self.grpc_port)
            if self.metrics_port is not None:
                logger.info(
                    "metrics: %s://%s:%d%s",
                    tls.scheme("metrics"),
                    settings.host,
                    self.metrics_port,
                    settings.metrics_endpoint,
                )
            self.listening.set()
            if await self._load(models_settings):
                self.service.starting = False
                self.loaded.set()
                self._loop.call_later(FREEZE_AFTER, freeze_what_stays)
                if settings.watch_repository is not None:
                    watching.append(
                        asyncio.ensure_future(self._watch(settings.watch_repository, models_settings))
                    )
                if settings.memory_budget is not None:
                    watching.append(asyncio.ensure_future(self._keep_budget(settings.memory_budget)))
                await self._stop_requested.wait()
        finally:
            self.service.stopping = True
            for watch in watching:
                watch.cancel()
            await asyncio.gather(http.stop(settings.shutdown_timeout), grpc.stop(settings.shutdown_timeout))
            await _within(settings.shutdown_timeout, registry.close())
            if self._pools is not None:
                await self._pools.close()  # what they count until then can still be scraped
            if metrics is not None:
                await metrics.stop()

    async def stop(self, sig: int | None = None) -> None:
        """Ask a started server to stop; `start` returns once it has."""
        self._request_stop()

    def _request_stop(self) -> None:
        if not self._stop_requested.is_set():
            logger.info("Stopping: no new connections, requests that were accepted are finished")
        self.service.stopping = True
        self._stop_requested.set()

    async def _load(self, models: Sequence[ModelSettings]) -> bool:
        """Load all models at once; whether that was not cut short by a stop.

        Raises StartError for the first that fails.
        """
        if not models:
            return True
        if self._settings.load_failure == "continue":
            self._model_registry.required = {(settings.name, settings.version) for settings in models}
        _check_order(models)
        named: dict[str, list[asyncio.Future[Any]]] = {}
        loads: dict[asyncio.Future[Any], ModelSettings] = {}
        for settings in models:
            load: asyncio.Future[Any] = asyncio.ensure_future(self._load_in_order(settings, named))
            named.setdefault(settings.name, []).append(load)
            loads[load] = settings
        stop: asyncio.Future[Any] = asyncio.ensure_future(self._stop_requested.wait())
        pending = {stop, *loads}
        try:
            while pending != {stop}:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if stop in done:
                    return False
                for load in done:
                    exc = load.exception()
                    if exc is not None and self._settings.load_failure == "continue":
                        # Listed in the index with its reason; the server is not ready while it is missing.
                        logger.error("Model '%s' could not be loaded", loads[load].name, exc_info=exc)
                    elif exc is not None:
                        name = loads[load].name
                        kind = exc.kind if isinstance(exc, RemoteError) else type(exc).__name__
                        raise StartError(f"model '{name}' could not be loaded: {kind}: {exc}") from exc
            return True
        finally:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=1.0)

    async def _load_in_order(
        self, settings: ModelSettings, named: dict[str, list[asyncio.Future[Any]]]
    ) -> None:
        """Load a model once those are loaded that it has to follow; when one of them fails, so does this."""
        for name in settings.load_after:
            others = await asyncio.gather(*named[name], return_exceptions=True)
            if any(isinstance(other, BaseException) for other in others):
                raise StartError(f"model '{name}', which it is to be loaded after, could not be loaded")
        await self._model_registry.load(settings)

    async def _keep_budget(self, budget: int) -> None:
        """Let models sleep, those first that were not asked for longest, while too much memory is taken."""
        while True:
            await asyncio.sleep(_BUDGET_LOOKS)
            pids = [os.getpid(), *(self._pools.pids if self._pools is not None else ())]
            if sum(map(resident_bytes, pids)) <= budget:
                continue
            unpinned = [m.replicas for m in self._model_registry.all() if m.ready and not m.settings.pinned]
            idle = [replicas for replicas in unpinned if replicas.may_sleep]
            if idle:
                sleepy = min(idle, key=lambda replicas: replicas.last_asked)
                logger.info("Model '%s' sleeps: the memory budget is exceeded", sleepy.settings.name)
                try:
                    await sleepy.sleep()
                except Exception:
                    logger.exception("Model '%s' could not be put to sleep", sleepy.settings.name)
                    sleepy.last_asked = self._loop.time()  # another one is next
                give_back_memory()

    async def _watch(self, interval: float, models: Sequence[ModelSettings]) -> None:
        """Load what changes in the repository, unload what leaves it."""
        watch = await asyncio.to_thread(Watch, models)
        while True:
            await asyncio.sleep(interval)
            try:
                found = await self.service.repository.list()
                load, unload = await asyncio.to_thread(watch.changes, found)
            except Exception:
                logger.exception("The model repository could not be looked at")
                continue
            changes: list[tuple[str, Callable[[str], Any]]] = [(name, self.service.load) for name in load]
            changes += [(name, self.service.unload) for name in unload]
            for name, change in changes:
                try:
                    await change(name)
                except ModelNotFound:
                    pass  # somebody was quicker
                except Exception:
                    logger.exception("Model '%s' changed in the repository, and could not follow", name)

    def _handle_signals(self) -> None:
        for name in _SIGNALS:
            number = getattr(signal, name, None)  # Windows has no SIGQUIT
            if number is None:
                continue
            try:
                self._loop.add_signal_handler(number, self._request_stop)
            except (NotImplementedError, RuntimeError, ValueError):
                # Windows, or a loop that is not in the main thread.
                try:
                    signal.signal(number, lambda *_: self._loop.call_soon_threadsafe(self._request_stop))
                except ValueError:
                    return

    def _release_signals(self) -> None:
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            if number is not None:
                try:
                    self._loop.remove_signal_handler(number)
                except (NotImplementedError, RuntimeError, ValueError):
                    pass


def _check_order(models: Sequence[ModelSettings]) -> None:
    """Raises StartError when `load_after` names a model that is not there, or goes round in a circle."""
    follows: dict[str, set[str]] = {}
    for settings in models:
        follows.setdefault(settings.name, set()).update(settings.load_after)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise StartError(f"`load_after` goes round in a circle: {' -> '.join((*path, name))}")
        if name not in follows:
            raise StartError(f"`load_after` of model '{path[-1]}' names '{name}', which is not there")
        if name not in done:
            for other in follows[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in follows:
        visit(name, ())


def _import_servers() -> None:
    for name in _SERVERS:
        importlib.import_module(name)


async def _within(seconds: float, work: object) -> None:
    try:
        await asyncio.wait_for(work, seconds)  # type: ignore[arg-type]
    except asyncio.TimeoutError:
        logger.warning("Models were still busy %.0f s after the server was told to stop", seconds)
