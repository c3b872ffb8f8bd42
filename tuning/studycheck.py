"""Everything about a study that can be known before a trial starts: every part of its space, its measure, its rungs, its room."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from tunefleet.cluster.errors import PreflightError, Refusal, RequestError, SettingsError, nearest
from tunefleet.trainers.resume import differences
from tunefleet.trainers.run import RunFile
from tunefleet.tuning.goal import Goal
from tunefleet.tuning.space import Point, corners, grid, said
from tunefleet.tuning.study import SEED, Read, Study, StudyFile, read_study

OURS = ("version", "name", "output", "data.store", "data.cache", "data.holdout", "evaluation", "checkpoint", "logging")
"""What all trials of a study share: where they write, and by which rows and metrics they are compared."""
LENGTH = frozenset({"training.max_steps", "training.num_train_epochs"})
"""A run may be made longer, but a population that is compared at equal steps may not."""
MOST = 512
"""Combinations of a grid that are checked one by one; of a larger one its corners."""


def load_study(source: StudyFile | str | Path, overrides: Mapping[str, str] | None = None, *, local: bool = True) -> Study:
    """A study whose every problem that can be known before Ray stands was looked for. Raises the problem, or a Refusal with all of them.

    ``local``: it is to run on a Ray of its own, whose logical CPUs grow with the need.
    """
    read = read_study(source, overrides)
    Refusal.raise_if(check_study(read, local=local))
    assert read.study is not None
    return read.study


def check_study(read: Read, *, local: bool = True, elsewhere: bool = False) -> list[RequestError]:
    """Every problem of a study file and of the run files of its trials, each once.

    ``elsewhere``: another machine is to do it, so that only what the files say is looked at, not what they name.
    """
    study, problems = read.study, list(read.problems)
    if study is None or study.run.value is None or read.checked is None or not read.checked.sure("run"):
        return problems
    if read.checked.sure("space"):
        problems += reserved_keys(study)
        runs = run_problems(study, problems, local=local, elsewhere=elsewhere)
    else:
        runs = run_problems(replace(study, file=study.file.model_copy(update={"space": {}})), problems, local=local, elsewhere=elsewhere)
    if not runs:
        return problems
    goal = study.goal(runs)
    for name, kind in (("searcher", study.searcher), ("stopper", study.stopper)):
        if read.checked.sure(name, "space"):
            problems += kind().problems(goal)
    if not elsewhere and read.checked.sure("searcher", "space"):
        problems += study.searcher().lacks(goal)
    if read.checked.sure("budget"):
        problems += budget_problems(study, goal)
    if read.checked.sure("searcher", "stopper", "space"):
        problems += movers_problems(study)
    if read.checked.sure("metric", "mode"):
        problems += metric_problems(study, runs[0])
    return problems


def points_to_check(study: Study) -> list[Point]:
    """Points that show whether every trial can be run: all of a grid, else the corners of the space."""
    space, searcher = study.space(), study.searcher()
    goal = study.goal([])
    if vars(study.file.searcher)["kind"] == "grid" and not list(searcher.problems(goal)) and searcher.configurations(goal) <= MOST:
        return list(grid(space, goal.points))
    return corners(space)


def run_problems(study: Study, problems: list[RequestError], *, local: bool, elsewhere: bool) -> list[RunFile]:
    """Add what is wrong with the run files of the study's points to ``problems``, and return those run files that can be read."""
    from tunefleet.trainers.chain import chain
    from tunefleet.trainers.check import check_run

    known = {problem.what for problem in problems}
    readable: list[RunFile] = []
    for point in points_to_check(study):
        read = study.trial(point)
        found = list(read.problems)
        if read.value is not None:
            readable.append(read.value)
        if read.value is not None and not elsewhere:
            links, of_chain = chain(read.value)
            of_runs = [check_run(link.run, known=link.known, text=read if link is links[-1] else None, local=local) for link in links]
            found += [_at(problem, point) for problem in sum(of_runs, of_chain)]
        fresh = [problem for problem in found if problem.what not in known]
        known |= {problem.what for problem in fresh}
        problems += fresh
    return readable


