"""How this process handles memory: warm blocks, a calm garbage collector.

A fresh block of a few megabytes costs more in page faults than the copy into it. glibc gives such blocks
back to the kernel as soon as they are free; told not to, it hands the next request the same, warm one.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys

__all__ = [
    "FREEZE_AFTER",
    "calm_collector",
    "collect_frozen",
    "freeze_what_stays",
    "give_back_memory",
    "keep_blocks_warm",
    "resident_bytes",
]

# From <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

# Largest block that is taken from the heap, and how much free heap is kept, in bytes.
_LARGEST_WARM = 64 * 1024 * 1024
_KEPT_WARM = 128 * 1024 * 1024


def keep_blocks_warm() -> None:
    """Let large blocks be reused instead of mapped anew. Does nothing where the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    # One arena for all threads: what a model's thread frees, the front can use.
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_WARM)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_WARM)


def give_back_memory() -> None:
    """Collect what a model left, also among what had been frozen, and give free memory back to the system."""
    collect_frozen()
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (OSError, AttributeError):
            pass


def resident_bytes(pid: int) -> int:
    """Memory of a process that nobody else has, as far as the system tells; 0 for one that is gone."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            _, resident, shared, *_ = file.read().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def calm_collector() -> None:
    """Look for garbage less often: starting up makes much and throws away little, and so does serving.

    Importing scikit-learn takes a tenth less.
    """
    gc.set_threshold(50_000, 20, 50)


# Seconds from when a model is loaded to `freeze_what_stays`: it must not keep anybody waiting for the news.
FREEZE_AFTER = 0.01


def freeze_what_stays() -> None:
    """What is loaded now stays: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


def collect_frozen() -> None:
    """Collect garbage, also among what had been frozen."""
    if gc.get_freeze_count():
        gc.unfreeze()
        gc.collect()
        gc.freeze()
    else:
        gc.collect()
