"""Shards out of pieces: which examples stay and on which side, how they are cut into shards, and one shard made on one core.

The plan is made once, from the facts of all rows; a shard depends on its part of the plan alone, so shards are made anywhere and in any order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.data.blockwork import draw_limit
from tunefleet.data.columnfile import Values, open_columns, to_bytes
from tunefleet.data.layout import Column
from tunefleet.data.pieces import Piece
from tunefleet.data.shards import LABELS, File, Shard, shard_name, write_shard

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int32]
    Bools = npt.NDArray[np.bool_]

HOLDOUT = "holdout"


@dataclass(frozen=True)
class Placed:
    """A piece in its place: of which source, from which row of all rows on, and the share of its examples that may be held out."""

    piece: Piece
    part: int
    first_row: int
    share: float

    def chosen(self, keep: Bools) -> Bools:
        """Which of its examples are of rows that are kept; ``keep`` is of all rows."""
        rows = keep[self.first_row : self.first_row + len(self.piece.facts)]
        found: Bools = rows[self.piece.examples["row"]]
        return found

    def held(self) -> Bools:
        """Which of its examples are held out, if they are kept. Those, and no others, have their words kept."""
        import numpy as np

        limit = draw_limit(self.share)
        draws = self.piece.examples["draw"]
        return draws <= np.uint64(limit - 1) if limit else np.zeros(len(draws), bool)


@dataclass(frozen=True)
class Slice:
    """Some examples of a piece: ``places``, ascending."""

    tokens: File
    rows: int
    labels: tuple[str, ...]
    places: Ints


@dataclass(frozen=True)
class Recipe:
    """A shard to be made: of which slices, one behind the other."""

    name: str
    slices: tuple[Slice, ...]
    rows: int
    tokens: int


@dataclass(frozen=True)
class Side:
    """A split as it is planned. ``sources``: the name of each with its shards. ``lengths`` of all its examples. ``taken``: places in the pieces, in order."""

    split: str
    sources: list[tuple[str, list[Recipe]]]
    lengths: Ints
    supervised: int
    taken: list[tuple[Placed, Ints]]


def plan_side(split: str, sources: Sequence[tuple[str, int]], pieces: Sequence[Placed], keep: Bools, shard_bytes: int) -> Side:
    """The shards of a split. ``sources``: names and numbers of the parts that its rows may be of."""
    import numpy as np

    planned: list[tuple[str, list[Recipe]]] = []
    everything: list[tuple[Placed, Ints]] = []
    count = 0
    for name, part in sources:
        taken = []
        for placed in pieces:
            if placed.part == part:
                places = np.flatnonzero(placed.chosen(keep) & (placed.held() if split == HOLDOUT else ~placed.held())).astype(np.int32)
                if len(places):
                    taken.append((placed, places))
        recipes = list(_cut(split, count, taken, shard_bytes))
        count += len(recipes)
        planned.append((name, recipes))
        everything += taken
    lengths = np.concatenate([np.zeros(0, np.int32), *(placed.piece.examples["length"][places] for placed, places in everything)])
    supervised = sum(int(placed.piece.examples["supervised"][places].sum(dtype=np.int64)) for placed, places in everything)
    return Side(split, planned, lengths, supervised, everything)


def _cut(split: str, number: int, taken: Sequence[tuple[Placed, Ints]], shard_bytes: int) -> Iterator[Recipe]:
    """Recipes for the examples of a source: a shard ends with the example that fills it."""
    import numpy as np

    if not taken:
        return
    sizes = np.concatenate([placed.piece.examples["bytes"][places] for placed, places in taken])
    ends = np.cumsum(sizes, dtype=np.int64)
    first_of = np.cumsum([0, *(len(places) for _, places in taken)])
    start, before = 0, 0
    while start < len(ends):
        stop = min(int(np.searchsorted(ends, before + shard_bytes)) + 1, len(ends))
        slices, tokens = [], 0
        for place in range(int(np.searchsorted(first_of, start, side="right")) - 1, int(np.searchsorted(first_of, stop))):
            placed, places = taken[place]
            mine = places[max(start - int(first_of[place]), 0) : stop - int(first_of[place])]
            slices.append(Slice(placed.piece.tokens, len(placed.piece.examples["row"]), placed.piece.labels, mine))
            tokens += int(placed.piece.examples["length"][mine].sum(dtype=np.int64))
        yield Recipe(shard_name(split, number), tuple(slices), stop - start, tokens)
        start, before, number = stop, int(ends[stop - 1]), number + 1


@dataclass(frozen=True)
class Assembling:
    """What is the same for every shard: where pieces lie, where shards go, their columns, and the numbers of the labels."""

    pieces: str
    home: str
    columns: tuple[Column, ...]
    labels: Mapping[str, int]


def make_shard(work: Assembling, recipe: Recipe) -> Shard:
    """Write one shard straight to its final place; whoever else writes it writes the same. Raises StorageError for a piece that is not what was written."""
    import numpy as np

    store = open_storage(work.pieces)
    values: dict[str, list[Any]] = {column.name: [] for column in work.columns}
    counts: dict[str, list[Any]] = {column.name: [] for column in work.columns}
    for part in recipe.slices:
        whole = open_columns(store.local(part.tokens.name, sha256=part.tokens.sha256, size=part.tokens.bytes), work.columns, part.rows)
        for column in work.columns:
            found, lengths = _taken(whole[column.name], part.places)
            if column.name == LABELS and part.labels:
                found = np.asarray([work.labels[label] for label in part.labels], np.int32)[found]
            values[column.name].append(found)
            counts[column.name].append(lengths)
    joined = {}
    for column in work.columns:
        flat = np.concatenate(values.pop(column.name))
        offsets = None
        if column.per_token:
            offsets = np.zeros(recipe.rows + 1, np.int32)
            np.cumsum(np.concatenate(counts[column.name]), out=offsets[1:])
        joined[column.name] = Values(flat, offsets)
    return write_shard(open_storage(work.home), recipe.name, to_bytes(work.columns, joined, recipe.rows), recipe.rows, recipe.tokens)


def _taken(column: Values, places: Ints) -> tuple[Any, Any]:
    """The values of some rows of a column, and how many each row has."""
    import numpy as np

    if column.offsets is None:
        return column.values[places], None
    lengths = np.diff(column.offsets)
    if len(places) == len(lengths):
        return column.values[column.offsets[0] : column.offsets[-1]], lengths
    chosen = np.zeros(len(lengths), bool)
    chosen[places] = True
    return column.values[column.offsets[0] : column.offsets[-1]][np.repeat(chosen, lengths)], lengths[places]


def held_words(store: Storage, side: Side) -> Iterator[tuple[int, bytes]]:
    """(part, a line of JSON) for every held-out example, in the order of their ids."""
    import numpy as np

    for placed, places in side.taken:
        words = placed.piece.words
        lines = store.read(words.name, sha256=words.sha256, size=words.bytes).split(b"\n")
        numbers = np.cumsum(placed.held()) - 1
        yield from ((placed.part, lines[number]) for number in numbers[places].tolist())
