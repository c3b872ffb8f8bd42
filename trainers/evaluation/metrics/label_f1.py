"""How well answers that are labels hit the labels of the rows: F1, precision or recall, over labels or of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from tunefleet.cluster.errors import SettingsError
from tunefleet.trainers.evaluation.metric import Named
from tunefleet.trainers.evaluation.rows import ANSWER, REFERENCE, Floats, RowScores

Part = Literal["f1", "precision", "recall"]


class LabelF1:
    """Between 0 and 1; an answer that is no label is a miss of the row's label and a false alarm of none. White space around an answer never counts.

    ``macro`` is the mean over labels that are said or wanted, ``micro`` counts all rows together. Source: Sokolova and Lapalme 2009, table 3.
    """

    class Config(Named):
        """Which labels, and what of them."""

        kind: Literal["label_f1"] = "label_f1"
        part: Part = Field(default="f1", description="f1, precision or recall")
        average: Literal["macro", "micro"] = Field(default="macro", description="macro: every label counts the same; micro: every row does")
        labels: list[str] = Field(default_factory=list, description="the labels; where empty, all that stand in the rows of the set")
        label: str | None = Field(default=None, description="of this label alone, instead of an average")
        case: bool = Field(default=True, description="whether capitals count")

    better: ClassVar[Literal["min", "max"]] = "max"
    reads: ClassVar[tuple[str, ...]] = (ANSWER, REFERENCE)

    def __init__(self, config: Config) -> None:
        """Raises SettingsError for a label that is none of the labels."""
        self.config = config
        if config.label is not None and config.labels and config.label not in config.labels:
            raise SettingsError("label: is none of the labels", got=config.label, want=f"one of {', '.join(config.labels)}", fix="add it to labels")
        if len({self._plain(label) for label in config.labels}) < len(config.labels):
            raise SettingsError("labels: one stands twice", got=", ".join(config.labels), want="each once", fix="remove it")

    def statistics(self, rows: RowScores) -> Floats:
        """Of every row and label, label after label: hit, said, wanted. The labels are those of all these rows, where none are given."""
        return self._counted(rows, self._labels(rows))

    def value(self, totals_SK: Floats) -> Floats:
        """NaN where no label is said or wanted."""
        counts_SL3 = totals_SK.reshape(len(totals_SK), -1, 3)
        if self.config.average == "micro" and self.config.label is None:
            counts_SL3 = counts_SL3.sum(1, keepdims=True)
        scores_SL = _scores(counts_SL3)[self.config.part]
        known_SL = counts_SL3[:, :, 1:].sum(2) > 0
        number_S = known_SL.sum(1)
        sums_S = np.where(known_SL, scores_SL, 0.0).sum(1)
        found: Floats = np.divide(sums_S, number_S, out=np.full(len(totals_SK), np.nan), where=number_S > 0)
        return found

    def describe(self, rows: RowScores) -> Mapping[str, Any]:
        """All three of every label, how many rows want it, and how many answers were no label at all."""
        labels = self._labels(rows, one=False)
        counts_L3 = self._counted(rows, labels).sum(0).reshape(-1, 3)
        scores = {part: values[0].tolist() for part, values in _scores(counts_L3[None]).items()}
        each = {label: {**{part: scores[part][i] for part in scores}, "rows": int(counts_L3[i, 2])} for i, label in enumerate(labels)}
        answers = [text for text in rows.texts[ANSWER] if text is not None]
        return {"labels": each, "no_label": sum(self._plain(text) not in labels for text in answers)}

    def _labels(self, rows: RowScores, *, one: bool = True) -> list[str]:
        if one and self.config.label is not None:
            return [self._plain(self.config.label)]
        if self.config.labels:
            return [self._plain(label) for label in self.config.labels]
        return sorted({self._plain(text) for text in rows.texts[REFERENCE] if text is not None})

    def _counted(self, rows: RowScores, labels: list[str]) -> Floats:
        """(R, 3L). A row that was not answered counts nothing."""
        numbers = {label: number for number, label in enumerate(labels)}
        found = np.zeros((len(rows.ids), max(1, len(labels)), 3))
        for row, (answer, reference) in enumerate(zip(rows.texts[ANSWER], rows.texts[REFERENCE], strict=True)):
            if answer is None or reference is None:
                continue
            said, wanted = numbers.get(self._plain(answer)), numbers.get(self._plain(reference))
            if said is not None:
                found[row, said, 1] = 1.0
            if wanted is not None:
                found[row, wanted, 2] = 1.0
            if said is not None and said == wanted:
                found[row, said, 0] = 1.0
        return found.reshape(len(rows.ids), 3 * max(1, len(labels)))

    def _plain(self, text: str) -> str:
        return text.strip() if self.config.case else text.strip().casefold()


def _scores(counts_SL3: Floats) -> dict[Part, Floats]:
    """Of hits, said and wanted, (S, L) each; 0 for a label that is wanted and never said, or said and never wanted."""
    hit_SL, said_SL, wanted_SL = (counts_SL3[:, :, i] for i in range(3))

    def by(top_SL: Floats, below_SL: Floats) -> Floats:
        found: Floats = np.divide(top_SL, below_SL, out=np.zeros_like(top_SL), where=below_SL > 0)
        return found

    return {"f1": by(2 * hit_SL, said_SL + wanted_SL), "precision": by(hit_SL, said_SL), "recall": by(hit_SL, wanted_SL)}
