"""What a pickle would import, without unpickling it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickletools
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import IO, Any

__all__ = ["PICKLE_START", "find_globals", "unpacked"]

# Protocol 2 and later announce themselves; those before start with an opcode of these.
PICKLE_START = re.compile(rb"\x80[\x02-\x05]|[c(\]\}]")

# A model names its class early; a large table may have millions of values and name none.
_MOST_OPCODES = 100_000

_OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
    b"]\x00": lzma.open,
}


def unpacked(path: str, limit: int) -> bytes:
    """The first bytes of a file, without the compression that joblib may have put on it.

    Raises OSError for what cannot be read. What is broken ends early.
    """
    with open(path, "rb") as file:
        start = file.read(2)
        file.seek(0)
        if start[:1] == b"x" and len(start) == 2 and int.from_bytes(start, "big") % 31 == 0:
            return _inflated(file, limit)
        opener = _OPENERS.get(start)
        if opener is None:
            return file.read(limit)
    with suppress(OSError, EOFError, lzma.LZMAError), opener(path, "rb") as unpacking:
        return bytes(unpacking.read(limit))
    return b""


def _inflated(file: IO[bytes], limit: int) -> bytes:
    stream = zlib.decompressobj()
    found = io.BytesIO()
    with suppress(zlib.error):
        while found.tell() < limit and (chunk := file.read(65_536)):
            found.write(stream.decompress(chunk, limit))
    return found.getvalue()[:limit]


def find_globals(content: bytes) -> Iterator[str]:
    """The classes and functions that a pickle names, such as `sklearn.pipeline.Pipeline`, in their order.

    joblib writes arrays between opcodes: the search ends at the first.
    """
    pushed: list[str | None] = []  # the last two are what STACK_GLOBAL takes
    memo: dict[int, str | None] = {}
    with suppress(Exception):  # what pickletools raises for bytes that are no opcodes, and for a cut end
        argument: Any
        for opcode, argument, _ in islice(pickletools.genops(content), _MOST_OPCODES):
            kind = opcode.name
            if kind in ("GLOBAL", "INST"):
                name = str(argument).replace(" ", ".", 1)
            elif kind == "STACK_GLOBAL":
                name = f"{pushed[-2]}.{pushed[-1]}"
            else:
                if kind == "MEMOIZE":
                    memo[len(memo)] = pushed[-1] if pushed else None
                elif kind.endswith("PUT"):
                    memo[int(argument)] = pushed[-1] if pushed else None
                elif kind.endswith("GET"):
                    pushed.append(memo.get(int(argument)))
                elif kind not in ("PROTO", "FRAME", "MARK"):
                    pushed.append(argument if isinstance(argument, str) else None)
                del pushed[:-2]
                continue
            pushed.append(None)
            yield name
            if name.startswith("joblib.") and name.endswith("ArrayWrapper"):
                return
