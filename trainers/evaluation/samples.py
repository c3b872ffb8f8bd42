"""A few prompts, answered at every evaluation by the base model and by the weights in training: ``evaluation/samples-step-00000050.json``.

Prompts are the run file's own, or the beginnings of held-out rows, as the model reads them. Answers are greedy, so they change only with the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tunefleet.trainers.evaluation.files import FOLDER
from tunefleet.trainers.evaluation.openings import Asked, Openings
from tunefleet.trainers.run import RunFile

if TYPE_CHECKING:
    import torch

    from tunefleet.cluster.storage import Storage
    from tunefleet.data.store import Split

STEP = f"{FOLDER}/samples-step-"
BASE = f"{FOLDER}/samples-base.json"
LOOKED_AT = 8  # rows that are tried for each prompt, until one leaves room for an answer


class Sampler:
    """The prompts of a run, and how they are answered."""

    def __init__(self, run: RunFile, split: Split) -> None:
        """Loads the tokenizer. Raises SettingsError when there is none."""
        self.wanted = run.evaluation.samples
        self.openings = Openings(run, self.wanted.max_new_tokens)
        self.asked = [self.openings.prompt(text) for text in self.wanted.prompts] if self.wanted.prompts else self._held(split)

    def answer(self, model: Any, asked: Sequence[Asked], device: torch.device, *, together: bool = False) -> list[str]:
        """See Openings.answer."""
        return self.openings.answer(model, asked, device, together=together)

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

    def _held(self, split: Split) -> list[Asked]:
        """Openings of rows from all over the split; rows that leave no room for an answer are passed over."""
        rows, number = len(split.lengths), min(self.wanted.number, len(split.lengths))
        found: dict[tuple[int, ...], Asked] = {}
        for i in range(number):
            tried = range(i * rows // number, min(rows, i * rows // number + LOOKED_AT))
            openings = (self.openings.of(record) for record in split.records(tried))
            if (chosen := next((o for o in openings if o is not None and o.ids not in found), None)) is not None:
                found[chosen.ids] = chosen
        return list(found.values())


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
