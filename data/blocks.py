"""Blocks: stretches of the rows' files that are read, judged and tokenised by themselves, each known by a hash of its bytes.

Where a block ends depends on what stands there and not on where in the file it stands: a row ends its block with a chance that grows with its bytes, drawn by a
hash of the row. So rows that are put in, taken out or added change the blocks that they are in, and the others are found again. (This is how rsync-like tools
cut files: Muthitacharoen et al. 2001, "A Low-bandwidth Network File System", with rows instead of windows.)

JSON lines and documents of plain text are cut so, Parquet at its row groups; everything else (JSON, CSV whose quotes may hold line ends, compressed files) is
one block a file, which is streamed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any
from zlib import crc32

from tunefleet.cluster.errors import DataError, StorageError
from tunefleet.cluster.storage import Storage
from tunefleet.data.files import COMPRESSED, open_bytes, suffix_of
from tunefleet.data.origin import Numbered, fixed_content, origin_at, suffixes
from tunefleet.data.rows import Row, finished
from tunefleet.data.sources.jsonl import json_lines
from tunefleet.data.sources.parquet import open_parquet, parquet_rows
from tunefleet.data.sources.plain_text import documents

if TYPE_CHECKING:
    from tunefleet.data.settings import Source

SCANS = "scans"
_VERSION = 2  # of the borders; rises when the same file would be cut elsewhere
_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of text in a block: no fewer than ``least`` before it may end, ``mean`` on average, no more than ``most`` and one row."""

    least: int = 1 << 20
    mean: int = 2 << 20
    most: int = 4 << 20


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of a file that stand together.

    ``start`` and ``stop`` are bytes, or row groups of a Parquet file; ``line`` is where it begins, counted as errors count (from 1). ``bytes`` is
    what there is to read. ``content`` is a hash of that.
    """

    path: str
    start: int
    stop: int
    line: int
    bytes: int
    content: str


@dataclass(frozen=True, slots=True)
class Scan:
    """A file: the sha256 of it, and its blocks in order."""

    content: str
    blocks: tuple[Block, ...]


def scan(source: Source, path: str, sizes: Sizes, store: Storage) -> Scan:
    """Read a file once and cut it. A file that has kept its size and time (on S3 its ETag) is not read again: what was found stands in the store."""
    fixed = fixed_content(path)
    if fixed is not None:
        return Scan(fixed, (Block(path, 0, 1, 1, 1, fixed),))
    name = f"{SCANS}/{hashlib.sha256(json.dumps([_VERSION, _home(path), source.kind, source.separator, astuple(sizes)]).encode()).hexdigest()[:32]}.json"
    stamp = _stamp(path)
    known = _known(store, name)
    if stamp is not None and known.get("stamp") == stamp:
        return Scan(known["content"], tuple(Block(path, *block) for block in known["blocks"]))
    found = _cut(source, path, sizes)
    if stamp is not None:
        blocks = [astuple(block)[1:] for block in found.blocks]
        store.put(name, json.dumps({"path": path, "stamp": stamp, "content": found.content, "blocks": blocks}).encode())
    return found


def read_block(source: Source, block: Block) -> Iterator[Row]:
    """The rows of a block, their lines counted in the file. Raises DataError for a file that has changed since it was cut."""
    numbered = ((line + block.line - 1, values, problem) for line, values, problem in _numbered(source, block))
    return finished(source, block.path, numbered)


def _numbered(source: Source, block: Block) -> Iterator[Numbered]:
    kind = _kind(source, block.path)
    if kind == "whole":
        yield from origin_at(source, block.path).read(source, block.path)
    elif kind == "groups":
        with open_bytes(block.path) as stream:
            yield from parquet_rows(block.path, open_parquet(block.path, stream), range(block.start, block.stop))
    else:
        data = _bytes_of(block)
        if kind == "lines":
            yield from json_lines(data.split(b"\n"))
        else:
            yield from documents(source.separator, [data.decode("utf-8-sig", errors="surrogateescape")])


def _bytes_of(block: Block) -> bytes:
    with _open(block.path) as stream:
        stream.seek(block.start)
        data = stream.read(block.stop - block.start)
    if hashlib.sha256(data).hexdigest() != block.content:
        raise DataError(f"{block.path}: changed while it was prepared", got="other bytes than at first", want="a file at rest", fix="prepare again when it is")
    return data


def _kind(source: Source, path: str) -> str:
    """How a file can be cut."""
    if PurePosixPath(path).suffix.lower() in COMPRESSED:
        return "whole"
    kind = suffixes().get(suffix_of(path), "") if source.kind == "auto" else source.kind
    if kind == "plain_text":
        return "documents" if source.separator else "whole"
    return {"jsonl": "lines", "parquet": "groups"}.get(kind, "whole")


def _cut(source: Source, path: str, sizes: Sizes) -> Scan:
    kind = _kind(source, path)
    with _open(path) as stream:
        if kind == "groups":
            return _cut_at_groups(path, stream)
        whole, size = hashlib.sha256(), 0
        if kind == "whole":
            while chunk := stream.read(_CHUNK_BYTES):
                whole.update(chunk)
                size += len(chunk)
            return Scan(whole.hexdigest(), (Block(path, 0, size, 1, size, whole.hexdigest()),))
        cutter = _Cutter(path, b"\n" if kind == "lines" else source.separator.encode(), sizes)
        while chunk := stream.read(_CHUNK_BYTES):
            whole.update(chunk)
            cutter.feed(chunk)
        return Scan(whole.hexdigest(), tuple(cutter.close()))


class _Cutter:
    """Finds the blocks of a file whose rows end with ``mark``, from its bytes as they come."""

    def __init__(self, path: str, mark: bytes, sizes: Sizes) -> None:
        self.path, self.mark, self.sizes = path, mark, sizes
        self.blocks: list[Block] = []
        self._tail = b""  # the last bytes: they may begin a mark
        self._row_hash, self._row_bytes = 0, 0
        self._start, self._line, self._lines, self._bytes, self._hash = 0, 1, 0, 0, hashlib.sha256()

    def feed(self, chunk: bytes) -> None:
        """Take in the next bytes of the file."""
        data = self._tail + chunk
        *ended, rest = data.split(self.mark)
        place = hashed = 0
        for row in ended:
            place += len(row) + len(self.mark)
            self._row(row, len(self.mark))
            if self._ends():
                self._hash.update(data[hashed:place])
                hashed = place
                self._close_block()
            self._row_hash = self._row_bytes = 0
        keep = min(len(self.mark) - 1, len(rest))
        self._row(rest[: len(rest) - keep], 0)
        self._tail = rest[len(rest) - keep :]
        self._hash.update(data[hashed : len(data) - keep])

    def close(self) -> list[Block]:
        """The blocks, the last one closed."""
        self._row(self._tail, 0)
        self._hash.update(self._tail)
        if self._bytes:
            self._close_block()
        return self.blocks

    def _row(self, part: bytes, mark: int) -> None:
        """Take in a part of a row; ``mark`` is the length of what ends it, 0 before the end."""
        self._row_hash = crc32(part, self._row_hash)
        self._row_bytes += len(part) + mark
        self._bytes += len(part) + mark
        self._lines += part.count(b"\n") + (self.mark.count(b"\n") if mark else 0)

    def _ends(self) -> bool:
        sizes = self.sizes
        drawn = self._row_hash * (sizes.mean - sizes.least) < self._row_bytes << 32
        return self._bytes >= sizes.most or (self._bytes >= sizes.least and drawn)

    def _close_block(self) -> None:
        stop = self._start + self._bytes
        self.blocks.append(Block(self.path, self._start, stop, self._line, self._bytes, self._hash.hexdigest()))
        self._start, self._line, self._lines, self._bytes, self._hash = stop, self._line + self._lines, 0, 0, hashlib.sha256()


def _cut_at_groups(path: str, stream: IO[bytes]) -> Scan:
    """The row groups of a Parquet file. A hash takes in the schema and the bytes of the group's columns."""
    metadata = open_parquet(path, stream).metadata
    schema = str(metadata.schema).partition("\n")[2].encode()  # the first line is an address in memory
    blocks: list[Block] = []
    line, whole = 1, hashlib.sha256(schema)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        digest = hashlib.sha256(schema)
        for column in range(group.num_columns):
            _hash_column(stream, group.column(column), digest)
        whole.update(digest.digest())
        blocks.append(Block(path, number, number + 1, line, group.total_byte_size, digest.hexdigest()))
        line += group.num_rows
    return Scan(whole.hexdigest(), tuple(blocks))


