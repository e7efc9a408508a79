"""Which rows share a call, and which questions a run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st
from mlserver_huggingface.batching import Ask, Batcher, Outcome, length_groups


def cost(groups: list[list[int]], lengths: list[int], per_call: float) -> float:
    return sum(per_call + len(group) * max(lengths[index] for index in group) for group in groups)


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 8), st.floats(0, 500), st.booleans())
def test_every_row_is_in_one_group(lengths: list[int], most: int, per_call: float, exact: bool) -> None:
    groups = length_groups(lengths, most, per_call, exact)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(1 <= len(group) <= most for group in groups)
    if exact:
        assert all(len({lengths[index] for index in group}) == 1 for group in groups)
    else:
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        plain = [order[start : start + most] for start in range(0, len(order), most)]
        alone = [[index] for index in order]
        least = min(cost(plain, lengths, per_call), cost(alone, lengths, per_call))
        assert cost(groups, lengths, per_call) <= least + 1e-6


def test_calls_that_cost_nothing_are_made_for_each_length_and_dear_ones_once() -> None:
    lengths = [10, 90, 10, 91]
    assert length_groups(lengths, 32, 5.0) == [[0, 2], [1, 3]]
    assert length_groups(lengths, 32, float("inf")) == [[0, 2, 1, 3]]


class Recorder:
    """Answers with the names of the rows, and notes which were asked together."""

    def __init__(self) -> None:
        self.runs: list[list[str]] = []
        self.go = threading.Event()
        self.begun = threading.Event()

    def __call__(self, asks: Sequence[Ask], left: Callable[[], bool]) -> list[Outcome]:
        self.runs.append([row for ask in asks for row in ask.rows])
        self.begun.set()
        self.go.wait(10)
        return [
            ValueError("bad") if "bad" in ask.rows else [row.encode() for row in ask.rows] for ask in asks
        ]


def ask(*rows: str, key: str | None = "same") -> Ask:
    return Ask(list(rows), True, key=key)


async def test_what_came_meanwhile_is_answered_together() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, most_asks=3, most_rows=4)
    first = asyncio.create_task(batcher.ask(ask("a")))
    await asyncio.to_thread(recorder.begun.wait, 10)
    asks = [ask("b"), ask("c", key="other"), ask("d"), ask("bad"), ask("e", "f", "g"), ask("h", key=None)]
    tasks = [asyncio.create_task(batcher.ask(one)) for one in asks]
    gone = asyncio.create_task(batcher.ask(ask("i")))
    await asyncio.sleep(0)
    gone.cancel()
    recorder.go.set()
    answers = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert answers[:4] == [[b"a"], [b"b"], [b"c"], [b"d"]]
    assert isinstance(answers[4], ValueError)
    assert answers[5:] == [[b"e", b"f", b"g"], [b"h"]]
    assert recorder.runs == [["a"], ["b", "d", "bad"], ["c"], ["e", "f", "g"], ["h"]]
    batcher.close()
