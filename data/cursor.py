"""Where a run stands in its data: six values, enough to go on with the very next example whatever the number of readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Skipped = tuple[tuple[int, int], ...]
"""Half-open ranges of planned steps that are left out on purpose (a bad window): ascending, apart, none empty."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The next example to read.

    ``fingerprint``: of the store. ``epoch`` and ``position``: where step ``step`` (finished steps, from 0) begins, in examples. ``skipped``: see above.
    """

    fingerprint: str
    seed: int
    epoch: int
    position: int
    step: int
    skipped: Skipped = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "skipped": [list(part) for part in self.skipped]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Cursor:
        """The inverse of ``to_json``."""
        return cls(**{**value, "skipped": tuple((int(first), int(behind)) for first, behind in value["skipped"])})


def planned_step(step: int, skipped: Sequence[tuple[int, int]]) -> int:
    """The step of the order that a run does as its step ``step``, where some of the order's steps are skipped."""
    for first, behind in skipped:
        if step >= first:
            step += behind - first
    return step
