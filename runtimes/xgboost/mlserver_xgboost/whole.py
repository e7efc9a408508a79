"""Is a file of XGBoost there to its end?

XGBoost 3.2 is not to be asked: given UBJSON that was cut off, by path or as bytes, it hangs or ends the
process. So its structure is walked here first, jumping over the arrays that it mostly consists of. Of UBJSON
(draft 12, big-endian) this knows lengths, nothing else.
"""

from __future__ import annotations

__all__ = ["check_whole"]

# Bytes that a value takes after its marker; markers without a value take none.
_SIZES = {
    b: size for size, kinds in ((0, b"ZNTF"), (1, b"iUC"), (2, b"I"), (4, b"ld"), (8, b"LD")) for b in kinds
}
_INTEGERS = frozenset(b"iUIlL")
_OBJECT, _OBJECT_END, _ARRAY, _ARRAY_END = b"{}[]"
_TYPE, _COUNT, _STRING, _HUGE = b"$#SH"


def check_whole(content: bytes | bytearray) -> None:
    """Raises ValueError for a file that is empty, or JSON or UBJSON that was cut off."""
    if len(content) < 2:
        raise ValueError(f"the file has {len(content)} bytes")
    if not content.startswith(b"{"):
        return  # no JSON of either kind: XGBoost says so
    try:
        if content[1] in _INTEGERS:
            _walk(content)
        elif not content.rstrip().endswith(b"}"):
            raise EOFError
    except (EOFError, IndexError):
        raise ValueError(f"the file was cut off after {len(content)} bytes") from None


def _walk(content: bytes | bytearray) -> None:
    """Goes to the end of the one value that the file is. Raises EOFError or IndexError if there is none.

    Gives up quietly on what it does not know: nothing that was merely cut off looks like that.
    """
    at = 0
    end = len(content)
    # What is open, innermost last: whether it is an object, the marker of its values (0 where each has its
    # own), and how many values are still to come (-1 where an end marker tells).
    open_values: list[list[int]] = []

    def integer(at: int) -> tuple[int, int]:
        size = _SIZES[content[at]]
        if at + 1 + size > end:
            raise EOFError
        return int.from_bytes(content[at + 1 : at + 1 + size], "big"), at + 1 + size

    marker = 0
    while True:
        if open_values:
            is_object, marker, left = innermost = open_values[-1]
            if left == 0 or (left < 0 and content[at] == (_OBJECT_END if is_object else _ARRAY_END)):
                at += left < 0
                open_values.pop()
                if not open_values:
                    return
                continue
            if left > 0:
                innermost[2] -= 1
            if is_object:
                if content[at] not in _INTEGERS:
                    return
                length, at = integer(at)
                at += length
        if not marker:
            marker = content[at]
            at += 1
        if marker in _SIZES:
            at += _SIZES[marker]
        elif marker in (_STRING, _HUGE):
            if content[at] not in _INTEGERS:
                return
            length, at = integer(at)
            at += length
        elif marker in (_OBJECT, _ARRAY):
            kind, count = 0, -1
            if content[at] == _TYPE:
                kind = content[at + 1]
                at += 2
            if content[at] == _COUNT:
                if content[at + 1] not in _INTEGERS:
                    return
                count, at = integer(at + 1)
            if marker == _ARRAY and kind in _SIZES and count >= 0:
                at += _SIZES[kind] * count
            else:
                open_values.append([marker == _OBJECT, kind, count])
        else:
            return
        if at > end:
            raise EOFError
        marker = 0
        if not open_values:
            return
