"""At which steps a stopper decides, and whether trials are evaluated there. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tunefleet.cluster.errors import RequestError, SettingsError
from tunefleet.tuning.goal import Goal

FAR = 8
"""Rungs that are looked at where the last step is not known before the rows are."""


def rungs(first: int, factor: float, last: int | None) -> list[float]:
    """The rungs below the last step."""
    found = [float(first)]
    while len(found) < FAR if last is None else found[-1] * factor < last:
        found.append(found[-1] * factor)
    return found


def multiples(every: int, last: int | None) -> list[float]:
    """The first multiples of a number of steps, below the last step."""
    return [float(step) for step in range(every, min(last or every * FAR, every * FAR), every)]


def grace_of(given: int | None, goal: Goal) -> int | None:
    """The step of the first decision: as given, else that of the first evaluation; None where trials are evaluated at their end only."""
    return given or goal.every_steps


def grace_problems(grace: int | None, steps: Sequence[float], goal: Goal) -> Iterator[RequestError]:
    """What is wrong with ``stopper.grace_steps``: nothing could be stopped after it, or trials are decided on at ``steps`` that no evaluation meets."""
    key, none = "stopper.grace_steps", "or take the stopper none"
    if grace is None:
        got, fix = "evaluation.every_steps: null, so trials are evaluated at their end only", f"set evaluation.every_steps of the run file, {none}"
        yield SettingsError(f"{key}: nothing could ever be stopped", got=got, want="evaluations before the end", fix=fix)
    elif goal.last_step is not None and grace >= goal.last_step:
        got = f"{grace}" if grace != goal.every_steps else f"{grace}, which is also evaluation.every_steps"
        want = f"below {goal.last_step}, the last step of a trial"
        yield SettingsError(f"{key}: nothing could ever be stopped", got=got, want=want, fix=f"lower it, {none}")
    else:
        yield from alignment(key, steps, goal)


def alignment(key: str, steps: Sequence[float], goal: Goal) -> Iterator[RequestError]:
    """Steps at which something is decided, but no trial is evaluated: trials would be compared at unequal steps."""
    missed = [step for step in steps if not goal.evaluated(step)]
    if not missed:
        return
    if goal.every_steps is None:
        got = f"evaluation.every_steps: null, so trials are evaluated at their end only; decisions at {_listed(steps)}"
        fix = f"set evaluation.every_steps of the run file to {steps[0]:g}"
    else:
        got = f"decisions at {_listed(steps)}; evaluations every {goal.every_steps} steps meet {len(steps) - len(missed)} of {len(steps)}"
        near = max(1, round(steps[0] / goal.every_steps)) * goal.every_steps
        whole = all(step == round(step) for step in steps)
        fix = f"set {key} to {near}, or evaluation.every_steps of the run file to {steps[0]:g}" if whole else "take a whole number as stopper.reduction_factor"
    yield SettingsError(f"{key}: steps that no evaluation meets", got=got, want="a multiple of evaluation.every_steps at each decision", fix=fix)


def _listed(steps: Sequence[float]) -> str:
    first = ", ".join(f"{step:g}" for step in steps[:4])
    return f"{first}, ..." if len(steps) > 4 else first
