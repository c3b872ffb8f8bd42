"""A file of columns: one Arrow record batch on disk, opened as memory-mapped arrays without trusting what is in it.

Opening an Arrow file may run code: an extension type of its schema is rebuilt by whatever library has registered that name, some by unpickling
(CVE-2026-41486). So the schema message is looked through as bytes first, the footer (which holds a second schema) is never read, and the columns must be
exactly those that the reader expects.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import StorageError
from tunefleet.data.layout import Column

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_MAGIC = b"ARROW1\0\0"  # an Arrow file is this, then a stream of messages, then the footer
_EXTENSION = b"ARROW:extension"  # the key under which a schema names an extension type


@dataclass(frozen=True, slots=True)
class Values:
    """A column: row i is ``values[offsets[i]:offsets[i + 1]]``, or ``values[i]`` where there is one value a row (no ``offsets``)."""

    values: Array
    offsets: Array | None = None


def to_bytes(columns: Sequence[Column], values: Mapping[str, Values], rows: int) -> bytes:
    """The bytes of a file with these columns; the same values always give the same bytes. Offsets are int32, (rows + 1,)."""
    import pyarrow as pa

    schema = _schema(columns)
    arrays = []
    for field, column in zip(schema, columns, strict=True):
        found = values[column.name]
        flat = pa.array(found.values)
        if found.offsets is not None:
            flat = pa.Array.from_buffers(field.type, rows, [None, pa.py_buffer(found.offsets)], children=[flat])
        arrays.append(flat)
    sink = io.BytesIO()  # it grows by an eighth and hands its bytes out uncopied; Arrow's own doubles and copies: twice a shard more
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return sink.getvalue()


def open_columns(path: Path, columns: Sequence[Column], rows: int, *, name: str | None = None) -> dict[str, Values]:
    """Memory-mapped, read-only columns of a file. Raises StorageError for a file that holds anything but these columns and this many rows.

    ``name`` is what errors call the file, where it is known by another than its path.
    """
    import pyarrow as pa

    name = name or str(path)
    try:
        batch = _batch(path, _schema(columns), name)
        batch.validate(full=True)  # offsets ascend and stay inside the values, so that no row can point elsewhere
        if batch.num_rows != rows:
            raise _refused(name, got=f"{batch.num_rows} rows", want=f"{rows} rows, as its index says")
        return {column.name: _values(batch.column(i), column) for i, column in enumerate(columns)}
    except (pa.ArrowException, OSError, EOFError) as error:
        raise _refused(name, got=str(error).splitlines()[0], want="a file that `tunefleet prepare` wrote") from error


def _batch(path: Path, schema: Any, name: str) -> Any:
    """The first record batch, mapped; nothing of the file's own schema is interpreted before it is known to be harmless."""
    import pyarrow as pa

    source = pa.memory_map(str(path))
    if source.read(len(_MAGIC)) != _MAGIC:
        raise _refused(name, got="no Arrow file", want="a file that `tunefleet prepare` wrote")
    message = pa.ipc.read_message(source)
    if message.type != "schema" or _EXTENSION in message.metadata.to_pybytes():
        raise _refused(name, got="an extension type, which may run code when it is opened", want="lists and numbers only")
    found = pa.ipc.read_schema(message)
    if not found.equals(schema, check_metadata=True):
        raise _refused(name, got=_line(found), want=_line(schema))
    return pa.ipc.read_record_batch(pa.ipc.read_message(source), schema)


def _schema(columns: Sequence[Column]) -> Any:
    import pyarrow as pa

    def arrow_type(column: Column) -> Any:
        # column.dtype is an Arrow name as well as a numpy one; nothing is nullable, so a null cannot stand for a token
        flat = {"int32": pa.int32(), "int64": pa.int64(), "uint8": pa.uint8(), "float32": pa.float32()}[column.dtype]
        return pa.list_(pa.field("item", flat, nullable=False)) if column.per_token else flat

    return pa.schema([pa.field(column.name, arrow_type(column), nullable=False) for column in columns])


def _values(array: Any, column: Column) -> Values:
    if not column.per_token:
        return Values(array.to_numpy(zero_copy_only=True))
    return Values(array.values.to_numpy(zero_copy_only=True), array.offsets.to_numpy(zero_copy_only=True))


def _line(schema: Any) -> str:
    extra = " and metadata" if schema.metadata else ""
    return ", ".join(f"{field.name}: {field.type}" for field in schema) + extra


def _refused(name: str, *, got: str, want: str) -> StorageError:
    return StorageError(f"{name}: not opened", got=got, want=want, fix="delete the store and run `tunefleet prepare` again")
