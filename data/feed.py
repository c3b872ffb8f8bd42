"""What a run reads, as a function of its run file: its rows (replayed ones behind its own), the course of an epoch through them, and where steps begin."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

from tunefleet.cluster.errors import DataError
from tunefleet.data.layout import Record
from tunefleet.data.mixture import Mixture, Part, quotas
from tunefleet.data.order import Course, Order
from tunefleet.data.picked import Picked
from tunefleet.data.settings import Cache, Data, Replay
from tunefleet.data.steps import Steps, StepSize, steps_of
from tunefleet.data.store import Split, Store

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tunefleet.data.ahead import Shards


class Rows(Protocol):
    """The rows of a split, or of several as one."""

    @property
    def rows(self) -> int:
        """How many; their ids are 0 to this."""
        ...

    @property
    def fingerprint(self) -> str:
        """What they were made from."""
        ...

    @property
    def shards(self) -> Shards:
        """Where they stand, for reading ahead."""
        ...

    @property
    def shard_rows(self) -> list[int]:
        """Rows of each shard."""
        ...

    @property
    def window(self) -> int:
        """Shards that are shuffled together."""
        ...

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of every row, by id."""
        ...

    def records(self, rows: Iterable[int]) -> list[Record]:
        """The rows with these ids, in their order."""
        ...

    def pick(self, ids: npt.NDArray[np.int64]) -> Sequence[Record]:
        """The same; they may be read only when they are asked for."""
        ...


@dataclass(frozen=True)
class Share:
    """A source in an epoch: its name, the ids of its rows, and how many examples an epoch has of it."""

    name: str
    ids: range
    quota: int


@dataclass(frozen=True)
class Feed:
    """What a stream is made of. ``shares``: the sources with rows, replay last; in the order of their ids."""

    rows: Rows
    course: Course
    steps: Steps
    shares: tuple[Share, ...]

    def decisions(self) -> list[str]:
        """How an epoch is shared, where it is not simply every row once."""
        if all(share.quota == len(share.ids) for share in self.shares):
            return []
        parts = ", ".join(f"{s.name} {s.quota} ({s.quota / self.course.rows:.1%}; {s.quota / len(s.ids):.2f} passes)" for s in self.shares)
        return [f"data.mixture: an epoch has {self.course.rows} examples: {parts}"]


def feed_of(store: Store, data: Data, size: StepSize, seed: int) -> Feed:
    """What a run with this data section reads. Raises DataError for a store to replay that does not fit, StorageError for one that is none."""
    return shared(store.split("train"), None if data.replay is None else replay_of(store, data.replay, data.cache), data, size, seed)


def shared(own: Split, replayed: Split | None, data: Data, size: StepSize, seed: int) -> Feed:
    """An epoch of these rows, as the data section shares it."""
    rows: Rows = own if replayed is None else Joined([own, replayed])
    counts = [len(source.ids) for source in own.sources]
    weights = [source.weight for source in data.train]
    plain = replayed is None and set(weights) == {1.0} and data.mixture.temperature == 1.0
    ratio = 0.0 if data.replay is None else data.replay.ratio
    found = counts if plain else quotas(counts, weights, temperature=data.mixture.temperature, seed=seed, replay=ratio)
    shares = [Share(source.name, source.ids, quota) for source, quota in zip(own.sources, found, strict=False) if source.ids]
    lengths = rows.lengths if size.tokens is not None else None
    if replayed is not None:
        shares.append(Share("replay", range(own.rows, rows.rows), found[-1]))
    course: Course = Order(own.shard_rows, seed, own.window, lengths, own.shard_tokens)
    if not plain:
        cuts = [slice(source.shards.start, source.shards.stop) for source in own.sources if source.ids]
        shards = [(own.shard_rows[cut], own.shard_tokens[cut]) for cut in cuts]
        shards += [(replayed.shard_rows, replayed.shard_tokens)] if replayed is not None else []
        parts = [
            Part(counts_of, share.ids.start, share.quota, None if lengths is None else lengths[share.ids.start : share.ids.stop], tokens_of)
            for (counts_of, tokens_of), share in zip(shards, shares, strict=True)
        ]
        course = Mixture(parts, seed, own.window)
    return Feed(rows, course, steps_of(course, rows.lengths, size), tuple(shares))


