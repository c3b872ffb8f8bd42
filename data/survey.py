"""The first pass over the rows: what each is called, where it stands, and what makes it equal to another. Nothing is tokenised; some bytes a row are kept."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunefleet.cluster.errors import DataError
from tunefleet.data.choice import Format, choose_format, make_format
from tunefleet.data.examples import Example, Kinds, in_words, labels_of
from tunefleet.data.keys import keys_of, words_of
from tunefleet.data.near import Shingles
from tunefleet.data.rows import Row, read_rows
from tunefleet.data.settings import Source

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


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


class Survey:
    """Keys and places of all good rows, in reading order; places of the bad ones."""

    def __init__(self, parts: Sequence[Part], *, near: bool) -> None:
        self.parts = parts
        self.invalid: list[str] = []
        self.rows = 0
        self.shingles = Shingles() if near else None
        self.labels: set[str] = set()
        self._keys = {name: array("Q") for name in ("opening", "context", "claim", "whole")}
        self._part, self._line, self._file = array("H"), array("Q"), array("I")
        self._files: list[str] = []

    def add(self, place: int, parsed: Parsed) -> None:
        """Take in the next row of part number ``place``."""
        self.rows += 1
        if parsed.example is None:
            self.invalid.append(f"{parsed.row.where}: {parsed.problem}")
            return
        keys = keys_of(parsed.example)
        self._keys["opening"].append(keys.opening)
        self._keys["context"].append(keys.context)
        self._keys["claim"].append(keys.claim)
        self._keys["whole"].append(keys.whole)
        self.labels.update(labels_of(parsed.example))
        if not self._files or self._files[-1] != parsed.row.path:
            self._files.append(parsed.row.path)
        self._part.append(place)
        self._line.append(parsed.row.line)
        self._file.append(len(self._files) - 1)
        if self.shingles is not None:
            self.shingles.add(words_of(parsed.example))

    def keys(self, name: str) -> npt.NDArray[np.uint64]:
        """``opening``, ``context``, ``claim`` or ``whole`` of every good row."""
        import numpy as np

        return np.frombuffer(self._keys[name], np.uint64)

    def held(self) -> npt.NDArray[np.bool_]:
        """Which good rows come from sources that are held out as a whole."""
        import numpy as np

        return np.array([part.held for part in self.parts], bool)[np.frombuffer(self._part, np.uint16)]

    def where(self, row: int) -> str:
        """File and line of a good row."""
        return f"{self._files[self._file[row]]}:{self._line[row]}"


def take_survey(readings: Sequence[Reading], *, near: bool) -> Survey:
    """Read every row of every part once. Raises DataError for a source without one row, and when no format fits."""
    survey = Survey([reading.part for reading in readings], near=near)
    for place, reading in enumerate(readings):
        before = survey.rows
        for parsed in reading.parsed():
            survey.add(place, parsed)
        if survey.rows == before:
            raise DataError(
                f"{reading.part.source.path}: holds no rows", got="an empty file", want="one row or more", fix="fill it, or take it out of the sources"
            )
    return survey
