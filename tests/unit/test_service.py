"""The one door: targets, counters, the repository's index, loading what it lists."""

from __future__ import annotations

import asyncio
import builtins
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from mlserver import MLModel, ModelSettings, Settings
from mlserver.errors import MLServerError, ModelNotFound, ModelNotReady, QueueFull
from mlserver.executor import Call, Reply
from mlserver.metrics import RequestMetrics
from mlserver.registry import ModelRegistry
from mlserver.replica import Calls
from mlserver.repository import ModelRepository
from mlserver.service import Service, Target
from mlserver.settings import ModelParameters
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    RepositoryIndexResponseItem,
    ResponseOutput,
)
from tests.local import Local

TIMEOUT = 10.0


class Model(MLModel):
    """Echoes; how it loads is said by the settings' `extra`."""

    gate = threading.Event()

    async def load(self) -> bool:
        extra = (self.settings.parameters and self.settings.parameters.extra) or {}
        if extra.get("gated"):
            await until(self.gate.is_set, "the gate opens")
        if extra.get("fails"):
            raise ValueError("no weights")
        return bool(extra.get("ready", True))

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        values = list(payload.inputs[0].data)
        if values == [0]:
            await asyncio.to_thread(self.gate.wait, TIMEOUT)
        if values == [66]:
            raise ValueError("secret")
        output = ResponseOutput(name="y", shape=[len(values)], datatype="INT64", data=values)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])


class Described(Model):
    async def metadata(self) -> MetadataModelResponse:
        return MetadataModelResponse(name=self.name, platform=threading.current_thread().name)


class Blocks(Model):
    entered = threading.Event()

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        self.entered.set()
        self.gate.wait(TIMEOUT)
        return await super().predict(payload)


class InMemory(ModelRepository):
    """Lists what a test puts into `models`."""

    def __init__(self, root: str = ".") -> None:
        super().__init__(root)
        self.models: builtins.list[ModelSettings] = []

    async def list(self) -> builtins.list[ModelSettings]:
        return builtins.list(self.models)


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.001)


def entry(
    version: str | None = None, name: str = "m", cls: type[Model] = Model, **extra: Any
) -> ModelSettings:
    parameters = ModelParameters(version=version, extra=extra)
    return ModelSettings(name=name, implementation=cls, parameters=parameters)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    Model.gate = threading.Event()
    Blocks.entered = threading.Event()
    registry = ModelRegistry(lambda settings: Local(settings, max_waiting=2))
    yield Service(Settings(server_name="s", extensions=["e"]), registry, InMemory(), RequestMetrics())
    Model.gate.set()
    await asyncio.wait_for(registry.close(), TIMEOUT)


def models(service: Service, *entries: ModelSettings) -> None:
    assert isinstance(service.repository, InMemory)
    service.repository.models = list(entries)


def call(*values: int) -> Call:
    tensor = {"name": "x", "shape": [len(values)], "datatype": "INT64", "data": values}
    return Call(json.dumps({"inputs": [tensor]}).encode(), {})


async def infer(service: Service, target: Target, *values: int) -> Reply:
    reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    service.infer(target, call(*values), reply.set_result)
    return await asyncio.wait_for(reply, TIMEOUT)


def counts(service: Service, name: str = "m", version: str = "None") -> tuple[int, int]:
    counters = service.metrics.model(name, version)
    return counters.success, counters.failure


# Targets and inference


async def test_an_inference_is_answered_and_counted(service: Service) -> None:
    await service.registry.load(entry())
    target = Target("m", None)
    reply = await infer(service, target, 1, 2)
    assert json.loads(reply.body)["outputs"][0]["data"] == [1, 2]
    assert counts(service) == (1, 0)
    assert service.metrics.model("m", "None").seconds > 0
    assert (await infer(service, target, 66)).status == 500
    assert counts(service) == (1, 1)


async def test_a_target_remembers_what_it_found_until_the_registry_changes(service: Service) -> None:
    registry, target = service.registry, Target("m", None)
    await registry.load(entry("1"))
    first = target.find(service)
    asked: list[str] = []
    find = registry.find
    registry.find = lambda name, version=None: asked.append(name) or find(name, version)  # type: ignore
    assert target.find(service) is first
    assert asked == []
    await registry.load(entry("1"))
    assert target.find(service) is not first
    assert target.find(service) is registry._defaults["m"]
    assert asked == ["m"]
    await registry.load(entry("2"))
    assert target.find(service).version == "2"
    await registry.unload("m")
    with pytest.raises(ModelNotFound):
        target.find(service)


async def test_what_cannot_be_asked_is_a_failure_that_is_counted(service: Service) -> None:
    with pytest.raises(ModelNotFound):
        service.infer(Target("n", "3"), call(1), print)
    assert counts(service, "n", "3") == (0, 1)
    with pytest.raises(ModelNotFound):
        await anext(service.infer_stream(Target("n", "3"), Calls.of(call(1))))
    assert counts(service, "n", "3") == (0, 2)
    await service.registry.load(entry("1", ready=False))
    with pytest.raises(ModelNotReady):
        service.infer(Target("m", "1"), call(1), print)
    with pytest.raises(ModelNotReady):
        await anext(service.infer_stream(Target("m", "1"), Calls.of(call(1))))
    assert counts(service, "m", "1") == (0, 2)


async def test_a_full_queue_is_a_failure_that_is_counted(service: Service) -> None:
    await service.registry.load(entry(cls=Blocks))
    target = Target("m", None)
    replies: list[Reply] = []
    service.infer(target, call(1), replies.append)
    await until(Blocks.entered.is_set, "the model is busy")
    for _ in range(2):
        service.infer(target, call(1), replies.append)
    with pytest.raises(QueueFull):
        service.infer(target, call(1), replies.append)
    assert counts(service) == (0, 1)
    Model.gate.set()
    await until(lambda: len(replies) == 3, "the others are answered")
    assert counts(service) == (3, 1)


