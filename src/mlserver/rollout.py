"""A new version proves itself on real calls before it takes over, or is taken back.

As a canary it answers a share of the calls; one that it fails is answered by the version that serves. As a
shadow it is asked the same as that version, and nobody sees what it says. Either way both are counted, and
after enough calls the new one is promoted, or rolled back.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlserver.errors import MLServerError
from mlserver.executor import Call, Reply
from mlserver.replica import Waiting
from mlserver.replicas import ReplicaSet
from mlserver.wire.formats import WireName, wire_of
from mlserver.wire.json import encode

__all__ = ["Pending", "Plan", "Rollout", "read_plan"]


@dataclass(frozen=True)
class Plan:
    """canary, shadow: percent of the calls that the new version answers, or is asked as well.

    promote_after: calls of the new version until the decision. max_errors: of these, that it may fail beyond
    the share that the other fails. max_latency_ratio: mean time of its answers over the other's.
    max_differences: answers of a shadow that may differ; None is any number.
    """

    canary: float = 0.0
    shadow: float = 0.0
    promote_after: int = 100
    max_errors: int = 0
    max_latency_ratio: float = 2.0
    max_differences: int | None = None


def read_plan(parameters: dict[str, Any]) -> Plan | None:
    """The plan that the parameters of a load request ask for, if any. Raises MLServerError for a bad one."""
    given = {key: value for key, value in parameters.items() if key in Plan.__dataclass_fields__}
    if not {"canary", "shadow"} & given.keys():
        return None
    for key, value in given.items():
        whole = key in ("promote_after", "max_errors", "max_differences")
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or value < 0:
            raise MLServerError(f"`{key}` is a number that is not negative, not {value!r}", 400)
    plan = Plan(**given)
    if plan.canary and plan.shadow:
        raise MLServerError("a new version is either a canary or a shadow", 400)
    if not 0 < plan.canary + plan.shadow <= 100:
        raise MLServerError("`canary` and `shadow` are percentages: more than 0, at most 100", 400)
    if plan.promote_after < 1:
        raise MLServerError("`promote_after` is at least 1", 400)
    return plan


@dataclass(slots=True)
class _Side:
    """What became of the calls of one version."""

    calls: int = 0
    errors: int = 0
    seconds: float = 0.0

    def count(self, reply: Reply, seconds: float) -> None:
        self.calls += 1
        self.errors += reply.status >= 500
        self.seconds += seconds

    @property
    def mean(self) -> float:
        return self.seconds / self.calls if self.calls else 0.0

    def describe(self) -> dict[str, Any]:
        return {"calls": self.calls, "errors": self.errors, "mean_s": self.mean}


class _Once(Waiting):
    """A call whose reply goes to a function, with the seconds that it took."""

    __slots__ = ("_answer", "_started")

    def __init__(self, call: Call, answer: Callable[[Reply, float], None]) -> None:
        super().__init__(call)
        self._answer = answer
        self._started = time.perf_counter()

    def settle(self, reply: Reply) -> None:
        self._answer(reply, time.perf_counter() - self._started)


class Pending:
    """A call during a rollout, and which version is answering it. `abandon` it when its caller is gone."""

    __slots__ = ("_at", "_left", "_once")

    def __init__(self) -> None:
        self._at: ReplicaSet | None = None
        self._left = False

    def submit(self, to: ReplicaSet, once: _Once) -> None:
        """Raises what `submit` of a ReplicaSet raises."""
        if not self._left:
            to.submit(once)
            self._at, self._once = to, once

    def abandon(self) -> None:
        self._left = True
        if self._at is not None:
            self._at.abandon(self._once)


class Rollout:
    """One new version on trial. decide: called once, with whether it is to be promoted."""

    def __init__(self, plan: Plan, old: ReplicaSet, new: ReplicaSet, decide: Callable[[bool], None]) -> None:
        self.plan = plan
        self.decision: str | None = None
        self._versions = old, new
        self._decide = decide
        self._old, self._new = _Side(), _Side()
        self._differences = 0
        self._share = 0.0

    def submit(self, sink: Waiting) -> Pending:
        """Have a call answered by one of the versions; `sink` is settled with the reply.

        Raises what `submit` of a ReplicaSet raises.
        """
        old, new = self._versions
        pending = Pending()
        self._share += self.plan.canary + self.plan.shadow
        chosen = self._share >= 100 and self.decision is None
        if chosen:
            self._share -= 100
        if chosen and self.plan.canary:
            with contextlib.suppress(MLServerError):
                pending.submit(new, self._canary(sink, pending))
                return pending
        answers: dict[str, Reply] = {}
        pending.submit(old, self._serving(sink, answers))
        if chosen and self.plan.shadow:
            with contextlib.suppress(MLServerError):
                new.submit(self._shadow(sink.call, answers))
        return pending

    def _serving(self, sink: Waiting, answers: dict[str, Reply]) -> _Once:
        def answered(reply: Reply, seconds: float) -> None:
            self._old.count(reply, seconds)
            self._compare(answers, "old", reply, sink.call)
            sink.settle(reply)

        once = _Once(sink.call, answered)
        once.deadline = sink.deadline
        return once

    def _canary(self, sink: Waiting, pending: Pending) -> _Once:
        def answered(reply: Reply, seconds: float) -> None:
            self._new.count(reply, seconds)
            if reply.status < 500:
                sink.settle(reply)
            else:
                # Its caller need not know: the version that serves answers as if nothing had been.
                try:
                    pending.submit(self._versions[0], self._serving(sink, {}))
                except MLServerError:
                    sink.settle(reply)
            self._judge()

        once = _Once(sink.call, answered)
        once.deadline = sink.deadline
        return once

    def _shadow(self, call: Call, answers: dict[str, Reply]) -> _Once:
        def answered(reply: Reply, seconds: float) -> None:
            self._new.count(reply, seconds)
            self._compare(answers, "new", reply, call)
            self._judge()

        return _Once(call, answered)

    def _compare(self, answers: dict[str, Reply], side: str, reply: Reply, call: Call) -> None:
        answers[side] = reply
        if len(answers) == 2:
            one, other = (_essence(answer, call.wire) for answer in answers.values())
            self._differences += one != other
            self._judge()

    def _judge(self) -> None:
        if self.decision is not None:
            return
        plan, new, old = self.plan, self._new, self._old
        failed_there = old.errors * new.calls / max(1, old.calls)
        if new.errors > plan.max_errors + failed_there:
            self._end(False, f"it failed {new.errors} of {new.calls} calls")
        elif plan.max_differences is not None and self._differences > plan.max_differences:
            self._end(False, f"{self._differences} of its answers differed")
        elif new.calls >= plan.promote_after:
            if old.calls and new.mean > plan.max_latency_ratio * old.mean:
                self._end(False, f"it took {new.mean:.4f} s a call, the other {old.mean:.4f} s")
            else:
                self._end(True, f"it answered {new.calls} calls")

    def stop(self) -> None:
        """Whichever version was to be decided upon is going."""
        if self.decision is None:
            self._end(False, "the model was unloaded or loaded anew")

    def _end(self, promoted: bool, reason: str) -> None:
        self.decision = f"{'promoted' if promoted else 'rolled back'}: {reason}"
        self._decide(promoted)

    def describe(self) -> dict[str, Any]:
        """What was counted and decided so far."""
        return {
            "kind": "canary" if self.plan.canary else "shadow",
            "percent": self.plan.canary + self.plan.shadow,
            "promote_after": self.plan.promote_after,
            "serving": self._old.describe(),
            "candidate": self._new.describe(),
            "differences": self._differences if self.plan.shadow else None,
            "decision": self.decision,
        }


def _essence(reply: Reply, wire: WireName) -> Any:
    """What answers have to have in common: all but id, version and headers."""
    body = b"".join(reply.body) if isinstance(reply.body, list) else bytes(reply.body)
    if reply.status != 200:
        return reply.status, body
    return reply.status, encode(wire_of(wire).decode_response(body).outputs)
