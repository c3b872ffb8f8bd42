"""What a rank reads at a step: its rounds of records. A function of the step alone, so any rank may ask for any step at any time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tunefleet.data.ahead import ReadAhead
from tunefleet.data.cursor import Cursor, Skipped, planned_step
from tunefleet.data.feed import Feed
from tunefleet.data.layout import Record
from tunefleet.data.packing import Kind, Limits, costliest, divide
from tunefleet.data.steps import StepRange

if TYPE_CHECKING:
    import numpy.typing as npt

    Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Round:
    """The records of one micro-batch. ``real`` False: one that only keeps the ranks in step, and must weigh nothing."""

    records: Sequence[Record]
    real: bool


class Stream:
    """The rounds of one rank, step after step.

    ``limits``: of a micro-batch. Nothing is kept from step to step but the course's last windows, so going on from a
    checkpoint is asking for its step.
    """

    settled = True  # no step depends on what was learnt before it

    def __init__(
        self,
        feed: Feed,
        *,
        kind: Kind,
        limits: Limits,
        rank: int,
        ranks: int,
        skipped: Skipped = (),
    ) -> None:
        self.rows, self.course, self.steps, self.kind, self.limits = feed.rows, feed.course, feed.steps, kind, limits
        self.rank, self.ranks, self.skipped = rank, ranks, skipped
        self._ahead = ReadAhead(self.rows.shards, self.rows.shard_rows, self.course, self.rows.window)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one epoch."""
        return self.steps.per_epoch

    def take(self, step: int) -> list[Round]:
        """This rank's rounds of a step: equally many on every rank, and over all ranks every example of the step in exactly one that is real."""
        epoch, start, stop = self._range(step)
        self._ahead.at(epoch, start)
        ids = self.course.at(epoch, start, stop)
        lengths = self.rows.lengths[ids].astype(np.int64)
        division = divide(lengths, self.ranks, kind=self.kind, rows=self.limits.rows, tokens=self.limits.tokens)
        idle = [int(np.argmin(lengths))]  # the cheapest record of the step
        return [Round(self.rows.pick(ids[part or idle]), real=bool(part)) for part in division[self.rank]]

    def ids(self, step: int) -> Ids:
        """The examples of a step, over all ranks, in their order."""
        return self.course.at(*self._range(step))

    def digest(self, step: int) -> str:
        """A name for the set of examples of a step: the same for every rank, any number of ranks and any grouping."""
        return hashlib.sha256(np.sort(self.ids(step)).astype("<i8").tobytes()).hexdigest()[:16]

    def epoch(self, step: int) -> float:
        """Epochs that are done before a step."""
        epoch, start, _ = self._range(step)
        return epoch + start / self.course.rows

    def cursor(self, step: int) -> Cursor:
        """Where a run stands that has finished ``step`` steps."""
        epoch, start, _ = self._range(step)
        return Cursor(self.rows.fingerprint, self.course.seed, epoch, start, step, self.skipped)

    def costliest(self) -> list[Record]:
        """The costliest micro-batch that can occur in any step, for a dry run: what fits with it fits with all. Counts the rows by length; opens few shards."""
        found = costliest(self.rows.lengths, self.steps.most_rows, kind=self.kind, limits=self.limits)
        return self.rows.records(found.tolist())

    def _range(self, step: int) -> StepRange:
        return self.steps.range(planned_step(step, self.skipped))
