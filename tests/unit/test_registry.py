"""What is loaded: versions, defaults, reloads without a gap, failures."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from mlserver import MLModel, ModelSettings
from mlserver.errors import ModelNotFound
from mlserver.registry import LoadedModel, ModelRegistry, newer
from mlserver.settings import ModelParameters
from mlserver.types import State
from tests.local import Local

TIMEOUT = 10.0


class Model(MLModel):
    """Loads as the settings' `extra` says: at once, not ready, failing, or when the gate opens."""

    made: list[Model] = []
    gate = threading.Event()

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self.unloaded = False
        self.made.append(self)

    async def load(self) -> bool:
        extra = (self.settings.parameters and self.settings.parameters.extra) or {}
        if extra.get("gated"):
            await until(self.gate.is_set, "the gate opens")
        if extra.get("fails"):
            raise ValueError("no weights")
        return bool(extra.get("ready", True))

    async def unload(self) -> bool:
        self.unloaded = True
        return True


@pytest.fixture(autouse=True)
def fresh() -> None:
    Model.made = []
    Model.gate = threading.Event()


@pytest.fixture
async def registry() -> AsyncIterator[ModelRegistry]:
    registry = ModelRegistry(Local)
    yield registry
    Model.gate.set()
    await asyncio.wait_for(registry.close(), TIMEOUT)
    await until(lambda: not any(thread.name == "model-m" for thread in threading.enumerate()), "threads end")


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.001)


def settings(version: str | None = None, name: str = "m", **extra: Any) -> ModelSettings:
    parameters = ModelParameters(version=version, extra=extra)
    return ModelSettings(name=name, implementation=Model, parameters=parameters)


# Versions


@pytest.mark.parametrize(
    "ascending", [["1", "2", "10"], ["v10", "v3"], ["10", "9a"], ["7", "v3"], ["1.10", "1.9"], ["01", "2"]]
)
def test_versions_are_numbers_where_both_are_and_text_elsewhere(ascending: list[str]) -> None:
    descending = sorted(ascending, key=functools.cmp_to_key(newer), reverse=True)
    assert descending[::-1] == ascending
    assert newer("3", "3") == newer("a", "a") == 0


@pytest.mark.parametrize(
    ("versions", "default"), [(["2", "10", "9"], "10"), (["8", "v3", "7"], "v3"), (["3", None, "4"], None)]
)
async def test_the_default_version(
    registry: ModelRegistry, versions: list[str | None], default: str | None
) -> None:
    for version in versions:
        await registry.load(settings(version))
    for unversioned in (None, ""):
        assert registry.find("m", unversioned).version == default
    for version in versions:
        if version is not None:
            assert registry.find("m", version).version == version
    assert len(registry.versions("m")) == len(registry.all()) == 3


async def test_an_unversioned_model_and_a_versioned_one_are_two(registry: ModelRegistry) -> None:
    await registry.load(settings("1"))
    await registry.load(settings())
    assert not any(model.unloaded for model in Model.made)
    await registry.unload_version("m")
    assert registry.find("m").version == "1"


async def test_what_is_not_there_is_not_found(registry: ModelRegistry) -> None:
    await registry.load(settings("1"))
    for name, version, text in (
        ("m", "2", "m with version 2"),
        ("n", None, "n"),
        ("n", "1", "n with version 1"),
    ):
        with pytest.raises(ModelNotFound, match=f"^Model {text} not found$"):
            registry.find(name, version)
    with pytest.raises(ModelNotFound):
        await registry.get_models("n")
    with pytest.raises(ModelNotFound):
        await registry.unload("n")
    with pytest.raises(ModelNotFound):
        await registry.unload_version("m", "2")


async def test_models_can_be_had(registry: ModelRegistry) -> None:
    one, two = await registry.load(settings("1")), await registry.load(settings(name="n"))
    assert await registry.get_model("m") is one
    assert await registry.get_models("m") == [one]
    assert await registry.get_models() == [one, two]


# Loading


async def test_while_it_loads_a_model_is_there_and_not_ready(registry: ModelRegistry) -> None:
    loading = asyncio.ensure_future(registry.load(settings(gated=True)))
    await until(lambda: Model.made, "it loads")
    assert registry.find("m").state is State.LOADING
    assert not registry.find("m").ready and not registry.ready
    with pytest.raises(ModelNotFound):
        await registry.get_model("m")
    Model.gate.set()
    await loading
    assert registry.find("m").ready and registry.ready