def reserved_keys(study: Study) -> Iterator[RequestError]:
    """No keys at all, and keys that may not differ between trials."""
    if not study.file.space:
        yield SettingsError("space: is empty", got="{}", want="dotted keys of the run file and their ranges", fix="add training.learning_rate, for one")
    for key in study.file.space:
        if any(key == ours or key.startswith(f"{ours}.") for ours in OURS):
            want = "keys that change what is trained, not how it is measured or where it lies"
            yield SettingsError(f"space.{key}: all trials share it ({study.places[key]})", got=key, want=want, fix="take it out of space")
        for other in study.file.space:
            if key.startswith(f"{other}."):
                fix = f"take one of them out, or write {key.removeprefix(f'{other}.')} into each choice of {other}"
                want = "keys of which none lies within another: one would overwrite what the other gave"
                yield SettingsError(f"space.{key}: lies within another key of the space ({study.places[key]})", got=other, want=want, fix=fix)
    if study.file.repeats > 1 and SEED in study.file.space:
        yield SettingsError(f"space.{SEED}: repeats set it", got=f"repeats: {study.file.repeats}", want="one of the two", fix="remove repeats, or this key")


def budget_problems(study: Study, goal: Goal) -> Iterator[RequestError]:
    """A budget that ends before one trial could."""
    steps = study.file.budget.max_steps
    if steps is not None and goal.last_step is not None and steps < goal.last_step:
        want = f"{goal.last_step} or more, the steps of one trial"
        yield SettingsError("budget.max_steps: spent before one trial has ended", got=str(steps), want=want, fix="raise it, or lower training.max_steps")


def movers_problems(study: Study) -> Iterator[RequestError]:
    """What a searcher that changes trials while they run cannot stand beside, or may not change."""
    searcher, stopper = vars(study.file.searcher)["kind"], vars(study.file.stopper)["kind"]
    if not study.searcher().moves:
        return
    if stopper != "none":
        fix = "set stopper to {kind: none}"
        yield SettingsError(f"stopper: {searcher} decides itself which trials go on", got=f"stopper {stopper}", want="none", fix=fix)
    if study.file.repeats > 1:
        yield SettingsError(f"repeats: {searcher} changes trials while they run", got=str(study.file.repeats), want="1", fix="remove repeats")
    for key in sorted(fixed_keys(study)):
        want = "keys that may change when a run goes on: training.learning_rate, training.weight_decay, ..."
        fix = "take it out of space, or search it with tpe"
        yield SettingsError(f"space.{key}: {searcher} may not change it while a trial goes on ({study.places[key]})", got=key, want=want, fix=fix)


def fixed_keys(study: Study) -> set[str]:
    """Keys of the space with two values between which no run may resume, and the length of the run."""
    points = corners(study.space())
    found = {key for key in study.file.space if key in LENGTH}
    for key in study.file.space:
        values = [point[key] for point in points]
        runs = [read.value for value in values if (read := study.trial({**points[0], key: value})).value is not None]
        if any(differences(runs[0], other).refused for other in runs[1:]):
            found.add(key)
    return found


def metric_problems(study: Study, run: RunFile) -> Iterator[RequestError]:
    """A metric that no evaluation computes, or that is better the other way; no rows to compute it on."""
    from tunefleet.trainers.evaluation.metric import make_metrics

    metric, mode = study.file.metric, study.file.mode
    if not run.data.holdout:
        want = "held-out rows to compare trials by"
        yield SettingsError("metric: there is nothing to compute it on", got="data.holdout: 0", want=want, fix="set data.holdout of the run file to 0.1")
    try:
        computed = make_metrics(run.evaluation.metrics)
    except SettingsError:
        return  # the run file's own check says it
    held, _, name = ("", "", metric) if metric in computed else metric.rpartition("/")
    if held and run.data.holdout:
        yield from set_problems(held, run)
    if name not in computed:
        close = nearest(name, computed)
        fix = f"did you mean {close}?" if close else f"add {name} to evaluation.metrics of the run file"
        want = f"one of {', '.join(computed) or 'evaluation.metrics, which is empty'}"
        yield SettingsError("metric: no evaluation computes it", got=f"{name}, with evaluation.metrics: {list(computed)}", want=want, fix=fix)
    elif computed[name].better != mode:
        yield SettingsError(f"mode: {name} is better the other way", got=mode, want=computed[name].better, fix=f"set mode to {computed[name].better}")