async def test_an_abandoned_inference_is_neither_answered_nor_counted(service: Service) -> None:
    await service.registry.load(entry())
    target = Target("m", None)
    replies: list[Reply] = []
    gone = service.infer(target, call(0), replies.append)
    await until(lambda: gone.batch is not None and gone.batch.task is not None, "it has started")
    gone.abandon()
    assert (await infer(service, target, 1)).status == 200
    replica = target.find(service).replicas
    await until(lambda: replica._in_flight == 0, "it has ended")
    assert (replies, counts(service)) == ([], (1, 0))


async def test_streams_are_counted_when_they_end(service: Service) -> None:
    await service.registry.load(entry())
    target = Target("m", None)
    assert len([item async for item in service.infer_stream(target, Calls.of(call(1)))]) == 1
    assert counts(service) == (1, 0)
    with pytest.raises(MLServerError, match=r"^Internal Server Error$") as caught:
        await anext(service.infer_stream(target, Calls.of(call(66))))
    assert caught.value.status_code == 500
    assert counts(service) == (1, 1)
    async with aclosing(service.infer_stream(target, Calls.of(Call(b"{", {})))) as items:
        with pytest.raises(MLServerError) as caught:
            await anext(items)
    assert caught.value.status_code == 422
    assert counts(service) == (1, 2)


# Health and metadata


async def test_ready_means_started_not_stopping_and_all_models_ready(service: Service) -> None:
    assert service.ready() and service.live()
    service.starting = True
    assert not service.ready()
    service.starting, service.stopping = False, True
    assert not service.ready()
    service.stopping = False
    await service.registry.load(entry(ready=False))
    assert not service.ready() and not service.model_ready("m")
    await service.registry.load(entry())
    assert service.ready() and service.model_ready("m")
    with pytest.raises(ModelNotFound):
        service.model_ready("m", "2")


async def test_metadata(service: Service) -> None:
    told = service.metadata()
    assert (told.name, told.extensions) == ("s", ["e"])
    with pytest.raises(ModelNotFound):
        await service.model_metadata("m")
    loading = asyncio.ensure_future(service.registry.load(entry(cls=Described, gated=True)))
    await until(lambda: service.registry.all(), "it loads")
    assert (await service.model_metadata("m")).platform == ""  # what the settings say
    Model.gate.set()
    await loading
    assert (await service.model_metadata("m")).platform == "model-m"  # the model, on its own thread
    await service.registry.load(entry(name="n"))
    assert (await service.model_metadata("n")).name == "n"


# Model repository


def states(items: list[RepositoryIndexResponseItem]) -> list[tuple[str, str | None, str, str]]:
    return [(item.name, item.version, item.state, item.reason) for item in items]


async def test_the_index_has_a_state_and_a_reason_for_each_version(service: Service) -> None:
    entries = [
        entry("1"),
        entry("2", fails=True),
        entry("3", ready=False),
        entry("4", gated=True),
        entry("5"),
        entry(name="n"),
    ]
    models(service, *entries, entry(name=""))
    await service.registry.load(entries[0])
    with pytest.raises(ValueError):
        await service.registry.load(entries[1])
    await service.registry.load(entries[2])
    loading = asyncio.ensure_future(service.registry.load(entries[3]))
    await until(lambda: len(service.registry.all()) == 3, "it loads")
    assert states(await service.index()) == [
        ("m", "1", "READY", ""),
        ("m", "2", "UNAVAILABLE", "ValueError: no weights"),
        ("m", "3", "UNKNOWN", "load() has not made it ready"),
        ("m", "4", "LOADING", ""),
        ("m", "5", "UNAVAILABLE", "not loaded"),
        ("n", None, "UNAVAILABLE", "not loaded"),
    ]
    assert states(await service.index(only_ready=True)) == [("m", "1", "READY", "")]
    Model.gate.set()
    await loading


async def test_a_model_that_takes_its_readiness_back_is_unknown(service: Service) -> None:
    models(service, entry())
    model = await service.registry.load(entry())
    model.ready = False
    (item,) = await service.index()
    assert item.state == "UNKNOWN"


async def test_load_loads_every_version_and_unloads_those_that_are_gone(service: Service) -> None:
    models(service, entry("1"), entry("2"), entry(name="n"))
    await service.load("m")
    assert sorted(str(one.version) for one in service.registry.all()) == ["1", "2"]
    old = service.registry.find("m", "2").model
    models(service, entry("2"), entry("3"))
    await service.load("m")
    assert sorted(str(one.version) for one in service.registry.all()) == ["2", "3"]
    assert service.registry.find("m", "2").model is not old


async def test_load_of_what_the_repository_lacks_leaves_what_is_loaded(service: Service) -> None:
    await service.registry.load(entry("1"))
    with pytest.raises(ModelNotFound):
        await service.load("m")
    assert service.model_ready("m")


async def test_one_version_that_fails_fails_the_load_and_nothing_else(service: Service) -> None:
    await service.registry.load(entry("0"))
    models(service, entry("1"), entry("2", fails=True))
    with pytest.raises(ValueError, match="no weights"):
        await service.load("m")
    assert sorted(str(one.version) for one in service.registry.all()) == ["0", "1"]


async def test_unload_takes_all_versions(service: Service) -> None:
    models(service, entry("1"), entry("2"))
    await service.load("m")
    await service.unload("m")
    assert service.registry.all() == []
    assert {item.state for item in await service.index()} == {"UNAVAILABLE"}
    with pytest.raises(ModelNotFound):
        await service.unload("m")
