"""Comma- and tab-separated values, with a header line, or with the names of the columns in the run file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import ClassVar, Literal

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.settings import Settings
from tunefleet.data.files import find_files, open_text, suffix_of
from tunefleet.data.origin import Numbered
from tunefleet.data.settings import Source


class Separated:
    """A row at a time; a field in quotes may hold line ends. A row with more or fewer fields than columns is a bad one."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["separated"] = "separated"

    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv")

    def __init__(self, config: Config) -> None:
        self.config = config

    def addresses(self, source: Source) -> list[str]:
        """The files."""
        return find_files(source.path, self.suffixes)

    def read(self, source: Source, address: str) -> Iterator[Numbered]:
        """Every row, with the line where it begins. Files whose name does not end in .tsv are separated by commas."""
        csv.field_size_limit(1 << 30)  # a limit of the whole process, 128 kB by default: too small for a document
        with open_text(address) as stream:
            reader = csv.reader(stream, delimiter="\t" if suffix_of(address) == ".tsv" else ",", strict=True)
            try:
                header = source.header or next(reader, [])
                _check_header(address, header, given=bool(source.header))
                line = reader.line_num + 1
                for fields in reader:
                    if fields:
                        wrong = "" if len(fields) == len(header) else f"{len(fields)} fields where the header has {len(header)}"
                        yield line, dict(zip(header, fields, strict=False)), wrong
                    line = reader.line_num + 1
            except csv.Error as error:
                raise DataError(
                    f"{address}:{reader.line_num}: broken quotes", got=str(error), want='fields quoted with ", doubled inside', fix="mend the file"
                ) from error


def _check_header(path: str, header: list[str], *, given: bool) -> None:
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled or "" in header:
        got = f"{doubled[0]} twice" if doubled else "a column without a name"
        where = "header of the source: names no columns" if given else "the first line is no header"
        raise DataError(
            f"{path}:1: {where}", got=got, want="the names of the columns, each once", fix="put a header line first, or set header of this source to the names"
        )
