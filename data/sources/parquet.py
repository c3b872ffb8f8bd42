"""Parquet files, read page by page: what is held does not grow with the file or its row groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, Any, ClassVar, Literal

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.settings import Settings
from tunefleet.data.arrowrows import slice_rows, table_rows
from tunefleet.data.arrowschema import refuse_parquet_extensions
from tunefleet.data.files import find_files, open_bytes
from tunefleet.data.origin import Numbered
from tunefleet.data.settings import Source

BUFFER_BYTES = 1 << 20  # read ahead in a column; without it pyarrow reads the column of a whole row group at once


class Parquet:
    """Rows in order, numbered from 1."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["parquet"] = "parquet"

    suffixes: ClassVar[tuple[str, ...]] = (".parquet",)

    def __init__(self, config: Config) -> None:
        self.config = config

    def addresses(self, source: Source) -> list[str]:
        """The files."""
        return find_files(source.path, self.suffixes)

    def read(self, source: Source, address: str) -> Iterator[Numbered]:
        """Every row. Extension types are refused before the file's schema is built."""
        with open_bytes(address) as stream:
            yield from parquet_rows(address, open_parquet(address, stream))


def open_parquet(path: str, stream: IO[bytes]) -> Any:
    """A Parquet file whose schema is harmless. Raises DataError for one that cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        refuse_parquet_extensions(path, _footer(stream))
        return pq.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise _broken(path, error) from error


def parquet_rows(path: str, file: Any, groups: Sequence[int] | None = None) -> Iterator[Numbered]:
    """The rows of some row groups, all where none are named, numbered from 1."""
    import pyarrow as pa

    chosen = list(range(file.metadata.num_row_groups)) if groups is None else list(groups)
    size, rows = (sum(values) for values in zip((0, 0), *((g.total_byte_size, g.num_rows) for g in map(file.metadata.row_group, chosen)), strict=True))
    try:
        yield from table_rows(path, file.schema_arrow, file.iter_batches(batch_size=slice_rows(size, rows), row_groups=chosen, use_threads=False))
    except (pa.ArrowException, OSError) as error:
        raise _broken(path, error) from error


def _broken(path: str, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read as Parquet", got=str(error).splitlines()[0], fix="write the file anew")


def _footer(stream: IO[bytes]) -> bytes:
    """The metadata at the end of the file."""
    stream.seek(-8, 2)
    tail = stream.read(8)
    stream.seek(-min(int.from_bytes(tail[:4], "little") + 8, stream.tell()), 2)
    footer = stream.read()
    stream.seek(0)
    return footer
