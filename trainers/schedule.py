"""The learning rate of a step: a pure function of integers, so that a resumed run needs no state of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tunefleet.trainers.run import RunFile

Kind = Literal["linear", "cosine", "constant"]


def rate(step: int, *, steps: int, peak: float, warmup: int, kind: Kind, min_ratio: float = 0.0) -> float:
    """The learning rate of step ``step`` (counted from 0) of ``steps``.

    It rises linearly over the first ``warmup`` steps, meets ``peak`` at step ``warmup``, and falls to ``min_ratio * peak`` at step ``steps``, which is
    not run any more: no step has rate zero.
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    shape = {"linear": 1.0 - progress, "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)), "constant": 1.0}[kind]
    return peak * (min_ratio + (1.0 - min_ratio) * shape)


def schedule(run: RunFile, steps: int) -> Callable[[int], float]:
    """The schedule of a run file over ``steps`` optimizer steps, as a function of the step."""
    training, peak = run.training, run.learning_rate()
    warmup = math.ceil(training.warmup_ratio * steps) if training.warmup_steps is None else training.warmup_steps

    def at(step: int) -> float:
        return rate(step, steps=steps, peak=peak, warmup=warmup, kind=training.lr_scheduler_type, min_ratio=training.min_lr_ratio)

    return at