async def test_a_load_that_answers_false_leaves_the_model_unready(registry: ModelRegistry) -> None:
    await registry.load(settings(ready=False))
    assert registry.find("m").state is State.UNKNOWN
    assert not registry.find("m").ready and not registry.ready


async def test_while_a_newer_version_loads_the_older_stays_the_default(registry: ModelRegistry) -> None:
    await registry.load(settings("1"))
    loading = asyncio.ensure_future(registry.load(settings("2", gated=True)))
    await until(lambda: len(Model.made) == 2, "it loads")
    assert registry.find("m").version == "1"
    Model.gate.set()
    await loading
    assert registry.find("m").version == "2"


async def test_a_first_load_that_fails_is_remembered(registry: ModelRegistry) -> None:
    assert registry.ready  # nothing to load
    with pytest.raises(ValueError, match="no weights"):
        await registry.load(settings("1", fails=True))
    assert registry.failures == {("m", "1"): "ValueError: no weights"}
    assert not registry.ready
    assert Model.made[0].unloaded
    with pytest.raises(ModelNotFound):
        registry.find("m")
    await registry.load(settings("1"))
    assert registry.failures == {} and registry.ready


async def test_one_that_failed_does_not_keep_the_others_from_being_ready(registry: ModelRegistry) -> None:
    await registry.load(settings("1"))
    with pytest.raises(ValueError):
        await registry.load(settings("2", fails=True))
    assert registry.ready and registry.find("m").version == "1"


async def test_a_failure_can_be_unloaded(registry: ModelRegistry) -> None:
    for version in ("1", "2"):
        with pytest.raises(ValueError):
            await registry.load(settings(version, fails=True))
    await registry.unload_version("m", "1")
    assert list(registry.failures) == [("m", "2")]
    await registry.unload("m")
    assert registry.failures == {} and registry.ready


# Reloading


async def test_a_reload_swaps_when_the_new_copy_is_ready_and_leaves_no_gap(registry: ModelRegistry) -> None:
    old = await registry.load(settings())
    loading = asyncio.ensure_future(registry.load(settings(gated=True)))
    await until(lambda: len(Model.made) == 2, "the new copy loads")
    found = registry.find("m")
    assert found.model is old and found.ready
    Model.gate.set()
    while not loading.done():
        found = registry.find("m")  # never raises
        assert found.ready and found.model in Model.made
        await asyncio.sleep(0)
    assert registry.find("m").model is await loading is not old
    assert Model.made[0].unloaded and not Model.made[1].unloaded


async def test_a_reload_that_fails_keeps_the_old_copy(registry: ModelRegistry) -> None:
    old = await registry.load(settings())
    with pytest.raises(ValueError, match="no weights"):
        await registry.load(settings(fails=True))
    assert registry.find("m").model is old and registry.ready
    assert registry.failures == {}
    assert [model.unloaded for model in Model.made] == [False, True]


async def test_loads_of_one_version_wait_for_each_other(registry: ModelRegistry) -> None:
    first = asyncio.ensure_future(registry.load(settings(gated=True)))
    second = asyncio.ensure_future(registry.load(settings()))
    await until(lambda: Model.made, "the first loads")
    await asyncio.sleep(0)
    assert len(Model.made) == 1
    Model.gate.set()
    await first
    last = await second
    assert registry.find("m").model is last
    assert len(registry.all()) == 1


async def test_a_replaced_model_is_forgotten(registry: ModelRegistry) -> None:
    gone = weakref.ref(await registry.load(settings()))
    Model.made.clear()
    await registry.load(settings())
    await until(lambda: gc.collect() >= 0 and gone() is None, "nothing holds the old copy")


# Unloading


async def test_unload_takes_all_versions(registry: ModelRegistry) -> None:
    for version in ("1", "2"):
        await registry.load(settings(version))
    await registry.unload("m")
    assert registry.all() == [] and all(model.unloaded for model in Model.made)
    with pytest.raises(ModelNotFound):
        registry.find("m")


async def test_unload_of_the_default_version_leaves_the_next(registry: ModelRegistry) -> None:
    for version in ("1", "2"):
        await registry.load(settings(version))
    await registry.unload_version("m", "2")
    assert registry.find("m").version == "1"
    assert [model.unloaded for model in Model.made] == [False, True]


