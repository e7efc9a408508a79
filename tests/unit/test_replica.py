"""One loaded model: its two lanes, its thread, its queue, its streams, its end."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from mlserver import MLModel, ModelSettings
from mlserver.errors import DeadlineUnreachable, MLServerError, ModelNotFound, QueueFull, WorkerUnavailable
from mlserver.executor import Call, Reply
from mlserver.replica import Calls, Waiting
from mlserver.replicas import ReplicaSet
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from tests.local import Local

TIMEOUT = 10.0


class Caller(Waiting):
    """One call, and the future of its reply."""

    def __init__(self, value: int = 1, pad: int = 0) -> None:
        tensor = {"name": "x", "shape": [1], "datatype": "INT64", "data": [value]}
        super().__init__(Call(json.dumps({"inputs": [tensor]}).encode() + b" " * pad, {}))
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def settle(self, reply: Reply) -> None:
        self.reply.set_result(reply)

    async def status(self) -> int:
        return (await asyncio.wait_for(self.reply, TIMEOUT)).status

    async def data(self) -> Any:
        reply = await asyncio.wait_for(self.reply, TIMEOUT)
        return json.loads(reply.body)["outputs"][0]["data"]


class Model(MLModel):
    """Echoes. `calls`: the values of each `predict`; `threads`: where everything ran."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self.calls: list[list[int]] = []
        self.threads: dict[str, list[threading.Thread]] = {}
        self.loops: list[Any] = []
        self.note("init")

    def note(self, what: str) -> None:
        self.threads.setdefault(what, []).append(threading.current_thread())

    async def load(self) -> bool:
        self.note("load")
        self.loops.append(asyncio.get_running_loop())
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        self.note("predict")
        self.loops.append(asyncio.get_running_loop())
        values = list(payload.inputs[0].data)
        self.calls.append(values)
        await self.work(values)
        output = ResponseOutput(name="y", shape=[len(values)], datatype="INT64", data=values)
        return InferenceResponse(model_name=self.name, outputs=[output])

    async def work(self, values: list[int]) -> None:
        """What a test wants `predict` to do beside."""

    async def unload(self) -> bool:
        self.note("unload")
        self.loops.append(asyncio.get_running_loop())
        return True


class Inline(Model):
    inline = True
    rows_independent = True
    seconds = 0.0

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return await super().predict(payload)

    async def work(self, values: list[int]) -> None:
        time.sleep(self.seconds)  # noqa: ASYNC251 - a model that computes


class BreaksItsPromise(Inline):
    """Awaits, even when it is told to end."""

    async def work(self, values: list[int]) -> None:
        try:
            await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)


class Gated(Model):
    """Holds its thread in `predict` until `gate` opens."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self.entered = threading.Event()
        self.gate = threading.Event()

    async def work(self, values: list[int]) -> None:
        self.entered.set()
        assert self.gate.wait(TIMEOUT)


class GatedRowwise(Gated):
    rows_independent = True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return await super().predict(payload)


class Awaits(Model):
    """Awaits in `predict` until all calls that it was told of are there, or the calls' values are even."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self.expected = 2
        self.cancelled: list[int] = []
        self.together = asyncio.Event()

    async def work(self, values: list[int]) -> None:
        if len(self.calls) == self.expected:
            self.together.set()
        try:
            await self.together.wait()
        except asyncio.CancelledError:
            self.cancelled += values
            raise


class AwaitsRowwise(Awaits):
    rows_independent = True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return await super().predict(payload)


class CancelsItself(Model):
    async def work(self, values: list[int]) -> None:
        if values == [66]:
            raise asyncio.CancelledError


class FailsToLoad(Model):
    made: list[FailsToLoad] = []

    async def load(self) -> bool:
        self.made.append(self)
        raise RuntimeError("no weights")


class FailsToUnload(Model):
    async def unload(self) -> bool:
        raise RuntimeError("stuck")


class ExitsOnLoad(Model):
    async def load(self) -> bool:
        raise SystemExit(3)


