"""Keeps blocks of memory warm.

A fresh block of a few megabytes costs more in page faults than the copy into it. glibc gives such blocks back to the kernel as
soon as they are free; told not to, it hands the next request the same, warm one.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_blocks_warm"]

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
