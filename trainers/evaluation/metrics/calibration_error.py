"""Whether the model is as sure as it is right: the expected calibration error over supervised tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from tunefleet.trainers.evaluation.metric import Named
from tunefleet.trainers.evaluation.paired import plain
from tunefleet.trainers.evaluation.rows import BINNED, BINS, Floats, RowScores


class CalibrationError:
    """How far the probability of the first choice is from how often it is right, between 0 and 1: the mean over 15 bins of equal width, by tokens.

    A biased estimate: it grows where bins hold few tokens, so compare it on the same rows, and mind its interval, which reaches down to 0 where chance
    alone would do. Source: Guo et al. 2017, arXiv:1706.04599, eq. 3.
    """

    class Config(Named):
        """The calibration error has no settings."""

        kind: Literal["calibration_error"] = "calibration_error"

    better: ClassVar[Literal["min", "max"]] = "min"
    reads: ClassVar[tuple[str, ...]] = BINNED

    def __init__(self, config: Config) -> None:
        self.config = config

    def statistics(self, rows: RowScores) -> Floats:
        """Of every row and bin: tokens, their probabilities, and hits."""
        return np.stack([rows.sums[name] for name in BINNED], axis=1)

    def value(self, totals_SK: Floats) -> Floats:
        """The gaps of all bins, by tokens."""
        found: Floats = np.abs(_gaps(totals_SK)).sum(1)
        return found

    def distance(self, totals_SK: Floats, whole_K: Floats) -> Floats:
        """The sum over bins of how far their gaps lie apart, at least the difference of the sums of the gaps' sizes."""
        found: Floats = np.abs(_gaps(totals_SK) - _gaps(whole_K[None])).sum(1)
        return found

    def describe(self, rows: RowScores) -> Mapping[str, Any]:
        """The reliability diagram: of each bin that is not empty how many tokens, their mean probability, and the share that was right."""
        tokens_B, sure_B, hits_B = np.split(self.statistics(rows).sum(0), 3)
        held = [(number, *of) for number, *of in zip(range(BINS), tokens_B.tolist(), sure_B.tolist(), hits_B.tolist(), strict=True) if of[0]]
        bins = [{"upto": (n + 1) / BINS, "tokens": int(count), "probability": plain(sure / count), "right": hits / count} for n, count, sure, hits in held]
        return {"bins": bins}


def _gaps(totals_SK: Floats) -> Floats:
    """By how much the model is too sure in each bin, per token of all bins, (S, B); NaN where no token is counted."""
    tokens_SB, sure_SB, hits_SB = np.split(totals_SK, 3, axis=1)
    tokens_S1 = tokens_SB.sum(1, keepdims=True)
    found: Floats = np.divide(sure_SB - hits_SB, tokens_S1, out=np.full_like(sure_SB, np.nan), where=tokens_S1 > 0)
    return found
