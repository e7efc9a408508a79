"""Requests that a copy of a model answers before anybody else asks it: compilers run, caches fill."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserver.errors import MLServerError
from mlserver.executor import Call, Reply
from mlserver.replica import Batch, Replica, Waiting
from mlserver.utils import to_absolute_path

if TYPE_CHECKING:
    from mlserver.settings import ModelSettings

__all__ = ["warm_up"]


class _WarmUp(Batch):
    __slots__ = ("replied",)

    def __init__(self, body: bytes) -> None:
        super().__init__([Waiting(Call(body, {}))])
        self.replied: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def done(self, replies: Sequence[Reply], seconds: float) -> None:
        if not self.replied.done():
            self.replied.set_result(replies[0])

    def lost(self, reason: str) -> None:
        if not self.replied.done():
            self.replied.set_exception(MLServerError(reason, 503))


async def warm_up(replica: Replica) -> None:
    """Let a copy answer the requests of its settings, one after another.

    Raises MLServerError naming the first that it does not answer: a model that cannot do that is not ready.
    """
    for number, request in enumerate(await asyncio.to_thread(_requests, replica.settings)):
        batch = _WarmUp(json.dumps(request).encode())
        replica.run(batch)
        reply = await batch.replied
        if reply.status != 200:
            text = bytes(reply.body).decode(errors="replace") if isinstance(reply.body, bytes) else ""
            where = f"warm-up request {number} of model '{replica.settings.name}'"
            raise MLServerError(f"{where} was answered with {reply.status}: {text}", 500)


def _requests(settings: ModelSettings) -> list[dict[str, Any]]:
    given = settings.warm_up
    if not isinstance(given, str):
        return given
    path = Path(to_absolute_path(settings, given))
    try:
        requests = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise MLServerError(f"`warm_up` of model '{settings.name}': {path}: {exc}", 422) from exc
    return requests if isinstance(requests, list) else [requests]
