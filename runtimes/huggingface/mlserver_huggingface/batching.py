"""Questions that came while the pipeline computed are answered together.

Nobody waits for company. What is alike (the same keyword arguments) runs as one call per group of rows of
about the same length, so that little is computed on padding. A question that fails takes nobody along: the
others are asked again without it.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Ask", "Batcher", "length_groups"]


@dataclass(eq=False)
class Ask:
    """One call of the pipeline as a request means it.

    rows: what is asked about. listed: whether they were given as a list, be it of one. kwargs: of the call.
    key: equal for calls that can be made as one; None for one that cannot share. names: of the inputs, for
    errors.
    """

    rows: list[Any]
    listed: bool
    kwargs: dict[str, Any] = field(default_factory=dict)
    key: Hashable = None
    names: str = ""


Outcome = list[bytes] | Exception
"""Rows of an answer, a JSON document each; or why there is none."""

Answer = Callable[[Sequence[Ask], Callable[[], bool]], list[Outcome]]
"""Answers questions of one key, in order. The function tells whether nobody waits for any of them now."""


def length_groups(
    lengths: Sequence[int], most: int, per_call: float = 0.0, exact: bool = False
) -> list[list[int]]:
    """Indices of rows in groups of at most `most`, so that padding and calls together cost least.

    A group costs its size times its longest length, plus `per_call`, which is what a call costs besides, in
    the same unit. exact: each group has rows of one length only.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    # best[n]: least cost of the n shortest rows, and where the last group of those starts.
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        least = (math.inf, end - 1)
        for start in range(end - 1, max(-1, end - 1 - most), -1):
            if exact and lengths[order[start]] != longest:
                break
            least = min(least, (best[start][0] + per_call + (end - start) * longest, start))
        best.append(least)
    groups: list[list[int]] = []
    end = len(order)
    while end:
        start = best[end][1]
        groups.append(order[start:end])
        end = start
    return groups[::-1]


class Batcher:
    """Takes questions on the model's loop, has them answered on a thread of its own.

    most_asks: questions of one run. most_rows: rows at which a run takes no further question.
    """

    def __init__(self, answer: Answer, most_asks: int, most_rows: int) -> None:
        self._answer = answer
        self._most_asks = most_asks
        self._most_rows = most_rows
        self._waiting: deque[tuple[Ask, asyncio.Future[list[bytes]]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pipeline")
        self._busy = False

    async def ask(self, ask: Ask) -> list[bytes]:
        """The rows of the answer. Raises what the pipeline raised. Cancelled, it is dropped."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[bytes]] = loop.create_future()
        self._waiting.append((ask, future))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._start, loop)  # whoever came in the same turn comes along
        return await future

    def close(self) -> None:
        """Wait for the run that is under way."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        taken = self._take()
        if not taken:
            self._busy = False
            return
        asks = [ask for ask, _ in taken]
        futures = [future for _, future in taken]

        def left() -> bool:
            return all(future.cancelled() for future in futures)

        run = loop.run_in_executor(self._thread, self._answer, asks, left)
        run.add_done_callback(lambda run: self._done(loop, futures, run))

    def _take(self) -> list[tuple[Ask, asyncio.Future[list[bytes]]]]:
        """The oldest question, and those that can be answered with it."""
        taken: list[tuple[Ask, asyncio.Future[list[bytes]]]] = []
        others: deque[tuple[Ask, asyncio.Future[list[bytes]]]] = deque()
        rows = 0
        while self._waiting:
            ask, future = one = self._waiting.popleft()
            if future.done():
                continue  # its caller left
            fits = not taken or (
                ask.key is not None and ask.key == taken[0][0].key and rows + len(ask.rows) <= self._most_rows
            )
            if not fits:
                others.append(one)
                continue
            taken.append(one)
            rows += len(ask.rows)
            if len(taken) >= self._most_asks:
                break
        others.extend(self._waiting)
        self._waiting = others
        return taken

    def _done(
        self,
        loop: asyncio.AbstractEventLoop,
        futures: Sequence[asyncio.Future[list[bytes]]],
        run: asyncio.Future[list[Outcome]],
    ) -> None:
        fault = None if run.cancelled() else run.exception()
        outcomes: Sequence[Any] = [fault] * len(futures) if run.cancelled() or fault else run.result()
        for future, outcome in zip(futures, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, list):
                future.set_result(outcome)
            elif outcome is None:
                future.cancel()
            else:
                future.set_exception(outcome)
        self._start(loop)
