"""Studies for tests: a study file on a tiny run, and trials whose values are a formula instead of a training."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from runs import small_run

from tunefleet.tuning.lines import FAILED, FINISHED, RUNNING, STOPPED, TrialLine
from tunefleet.tuning.study import Study, read_study

SPACE = {"training.learning_rate": {"loguniform": [1e-4, 1e-1], "points": 3}, "training.train_batch_size": {"choice": [4, 8, 16]}}
STEPS, EVERY = 180, 20


def study_file(folder: Path, **replaced: Any) -> Path:
    """A study over a tiny run of 180 steps, evaluated every 20; keys of the study are replaced, and sections of the run by ``run=``."""
    sections = {"training": {"max_steps": STEPS}, "evaluation": {"every_steps": EVERY}, "checkpoint": {"every_steps": EVERY}, **replaced.pop("run", {})}
    run = small_run(folder, **sections).model_dump(mode="json", exclude_unset=True)
    study = {"run": run, "space": SPACE, "searcher": {"kind": "grid"}, "output": str(folder / "study"), **replaced}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def make_study(folder: Path, **replaced: Any) -> Study:
    """A study whose text is right."""
    read = read_study(study_file(folder, **replaced))
    assert not read.problems
    assert read.study is not None
    return read.study


def surface(parameters: Mapping[str, Any], step: int) -> float:
    """A loss that falls with the steps to a floor of its own; lowest at a learning rate of 0.01 and a batch of 8."""
    far = abs(math.log10(parameters["training.learning_rate"]) + 2)
    batch = abs(math.log2(parameters.get("training.train_batch_size", 8)) - 3)
    return 1.0 + 0.5 * far**2 + 0.1 * batch + 2.0 * math.exp(-step / 60)


def play(
    searcher: Any,
    scheduler: Any,
    *,
    value: Callable[[Mapping[str, Any], int], float] = surface,
    abreast: int = 2,
    arrival: int = 0,
    last: int = STEPS,
    every: int = EVERY,
    before: list[TrialLine] | None = None,
    fails: tuple[str, ...] = (),
) -> Iterator[TrialLine]:
    """A study without a training: ``abreast`` trials at a time, whose evaluations arrive in an order of their own. Yields the lines of trials.jsonl.

    ``before``: lines of the same study, after which it goes on; searcher and scheduler were brought there by their replays.
    """
    order = random.Random(arrival)
    latest = {line.id: line for line in before or ()}
    running = {name: line for name, line in latest.items() if line.status == RUNNING}
    number, more = len(latest), True
    while running or more:
        while more and len(running) < abreast:
            name = f"t{number:03d}"
            parameters = searcher.suggest(name)
            more = parameters is not None
            if more:
                running[name] = TrialLine(name, number, parameters, RUNNING)
                number += 1
                yield running[name]
        if running:
            name = order.choice(sorted(running))
            line = running.pop(name)
            step = line.step + every
            metrics = {"loss": value(line.parameters, step)}
            why = scheduler.judge(name, step, metrics["loss"]) or ""
            status = FAILED if name in fails else STOPPED if why else FINISHED if step >= last else RUNNING
            line = TrialLine(name, line.number, line.parameters, status, step=step, metrics=metrics, compute={"steps": step}, why=why)
            if status == RUNNING:
                running[name] = line
            else:
                searcher.ended(line)
            yield line


BEGAN = 1_790_000_000.0


def study_folder(folder: Path, study: Study, lines: Sequence[TrialLine], *, ended: str | None = "done") -> Path:
    """A study's output with these lines, one a second. ``ended``: why it ended, None while it goes."""
    output = folder / "study"
    output.mkdir(parents=True)
    (output / "study.yaml").write_text(yaml.safe_dump(study.as_it_ran().model_dump(mode="json"), sort_keys=False))
    timed = [replace(line, time=BEGAN + i, compute={**line.compute, "worker_seconds": 0.5 * line.step}) for i, line in enumerate(lines)]
    (output / "trials.jsonl").write_text("".join(json.dumps(line.to_json()) + "\n" for line in timed))
    events = [{"time": BEGAN, "event": "started", "phase": "training", "attempt": 0}]
    events += [{"time": BEGAN + len(lines), "event": "stopped", "phase": "stopped", "why": ended, "attempt": 0}] if ended else []
    (output / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (output / "best.yaml").write_text("name: best\n")
    return output


def population(space_key: str = "training.learning_rate", trials: int = 4, looks: int = 8, every: int = EVERY) -> list[TrialLine]:
    """The lines of a made-up PBT study: at each look the worst trial goes on from the best, with 1.25 or 0.8 times its rate; the goal falls with the steps."""
    order = random.Random(0)
    rates = {f"p{i}": 10 ** (-4 + 3 * i / (trials - 1)) for i in range(trials)}
    losses = dict.fromkeys(rates, 4.0)
    lines = [TrialLine(name, i, {space_key: rate}, RUNNING) for i, (name, rate) in enumerate(rates.items())]
    latest = {line.id: line for line in lines}
    for look in range(1, looks + 1):
        goal = -1.5 - 0.2 * look
        for name, rate in rates.items():
            losses[name] -= 0.5 * math.exp(-((math.log10(rate) - goal) ** 2))
            status = FINISHED if look == looks else RUNNING
            latest[name] = replace(latest[name], status=status, step=every * look, metrics={"loss": losses[name]}, compute={"steps": every * look})
            lines.append(latest[name])
        worst, best = max(losses, key=losses.__getitem__), min(losses, key=losses.__getitem__)
        if look < looks:
            rates[worst], losses[worst] = rates[best] * order.choice([1.25, 0.8]), losses[best]
            parameters, parent = {space_key: rates[worst]}, {"id": best, "step": every * look}
            latest[worst] = replace(latest[worst], parameters=parameters, parent=parent)
            lines.append(latest[worst])
    return lines
