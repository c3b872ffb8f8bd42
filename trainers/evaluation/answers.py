"""Answers to the prompts of held-out rows, greedy, beside the scores of the same rows: what metrics of generated text read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tunefleet.cluster import heartbeat
from tunefleet.trainers.evaluation.openings import Asked, Given, Openings
from tunefleet.trainers.evaluation.rows import ANSWER, REFERENCE, TIMED, Floats, Ids, RowScores, Share
from tunefleet.trainers.run import RunFile

if TYPE_CHECKING:
    import torch

    from tunefleet.data.store import Split


class Answers:
    """The rows of a split that are asked, and how."""

    def __init__(self, run: RunFile, split: Split, needs: Collection[str], asked: Ids) -> None:
        """Loads the tokenizer. Raises SettingsError when there is none."""
        wanted = run.evaluation.answers
        self.openings, self.split, self.batch_size = Openings(run, wanted.max_new_tokens), split, wanted.batch_size or run.evaluation.batch_size
        self.timed, self.asked = not set(TIMED).isdisjoint(needs), asked

    def add(self, scores: RowScores, model: Any, divided: Sequence[Share], index: int, device: torch.device, *, together: bool = False) -> RowScores:
        """The scores of one of the shares with its rows' answers. ``together``: ZeRO-3, where all ranks go forward equally often."""
        own = [share.ids()[np.isin(share.ids(), self.asked)] for share in divided]
        calls = max(-(-len(ids) // self.batch_size) for ids in own) if together else -(-len(own[index]) // self.batch_size)
        found: dict[int, tuple[Given, str]] = {}
        for call in range(calls):
            heartbeat.beat()
            ids = own[index][call * self.batch_size : (call + 1) * self.batch_size].tolist()
            rows = {row: asked for row, record in zip(ids, self.split.records(ids), strict=True) if (asked := self.openings.of(record)) is not None}
            prompts = list(rows.values()) or [Asked("", None, (self.openings.tokenizer.pad_token_id,))] * together
            given = self.openings.timed(model, prompts, device, together=together) if prompts else []
            found |= {row: (answer, asked.reference or "") for (row, asked), answer in zip(rows.items(), given, strict=False)}
        said = [found.get(row) for row in scores.ids.tolist()]
        texts = {ANSWER: [one and one[0].text for one in said], REFERENCE: [one and one[1] for one in said]}
        return replace(scores, sums={**scores.sums, **(_times([one and one[0] for one in said]) if self.timed else {})}, texts=texts)


def _times(given: Sequence[Given | None]) -> dict[str, Floats]:
    """TIMED of rows; zeros for one that was not answered."""
    rows = [(0.0,) * len(TIMED) if one is None else (one.first_token_s, one.answer_s, one.busy_s, 1.0, float(one.tokens)) for one in given]
    columns = np.asarray(rows, np.float64).reshape(len(rows), len(TIMED))
    return {name: columns[:, i] for i, name in enumerate(TIMED)}


def make_answers(run: RunFile, split: Split, needs: Collection[str], asked: Ids) -> Answers | None:
    """None where no metric reads answers. ``asked``: the rows, see Exam."""
    return Answers(run, split, needs, asked) if ANSWER in needs else None


def spread_over(ids: Ids, most: int | None) -> Ids:
    """At most so many of some rows, from all over them."""
    number = len(ids) if most is None else min(most, len(ids))
    return ids[np.arange(number) * len(ids) // max(1, number)]
