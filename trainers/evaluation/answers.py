"""Answers to the prompts of held-out rows, greedy, beside the scores of the same rows: what metrics of generated text read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tunefleet.cluster import heartbeat
from tunefleet.trainers.evaluation.openings import Asked, Openings
from tunefleet.trainers.evaluation.rows import ANSWER, REFERENCE, Ids, RowScores, Share
from tunefleet.trainers.run import RunFile

if TYPE_CHECKING:
    import torch

    from tunefleet.data.store import Split


class Answers:
    """The rows of a split that are asked, from all over it, and how."""

    def __init__(self, run: RunFile, split: Split) -> None:
        """Loads the tokenizer. Raises SettingsError when there is none."""
        wanted, rows = run.evaluation.answers, len(split.lengths)
        self.openings, self.split, self.batch_size = Openings(run, wanted.max_new_tokens), split, run.evaluation.batch_size
        number = rows if wanted.rows is None else min(wanted.rows, rows)
        self.asked: Ids = np.arange(number) * rows // number

    def add(self, scores: RowScores, model: Any, divided: Sequence[Share], index: int, device: torch.device, *, together: bool = False) -> RowScores:
        """The scores of one of the shares with its rows' answers. ``together``: ZeRO-3, where all ranks go forward equally often."""
        own = [share.ids()[np.isin(share.ids(), self.asked)] for share in divided]
        calls = max(-(-len(ids) // self.batch_size) for ids in own) if together else -(-len(own[index]) // self.batch_size)
        found: dict[int, tuple[str, str]] = {}
        for call in range(calls):
            heartbeat.beat()
            ids = own[index][call * self.batch_size : (call + 1) * self.batch_size].tolist()
            rows = {row: asked for row, record in zip(ids, self.split.records(ids), strict=True) if (asked := self.openings.of(record)) is not None}
            prompts = list(rows.values()) or [Asked("", None, (self.openings.tokenizer.pad_token_id,))] * together
            texts = self.openings.answer(model, prompts, device, together=together) if prompts else []
            found |= {row: (text, asked.reference or "") for (row, asked), text in zip(rows.items(), texts, strict=False)}
        said = [found.get(row, (None, None)) for row in scores.ids.tolist()]
        return replace(scores, texts={ANSWER: [answer for answer, _ in said], REFERENCE: [reference for _, reference in said]})


def make_answers(run: RunFile, split: Split, needs: Collection[str]) -> Answers | None:
    """None where no metric reads answers."""
    return Answers(run, split) if ANSWER in needs else None
