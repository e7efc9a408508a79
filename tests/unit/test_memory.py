"""What is done to the garbage collector and to malloc, and undone."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from mlserver.memory import calm_collector, collect_frozen, freeze_what_stays


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """The collector as it was, afterwards."""
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


class Node:
    """A part of a cycle."""

    def __init__(self) -> None:
        self.other: Node | None = self


def test_the_collector_is_calmed() -> None:
    gc.set_threshold(700, 10, 10)
    calm_collector()
    assert gc.get_threshold()[0] >= 10_000
    assert gc.isenabled()


def test_what_is_loaded_is_frozen() -> None:
    gc.unfreeze()
    node = Node()
    freeze_what_stays()
    assert gc.get_freeze_count() > 0
    assert not any(item is node for item in gc.get_objects())


def test_freezing_keeps_no_garbage() -> None:
    node = Node()
    gone = weakref.ref(node)
    del node
    freeze_what_stays()
    assert gone() is None


def test_garbage_that_was_frozen_is_found_and_the_rest_stays_frozen() -> None:
    node = Node()
    gone = weakref.ref(node)
    freeze_what_stays()
    del node
    gc.collect()
    assert gone() is not None  # which is why there is `collect_frozen`
    collect_frozen()
    assert gone() is None
    assert gc.get_freeze_count() > 0


def test_where_nothing_is_frozen_nothing_gets_frozen() -> None:
    gc.unfreeze()
    node = Node()
    gone = weakref.ref(node)
    del node
    collect_frozen()
    assert gone() is None
    assert gc.get_freeze_count() == 0


_COUNT_FAULTS = """
import resource
from mlserver.memory import keep_blocks_warm
{call}
def work():
    for _ in range(20):
        b"x" * 4_000_000
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc of glibc")
def test_large_blocks_are_used_again() -> None:
    code = _COUNT_FAULTS.format(call="keep_blocks_warm()")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # mapped anew, each block would fault once a page: 20 000 in all
