"""BLEU of all answers together, as sacrebleu counts it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from tunefleet.trainers.evaluation.metric import Named, installed, of_answers
from tunefleet.trainers.evaluation.rows import ANSWER, REFERENCE, Floats, RowScores

ORDER = 4
WIDTH = 2 + 2 * ORDER  # lengths of answer and reference; matches and totals of every order


class Bleu:
    """Between 0 and 100, of the corpus: no mean over rows. Sources: Papineni et al. 2002; Post 2018, arXiv:1804.08771."""

    class Config(Named):
        """BLEU has no settings."""

        kind: Literal["bleu"] = "bleu"

    better: ClassVar[Literal["min", "max"]] = "max"
    reads: ClassVar[tuple[str, ...]] = (ANSWER, REFERENCE)

    def __init__(self, config: Config) -> None:
        """Raises SettingsError where sacrebleu is not installed."""
        installed("sacrebleu")

    def statistics(self, rows: RowScores) -> Floats:
        """What sacrebleu sums over a corpus."""
        bleu = self._bleu()

        def counted(answer: str, reference: str) -> list[float]:
            found = bleu.corpus_score([answer], [[reference]])
            return [found.sys_len, found.ref_len, *found.counts, *found.totals]

        return of_answers(rows, counted, WIDTH)

    def value(self, totals_SK: Floats) -> Floats:
        """The score of summed counts."""
        bleu = self._bleu()
        found = np.full(len(totals_SK), np.nan)
        for i, (answered, wanted, *grams) in enumerate(totals_SK.astype(np.int64).tolist()):
            if wanted:
                score = bleu.compute_bleu(grams[:ORDER], grams[ORDER:], answered, wanted, smooth_method="exp")
                found[i] = score.score
        return found

    @staticmethod
    def _bleu() -> Any:
        from sacrebleu.metrics import BLEU

        return BLEU()
