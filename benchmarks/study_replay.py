"""What a stopper saves, and whether TPE beats chance: a recorded grid replayed, and a synthetic surface searched, without training anything.

    python benchmarks/study_replay.py            seconds; reads the newest benchmarks/results/*-study-record.json; writes <date>-study-replay.json

The searcher and the scheduler are the objects that `tunefleet tune` gives to Ray Tune. In each order the configurations come in another sequence, and
which of the trials that run reports next is drawn too. ASHA's goal: within 1% of the grid's best for at most 0.4 of its steps, in the median of the orders.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from recording import RESULTS, machine, save, show

from tunefleet.tuning.lines import FINISHED, STOPPED, TrialLine
from tunefleet.tuning.making import make_scheduler
from tunefleet.tuning.proposers import Listed
from tunefleet.tuning.searching import StudySearcher, make_searcher
from tunefleet.tuning.study import Study, StudyFile, read_study
from tunefleet.tuning.studycheck import make_goal

STOPPERS: dict[str, dict[str, Any]] = {
    "asha": {"kind": "asha", "grace_steps": 20, "reduction_factor": 3},
    "median": {"kind": "median", "grace_steps": 20},
    "plateau": {"kind": "plateau", "grace_steps": 20, "patience": 2, "least": 0.02},
    "none": {"kind": "none"},
}
SURFACE = {
    "training.learning_rate": {"loguniform": [1e-5, 1.0]},
    "training.warmup_ratio": {"uniform": [0.0, 0.5]},
    "training.weight_decay": {"quantised": [0.0, 0.5, 0.05]},
    "training.train_batch_size": {"choice": [4, 8, 16, 32]},
}
"""What the synthetic surface is searched over; its lowest place is at 1e-2, 0.1, 0.2 and 8."""


@dataclass(frozen=True)
class Played:
    """What a study without a training came to: the value of the trial it stands for, all steps, and how many trials were stopped."""

    best: float
    steps: int
    stopped: int


def study_of(space: Mapping[str, Any], steps: int, every: int, **keys: Any) -> Study:
    """A study over a run of so many steps."""
    run = {"model": {"name_or_path": "none"}, "data": {"train": [{"path": "none"}]}, "output": "none"}
    run |= {"training": {"max_steps": steps}, "evaluation": {"every_steps": every}, "peft": {"kind": "lora"}}
    file = {"run": run, "space": dict(space), "output": "none", **keys}
    read = read_study(StudyFile.model_validate(file))
    assert read.study is not None
    return read.study


def play(study: Study, searcher: StudySearcher, value: Callable[[Mapping[str, Any], int], float], *, abreast: int, seed: int) -> Played:
    """Run a study whose values are known: ``abreast`` trials at a time, the next report that of a trial drawn at random."""
    goal, scheduler, order = make_goal(study), make_scheduler(study), random.Random(seed)
    assert goal.every_steps is not None
    running: dict[str, tuple[Mapping[str, Any], int]] = {}
    whole, steps, stopped, number, more = [], 0, 0, 0, True
    while running or more:
        while more and len(running) < abreast:
            parameters = searcher.suggest(str(number))
            more = isinstance(parameters, Mapping)
            if more:
                running[str(number)] = (parameters, 0)
                number += 1
        if not running:
            break
        name = order.choice(sorted(running))
        parameters, before = running.pop(name)
        step = before + goal.every_steps
        steps += goal.every_steps
        found = value(parameters, step)
        if scheduler.judge(name, step, found):
            stopped += 1
        elif step >= (goal.last_step or 0):
            whole.append(found)
        else:
            running[name] = (parameters, step)
            continue
        status = FINISHED if step >= (goal.last_step or 0) else STOPPED
        searcher.ended(TrialLine(name, int(name), parameters, status, step=step, metrics={goal.metric: found}))
    return Played(min(whole), steps, stopped)


def replayed(record: Mapping[str, Any], stopper: str, orders: int, abreast: int) -> list[Played]:
    """The recorded grid under a stopper, in several orders."""
    losses = {json.dumps(one["parameters"], sort_keys=True): one["losses"] for one in record["trials"]}
    points = [one["parameters"] for one in record["trials"]]
    space = {key: {"choice": sorted({point[key] for point in points})} for key in points[0]}
    study = study_of(space, record["steps"], record["evaluated_every"], searcher={"kind": "grid"}, stopper=STOPPERS[stopper])
    found = []
    for order in range(orders):
        sequence = random.Random(order).sample(points, len(points))
        searcher = StudySearcher(Listed(sequence.__getitem__, len(sequence)), make_goal(study))
        known = lambda point, step: losses[json.dumps(dict(point), sort_keys=True)][str(step)]  # noqa: E731 - a look into a table
        found.append(play(study, searcher, known, abreast=abreast, seed=order))
    return found


def bowl(parameters: Mapping[str, Any], _: int) -> float:
    """The synthetic surface."""
    rate = (math.log10(parameters["training.learning_rate"]) + 2) ** 2
    warmup, decay = (parameters["training.warmup_ratio"] - 0.1) ** 2, (parameters["training.weight_decay"] - 0.2) ** 2
    return 1 + rate + 8 * warmup + 8 * decay + 0.3 * abs(math.log2(parameters["training.train_batch_size"]) - 3)


def searched(kind: str, seed: int, trials: int) -> float:
    """The best value that a searcher finds on the surface."""
    study = study_of(SURFACE, 1, 1, searcher={"kind": kind, "trials": trials, "seed": seed})
    return play(study, make_searcher(study), bowl, abreast=2, seed=seed).best


def main() -> None:
    """Replay, search, write, show."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--record", type=Path, default=max(RESULTS.glob("*-study-record.json"), default=None), help="recorded losses")
    options.add_argument("--orders", type=int, default=5, help="arrival orders, and studies on the surface")
    options.add_argument("--abreast", type=int, default=2, help="trials at a time")
    options.add_argument("--trials", type=int, default=40, help="trials of a study on the surface")
    chosen, began = options.parse_args(), machine()
    record = json.loads(chosen.record.read_text())
    grid_best = min(one["losses"][str(record["steps"])] for one in record["trials"])
    grid_steps = record["steps"] * len(record["trials"])
    lines, figures = [], {}
    for stopper in STOPPERS:
        found = replayed(record, stopper, chosen.orders, chosen.abreast)
        over, share = [one.best / grid_best - 1 for one in found], [one.steps / grid_steps for one in found]
        figures[stopper] = {"over_best": over, "share_of_steps": share, "stopped": [one.stopped for one in found]}
        figures[stopper] |= {"median_over_best": median(over), "median_share": median(share)}
        each = " ".join(f"{a:.2%}/{b:.2f}" for a, b in zip(over, share, strict=True))
        lines.append([stopper, f"{median(over):.2%}", f"{median(share):.2f}", each])
    pairs = [{kind: searched(kind, seed, chosen.trials) for kind in ("tpe", "random")} for seed in range(chosen.orders)]
    surface = {kind: median(pair[kind] for pair in pairs) for kind in ("tpe", "random")}
    what = {"record": chosen.record.name, "grid_best": grid_best, "grid_steps": grid_steps, "abreast": chosen.abreast}
    path = save("study-replay", {**what, "stoppers": figures, "surface": {"trials": chosen.trials, "studies": pairs, "median": surface}}, began)
    columns = ["stopper", "over the grid's best, median", "share of its steps, median", "each order"]
    title = f"{len(record['trials'])} configurations, {chosen.abreast} at a time, {chosen.orders} orders; the grid's best is {grid_best:.4f} ({path.name})"
    show(title, columns, lines)
    rows = [[str(i), f"{pair['tpe']:.3f}", f"{pair['random']:.3f}"] for i, pair in enumerate(pairs)]
    rows.append(["median", *(f"{value:.3f}" for value in surface.values())])
    show(f"best of {chosen.trials} trials on the surface, whose lowest value is 1", ["study", "tpe", "random"], rows)


if __name__ == "__main__":
    main()
