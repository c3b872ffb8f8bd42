"""Rows out of sources, read one after the other, each with its file and line; what cannot be tokenised is said of the row and spoils no other."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tunefleet.cluster.errors import DataError, StorageError, nearest
from tunefleet.data.origin import Numbered, addresses, origin_at
from tunefleet.data.settings import Source


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it stands (lines count from 1). ``problem`` says why it cannot be used, and is empty for a good one."""

    path: str
    line: int
    values: Mapping[str, Any]
    problem: str = ""

    @property
    def where(self) -> str:
        """``rows.jsonl:12``; of files without lines, the number of the row."""
        return f"{self.path}:{self.line}"


def read_rows(source: Source) -> Iterator[Row]:
    """All rows of a source, files in order of their names; a row that cannot be read comes with its ``problem`` and is not skipped.

    Everything but a JSON document is streamed. Raises DataError for files that are missing, of an unknown kind, or broken as a whole.
    """
    for address in source_files(source):
        yield from read_file(source, address)


def source_files(source: Source) -> list[str]:
    """What a source names, in order: files, or what a hub has instead. Each can be read by itself. Raises DataError where there is nothing."""
    return addresses(source)


def read_file(source: Source, address: str) -> Iterator[Row]:
    """The rows of one of the files of a source."""
    yield from finished(source, address, origin_at(source, address).read(source, address))


def finished(source: Source, address: str, numbered: Iterable[Numbered]) -> Iterator[Row]:
    """Rows with the columns that the source wants, those with text that cannot be tokenised marked. Raises what ``read_file`` does."""
    line = 0
    try:
        for line, values, problem in numbered:
            if not problem and source.columns:
                values, problem = _renamed(values, source.columns)
            yield Row(address, line, values, problem or _text_problem(values))
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        what = f"{address}:{line + 1}: the file cannot be read to its end"
        got = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'it ends too early'}"
        if "://" in address:
            raise StorageError(what, got=got, want="a file that can be read whole", fix="look at the address and the rights to read it") from error
        raise DataError(what, got=got, want="a whole file", fix="write or fetch the file anew") from error


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
        return next(filter(None, map(_text_problem, (*value, *value.values()))), "")
    elif isinstance(value, list | tuple):
        return next(filter(None, map(_text_problem, value)), "")
    return ""
