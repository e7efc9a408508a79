"""What models import and unpickle, one at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from mlserver import importing
from mlserver.importing import in_turn, in_turns


def run(threads: ThreadPoolExecutor, work: Coroutine[Any, Any, Any]) -> Future[Any]:
    """A coroutine in turns, on a thread and an event loop of its own, as models are loaded."""

    async def main() -> Any:
        return await in_turns(work)

    return threads.submit(asyncio.run, main())


def test_code_runs_alone_and_waits_together() -> None:
    running, waiting = [0], [0]
    most_running, most_waiting = [0], [0]
    everybody = threading.Barrier(4)

    async def load(number: int) -> int:
        for _ in range(5):
            running[0] += 1
            most_running[0] = max(most_running[0], running[0])
            time.sleep(0.002)  # noqa: ASYNC251 - loads do
            running[0] -= 1
            waiting[0] += 1
            most_waiting[0] = max(most_waiting[0], waiting[0])
            await asyncio.to_thread(everybody.wait, 10)  # nobody gets on before all of them wait
            waiting[0] -= 1
        return number

    with ThreadPoolExecutor(4) as threads:
        results = [run(threads, load(number)) for number in range(4)]
        assert [result.result(20) for result in results] == [0, 1, 2, 3]
    assert most_running == [1] and most_waiting == [4]


def test_who_takes_long_is_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "PATIENCE", 0.1)
    others_loaded = threading.Event()
    running, most_running = [0], [0]

    async def stuck() -> bool:
        return others_loaded.wait(20)

    async def quick() -> None:
        running[0] += 1
        most_running[0] = max(most_running[0], running[0])
        time.sleep(0.01)  # noqa: ASYNC251 - loads do
        running[0] -= 1

    with ThreadPoolExecutor(5) as threads:
        first = run(threads, stuck())
        time.sleep(0.05)
        others = [run(threads, quick()) for _ in range(4)]
        for other in others:
            other.result(20)
        others_loaded.set()
        assert first.result(20)
    assert most_running == [1]  # of those that are not stuck
    with in_turn():
        pass


async def test_errors_and_results_pass_through() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("no weights here")

    with pytest.raises(ValueError, match="no weights here"):
        await in_turns(fails())

    async def survives() -> str:
        try:
            await failed
        except KeyError:
            return "survived"
        return "nothing happened"

    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    failed.set_exception(KeyError())
    assert await in_turns(survives()) == "survived"


async def test_it_can_be_cancelled() -> None:
    cleaned = []

    async def load() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.append(True)

    task = asyncio.ensure_future(asyncio.wait_for(in_turns(load()), 0.05))
    with pytest.raises(asyncio.TimeoutError):
        await task
    assert cleaned
    with in_turn():
        pass
