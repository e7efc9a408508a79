"""Header blocks: HPACK (RFC 7541), a cache of decoded blocks, and which lists are requests (RFC 9113, 8.2 and
8.3).

A client sends the same block again and again, since everything in it is in its table by then: a byte a
field. `BlockDecoder.known` maps such blocks to what they mean. What a block means depends on the table, so
`known` is emptied whenever decoding alters the table, and a block whose decoding does is never put there:
all that is in it was decoded with the table as it is now. Blocks that differ every time (a deadline, a
trace) go through `decode`, which uses the table and the Huffman code of `hpack`; unlike its decoder it
stays in step with the client when a list is too large.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hpack import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from mlserver.wire.http2.frames import DEFAULT_TABLE, ConnectionFault, ErrorCode

Field = tuple[bytes, bytes]

_MAX_INTEGER_BYTES = 5  # enough for any length or index that we take
_FIELD_OVERHEAD = 32  # RFC 7541, section 4.1
_STATIC = ((b"", b""), *HeaderTable.STATIC_TABLE)  # counted from 1
_FIRST_DYNAMIC = len(_STATIC)

# Together they bound what a connection remembers: about 300 KB at the very worst.
_MOST_KNOWN, _LARGEST_KNOWN = 32, 6_144
_MOST_CHECKED, _LARGEST_CHECKED = 256, 256

_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
# RFC 9113, section 8.2.1: no NUL, CR or LF anywhere, no space or tab at an end. Nor what else RFC 9110
# forbids.
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_OF_A_CONNECTION = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)


@dataclass(slots=True, eq=False)
class Headers:
    """A list of fields as it was received. Equal blocks share one, so nothing may change its fields.

    fields: names are lower case, pseudo-headers come first.
    user: for the caller, who may keep here what it made of the fields.
    """

    fields: tuple[Field, ...]
    size: int
    user: Any = None


class BlockDecoder:
    """One direction of one connection.

    known: blocks of valid requests; the connection looks here by itself, where every call counts.
    """

    __slots__ = ("_altered", "_checked", "_max_list", "_table", "known")

    def __init__(self, max_list: int) -> None:
        self.known: dict[bytes, Headers] = {}
        self._table = HeaderTable()
        self._table.maxsize = DEFAULT_TABLE
        self._altered = False
        self._checked: set[Field] = set()  # regular fields that were found valid
        self._max_list = max_list

    def decode(self, block: bytes, request: bool) -> tuple[Headers, str | None]:
        """The headers of a request, or its trailers, and what is wrong with them.

        That is None for valid ones, and for a list above `max_list`, which has a `size` above it and not all
        of its fields. Raises ConnectionFault for a block that cannot be decoded or is beyond measure.
        """
        if request and block in self.known:
            return self.known[block], None
        self._altered = False
        try:
            headers = self._decode(block)
        except (HPACKError, IndexError) as exc:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "header block cannot be decoded") from exc
        if self._altered:
            self.known.clear()
        if headers.size > self._max_list:
            return headers, None
        fault = self._request_fault(headers.fields) if request else self._fields_fault(headers.fields)
        cheap = len(block) + headers.size <= _LARGEST_KNOWN
        if request and fault is None and cheap and not self._altered:
            if len(self.known) >= _MOST_KNOWN:
                self.known.clear()
            self.known[block] = headers
        return headers, fault

    def _decode(self, block: bytes) -> Headers:
        table, max_list = self._table, self._max_list
        entries = table.dynamic_entries
        fields: list[Field] = []
        size = position = updates = 0
        end = len(block)
        while position < end:
            byte = block[position]
            if byte > 0x80 and byte != 0xFF:
                index = byte & 0x7F
                field = _STATIC[index] if index < _FIRST_DYNAMIC else entries[index - _FIRST_DYNAMIC]
                position += 1
            elif byte & 0x80:
                index, position = _integer(block, position, 0x7F)
                field = table.get_by_index(index)
            elif byte & 0x40:
                field, position = self._literal(block, position, 0x3F)
                self._altered = True
                table.add(*field)
            elif byte & 0x20:
                updates += 1
                if size or updates > 2:  # RFC 7541, section 4.2
                    raise HPACKError("a table update behind a field, or too many")
                new_size, position = _integer(block, position, 0x1F)
                if new_size > DEFAULT_TABLE:
                    raise HPACKError("table larger than allowed")
                self._altered = True
                table.maxsize = new_size
                continue
            else:
                field, position = self._literal(block, position, 0x0F)
            size += len(field[0]) + len(field[1]) + _FIELD_OVERHEAD
            if size <= max_list:
                fields.append(field)
            elif size > 4 * max_list:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "header list too large")
        return Headers(tuple(fields), size)

    def _literal(self, block: bytes, position: int, mask: int) -> tuple[Field, int]:
        index, position = _integer(block, position, mask)
        if index:
            name = self._table.get_by_index(index)[0]
        else:
            name, position = _string(block, position)
        value, position = _string(block, position)
        return (name, value), position

    def _request_fault(self, fields: Sequence[Field]) -> str | None:
        """Why these are not the headers of a request (RFC 9113, sections 8.2, 8.3 and 8.5)."""
        pseudo: dict[bytes, bytes] = {}
        for name, value in fields:
            if not name.startswith(b":"):
                break
            if name not in _PSEUDO or name in pseudo:
                return "unknown or repeated pseudo-header"
            if not _VALUE.fullmatch(value):
                return "invalid character in a pseudo-header"
            pseudo[name] = value
        method, authority = pseudo.get(b":method"), pseudo.get(b":authority")
        if not method:
            return "no method"
        if method == b"CONNECT":
            if len(pseudo) != 2 or not authority:
                return "CONNECT takes an authority only"
        elif not pseudo.get(b":scheme") or not pseudo.get(b":path"):
            return "no scheme or no path"
        regular = fields[len(pseudo) :]
        if authority is not None and any(name == b"host" and value != authority for name, value in regular):
            return "host is not the authority"
        return self._fields_fault(regular)

    def _fields_fault(self, fields: Sequence[Field]) -> str | None:
        """Why these are not regular fields of a request."""
        checked = self._checked
        for field in fields:
            if field in checked:
                continue
            name, value = field
            if not _NAME.fullmatch(name):
                return "invalid field name"  # upper case and pseudo-headers among them
            if not _VALUE.fullmatch(value):
                return "invalid character in a field value"
            if name in _OF_A_CONNECTION or (name == b"te" and value.lower() != b"trailers"):
                return "field of a connection"
            if len(name) + len(value) <= _LARGEST_CHECKED:
                if len(checked) >= _MOST_CHECKED:
                    checked.clear()
                checked.add(field)
        return None


def _integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """RFC 7541, section 5.1: a number in the bits of mask, or on from there; and where it ends."""
    number = block[position] & mask
    position += 1
    if number < mask:
        return number, position
    for shift in range(0, 7 * _MAX_INTEGER_BYTES, 7):
        byte = block[position]
        position += 1
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise HPACKError("integer too long")


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    coded = block[position] & 0x80
    length, position = _integer(block, position, 0x7F)
    end = position + length
    if end > len(block):
        raise HPACKError("truncated string")
    text = block[position:end]
    return (decode_huffman(text) if coded else text), end


def encode_headers(fields: Iterable[Field]) -> bytes:
    """A header block that is the same whenever and wherever it is sent, so that it can be made in advance.

    It never adds to the peer's table; the static table shortens what it knows. Names must be lower case.
    """
    block = bytearray()
    for name, value in fields:
        index, values = HeaderTable.STATIC_TABLE_MAPPING.get(name, (0, {}))
        if value in values:
            _append_integer(block, 0x80, 0x7F, values[value])
            continue
        _append_integer(block, 0x00, 0x0F, index)
        if not index:
            _append_integer(block, 0x00, 0x7F, len(name))
            block += name
        _append_integer(block, 0x00, 0x7F, len(value))
        block += value
    return bytes(block)


def _append_integer(block: bytearray, kind: int, mask: int, number: int) -> None:
    if number < mask:
        block.append(kind | number)
        return
    block.append(kind | mask)
    number -= mask
    while number >= 0x80:
        block.append(number & 0x7F | 0x80)
        number >>= 7
    block.append(number)
