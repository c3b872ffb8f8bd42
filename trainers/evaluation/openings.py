"""Prompts out of held-out rows: what stands before the first learnt token, as the model reads it, and what the row itself says there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tunefleet.data.layout import ANSWERS, TEXT
from tunefleet.trainers.objective import make_objective
from tunefleet.trainers.run import RunFile

if TYPE_CHECKING:
    import torch

    from tunefleet.data.layout import Record

OPENING = 32  # most tokens of raw text that are shown before the model goes on


@dataclass(frozen=True)
class Asked:
    """A prompt in words and in token ids, and what the row itself says next (None for a prompt of the run file)."""

    prompt: str
    reference: str | None
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Given:
    """An answer, its tokens with the one that ended it, wall seconds to the first and to the last of them, and its part of its batch's time."""

    text: str
    tokens: int
    first_token_s: float
    answer_s: float
    busy_s: float


class Openings:
    """How rows of a run become prompts for at most ``new`` tokens, and how these are answered, greedily."""

    def __init__(self, run: RunFile, new: int) -> None:
        """Loads the tokenizer. Raises SettingsError when there is none."""
        from tunefleet.data.tokens import Encoder
        from tunefleet.trainers.check import context_length
        from tunefleet.trainers.vocabulary import load_tokenizer

        self.new = new
        self.tokenizer = load_tokenizer(run.model, run.data.chat_template)
        self.layout = make_objective(run.objective, self.tokenizer.pad_token_id).layout.name
        self.encoder = Encoder(self.tokenizer, run.data.chat_template, max_length=1 << 30) if self.layout == ANSWERS.name else None
        context = context_length(run.model)
        self.room = max(1, context - new) if context is not None else None

    def of(self, record: Record) -> Asked | None:
        """What stands before the first learnt token, and the answer behind it; of raw text its first tokens.

        None where there is nothing to go on from, or no room for an answer.
        """
        ids: list[int] = record.columns["ids"].tolist() if "ids" in record.columns else []
        if self.layout == TEXT.name:
            cut = min(OPENING, len(ids) // 2)
            end = cut + self.new
        elif self.layout == ANSWERS.name:
            learnt = np.flatnonzero(record.columns["supervised"])
            cut = int(learnt[0]) if len(learnt) else 0
            unlearnt = np.flatnonzero(record.columns["supervised"][cut:] == 0)
            end = cut + int(unlearnt[0]) if len(unlearnt) else len(ids)
        else:
            return None
        if not cut or (self.room is not None and cut > self.room):
            return None
        return Asked(self._words(ids[:cut]), self._words(ids[cut:end]), tuple(ids[:cut]))

    def prompt(self, text: str) -> Asked:
        """A prompt of the run file."""
        from tunefleet.trainers.generation import prompt_ids

        return Asked(text, None, tuple(prompt_ids(self.tokenizer, self.encoder, text)))

    def answer(self, model: Any, asked: Sequence[Asked], device: torch.device, *, together: bool = False) -> list[str]:
        """Greedy answers of a transformers or PEFT model in evaluation mode. ``together``: ZeRO-3, where all ranks go forward equally often."""
        return [given.text for given in self.timed(model, asked, device, together=together)]

    def timed(self, model: Any, asked: Sequence[Asked], device: torch.device, *, together: bool = False) -> list[Given]:
        """The same with their times. Those of the first batch have what is only done once in them."""
        from tunefleet.trainers.decoding import Clock, continued

        clock = Clock()
        prompts = [list(a.ids) for a in asked]
        how: dict[str, Any] = {"synced_gpus": together, "num_beams": 1, "streamer": clock}
        new = continued(model, prompts, self.tokenizer.pad_token_id, self._ends, self.new, device, **how)
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        at = clock.seconds or [0.0]
        last = [min(len(ids), len(at) - 1) for ids in new]  # the step of the token that ended it, or the last one
        return [Given(str(text), number + 1, at[0], at[number], at[-1] / len(asked)) for text, number in zip(texts, last, strict=True)]

    @cached_property
    def _ends(self) -> list[int] | None:
        from tunefleet.trainers.decoding import ends_of

        return ends_of(self.tokenizer, self.encoder)

    def _words(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))
