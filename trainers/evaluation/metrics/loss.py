"""The mean negative log-likelihood of the supervised tokens, in nats."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from tunefleet.cluster.settings import Settings
from tunefleet.trainers.evaluation.metric import Named, ratio
from tunefleet.trainers.evaluation.rows import Floats, RowScores


class Loss:
    """Nats per supervised token; every token counts the same, whatever row it is in."""

    class Config(Named):
        """The loss has no settings."""

        kind: Literal["loss"] = "loss"

    better: ClassVar[Literal["min", "max"]] = "min"
    reads: ClassVar[tuple[str, ...]] = ("nll", "tokens")

    def __init__(self, config: Settings) -> None:
        self.config = config

    def statistics(self, rows: RowScores) -> Floats:
        """Nats and tokens of every row."""
        return np.stack([rows.sums["nll"], rows.sums["tokens"]], axis=1)

    def value(self, totals_SK: Floats) -> Floats:
        """Nats per token."""
        return ratio(totals_SK)
