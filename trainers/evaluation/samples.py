"""A few prompts, answered at every evaluation by the base model and by the weights in training: ``evaluation/samples-step-00000050.json``.

Prompts are the run file's own, or the beginnings of held-out rows, as the model reads them. Answers are greedy, so they change only with the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tunefleet.data.layout import ANSWERS, TEXT
from tunefleet.trainers.evaluation.files import FOLDER
from tunefleet.trainers.objective import make_objective
from tunefleet.trainers.run import RunFile

if TYPE_CHECKING:
    import torch

    from tunefleet.cluster.storage import Storage
    from tunefleet.data.layout import Record
    from tunefleet.data.store import Split

STEP = f"{FOLDER}/samples-step-"
BASE = f"{FOLDER}/samples-base.json"
OPENING = 32  # most tokens of raw text that are shown before the model goes on
LOOKED_AT = 8  # rows that are tried for each prompt, until one leaves room for an answer


@dataclass(frozen=True)
class Asked:
    """A prompt in words and in token ids, and what the row itself says next (None for a prompt of the run file)."""

    prompt: str
    reference: str | None
    ids: tuple[int, ...]


class Sampler:
    """The prompts of a run, and how they are answered."""

    def __init__(self, run: RunFile, split: Split) -> None:
        """Loads the tokenizer. Raises SettingsError when there is none."""
        from tunefleet.data.tokens import Encoder
        from tunefleet.trainers.check import context_length
        from tunefleet.trainers.vocabulary import load_tokenizer

        self.run, self.wanted = run, run.evaluation.samples
        self.tokenizer = load_tokenizer(run.model, run.data.chat_template)
        self.layout = make_objective(run.objective, self.tokenizer.pad_token_id).layout.name
        self.encoder = Encoder(self.tokenizer, run.data.chat_template, max_length=1 << 30) if self.layout == ANSWERS.name else None
        context = context_length(run.model)
        self.room = max(1, context - self.wanted.max_new_tokens) if context is not None else None
        self.asked = self._own() if self.wanted.prompts else self._held(split)

    def answer(self, model: Any, asked: Sequence[Asked], device: torch.device, *, together: bool = False) -> list[str]:
        """Greedy answers of a transformers or PEFT model in evaluation mode. ``together``: ZeRO-3, where all ranks go forward equally often."""
        from tunefleet.trainers.decoding import continued, ends_of

        ends = ends_of(self.tokenizer, self.encoder)
        new = continued(
            model, [list(a.ids) for a in asked], self.tokenizer.pad_token_id, ends, self.wanted.max_new_tokens, device, synced_gpus=together, num_beams=1
        )
        return [str(text) for text in self.tokenizer.batch_decode(new, skip_special_tokens=True)]

    def key(self, base: str) -> str:
        """What the base model's answers are kept under; ``base`` is the key of its scores."""
        text = json.dumps([base, self.wanted.max_new_tokens, [asdict(a) for a in self.asked]], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def content(self, base: Sequence[str] | None, tuned: Sequence[str]) -> list[dict[str, Any]]:
        """The ``prompts`` of a file. ``base`` is null where the base was not asked before its weights were trained."""
        bases: Sequence[str | None] = base if base is not None else [None] * len(tuned)
        return [
            {"prompt": asked.prompt, "reference": asked.reference, "base": before, "tuned": after}
            for asked, before, after in zip(self.asked, bases, tuned, strict=True)
        ]

    def _own(self) -> list[Asked]:
        from tunefleet.trainers.generation import prompt_ids

        return [self._asked(prompt, None, prompt_ids(self.tokenizer, self.encoder, prompt)) for prompt in self.wanted.prompts]

    def _held(self, split: Split) -> list[Asked]:
        """Openings of rows from all over the split; rows that leave no room for an answer are passed over."""
        rows, number = len(split.lengths), min(self.wanted.number, len(split.lengths))
        found: dict[tuple[int, ...], Asked] = {}
        for i in range(number):
            tried = range(i * rows // number, min(rows, i * rows // number + LOOKED_AT))
            openings = (self._opening(record) for record in split.records(tried))
            fitting = (o for o in openings if o is not None and o.ids not in found and (self.room is None or len(o.ids) <= self.room))
            if (chosen := next(fitting, None)) is not None:
                found[chosen.ids] = chosen
        return list(found.values())

    def _opening(self, record: Record) -> Asked | None:
        """What stands before the first learnt token, and the answer behind it; of raw text its first tokens. None where there is nothing to go on from."""
        ids: list[int] = record.columns["ids"].tolist() if "ids" in record.columns else []
        if self.layout == TEXT.name:
            cut = min(OPENING, len(ids) // 2)
            end = cut + self.wanted.max_new_tokens
        elif self.layout == ANSWERS.name:
            learnt = np.flatnonzero(record.columns["supervised"])
            cut = int(learnt[0]) if len(learnt) else 0
            unlearnt = np.flatnonzero(record.columns["supervised"][cut:] == 0)
            end = cut + int(unlearnt[0]) if len(unlearnt) else len(ids)
        else:
            return None
        return self._asked(self._words(ids[:cut]), self._words(ids[cut:end]), ids[:cut]) if cut else None

    def _asked(self, prompt: str, reference: str | None, ids: Sequence[int]) -> Asked:
        return Asked(prompt, reference, tuple(ids))

    def _words(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


def make_sampler(run: RunFile, split: Split) -> Sampler | None:
    """The sampler of a run; None where it asks for no samples, or its rows hold none."""
    if not (run.evaluation.samples.number or run.evaluation.samples.prompts):
        return None
    sampler = Sampler(run, split)
    return sampler if sampler.asked else None


def write_samples(storage: Storage, step: int, prompts: Sequence[Mapping[str, Any]]) -> None:
    """Write a step's file, atomically."""
    storage.put(f"{STEP}{step:08d}.json", (json.dumps({"step": step, "prompts": list(prompts)}, ensure_ascii=False) + "\n").encode())


def drop_samples_after(storage: Storage, step: int) -> None:
    """Remove the files of later steps, of a branch that a resume gave up."""
    for name in storage.list(STEP):
        if int(name.removeprefix(STEP).removesuffix(".json")) > step:
            storage.delete(name)


def keep_base(storage: Storage, key: str, answers: Sequence[str]) -> None:
    """Keep the base model's answers, so that it is asked once."""
    storage.put(BASE, (json.dumps({"key": key, "base": list(answers)}, ensure_ascii=False) + "\n").encode())


def kept_base(storage: Storage, key: str) -> list[str] | None:
    """The base model's answers to these prompts, or None."""
    if not storage.exists(BASE):
        return None
    content = json.loads(storage.read(BASE))
    return content["base"] if content.get("key") == key else None


def short(text: Any, most: int = 160) -> str | None:
    """A text as it fits into an event: on one line, its end cut."""
    line = None if text is None else " ".join(str(text).split())
    return line if line is None or len(line) <= most else f"{line[: most - 3]}..."
