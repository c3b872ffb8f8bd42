"""The rows of a source as examples: which format they have, and why some are none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tunefleet.cluster.errors import DataError
from tunefleet.data.choice import Format, choose_format, make_format
from tunefleet.data.examples import Example, Kinds, in_words
from tunefleet.data.rows import Row, read_rows
from tunefleet.data.settings import Source


@dataclass(frozen=True, slots=True)
class Part:
    """A source in its place: its name for reports, whether it is held out as a whole, and its files."""

    source: Source
    name: str
    held: bool
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parsed:
    """A row and the example that a format read out of it; ``problem`` says why there is none."""

    row: Row
    example: Example | None
    problem: str = ""


class Reading:
    """The rows of a part as examples. The format is chosen at the first good row and kept, unless its ``kind`` is given; ``decision`` says which.

    ``takes``: the kinds of example that can be learnt from; all where it is empty.
    """

    def __init__(self, part: Part, takes: Kinds = (), *, kind: str = "", decision: str = "") -> None:
        self.part, self.takes, self.kind, self.decision = part, takes, kind, decision
        self.format: Format | None = make_format(kind) if kind else None

    def parsed(self) -> Iterator[Parsed]:
        """Every row in order, also those that cannot be read. Raises DataError as ``parse`` does."""
        return (self.parse(row) for row in read_rows(self.part.source))

    def parse(self, row: Row) -> Parsed:
        """One row. Raises DataError when no format fits its columns, or one that nothing can be learnt from."""
        if row.problem:
            return Parsed(row, None, row.problem)
        if self.format is None:
            self.format, self.kind, self.decision = choose_format(self.part.source, row)
        try:
            parsed = Parsed(row, self.format.read(row.values))
        except DataError as error:
            parsed = Parsed(row, None, problem_of(error))
        self._refuse_other(parsed)
        return parsed

    def _refuse_other(self, parsed: Parsed) -> None:
        if parsed.example is None or not self.takes or isinstance(parsed.example, self.takes):
            return
        raise DataError(
            f"{parsed.row.where}: the objective learns nothing from such rows",
            got=f"{in_words([type(parsed.example)])} ({self.decision or 'as the run file says'})",
            want=in_words(self.takes),
            fix="set another objective, or name the format of this source, or rename its columns",
        )


def problem_of(error: DataError) -> str:
    """A row's error in one line."""
    return f"{error.what} (got {error.got})" if error.got else error.what
