"""Memory shared by two processes: what goes in comes out, what is released is used again."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserver.parallel.arena import Arena, Mapping
from mlserver.parallel.launch import nameless_file

SIZE = 16 * 1024 * 1024


class Pair:
    """Both sides, in one process."""

    def __init__(self, size: int = SIZE) -> None:
        descriptor = nameless_file(size)
        self.arena = Arena(descriptor, size)
        self.mapping = Mapping(descriptor, size)

    def put(self, *pieces: bytes) -> memoryview:
        size = sum(map(len, pieces))
        offset = self.arena.put(pieces, size)
        assert offset is not None
        return self.mapping.view(offset, size)

    def release(self) -> int:
        """What a channel does with what the reading side has let go."""
        count = len(self.mapping.released)
        for _ in range(count):
            self.arena.free(self.mapping.released.popleft())
        return count


def test_pieces_arrive_as_one() -> None:
    pair = Pair()
    view = pair.put(b"abc", b"", bytes(range(256)) * 300)
    assert view == b"abc" + bytes(range(256)) * 300
    assert view.readonly is False


def test_a_block_is_held_by_whatever_was_made_of_it() -> None:
    pair = Pair()
    view = pair.put(np.arange(100_000, dtype="<f4").tobytes())
    row = np.frombuffer(view[40:80], "<f4")[2:].reshape(2, 4)
    del view
    gc.collect()
    assert pair.release() == 0
    assert row.tolist() == [[12.0, 13.0, 14.0, 15.0], [16.0, 17.0, 18.0, 19.0]]
    del row
    gc.collect()
    assert pair.release() == 1
    assert pair.arena.in_use == 0


def test_released_blocks_are_used_again() -> None:
    pair = Pair()
    for _ in range(100):  # ten times what there is
        view = pair.put(b"x" * (SIZE // 10))
        del view
        assert pair.release() == 1


def test_what_does_not_fit_is_not_put() -> None:
    pair = Pair()
    views = [pair.put(b"x" * (SIZE // 4)) for _ in range(4)]
    assert pair.arena.put([b"y"], 1) is None
    del views[0]
    pair.release()
    assert pair.arena.put([b"y" * (SIZE // 4)], SIZE // 4) is not None
    assert all(bytes(view[:3]) == b"xxx" for view in views)


def test_memory_that_the_system_does_not_give_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    assert pair.arena.put([b"x" * 100_000], 100_000) is None
    monkeypatch.undo()
    assert pair.put(b"x" * 100_000) == b"x" * 100_000


def test_what_lies_idle_goes_back_and_can_be_had_again() -> None:
    pair = Pair(512 * 1024 * 1024)
    views = [pair.put(b"x" * 60_000_000) for _ in range(4)]
    del views[:]
    gc.collect()
    assert pair.release() == 4
    used = os.fstat(pair.arena._descriptor).st_blocks * 512
    assert used <= 200_000_000
    views = [pair.put(b"z" * 60_000_000) for _ in range(4)]
    assert all(bytes(view[-3:]) == b"zzz" for view in views)


@given(st.lists(st.tuples(st.integers(1, 700_000), st.integers(0, 3)), max_size=40))
def test_blocks_never_overlap(steps: list[tuple[int, int]]) -> None:
    pair = Pair()
    held: list[tuple[memoryview, int]] = []
    for number, (size, drop) in enumerate(steps):
        mark = number % 251 + 1
        offset = pair.arena.put([bytes([mark]) * size], size)
        if offset is not None:
            held.append((pair.mapping.view(offset, size), mark))
        for _ in range(min(drop, len(held))):
            held.pop(0)
        pair.release()
    for view, mark in held:
        assert view[0] == view[-1] == mark and bytes(view).count(mark) == len(view)


def test_nothing_is_left_behind_by_a_process_that_is_killed() -> None:
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    code = (
        "import os, signal; from mlserver.parallel.arena import Arena; "
        "from mlserver.parallel.launch import nameless_file; "
        "Arena(nameless_file()).put([b'x' * 1000000], 1000000); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=30)
    assert done.returncode == -9
    after = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    assert after <= before


def test_sizes_of_every_kind_one_after_another() -> None:
    pair = Pair()
    for size in range(60_000, SIZE // 2, 190_000):
        view = pair.put(b"x" * size)
        del view
        assert pair.release() == 1
    assert pair.put(b"x" * (SIZE - 200_000))[0] == ord("x")
