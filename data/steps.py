"""Where each optimizer step begins and ends: a pure function of (course, size of a step, number of the step), found in the same time wherever it stands."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from tunefleet.data.order import Course, Lengths


class StepRange(NamedTuple):
    """The positions of one optimizer step: ``start`` to ``stop`` (half open) of an epoch."""

    epoch: int
    start: int
    stop: int


class StepSize(NamedTuple):
    """How much an optimizer step has, over all ranks: so many examples, or about so many tokens."""

    examples: int | None
    tokens: int | None


class Steps(Protocol):
    """How an epoch is cut into steps; every epoch into equally many."""

    @property
    def per_epoch(self) -> int:
        """Steps in one epoch."""
        ...

    @property
    def most_rows(self) -> int:
        """No step has more examples."""
        ...

    def range(self, step: int) -> StepRange:
        """Where step ``step`` (counted from 0 over all epochs) stands."""
        ...


class ByExamples:
    """Steps of ``batch`` examples; the last of an epoch is smaller where ``batch`` does not divide it, and never dropped."""

    def __init__(self, rows: int, batch: int) -> None:
        self.rows, self.most_rows, self.per_epoch = rows, batch, -(-rows // batch)

    def range(self, step: int) -> StepRange:
        """See Steps."""
        epoch, within = divmod(step, self.per_epoch)
        return StepRange(epoch, within * self.most_rows, min((within + 1) * self.most_rows, self.rows))


class ByTokens:
    """Steps of like numbers of tokens: an epoch is cut into the fewest equal parts of at most ``budget`` tokens each.

    An example belongs to the part in which its last token falls. So a step may be longer than its part by less than the longest example, no step is
    empty, and all steps of an epoch are alike: there is no small last one.
    """

    NEAR = 4096  # positions within which a boundary is looked for example by example

    def __init__(self, course: Course, lengths: Lengths, budget: int) -> None:
        mean, least, _ = course.epoch_tokens()
        self.course, self.lengths = course, lengths
        self.per_epoch = max(1, min(-(-mean // budget), least // int(lengths.max())))
        self._tokens = lru_cache(maxsize=4)(lambda epoch: course.tokens_before(epoch, course.rows))
        self._boundary = lru_cache(maxsize=8)(self._find)

    @cached_property
    def most_rows(self) -> int:
        """See Steps."""
        *_, most = self.course.epoch_tokens()
        return min(self.course.rows, (most // self.per_epoch + int(self.lengths.max())) // max(int(self.lengths.min()), 1) + 1)

    def range(self, step: int) -> StepRange:
        """See Steps. Looks at a few windows, wherever the step stands."""
        epoch, within = divmod(step, self.per_epoch)
        return StepRange(epoch, self._boundary(epoch, within), self._boundary(epoch, within + 1))

    def _find(self, epoch: int, number: int) -> int:
        """The position at which part ``number`` of an epoch begins: as many examples end at or before its first token.

        Tokens grow nearly in proportion to positions, so the place is guessed by interpolation; where that gets nowhere, by halving.
        """
        total, rows = self._tokens(epoch), self.course.rows
        if number in (0, self.per_epoch):
            return rows if number else 0
        sought = total * number // self.per_epoch
        low, high, below, above = 0, rows, 0, total
        halve = False
        while high - low > self.NEAR:
            guess = (low + high) // 2 if halve else low + (high - low) * (sought - below) // max(above - below, 1)
            for at in (guess - self.NEAR // 2, guess + self.NEAR // 2):
                if low < at < high:
                    tokens = self.course.tokens_before(epoch, at)
                    low, below, high, above = (at, tokens, high, above) if tokens <= sought else (low, below, at, tokens)
            halve = not halve
        ends = below + np.cumsum(self.lengths[self.course.at(epoch, low, high)], dtype=np.int64)
        return low + int(np.searchsorted(ends, sought, side="right"))


def steps_of(course: Course, lengths: Lengths, size: StepSize) -> Steps:
    """The steps of a course. Only those by tokens look at lengths."""
    if size.tokens is not None:
        return ByTokens(course, lengths, size.tokens)
    assert size.examples is not None, "a step has a size"
    return ByExamples(course.rows, size.examples)
