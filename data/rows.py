"""Rows out of files: JSON, JSON lines, CSV, TSV, Parquet and plain text, read one after the other, each with its file and line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from tunefleet.cluster.errors import DataError, nearest
from tunefleet.data.jsonfile import json_rows

if TYPE_CHECKING:
    from tunefleet.data.settings import Source

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
CHUNK_CHARACTERS = 1 << 20
PARQUET_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it stands (lines count from 1). ``problem`` says why it cannot be used, and is empty for a good one."""

    path: str
    line: int
    values: Mapping[str, Any]
    problem: str = ""

    @property
    def where(self) -> str:
        """``rows.jsonl:12``."""
        return f"{self.path}:{self.line}"


Numbered = tuple[int, Mapping[str, Any], str]
"""Line, values, problem."""
Reader = Callable[["Source", str], Iterator[Numbered]]


def read_rows(source: Source) -> Iterator[Row]:
    """All rows of a source, files in order of their names; a row that cannot be read comes with its ``problem`` and is not skipped.

    Everything but ``.json`` is streamed. Raises DataError for files that are missing, of an unknown kind, or broken as a whole.
    """
    for path in source_files(source.path):
        yield from finished(source, path, READERS[suffix_of(path)](source, path))


def finished(source: Source, path: str, numbered: Iterable[Numbered]) -> Iterator[Row]:
    """Rows with the columns that the source wants, those with text that cannot be tokenised marked."""
    for line, values, problem in numbered:
        if not problem and source.columns:
            values, problem = _renamed(values, source.columns)
        yield Row(path, line, values, problem or _text_problem(values))


def source_files(path: str) -> list[str]:
    """The files that a path, a folder or a glob names, sorted; hidden ones are left out.

    Raises DataError, with the nearest name, where there are none, and for a file of unknown kind.
    """
    from fsspec.core import url_to_fs

    system, inner = url_to_fs(path)
    if any(sign in path for sign in "*?["):
        found = [p for p in system.glob(inner) if system.isfile(p) and not _hidden(p)]
    elif system.isdir(inner):
        found = [p for p in system.find(inner) if suffix_of(p) in READERS and not _hidden(p)]
    else:
        found = [inner] if system.isfile(inner) else []
    if not found:
        raise _nothing_at(path)
    for name in found:
        if suffix_of(name) not in READERS:
            kinds = ", ".join(sorted(READERS))
            raise DataError(
                f"{name}: unknown kind of file", got=suffix_of(name) or "no suffix", want=f"one of {kinds} (also with .gz)", fix="rename or convert it"
            )
    if found == [inner]:
        return [path]
    remote = "://" in path
    return sorted(system.unstrip_protocol(p) if remote else p for p in found)


def _hidden(path: str) -> bool:
    return PurePosixPath(path).name.startswith(".")


def suffix_of(path: str) -> str:
    """The kind of a file: ``.jsonl``, also of ``rows.jsonl.gz``."""
    name = PurePosixPath(path)
    return PurePosixPath(name.stem).suffix.lower() if name.suffix.lower() in COMPRESSED else name.suffix.lower()


def _nothing_at(path: str) -> DataError:
    """The error for a path that names no file, with what stands beside it."""
    from fsspec.core import url_to_fs

    system, inner = url_to_fs(path)
    parent, name = str(PurePosixPath(inner).parent), PurePosixPath(inner).name
    if system.isdir(inner):
        return DataError(
            f"{path}: the folder holds no file of rows", want=f"files that end in {', '.join(sorted(READERS))}", fix="name the files by their kind"
        )
    if not system.isdir(parent):
        return DataError(
            f"{path}: no such file", got=f"{parent} is no folder", want="a file, a folder or a glob", fix="correct the path; it is taken from where you are"
        )
    beside = sorted(PurePosixPath(p).name for p in system.ls(parent, detail=False))
    close = nearest(name, beside)
    listed = ", ".join(beside[:8]) + (", ..." if len(beside) > 8 else "")
    return DataError(
        f"{path}: no such file",
        got=f"{parent} holds {listed or 'nothing'}",
        want="a file, a folder or a glob",
        fix=f"did you mean {close}?" if close else "correct the path",
    )


def open_rows(path: str) -> IO[bytes]:
    """The bytes of a file, decompressed."""
    import fsspec

    stream: IO[bytes] = fsspec.open(path, "rb", compression="infer").open()
    return stream


def _open_text(path: str) -> IO[str]:
    """Decode as UTF-8; bytes that are none become lone surrogates, which make their row invalid and leave the others alone."""
    import io

    return io.TextIOWrapper(open_rows(path), encoding="utf-8-sig", errors="surrogateescape", newline="")


def _jsonl(_: Source, path: str) -> Iterator[Numbered]:
    with open_rows(path) as stream:
        yield from json_lines(stream)


def json_lines(lines: Iterable[bytes]) -> Iterator[Numbered]:
    """The objects of lines, counted from 1; blank ones are passed over."""
    for line, raw in enumerate(lines, start=1):
        try:
            text = raw.decode("utf-8-sig" if line == 1 else "utf-8").strip()
            if text:
                value = json.loads(text)
                yield line, value if isinstance(value, dict) else {}, "" if isinstance(value, dict) else f"{type(value).__name__}, not an object"
        except UnicodeDecodeError as error:
            yield line, {}, f"not UTF-8: {error.reason} at byte {error.start}"
        except (ValueError, RecursionError) as error:
            yield line, {}, f"not JSON: {error}"