def set_problems(held: str, run: RunFile) -> Iterator[RequestError]:
    """A held-out set by which trials are to be compared, and which their evaluations do not score."""
    from tunefleet.data.assembly import HOLDOUT
    from tunefleet.data.prepare import source_names

    listed = run.data.holdout if isinstance(run.data.holdout, list) else []
    sets = source_names(listed) or [HOLDOUT]
    if held in sets:
        return
    if run.evaluation.suite is not None:
        fix = "put its rows into data.holdout of the run file: a suite is scored when a run has ended, and no trial is compared by it"
    elif close := nearest(held, sets):
        fix = f"did you mean {close}?"
    else:
        fix = "name its rows in data.holdout of the run file, a list of sources" if not listed else "take one of them, or add its rows to data.holdout"
    want = f"one of {', '.join(sets)}, the sets that data.holdout of the run file makes"
    yield SettingsError("metric: there is no such held-out set", got=held, want=want, fix=fix)


def need(run: RunFile, *, beside: bool) -> dict[str, float]:
    """What a trial holds while it runs, by Ray's names. ``beside``: its evaluation has actors of its own."""
    actors = run.evaluation.actors if beside and run.data.holdout else 0
    workers, resources = run.scaling.num_workers, run.evaluation.resources
    return {"CPU": workers * run.scaling.cpus_per_worker + actors * resources.cpu, "GPU": (workers if run.scaling.use_gpu else 0) + actors * resources.gpu}


def concurrency(study: Study, needs: Mapping[str, float], available: Mapping[str, float], *, local: bool) -> int:
    """How many trials go on at a time. ``available``: all that the cluster has, or the cores and GPUs of this machine where Ray is our own.

    Raises PreflightError, with the numbers, where not one trial fits, or not as many as were asked for. A local Ray's CPUs grow with the need.
    """
    counted = {name: amount for name, amount in needs.items() if amount and not (local and name == "CPU")}
    rooms = {name: math.floor(available.get(name, 0.0) / amount + 1e-9) for name, amount in counted.items()}
    most = min(rooms.values(), default=None)
    wanted = study.file.budget.concurrent_trials
    if most is not None and most < (wanted or 1):
        short = [name for name, room in rooms.items() if room < (wanted or 1)]
        got = "; ".join(f"{(wanted or 1) * needs[name]:g} {name}s asked for: {wanted or 1} trials at a time with {needs[name]:g} each" for name in short)
        have = ", ".join(f"{available.get(name, 0.0):g} {name}s" for name in short)
        fix = f"set budget.concurrent_trials to {most}" if most else "lower scaling.num_workers or scaling.cpus_per_worker of the run file"
        what = "budget.concurrent_trials: more than there is room for" if most else "scaling: more than there is for one trial"
        raise PreflightError(what, got=got, want=f"at most {have}, all that {'this machine' if local else 'the cluster'} has", fix=fix)
    if wanted:
        return wanted
    by_cores = max(1, math.floor(available.get("CPU", 1.0) / needs["CPU"])) if needs.get("CPU") else 1
    return min(by_cores, most) if most is not None else by_cores


def make_goal(study: Study) -> Goal:
    """What the searcher and the stopper of a checked study are asked for."""
    runs = [read.value for point in points_to_check(study) if (read := study.trial(point)).value is not None]
    return study.goal(runs)


def _at(problem: RequestError, point: Point) -> RequestError:
    """A problem with the point of the space that has it."""
    if not point:
        return problem
    return type(problem)(problem.what, got=f"{problem.got} (with {said(point)})", want=problem.want, fix=problem.fix)