def _hash_column(stream: IO[bytes], column: Any, digest: Any) -> None:
    begin = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
    left = column.total_compressed_size
    stream.seek(min(begin, column.data_page_offset))
    while left and (chunk := stream.read(min(left, _CHUNK_BYTES))):
        digest.update(chunk)
        left -= len(chunk)


def _open(path: str) -> IO[bytes]:
    """The bytes of a file as they lie."""
    import fsspec

    stream: IO[bytes] = fsspec.open(path, "rb").open()
    return stream


def _home(path: str) -> str:
    return path if "://" in path else str(Path(path).resolve())


def _stamp(path: str) -> list[Any] | None:
    """What changes when a file does, without reading it; None where nothing is known to."""
    if "://" not in path:
        stat = Path(path).resolve().stat()
        return [stat.st_size, stat.st_mtime_ns]
    from fsspec.core import url_to_fs

    system, inner = url_to_fs(path)
    found = system.info(inner)
    return [found["size"], found["ETag"]] if "ETag" in found else None


def _known(store: Storage, name: str) -> dict[str, Any]:
    """What an earlier call found. It is a cache: one that cannot be understood is made anew."""
    try:
        value = json.loads(store.read(name)) if store.exists(name) else {}
    except (ValueError, StorageError):
        return {}
    return value if isinstance(value, dict) else {}


def total_bytes(blocks: Sequence[Block]) -> int:
    """What there is to read."""
    return sum(block.bytes for block in blocks)