class Streams(Model):
    """Yields without end; `ended` when its generator was closed, after some work that awaits."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self.given = 0
        self.ended = threading.Event()
        self.unloaded_before_end = False

    async def predict_stream(
        self, payloads: AsyncIterator[InferenceRequest]
    ) -> AsyncIterator[InferenceResponse]:
        payload = await anext(payloads)
        limit = payload.inputs[0].data[0]
        try:
            while self.given != limit:
                self.given += 1
                yield await self.predict(payload)
            if limit == 3:
                raise MLServerError("enough", 418)
        finally:
            self.note("stream")
            for _ in range(3):
                await asyncio.sleep(0)
            self.ended.set()

    async def unload(self) -> bool:
        self.unloaded_before_end = not self.ended.is_set()
        return await super().unload()


def settings(cls: type[Model], **more: Any) -> ModelSettings:
    return ModelSettings(name="m", implementation=cls, **more)


@asynccontextmanager
async def replica(cls: type[Model], max_waiting: int = 0, **more: Any) -> AsyncIterator[tuple[Local, Any]]:
    loaded = Local(settings(cls, **more), max_waiting)
    await loaded.load()
    model = loaded.model
    try:
        yield loaded, model
    finally:
        if isinstance(model, Gated):
            model.gate.set()
        await asyncio.wait_for(loaded.close(), TIMEOUT)
        await until(lambda: not loaded.thread.is_alive(), "its thread ends")


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.001)


def submit(to: ReplicaSet, *values: int, pad: int = 0) -> list[Caller]:
    callers = [Caller(value, pad) for value in values]
    for caller in callers:
        to.submit(caller)
    return callers


async def proven(to: Local) -> None:
    """Until the model has shown that it is quick, which takes a call or a few."""
    await until(lambda: to.copy._on_thread == 0, "it is idle")
    for _ in range(1_000):
        if to.copy._run_cost < 0.005:
            return
        await submit(to, 0)[0].status()
    raise AssertionError("it never was quick")


# The short lane


async def test_an_inline_model_proves_itself_on_its_thread_first() -> None:
    async with replica(Inline) as (loaded, model):
        await submit(loaded, 1)[0].status()
        assert model.threads["predict"] == [loaded.thread]


async def test_an_inline_model_answers_what_came_in_one_turn_at_once_right_here() -> None:
    async with replica(Inline) as (loaded, model):
        await proven(loaded)
        model.calls.clear()
        callers = submit(loaded, 1, 2, 3)
        assert not model.calls  # never before `submit` returns
        assert [await caller.data() for caller in callers] == [[1], [2], [3]]
        assert model.calls == [[1, 2, 3]]
        assert model.threads["predict"][-1] is threading.current_thread()


async def test_large_bodies_take_the_thread() -> None:
    async with replica(Inline) as (loaded, model):
        await proven(loaded)
        assert await submit(loaded, 1, pad=64 * 1024)[0].status() == 200
        assert model.threads["predict"][-1] is loaded.thread
        await proven(loaded)  # on a busy machine that turn may have been a slow one
        assert await submit(loaded, 1)[0].status() == 200
        assert model.threads["predict"][-1] is threading.current_thread()


async def test_a_model_that_is_slow_goes_to_its_thread_and_comes_back_when_it_is_quick() -> None:
    async with replica(Inline) as (loaded, model):
        await proven(loaded)
        model.seconds = 0.04
        await submit(loaded, 1)[0].status()
        assert model.threads["predict"][-1] is threading.current_thread()  # nobody could know
        await submit(loaded, 2)[0].status()
        assert model.threads["predict"][-1] is loaded.thread
        model.seconds = 0.0
        await proven(loaded)
        await submit(loaded, 3)[0].status()
        assert model.threads["predict"][-1] is threading.current_thread()


async def test_a_model_that_awaits_all_the_same_is_moved_and_its_calls_are_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with replica(BreaksItsPromise) as (loaded, model):
        await proven(loaded)
        with caplog.at_level(logging.WARNING):
            callers = submit(loaded, 1, 2)
            assert [await caller.data() for caller in callers] == [[1], [2]]
            assert model.threads["predict"][-1] is loaded.thread
            await submit(loaded, 3)[0].status()
        assert model.threads["predict"][-1] is loaded.thread
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == 1 and "BreaksItsPromise declares `inline`" in warnings[0]


async def test_a_call_abandoned_in_the_turn_it_came_in_is_not_run_on_the_short_lane() -> None:
    async with replica(Inline) as (loaded, model):
        await proven(loaded)
        model.calls.clear()
        gone, stays = submit(loaded, 1, 2)
        loaded.abandon(gone)
        assert await stays.data() == [2]
        assert model.calls == [[2]]
        assert not gone.reply.done()


async def test_a_reply_that_cannot_be_delivered_costs_the_others_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with replica(Inline) as (loaded, _):
        await proven(loaded)
        bad, good = submit(loaded, 1, 2)
        bad.reply.cancel()  # `settle` raises
        with caplog.at_level(logging.ERROR):
            assert await good.data() == [2]
        assert "could not be delivered" in caplog.text


# The model's thread


async def test_all_code_of_a_model_runs_on_one_thread_and_one_loop() -> None:
    async with replica(Model) as (loaded, model):
        callers = submit(loaded, 1, 2)
        assert [await caller.data() for caller in callers] == [[1], [2]]
    assert model.threads.keys() == {"init", "load", "predict", "unload"}
    assert {thread for threads in model.threads.values() for thread in threads} == {loaded.thread}
    assert loaded.thread is not threading.current_thread()
    assert len(model.loops) == 4 and len(set(map(id, model.loops))) == 1


async def test_calls_gather_while_the_model_is_busy() -> None:
    async with replica(GatedRowwise) as (loaded, model):
        (first,) = submit(loaded, 0)
        await until(model.entered.is_set, "the model is busy")
        later = submit(loaded, 1, 2)
        await asyncio.sleep(0)  # they came in different turns
        later += submit(loaded, 3)
        assert loaded.queue_length == 3
        model.gate.set()
        assert [await caller.data() for caller in (first, *later)] == [[0], [1], [2], [3]]
        assert model.calls == [[0], [1, 2, 3]]


async def test_a_merging_model_that_awaits_is_busy_all_the_while() -> None:
    async with replica(AwaitsRowwise) as (loaded, model):
        callers = submit(loaded, 1)
        await until(lambda: model.calls == [[1]], "the first has started")
        callers += submit(loaded, 2)
        callers += submit(loaded, 3)
        await loaded.copy.on_model_loop(asyncio.sleep(0))
        assert model.calls == [[1]]
        await loaded.copy.on_model_loop(_set(model.together))
        assert [await caller.data() for caller in callers] == [[1], [2], [3]]
        assert model.calls == [[1], [2, 3]]


async def _set(event: asyncio.Event) -> None:
    event.set()


async def test_calls_of_a_model_that_does_not_merge_overlap_where_they_await() -> None:
    async with replica(Awaits) as (loaded, model):
        # Each waits for the other to have begun.
        callers = submit(loaded, 1, 2)
        assert [await caller.status() for caller in callers] == [200, 200]
        assert model.calls == [[1], [2]]


async def test_a_full_queue_refuses() -> None:
    async with replica(Gated, max_waiting=2) as (loaded, model):
        callers = submit(loaded, 0)
        await until(model.entered.is_set, "the model is busy")
        callers += submit(loaded, 1, 2)
        with pytest.raises(QueueFull, match="m has 2 requests waiting"):
            submit(loaded, 3)
        model.gate.set()
        assert [await caller.status() for caller in callers] == [200] * 3
        assert await submit(loaded, 4)[0].status() == 200


async def test_a_predict_that_cancels_itself_has_failed_and_nobody_else() -> None:
    async with replica(CancelsItself) as (loaded, _):
        callers = submit(loaded, 66, 1)
        assert [await caller.status() for caller in callers] == [500, 200]


# Callers that leave


async def test_an_abandoned_call_that_has_not_started_never_runs() -> None:
    async with replica(GatedRowwise) as (loaded, model):
        submit(loaded, 0)
        await until(model.entered.is_set, "the model is busy")
        gone, stays = submit(loaded, 1, 2)
        loaded.abandon(gone)
        model.gate.set()
        assert await stays.data() == [2]
        assert model.calls == [[0], [2]]
        assert not gone.reply.done()


@pytest.mark.parametrize("cls", [Awaits, AwaitsRowwise])
async def test_an_abandoned_call_that_awaits_is_cancelled(cls: type[Awaits]) -> None:
    async with replica(cls) as (loaded, model):
        (gone,) = submit(loaded, 1)
        await until(lambda: model.calls == [[1]], "it has started")
        loaded.abandon(gone)
        await until(lambda: model.cancelled == [1], "it is cancelled")
        (stays,) = submit(loaded, 2)
        assert await stays.data() == [2]
        assert not gone.reply.done()


async def test_the_neighbours_of_an_abandoned_call_are_answered() -> None:
    async with replica(Awaits) as (loaded, model):
        model.expected = 3
        gone, stays = submit(loaded, 1, 2)
        await until(lambda: len(model.calls) == 2, "both have started")
        loaded.abandon(gone)
        await until(lambda: model.cancelled == [1], "one is cancelled")
        (third,) = submit(loaded, 3)
        assert [await stays.data(), await third.data()] == [[2], [3]]


# The end


async def test_close_waits_for_what_is_in_flight_then_unloads_then_the_thread_ends() -> None:
    async with replica(Gated) as (loaded, model):
        (running,) = submit(loaded, 1)
        await until(model.entered.is_set, "the model is busy")
        closing = asyncio.ensure_future(loaded.close())
        await asyncio.sleep(0)
        assert loaded.thread.is_alive() and "unload" not in model.threads
        model.gate.set()
        await asyncio.wait_for(closing, TIMEOUT)
        assert running.reply.result().status == 200
        assert model.threads["unload"] == [loaded.thread]
        await until(lambda: not loaded.thread.is_alive(), "its thread ends")
        assert model.ready is False
        with pytest.raises(ModelNotFound):
            await loaded.copy.on_model_loop(model.metadata())
        with pytest.raises(ModelNotFound):
            await anext(loaded.stream(Calls.of(Caller().call)))
        loaded.close = _nothing  # type: ignore[method-assign]


async def _nothing() -> None:
    pass


async def test_tasks_that_a_model_leaves_behind_are_cancelled() -> None:
    async with replica(Model) as (loaded, _):
        cancelled = threading.Event()

        async def forever() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        async def begin() -> asyncio.Task[None]:
            return asyncio.ensure_future(forever())

        left = await loaded.copy.on_model_loop(begin())
        await loaded.copy.on_model_loop(asyncio.sleep(0))
        assert not left.done()
    assert cancelled.is_set()


@pytest.mark.parametrize(("cls", "text"), [(FailsToLoad, "no weights"), (ExitsOnLoad, r"sys.exit\(3\)")])
async def test_a_load_that_fails_unloads_and_ends_the_thread(cls: type[Model], text: str) -> None:
    loaded = Local(settings(cls))
    with pytest.raises(RuntimeError, match=text):
        await loaded.load()
    await until(lambda: not loaded.thread.is_alive(), "its thread ends")
    if cls is FailsToLoad:
        assert FailsToLoad.made.pop().threads["unload"] == [loaded.thread]


async def test_an_unload_that_fails_is_logged_and_ends_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        async with replica(FailsToUnload):
            pass
    assert "unload() of model 'm' failed" in caplog.text


@pytest.mark.parametrize("cls", [Model, Inline, Streams])
async def test_nothing_keeps_a_closed_model_alive(cls: type[Model]) -> None:
    loaded = Local(settings(cls))
    await loaded.load()
    assert loaded.model is not None
    gone = weakref.ref(loaded.model)
    for _ in range(3):
        await submit(loaded, 1)[0].status()
    assert len([item async for item in loaded.stream(Calls.of(Caller(2).call))]) >= 1
    await loaded.close()
    await until(lambda: not loaded.thread.is_alive(), "its thread ends")
    await asyncio.sleep(0)
    gc.collect()
    assert gone() is None


# Streams


async def test_a_stream_runs_on_the_model_s_thread() -> None:
    async with replica(Streams) as (loaded, model):
        items = [json.loads(item.body) async for item in loaded.stream(Calls.of(Caller(2).call))]
        assert [item["outputs"][0]["data"] for item in items] == [[2], [2]]
        assert set(model.threads["predict"]) == {loaded.thread}


async def test_a_stream_raises_what_the_model_raised_after_what_it_gave() -> None:
    async with replica(Streams) as (loaded, _):
        got = []
        with pytest.raises(MLServerError, match="enough"):
            async for item in loaded.stream(Calls.of(Caller(3).call)):
                got.append(item)  # noqa: PERF401 - it raises
        assert len(got) == 3


async def test_a_stream_runs_ahead_of_a_slow_client_by_a_little_alone() -> None:
    async with (
        replica(Streams) as (loaded, model),
        aclosing(loaded.stream(Calls.of(Caller(-1).call))) as items,
    ):
        await anext(items)
        await until(lambda: model.given >= 8, "it runs ahead")
        for _ in range(20):  # turns of both loops in which it could
            await loaded.copy.on_model_loop(asyncio.sleep(0))
        ahead = model.given
        assert ahead <= 1 + 8 + 2
        await anext(items)
        await until(lambda: model.given > ahead, "it goes on when the client does")


async def test_closing_a_stream_closes_the_model_s_generator_before_it_is_unloaded() -> None:
    async with replica(Streams) as (loaded, model):
        items = loaded.stream(Calls.of(Caller(-1).call))
        await anext(items)
        await items.aclose()
    assert model.ended.is_set()
    assert model.threads["stream"] == [loaded.thread]
    assert not model.unloaded_before_end


async def test_close_waits_for_a_stream_that_is_read() -> None:
    async with replica(Streams) as (loaded, model):
        items = loaded.stream(Calls.of(Caller(2).call))
        await anext(items)
        closing = asyncio.ensure_future(loaded.close())
        await until(model.ended.is_set, "the model has given all")
        assert "unload" not in model.threads
        assert len([item async for item in items]) == 1
        await asyncio.wait_for(closing, TIMEOUT)
        assert "unload" in model.threads
        loaded.close = _nothing  # type: ignore[method-assign]


async def test_a_predict_that_takes_too_long_is_answered_and_its_model_not_ready_until_it_ends() -> None:
    async with replica(Gated, predict_timeout=0.05) as (loaded, model):
        (late,) = submit(loaded, 1)
        assert await late.status() == 504
        assert loaded.willing and not loaded.ready
        with pytest.raises(WorkerUnavailable):
            submit(loaded, 2)
        model.gate.set()
        await until(lambda: loaded.ready, "its thread comes back")
        assert await submit(loaded, 3)[0].data() == [3]


async def test_a_predict_that_awaits_too_long_is_broken_off() -> None:
    async with replica(Awaits, predict_timeout=0.05) as (loaded, model):
        (late,) = submit(loaded, 1)
        assert await late.status() == 504
        await until(lambda: model.cancelled == [1] and loaded.ready, "it is cancelled")


async def test_thousands_of_calls_in_one_turn_of_the_short_lane() -> None:
    async with replica(Inline) as (loaded, _):
        await proven(loaded)
        loaded.merges = False  # one batch a call, each done before the next is given
        callers = submit(loaded, *range(3_000))
        assert [await caller.data() for caller in callers] == [[n] for n in range(3_000)]


async def test_a_call_that_cannot_be_answered_in_time_is_refused_at_once() -> None:
    async with replica(Gated) as (loaded, model):
        submit(loaded, 0)
        await until(model.entered.is_set, "the model is busy")
        loaded._lanes[0].cost = 1.0
        submit(loaded, 1, 2, 3)
        hopeless, hopeful = Caller(4), Caller(5)
        hopeless.deadline = asyncio.get_running_loop().time() + 0.5
        hopeful.deadline = asyncio.get_running_loop().time() + 60
        with pytest.raises(DeadlineUnreachable, match="would wait 4"):
            loaded.submit(hopeless)
        loaded.submit(hopeful)
        model.gate.set()
        assert await hopeful.data() == [5]


# Holding a batch back


def test_more_calls_bring_the_departure_forward() -> None:
    """What is held for company leaves when the last word of the policy says, not when the first did."""

    async def run() -> float:
        async with replica(Inline, max_batch_size=8, latency_target_ms=5000) as (loaded, _):
            leaves = iter([30.0, 0.05])

            def leaves_at(waiting: int, oldest: float, now: float) -> float:
                return oldest + next(leaves) if now < oldest + 0.05 else now

            loaded.policy.leaves_at = leaves_at  # type: ignore[method-assign]
            first, second = Caller(), Caller()
            started = time.monotonic()
            loaded.submit(first)
            await asyncio.sleep(0.01)
            loaded.submit(second)
            assert await first.status() == await second.status() == 200
            return time.monotonic() - started

    assert asyncio.run(run()) < TIMEOUT / 2
