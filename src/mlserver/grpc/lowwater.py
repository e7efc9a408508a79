"""Reading a large body in large pieces.

Many clients write a body 16 KB at a time, and a server that is quick wakes up for each of these. Where it is
known that more is on its way, the kernel is told to wake it when some of that is here (`SO_RCVLOWAT`).
"""

from __future__ import annotations

import asyncio
import socket
import sys

__all__ = ["LowWater"]

# Bytes that are waited for, and how many have to be missing for that to be worth while.
_MOST = 256 * 1024
_LEAST = 64 * 1024
# Seconds without any reading after which a client counts as slow: what it sent is read as it comes.
_PATIENCE = 0.01
_SUPPORTED = sys.platform == "linux"


class LowWater:
    """How much has to be there before one connection is read."""

    __slots__ = ("_level", "_reads", "_seen", "_slow", "_socket", "_timer")

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._level = 1
        self._slow = False
        self._reads = self._seen = 0
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, missing: int, transport: asyncio.BaseTransport) -> None:
        """After each read: `missing` bytes of a message are on their way for certain; 0 if it is complete."""
        self._reads += 1
        if missing < _LEAST:
            level = 1
            self._slow = self._slow and missing > 0
        elif self._slow:
            return
        else:
            level = min(missing, _MOST)
        if level != self._level:
            self._set(level, transport)

    def _set(self, level: int, transport: asyncio.BaseTransport) -> None:
        if not _SUPPORTED or transport.is_closing():
            return
        if self._socket is None:
            self._socket = transport.get_extra_info("socket")
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, level)
        except (AttributeError, OSError):
            return  # no TCP, or gone meanwhile
        self._level = level
        if level > 1 and self._timer is None:
            self._watch(transport)

    def _watch(self, transport: asyncio.BaseTransport) -> None:
        self._seen = self._reads
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._look, transport)

    def _look(self, transport: asyncio.BaseTransport) -> None:
        """Whoever sends little at a time is not to wait until there is much of it."""
        self._timer = None
        if self._level == 1:
            return
        if self._reads != self._seen:
            self._watch(transport)
        else:
            self._slow = True
            self._set(1, transport)
