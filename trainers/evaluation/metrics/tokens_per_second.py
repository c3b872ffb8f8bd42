"""How fast answers are written, as measured where they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from tunefleet.cluster.machine import machine
from tunefleet.trainers.evaluation.metric import Named, ratio
from tunefleet.trainers.evaluation.rows import ANSWER, Floats, RowScores


class TokensPerSecond:
    """New tokens of all answers by the wall time in which they were generated, prompts included; what ends an answer is a token too.

    A measurement of one machine and batch size, not of the model: it has no interval, and no difference to the base is drawn. With several actors it is
    the rate of one.
    """

    class Config(Named):
        """It has no settings."""

        kind: Literal["tokens_per_second"] = "tokens_per_second"

    better: ClassVar[Literal["min", "max"]] = "max"
    reads: ClassVar[tuple[str, ...]] = (ANSWER, "answer_tokens", "busy_s")

    def __init__(self, config: Config) -> None:
        self.config = config

    def statistics(self, rows: RowScores) -> Floats:
        """Tokens, and the row's part of the time of its batch."""
        return np.stack([rows.sums["answer_tokens"], rows.sums["busy_s"]], axis=1)

    def value(self, totals_SK: Floats) -> Floats:
        """Tokens a second."""
        return ratio(totals_SK)

    def describe(self, rows: RowScores) -> Mapping[str, Any]:
        """How many tokens were counted, and the machine that put the numbers together."""
        return {"measured_on": machine()["cpu"], "tokens": int(rows.sums["answer_tokens"].sum())}