@pytest.mark.parametrize("reload", [False, True])
async def test_unload_while_loading(registry: ModelRegistry, reload: bool) -> None:
    if reload:
        await registry.load(settings())
    told: list[LoadedModel] = []

    async def note(new: LoadedModel, old: LoadedModel | None) -> None:
        told.append(new)

    registry.on_loaded.append(note)
    loading = asyncio.ensure_future(registry.load(settings(gated=True)))
    await until(lambda: len(Model.made) == 1 + reload, "it loads")
    await registry.unload("m")
    with pytest.raises(ModelNotFound):
        registry.find("m")
    Model.gate.set()
    with pytest.raises(ModelNotFound):
        await loading
    assert all(model.unloaded for model in Model.made)
    assert registry.all() == [] and registry.failures == {} and told == []


async def test_unload_while_a_hook_of_the_load_waits(registry: ModelRegistry) -> None:
    entered, go = asyncio.Event(), asyncio.Event()
    unloaded: list[LoadedModel] = []

    async def wait(new: LoadedModel, old: LoadedModel | None) -> None:
        entered.set()
        await go.wait()

    async def note(old: LoadedModel, new: LoadedModel | None) -> None:
        unloaded.append(old)

    registry.on_loaded.append(wait)
    registry.on_unloaded.append(note)
    loading = asyncio.ensure_future(registry.load(settings()))
    await entered.wait()
    await registry.unload("m")
    unloaded.clear()
    go.set()
    with pytest.raises(ModelNotFound):
        await loading
    assert registry.all() == [] and Model.made[0].unloaded
    assert len(unloaded) == 1  # what the hook has done since is undone


async def test_a_load_that_is_cancelled_leaves_nothing(registry: ModelRegistry) -> None:
    loading = asyncio.ensure_future(registry.load(settings(gated=True)))
    await until(lambda: Model.made, "it loads")
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert registry.all() == [] and registry.failures == {} and Model.made[0].unloaded


async def test_close_unloads_everything(registry: ModelRegistry) -> None:
    await registry.load(settings("1"))
    await registry.load(settings(name="n"))
    await registry.close()
    assert registry.all() == [] and all(model.unloaded for model in Model.made)


# Changes are counted and told


async def test_age_grows_with_every_change(registry: ModelRegistry) -> None:
    ages = [registry.age]

    def grew() -> bool:
        ages.append(registry.age)
        return ages[-1] > ages[-2]

    await registry.load(settings("1"))
    assert grew()
    await registry.load(settings("1"))
    assert grew()
    loading = asyncio.ensure_future(registry.load(settings("2", gated=True)))
    await until(lambda: len(Model.made) == 3, "it loads")
    assert grew()
    Model.gate.set()
    await loading
    assert grew()
    await registry.unload_version("m", "2")
    assert grew()
    with pytest.raises(ValueError):
        await registry.load(settings("3", fails=True))
    assert grew()
    await registry.unload("m")
    assert grew()


async def test_hooks_are_called_in_order(registry: ModelRegistry) -> None:
    told: list[tuple[str, Any, Any]] = []

    def hook(label: str) -> Any:
        async def tell(one: LoadedModel, other: LoadedModel | None) -> None:
            told.append((label, one.model, other and other.model))

        return tell

    registry.on_loaded += [hook("first"), hook("second")]
    registry.on_unloaded += [hook("gone")]
    old = await registry.load(settings())
    new = await registry.load(settings())
    await registry.unload("m")
    assert told == [
        ("first", old, None),
        ("second", old, None),
        ("first", new, old),
        ("second", new, old),
        ("gone", old, new),
        ("gone", new, None),
    ]


async def test_a_hook_that_fails_fails_the_load(registry: ModelRegistry) -> None:
    async def fail(new: LoadedModel, old: LoadedModel | None) -> None:
        raise RuntimeError("two handlers of one path")

    old = await registry.load(settings())
    registry.on_loaded.append(fail)
    for name in ("m", "n"):
        with pytest.raises(RuntimeError, match="two handlers"):
            await registry.load(settings(name=name))
    assert registry.find("m").model is old
    assert registry.failures == {("n", None): "RuntimeError: two handlers of one path"}
    assert [model.unloaded for model in Model.made] == [False, True, True]
