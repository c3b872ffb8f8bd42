"""Rows out of Arrow tables as plain values: text, numbers, lists, objects. Whatever else a column may hold is refused by its type."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tunefleet.cluster.errors import DataError

SLICE_ROWS = 1000  # rows that are Python values at once, where they are small
SLICE_BYTES = 8 << 20
Convert = Callable[[Any], Any]
Numbered = tuple[int, Mapping[str, Any], str]
"""Line, values, problem."""


def table_rows(path: str, schema: Any, batches: Iterator[Any]) -> Iterator[Numbered]:
    """Number (from 1), values and problem of every row of record batches, or of tables. Only a slice of a batch is held as Python values.

    What the columns' types say beside their values is followed: labels that ``datasets`` stores as numbers get their names, text of JSON is parsed, and keys
    of an object that are null are left out, for a column of objects gives every row the keys of all others. Raises DataError for a column of another type.
    """
    features = _features(schema)
    convert = {field.name: _converter(path, field.name, field.type, features.get(field.name)) for field in schema}
    changed = {name: change for name, change in convert.items() if change is not None}
    line = 0
    for batch in batches:
        rows = slice_rows(batch.nbytes, batch.num_rows)
        for start in range(0, batch.num_rows, rows):
            for values, problem in _values(batch.slice(start, rows)):
                line += 1
                for name, change in changed.items():
                    if values.get(name) is not None:
                        values[name] = change(values[name])
                yield line, values, problem


def slice_rows(size: int, rows: int) -> int:
    """Rows to hold at once of a table of so many bytes."""
    return max(min(SLICE_ROWS, SLICE_BYTES * rows // max(size, 1)), 1)


def _values(part: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Rows as Python values; where one holds text that is no UTF-8 it alone is the problem."""
    try:
        yield from [(values, "") for values in part.to_pylist()]
    except UnicodeDecodeError:
        for i in range(part.num_rows):
            try:
                yield part.slice(i, 1).to_pylist()[0], ""
            except UnicodeDecodeError as error:
                yield {}, f"not UTF-8: {error.reason} at byte {error.start}"


def _converter(path: str, name: str, kind: Any, feature: Any) -> Convert | None:
    """What turns a value of a type into a plain one; None where it is plain already."""
    import pyarrow as pa

    inner = feature.get("feature", feature) if isinstance(feature, dict) else feature[0] if isinstance(feature, list) and feature else None
    if names := _label_names(feature):
        return lambda value: names[value] if isinstance(value, int) and 0 <= value < len(names) else None
    if isinstance(kind, pa.JsonType):
        return _parsed
    if pa.types.is_dictionary(kind):
        return _converter(path, name, kind.value_type, feature)
    if pa.types.is_map(kind):
        item = _converter(path, name, kind.item_type, None) or _same
        return lambda pairs: {key: item(value) for key, value in pairs if value is not None}
    if any(is_list(kind) for is_list in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)):
        each = _converter(path, name, kind.value_type, inner)
        return None if each is None else lambda values: [None if value is None else each(value) for value in values]
    if pa.types.is_struct(kind):
        known = feature if isinstance(feature, dict) else {}
        fields = {field.name: _converter(path, f"{name}.{field.name}", field.type, known.get(field.name)) or _same for field in kind}
        return lambda value: {key: fields[key](inner) for key, inner in value.items() if inner is not None}
    if _is_plain(kind):
        return None
    raise DataError(f"{path}: the column {name} cannot be read", got=str(kind), want="text, numbers, dates, lists and objects", fix="cast or drop the column")


def _is_plain(kind: Any) -> bool:
    import pyarrow.types as types

    texts = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary)
    numbers = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null)
    times = (types.is_date, types.is_time, types.is_timestamp, types.is_duration)
    return any(fits(kind) for fits in (*texts, *numbers, *times))


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value)
    except (TypeError, ValueError, RecursionError):
        return value  # no JSON after all: the format says what is wrong with it


def _same(value: Any) -> Any:
    return value


def _label_names(feature: Any) -> list[str] | None:
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    return [str(name) for name in names] if isinstance(names, list) else None


def _features(schema: Any) -> Mapping[str, Any]:
    """What ``datasets`` noted about the columns; nothing where it did not, or where the note is not what it writes."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        found = info["info"]["features"]
    except (ValueError, LookupError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
