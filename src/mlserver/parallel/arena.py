"""Memory that two processes share. One allocates and writes, the other reads; nothing is ever copied twice.

The memory is a file without a name, so that nothing is left behind whoever dies. Blocks that were used stay
warm: a fresh block of a few megabytes costs more in page faults than the copy into it. What lies idle beyond
a bound goes back to the system.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlserver.parallel.launch import ARENA_SIZE

__all__ = ["Arena", "Mapping"]

Buffer = bytes | bytearray | memoryview

_UNIT = 64 * 1024
# Free blocks that are kept warm, in bytes altogether.
_KEPT_WARM = 128 * 1024 * 1024


class Arena:
    """The side that allocates, in the `size` bytes of a file, whose descriptor it owns. Of one thread."""

    def __init__(self, descriptor: int, size: int = ARENA_SIZE) -> None:
        self._size = size
        self._descriptor = descriptor
        self._memory = mmap.mmap(descriptor, size)
        self._view = memoryview(self._memory)
        self._end = 0  # of what was ever used
        self._used: dict[int, int] = {}  # offset to size of block
        self._free: dict[int, list[int]] = {}  # size of block to offsets, warm
        self._cold: dict[int, list[int]] = {}  # likewise, given back to the system
        self._warm = 0  # bytes of free blocks

    def put(self, pieces: Sequence[Buffer], size: int) -> int | None:
        """Copy pieces, `size` bytes together, into one block; its offset, or None when there is no room."""
        offset = self._allocate(_class_of(size))
        if offset is None:
            return None
        at = offset
        for piece in pieces:
            view = memoryview(piece).cast("B")
            self._view[at : at + len(view)] = view
            at += len(view)
        return offset

    def free(self, offset: int) -> None:
        """The other side does not look at this block any more."""
        size = self._used.pop(offset)
        if self._warm + size > _KEPT_WARM and self._give_back(offset, size):
            self._cold.setdefault(size, []).append(offset)
        else:
            self._warm += size
            self._free.setdefault(size, []).append(offset)

    @property
    def in_use(self) -> int:
        """Bytes of blocks that the other side may be looking at."""
        return sum(self._used.values())

    def close(self) -> None:
        self._view.release()
        self._memory.close()
        os.close(self._descriptor)

    def _allocate(self, size: int) -> int | None:
        offset = self._reuse(size)
        if offset is None:
            if self._end + size > self._size and not self._used:
                # Blocks are neither joined nor cut. Now is the time to forget how it was divided.
                self._free.clear()
                self._cold.clear()
                self._end = self._warm = 0
            if self._end + size > self._size:
                return None
            offset = self._end
            if not self._reserve(offset, size):
                return None
            self._end += size
        self._used[offset] = size
        return offset

    def _reuse(self, size: int) -> int | None:
        if warm := self._free.get(size):
            self._warm -= size
            return warm.pop()
        cold = self._cold.get(size)
        if cold and self._reserve(cold[-1], size):
            return cold.pop()
        return None

    def _reserve(self, offset: int, size: int) -> bool:
        """Make sure that there is memory behind a block: without, the first write to it would kill us."""
        if not hasattr(os, "posix_fallocate"):
            return True
        try:
            os.posix_fallocate(self._descriptor, offset, size)
        except OSError:
            return False
        return True

    def _give_back(self, offset: int, size: int) -> bool:
        remove = getattr(mmap, "MADV_REMOVE", None)
        if remove is None:
            return False
        try:
            self._memory.madvise(remove, offset, size)
        except OSError:
            return False
        return True


class Mapping:
    """The side that reads. `released`: offsets of blocks that nobody here looks at any more."""

    def __init__(self, descriptor: int, size: int = ARENA_SIZE) -> None:
        self._memory = mmap.mmap(descriptor, size)
        self.released: deque[int] = deque()

    def view(self, offset: int, size: int) -> memoryview:
        """A block, until the last view of it is gone. Writable: it is nobody else's now."""
        array: Any = np.frombuffer(self._memory, np.uint8, size, offset)
        # Whatever is made of the view holds the view, and so the array.
        weakref.finalize(array, self.released.append, offset).atexit = False
        return memoryview(array)


def _class_of(size: int) -> int:
    """Sizes of blocks are few, so that they can be reused, and waste a quarter at most."""
    units = max(1, -(-size // _UNIT))
    step = 1 << max(0, units.bit_length() - 3)
    return -(-units // step) * step * _UNIT
