"""Which format a source's rows have: named in the run file, or decided by their columns and said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

from tunefleet.cluster.errors import DataError, nearest
from tunefleet.cluster.plugins import kinds, plugin
from tunefleet.data.examples import Example
from tunefleet.data.rows import Row
from tunefleet.data.settings import Source

FORMATS = "tunefleet.data.formats"


class Format(Protocol):
    """What a file of tunefleet/data/formats holds: a class with a nested Config, and these three."""

    columns: ClassVar[str]
    """The columns that it needs, in words for an error message."""

    def recognises(self, columns: frozenset[str]) -> bool:
        """Whether rows with these columns are of this format, by their names alone."""
        ...

    def read(self, values: Mapping[str, Any]) -> Example:
        """One row as an example. Raises DataError saying what is wrong with the row; the caller adds file and line."""
        ...


def make_format(kind: str) -> Format:
    """The format of a kind, also a dotted one. Raises SettingsError, with the nearest name, for one that does not exist."""
    chosen = plugin(FORMATS, kind)
    made: Format = chosen(chosen.Config())
    return made


def choose_format(source: Source, first: Row) -> tuple[Format, str, str]:
    """The format of a source, its kind, and the decision in words (empty when the run file names it).

    Raises DataError, listing the formats and what they need, when the columns fit none or several.
    """
    if source.format != "auto":
        return make_format(source.format), source.format, ""
    columns = frozenset(first.values)
    fitting = [kind for kind in kinds(FORMATS) if make_format(kind).recognises(columns)]
    if len(fitting) != 1:
        raise _undecided(first, columns, fitting)
    return make_format(fitting[0]), fitting[0], f"{source.path}: rows are read as {fitting[0]}, by their columns {_listed(columns)}"


def _undecided(first: Row, columns: frozenset[str], fitting: list[str]) -> DataError:
    wanted = "; ".join(f"{kind}: {make_format(kind).columns}" for kind in fitting or kinds(FORMATS))
    if fitting:
        return DataError(
            f"{first.where}: the columns fit {len(fitting)} formats",
            got=_listed(columns),
            want=wanted,
            fix=f"set format of this source to one of {', '.join(fitting)}",
        )
    known = {word.strip("()") for kind in kinds(FORMATS) for word in make_format(kind).columns.replace(",", " ").split()} - {"and", "or"}
    close = next(((c, n) for c in sorted(columns) if (n := nearest(c, known)) and n not in columns), None)
    rename = f"columns: {{{close[1]}: {close[0]}}}" if close else "columns: {WANTED: PRESENT}"
    return DataError(
        f"{first.where}: no format fits the columns", got=_listed(columns), want=wanted, fix=f"rename them, as in {rename}, or name a format of your own"
    )


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(sorted(map(str, columns))) or "none"
