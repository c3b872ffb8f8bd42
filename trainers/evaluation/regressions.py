"""The rows that the tuned model does worst on, against its base: which they are, how much worse, and both models' answers side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tunefleet.trainers.evaluation.paired import MODELS, Paired, plain
from tunefleet.trainers.evaluation.rows import ANSWER, Ids, RowScores

SHOWN = 6  # rows of one metric
LONGEST = 2000  # characters of one text


def regressions(tuned: RowScores, base: RowScores, paired: Paired, row: Callable[[int], Mapping[str, Any]], shown: int = SHOWN) -> dict[str, Any]:
    """The rows that lost most, by metric of single rows: of the first, and of the first that reads answers. ``row`` says what is known of a row by its id.

    Each has ``row``, ``by`` (how much worse, above zero; null where it is not finite), the values of all metrics of ``tuned`` and ``base``, the
    ``answer`` of each where it was asked, and what ``row`` says.
    """
    paired = paired.of_single_rows()
    names = list(paired.metrics)
    answers = [name for name in names if ANSWER in paired.metrics[name].reads]
    chosen = dict.fromkeys([*names[:1], *answers[:1]])
    values = {name: dict(zip(MODELS, paired.of_rows(name), strict=True)) for name in names}
    said = {model: scores.texts.get(ANSWER) for model, scores in zip(MODELS, (tuned, base), strict=True)}
    found: dict[str, Any] = {}
    for name in chosen:
        gains = paired.gains(name)
        found[name] = []
        for place in worst(gains, shown).tolist():
            entry: dict[str, Any] = {"row": int(paired.ids[place]), "by": plain(-gains[place])}
            for model in MODELS:
                entry[model] = {metric: plain(both[model][place]) for metric, both in values.items()}
            entry["answers"] = {model: cut(texts[place]) if texts is not None else None for model, texts in said.items()}
            found[name].append({**entry, **row(entry["row"])})
    return found


def cut(text: str | None) -> str | None:
    """A text that fits into a report, its end cut."""
    return text if text is None or len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text) - LONGEST} more characters)"


def worst(gains_R: np.ndarray[Any, np.dtype[np.float64]], shown: int) -> Ids:
    """Places of the rows that lost most, the worst first; rows that lost nothing are not among them."""
    lost: Ids = np.flatnonzero(gains_R < 0)
    return lost[np.argsort(gains_R[lost], kind="stable")][:shown]
