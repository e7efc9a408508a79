"""gzip and deflate bodies, within limits."""

from __future__ import annotations

import gzip
import zlib

__all__ = ["DecompressionError", "compress", "decompress"]

# zlib's window sizes: gzip container, zlib container.
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class DecompressionError(Exception):
    """A compressed body cannot be had. `status` is 400 for a broken one, 415 for a coding that is not known."""

    def __init__(self, text: str, status: int = 400, too_large: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.too_large = too_large


def compress(body: bytes) -> bytes:
    """gzip, at its quickest level: what it saves on the wire must not cost more on the CPU."""
    return gzip.compress(body, compresslevel=1, mtime=0)


def decompress(coding: str, body: bytes, limit: int) -> bytes:
    """The body behind a content coding. Never holds more than `limit` bytes of it. Raises DecompressionError."""
    window = _WINDOWS.get(coding)
    if window is None:
        raise DecompressionError(f"the content coding '{coding}' is not one of {', '.join(_WINDOWS)}", 415)
    stream = zlib.decompressobj(window)
    try:
        plain = stream.decompress(body, limit + 1)
        if len(plain) > limit or stream.unconsumed_tail:
            raise DecompressionError("the body is too large once decompressed", 413, too_large=True)
        plain += stream.flush()
    except zlib.error as exc:
        raise DecompressionError(f"the body is no valid {coding} stream: {exc}") from exc
    if not stream.eof:
        raise DecompressionError(f"the {coding} stream ends too early")
    if stream.unused_data:
        raise DecompressionError(f"the {coding} stream has data behind its end")
    return plain
