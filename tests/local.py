"""Models in the process of the test, without a server around them."""

from __future__ import annotations

import threading

from mlserver import ModelSettings
from mlserver.replica import LocalReplica
from mlserver.replicas import ReplicaSet


class Local(ReplicaSet):
    """A model with one copy, in this process."""

    def __init__(self, settings: ModelSettings, max_waiting: int = 0) -> None:
        super().__init__(settings, self._make, max_waiting)
        self.copy = LocalReplica(settings, {})

    async def _make(self, settings: ModelSettings) -> list[LocalReplica]:
        return [self.copy]

    @property
    def thread(self) -> threading.Thread:
        return self.copy._thread
