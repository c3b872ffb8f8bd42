"""Extension types of an Arrow schema, found in its bytes before anything builds it.

Building a schema may run code: an extension type is rebuilt by whatever library has registered its name, some by unpickling (CVE-2026-41486). So the
message, a flatbuffer, is walked here field by field, and only names that pyarrow itself reads without running anything are let through.
Source of the layout: Schema.fbs and Message.fbs of the Arrow format.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator

from tunefleet.cluster.errors import DataError

ALLOWED = frozenset({"arrow.json"})
"""JSON as text, which ``datasets`` writes for columns of mixed values; pyarrow's own, without parameters."""
_KEY = "ARROW:extension:name"
_MOST_FIELDS = 100_000
_MESSAGE_HEADER, _SCHEMA_FIELDS, _FIELD_CHILDREN, _FIELD_METADATA = 2, 1, 5, 6  # numbers of fields in their tables
_CONTINUED = b"\xff\xff\xff\xff"


def refuse_extensions(path: str, message: bytes) -> None:
    """Raise DataError for a schema message (without its length prefix) that names an extension type outside of ALLOWED, or that cannot be walked."""
    try:
        names = set(_names(message))
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise DataError(
            f"{path}: not opened", got=f"a schema that cannot be looked through ({error})", want="a plain schema", fix="write the file anew"
        ) from error
    if odd := sorted(names - ALLOWED):
        raise DataError(
            f"{path}: has an extension type, which may run code when it is opened",
            got=", ".join(odd)[:200],
            want="plain columns: text, numbers, lists, structs",
            fix="cast the column before it is written",
        )


def refuse_parquet_extensions(path: str, footer: bytes) -> None:
    """The same for the footer of a Parquet file, in which the Arrow schema stands as base64 under the key ``ARROW:schema``.

    Even ``pyarrow.parquet.read_metadata`` builds it. A footer that names an extension in any other way is refused too.
    """
    places = footer.split(b"ARROW:schema")
    if len(places) == 1 and not any(spelling in footer for spelling in _spellings(b"ARROW:extension")):
        return
    if len(places) != 2:
        raise DataError(f"{path}: not opened", got=f"{len(places) - 1} Arrow schemas", want="one at most", fix="write the file anew")
    try:
        start, size = _thrift_binary(places[1])
        message = base64.b64decode(places[1][start : start + size], validate=True)
    except (IndexError, binascii.Error) as error:
        raise DataError(
            f"{path}: not opened", got=f"an Arrow schema that cannot be read ({error})", want="a plain schema", fix="write the file anew"
        ) from error
    refuse_extensions(path, message[8:] if message[:4] == _CONTINUED else message[4:])


def _thrift_binary(data: bytes) -> tuple[int, int]:
    """Start and size of the value behind a key, in Thrift's compact protocol: the header of field 2 (0x18), a varint, the bytes."""
    if data[0] != 0x18:
        raise IndexError("no value behind its key")
    size, shift, at = 0, 0, 1
    while True:
        size |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not data[at - 1] & 0x80:
            return at, size


def _spellings(word: bytes) -> list[bytes]:
    """What is sure to stand in base64 text for a word, at each of the three places where it may begin in a group of three bytes."""
    return [base64.b64encode(bytes(shift) + word)[-(-shift * 8 // 6) : (shift + len(word)) * 8 // 6] for shift in range(3)]


def _names(message: bytes) -> Iterator[str]:
    """The names of all extension types in a schema message, at any depth."""
    schema = _table(message, _number(message, 0, "<I"), _MESSAGE_HEADER)
    pending = list(_tables(message, schema, _SCHEMA_FIELDS))
    seen = 0
    while pending:
        field, seen = pending.pop(), seen + 1
        if seen > _MOST_FIELDS:
            raise ValueError(f"more than {_MOST_FIELDS} fields")
        pending += _tables(message, field, _FIELD_CHILDREN)
        for entry in _tables(message, field, _FIELD_METADATA):
            if _text(message, entry, 0) == _KEY:
                yield _text(message, entry, 1)


def _slot(data: bytes, table: int, number: int) -> int:
    """Where field ``number`` of a table stands, or 0 when the table has none."""
    vtable = table - _number(data, table, "<i")
    place = 4 + 2 * number
    if vtable < 0 or place >= _number(data, vtable, "<H"):
        return 0
    offset = _number(data, vtable + place, "<H")
    return table + offset if offset else 0


def _table(data: bytes, table: int, number: int) -> int:
    slot = _slot(data, table, number)
    if not slot:
        raise ValueError("no schema in the message")
    return slot + _number(data, slot, "<I")


def _tables(data: bytes, table: int, number: int) -> Iterator[int]:
    """The tables of a vector of tables."""
    slot = _slot(data, table, number)
    if not slot:
        return
    vector = slot + _number(data, slot, "<I")
    for i in range(_number(data, vector, "<I")):
        entry = vector + 4 + 4 * i
        yield entry + _number(data, entry, "<I")


def _text(data: bytes, table: int, number: int) -> str:
    slot = _slot(data, table, number)
    if not slot:
        return ""
    start = slot + _number(data, slot, "<I")
    size = _number(data, start, "<I")
    if start + 4 + size > len(data):
        raise ValueError("a text that leads out of the message")
    return data[start + 4 : start + 4 + size].decode()


def _number(data: bytes, place: int, kind: str) -> int:
    found: int = struct.unpack_from(kind, data, place)[0]
    return found