def refuse_short_epoch(course: Course, size: StepSize) -> None:
    """Raise DataError where all rows together are less than one step: every step would be smaller than what the learning rate was chosen for."""
    tokens = size.tokens is not None
    asked, have = size.tokens or size.examples or 0, course.epoch_tokens()[0] if tokens else course.rows
    if have < asked:
        key, unit = ("train_batch_tokens", "tokens") if tokens else ("train_batch_size", "examples")
        raise DataError(
            f"training.{key}: an epoch has less than one step",
            got=f"{have} {unit} to train on, {asked} a step",
            want=f"{have} or less a step",
            fix=f"lower training.{key} to {have}, or add rows",
        )


def replay_of(store: Store, replay: Replay, cache: Cache) -> Split:
    """The rows to replay. Raises DataError when they are not tokens as this store's are."""
    earlier = Store.open(replay.store, cache)
    for what, ours, theirs in (
        ("columns", store.index.layout, earlier.index.layout),
        ("tokens", _encoder(store), _encoder(earlier)),
        ("labels", store.index.meta.get("labels"), earlier.index.meta.get("labels")),
    ):
        if ours != theirs:
            raise DataError(
                f"data.replay.store: its rows have other {what}", got=f"{theirs} in {replay.store}", want=str(ours), fix="prepare the earlier rows again"
            )
    return earlier.split("train")


def _encoder(store: Store) -> str | None:
    """A hash of tokenizer, template and longest example."""
    said: dict[str, str] = store.index.meta.get("tokenizer", {})
    return said.get("encoder")


class Joined:
    """Several splits read as one: the ids of each follow those of the one before."""

    def __init__(self, splits: Sequence[Split]) -> None:
        self.splits = splits
        self._ends = list(accumulate(split.rows for split in splits))
        self.rows, self.window = self._ends[-1], splits[0].window
        self.shard_rows = [rows for split in splits for rows in split.shard_rows]
        self.shards = _JoinedShards(splits)
        self.fingerprint = hashlib.sha256(" ".join(split.fingerprint for split in splits).encode()).hexdigest()

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of every row, by id."""
        import numpy as np

        return np.concatenate([split.lengths for split in self.splits])

    def record(self, row: int) -> Record:
        """The row with this id, under this id."""
        number = bisect_right(self._ends, row)
        return Record(row, self.splits[number].record(row - self._first(number)).columns)

    def records(self, rows: Iterable[int]) -> list[Record]:
        """The rows with these ids, in their order."""
        return [self.record(row) for row in rows]

    def pick(self, ids: npt.NDArray[np.int64]) -> Picked:
        """See Rows."""
        return Picked(self, ids)

    def places(self, ids: npt.NDArray[np.int64], column: str) -> list[tuple[Any, Any, Any, Any]]:
        """See picked.Readable."""
        import numpy as np

        numbers = np.searchsorted(self._ends, ids, side="right")
        found = []
        for number in np.unique(numbers).tolist():
            mine = np.flatnonzero(numbers == number)
            found += [(mine[which], *rest) for which, *rest in self.splits[number].places(ids[mine] - self._first(number), column)]
        return found

    def _first(self, number: int) -> int:
        return self._ends[number] - self.splits[number].rows


class _JoinedShards:
    """The shards of several splits, numbered through."""

    def __init__(self, splits: Sequence[Split]) -> None:
        self._splits = splits
        self._ends = list(accumulate(len(split.shard_rows) for split in splits))

    def open_ahead(self, number: int, *, wait: bool) -> bool:
        """See Shards."""
        place = bisect_right(self._ends, number)
        return self._splits[place].shards.open_ahead(number - self._first(place), wait=wait)

    def let_go(self, needed: Collection[int]) -> None:
        """See Shards."""
        for place, split in enumerate(self._splits):
            first = self._first(place)
            split.shards.let_go({number - first for number in needed if first <= number < self._ends[place]})

    def _first(self, place: int) -> int:
        return self._ends[place - 1] if place else 0
