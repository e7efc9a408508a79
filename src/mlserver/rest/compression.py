"""gzip and deflate bodies, within limits."""

from __future__ import annotations

import gzip
import math
import zlib

__all__ = ["DecompressionError", "compress", "decompress"]

# zlib's window sizes: gzip container, zlib container.
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class DecompressionError(Exception):
    """A body that cannot be decompressed. `status`: 400 broken, 413 too large, 415 an unknown coding."""

    def __init__(self, text: str, status: int = 400, too_large: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.too_large = too_large


def compress(body: bytes) -> bytes:
    """gzip, at its quickest level: what it saves on the wire must not cost more on the CPU."""
    return gzip.compress(body, compresslevel=1, mtime=0)


def decompress(coding: str, body: bytes | bytearray, limit: float) -> bytes:
    """The body behind a content coding, of `limit` bytes at most. Raises DecompressionError."""
    window = _WINDOWS.get(coding)
    if window is None:
        raise DecompressionError(f"the content coding '{coding}' is not one of {', '.join(_WINDOWS)}", 415)
    members = []
    while True:
        # 0 means no limit to zlib; one byte more than may be tells that there is too much.
        most = 0 if limit == math.inf else int(limit) + 1
        stream = zlib.decompressobj(window)
        try:
            plain = stream.decompress(body, most)
        except zlib.error as exc:
            raise DecompressionError(f"the body is no valid {coding} stream: {exc}") from exc
        if len(plain) > limit:
            raise DecompressionError("the body is too large once decompressed", 413, too_large=True)
        if not stream.eof:
            raise DecompressionError(f"the {coding} stream ends too early")
        members.append(plain)
        limit -= len(plain)
        body = stream.unused_data
        if not body:
            return members[0] if len(members) == 1 else b"".join(members)
        # A gzip file may have several members, one after another.
        if window != 31 or len(members) == _MAX_MEMBERS or not body.startswith(b"\x1f\x8b"):
            raise DecompressionError(f"the {coding} stream has data behind its end")


# Each copies what is behind it; nobody has this many.
_MAX_MEMBERS = 64
