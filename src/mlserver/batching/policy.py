"""When do waiting calls leave? No clock, task or socket in here: the caller brings `now`, in seconds.

A free replica takes what waits, at once: that is the whole rule, unless a latency target is set. Then a batch
may be held for company, for as long as three things are true:

- more calls are on their way, and come quicker than the batch at hand would run. A lone caller sends his next
  call when he has the answer to this one, so he is never held;
- the first call of the batch would still be answered within the target, by what batches of this model cost:
  `per_call` x calls + `per_batch`, learned from those that ran, and how far beyond it they ended;
- no call has waited `max_wait`.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["BatchPolicy", "Cost"]

# Weight that what was learned keeps with each new batch.
_MEMORY = 0.98
# Batches before what was learned is relied upon.
_ENOUGH = 5


class Cost:
    """Seconds of a batch as a line over the number of its calls, least squares, old batches count less."""

    __slots__ = ("_n", "_x", "_xx", "_xy", "_y", "observed")

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0
        self.observed = 0

    def observe(self, calls: int, seconds: float) -> None:
        self.observed += 1
        self._n = _MEMORY * self._n + 1
        self._x = _MEMORY * self._x + calls
        self._y = _MEMORY * self._y + seconds
        self._xx = _MEMORY * self._xx + calls * calls
        self._xy = _MEMORY * self._xy + calls * seconds

    @property
    def per_call(self) -> float:
        spread = self._n * self._xx - self._x * self._x
        if spread <= 1e-9 * max(1.0, self._xx):
            return 0.0  # batches of one size say nothing of others
        return max(0.0, (self._n * self._xy - self._x * self._y) / spread)

    @property
    def per_batch(self) -> float:
        return max(0.0, (self._y - self.per_call * self._x) / self._n) if self._n else 0.0

    def of(self, calls: int) -> float:
        return self.per_call * calls + self.per_batch


class BatchPolicy:
    """The rule of one model. max_calls: of one batch. max_wait, target: seconds; None is no target.

    percentile: share of calls that are to be answered within the target.
    """

    def __init__(
        self, max_calls: int, max_wait: float = 0.0, target: float | None = None, percentile: float = 0.95
    ) -> None:
        self.max_calls = max_calls
        self.max_wait = max_wait
        self.target = target
        self.percentile = percentile
        self.cost = Cost()
        self.interval = math.inf  # seconds between two arrivals, moving average
        self.held = 0  # batches
        self.held_seconds = 0.0
        self._last = -math.inf
        # Seconds by which batches took longer than foreseen: an estimate of that percentile of them.
        self._beyond = 0.0

    def arrived(self, now: float) -> None:
        gap = now - self._last
        self._last = now
        if gap == math.inf:
            return
        self.interval = gap if self.interval == math.inf else self.interval + 0.1 * (gap - self.interval)

    def ran(self, calls: int, seconds: float) -> None:
        """A batch ended."""
        if self.target is not None and self.cost.observed >= _ENOUGH:
            step = 0.05 * max(seconds, 1e-5)
            above = seconds - self.cost.of(calls) > self._beyond
            self._beyond = max(0.0, self._beyond + step * (self.percentile - (0.0 if above else 1.0)))
        self.cost.observe(calls, seconds)

    def leaves_at(self, waiting: int, oldest: float, now: float) -> float:
        """When a replica that is free should take the `waiting` calls, of which the first came at `oldest`.

        No later than `now` means at once.
        """
        if self.target is None or waiting >= self.max_calls or self.cost.observed < _ENOUGH:
            return -math.inf
        if self.interval >= self.cost.of(waiting):
            return -math.inf
        latest = oldest + self.target - self.cost.of(waiting + 1) - self._beyond
        if self.max_wait > 0:
            latest = min(latest, oldest + self.max_wait)
        # Who does not come in twice the usual time does not come.
        return min(latest, self._last + 2 * self.interval)

    def was_held(self, seconds: float) -> None:
        self.held += 1
        self.held_seconds += seconds

    def describe(self) -> dict[str, Any]:
        """What was learned and decided so far; times in seconds."""
        return {
            "max_calls": self.max_calls,
            "max_wait_s": self.max_wait,
            "latency_target_s": self.target,
            "latency_percentile": self.percentile,
            "cost": {
                "per_call_s": self.cost.per_call,
                "per_batch_s": self.cost.per_batch,
                "batches_observed": self.cost.observed,
                "beyond_s": self._beyond,
            },
            "arrival_interval_s": None if self.interval == math.inf else self.interval,
            "batches_held": self.held,
            "held_s": self.held_seconds,
        }