def _json(source: Source, path: str) -> Iterator[Numbered]:
    with _open_text(path) as stream:
        first, second = stream.readline(), stream.readline()
        if second.strip() and _is_object(first):  # lines of JSON under the name of one JSON file
            lines = True
        else:
            lines, text = False, first + second + stream.read()
    if lines:
        yield from _jsonl(source, path)
        return
    yield from json_rows(text, path)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _separated(delimiter: str) -> Reader:
    def read(_: Source, path: str) -> Iterator[Numbered]:
        import csv

        csv.field_size_limit(1 << 30)  # a limit of the whole process, 128 kB by default: too small for a document
        with _open_text(path) as stream:
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            try:
                header = next(reader, [])
                _check_header(path, header)
                line = reader.line_num + 1
                for fields in reader:
                    if fields:
                        wrong = "" if len(fields) == len(header) else f"{len(fields)} fields where the header has {len(header)}"
                        yield line, dict(zip(header, fields, strict=False)), wrong
                    line = reader.line_num + 1
            except csv.Error as error:
                raise DataError(
                    f"{path}:{reader.line_num}: broken quotes", got=str(error), want='fields quoted with ", doubled inside', fix="mend the file"
                ) from error

    return read


def _check_header(path: str, header: list[str]) -> None:
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled or "" in header:
        got = f"{doubled[0]} twice" if doubled else "a column without a name"
        raise DataError(f"{path}:1: the first line is no header", got=got, want="the names of the columns, each once", fix="put a header line first")


def _parquet(_: Source, path: str) -> Iterator[Numbered]:
    with open_rows(path) as stream:
        yield from parquet_rows(path, open_parquet(path, stream))


def open_parquet(path: str, stream: IO[bytes]) -> Any:
    """A Parquet file whose schema is harmless. Raises DataError for one that cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        _refuse_extensions(path, stream)
        return pq.ParquetFile(stream)
    except (pa.ArrowException, OSError) as error:
        raise _broken_parquet(path, error) from error


def parquet_rows(path: str, file: Any, groups: Sequence[int] | None = None) -> Iterator[Numbered]:
    """The rows of some row groups, all where none are named, counted from 1."""
    import pyarrow as pa

    try:
        batches = file.iter_batches(batch_size=PARQUET_ROWS, row_groups=groups)
        yield from ((line, values, "") for line, values in enumerate((row for batch in batches for row in batch.to_pylist()), start=1))
    except (pa.ArrowException, OSError) as error:
        raise _broken_parquet(path, error) from error


def _broken_parquet(path: str, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read as Parquet", got=str(error).splitlines()[0], fix="write the file anew")


def _refuse_extensions(path: str, stream: IO[bytes]) -> None:
    """Refuse extension types before anything builds the Arrow schema, which has run code before (CVE-2026-41486).

    The schema stands in the file's footer as base64, so the name of the key that marks an extension has one of three spellings there. (Even
    ``pyarrow.parquet.read_metadata`` builds the schema.)
    """
    stream.seek(-8, 2)
    tail = stream.read(8)
    stream.seek(-min(int.from_bytes(tail[:4], "little") + 8, stream.tell()), 2)
    footer = stream.read()
    if any(spelling in footer for spelling in _spellings(b"ARROW:extension:name")):
        raise DataError(
            f"{path}: has an extension type", got="an Arrow extension in the schema", want="plain columns: text, numbers, lists, structs", fix="cast the column"
        )
    stream.seek(0)


def _spellings(word: bytes) -> list[bytes]:
    """What is sure to stand in base64 text for a word, at each of the three places where it may begin in a group of three bytes."""
    import base64

    return [base64.b64encode(bytes(shift) + word)[-(-shift * 8 // 6) : (shift + len(word)) * 8 // 6] for shift in range(3)]


def _documents(source: Source, path: str) -> Iterator[Numbered]:
    with _open_text(path) as stream:
        yield from documents(source.separator, iter(lambda: stream.read(CHUNK_CHARACTERS), ""))


def documents(separator: str, chunks: Iterable[str]) -> Iterator[Numbered]:
    """Documents of plain text, ended by a separator. White space around a document is the separator's; a blank one is none."""
    pending, tail, line = [""], "", 1
    keep = len(separator) - 1
    for chunk in chunks:
        *ended, rest = (tail + chunk).split(separator) if separator else (tail + chunk,)
        for part in ended:
            document, pending = "".join([*pending, part]), []
            yield from _document(document, line)
            line += document.count("\n") + separator.count("\n")
        cut = len(rest) - keep if separator else len(rest)
        tail = rest[max(cut, 0) :]
        pending.append(rest[: max(cut, 0)])
    yield from _document("".join([*pending, tail]), line)


def _document(text: str, line: int) -> Iterator[Numbered]:
    body = text.strip()
    if body:
        before = text[: len(text) - len(text.lstrip())].count("\n")
        yield line + before, {"text": body}, ""


def _renamed(values: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[Mapping[str, Any], str]:
    missing = [present for present in columns.values() if present not in values]
    if missing:
        close = nearest(missing[0], values)
        return values, f"no column {missing[0]} to rename" + (f"; did you mean {close}?" if close else "")
    kept = {name: value for name, value in values.items() if name not in columns.values()}
    return kept | {wanted: values[present] for wanted, present in columns.items()}, ""


def _text_problem(value: Any) -> str:
    """Why a value cannot be tokenised: a NUL, or half a surrogate pair (also what is left of bytes that are not UTF-8)."""
    if isinstance(value, str):
        if "\0" in value:
            return "holds a NUL character"
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            return "holds bytes that are not UTF-8, or a lone surrogate"
    elif isinstance(value, dict):
        return next(filter(None, map(_text_problem, value.values())), "")
    elif isinstance(value, list | tuple):
        return next(filter(None, map(_text_problem, value)), "")
    return ""


READERS: dict[str, Reader] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".parquet": _parquet,
    ".txt": _documents,
}
