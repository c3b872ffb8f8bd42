"""From a study file to its best run file: check, prepare once, score the base once, run the trials, say what came out.

``from tunefleet.tuning.runstudy import tune_study; result = tune_study("study.yaml")``
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from tunefleet.cluster.errors import Refusal, Stopped
from tunefleet.cluster.grace import graceful
from tunefleet.cluster.metrics import Lines, has_lines, join_lines
from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.trainers.chain import Link, absolute, chain
from tunefleet.trainers.console import RunConsole
from tunefleet.trainers.ledger import Events, ledger, read_events
from tunefleet.trainers.manifest import brief
from tunefleet.trainers.output import Resume
from tunefleet.trainers.plan.fit import memory_warnings
from tunefleet.trainers.run import RunFile
from tunefleet.trainers.stage import EVENTS
from tunefleet.trainers.stopping import StopWatch
from tunefleet.tuning.catchup import missing_lines
from tunefleet.tuning.console import StudyConsole
from tunefleet.tuning.goal import value_of
from tunefleet.tuning.keeper import Keeper, Limits, counted
from tunefleet.tuning.lines import TRIALS, TrialLine, last_lines, read_trials
from tunefleet.tuning.output import BASE, held, put_study
from tunefleet.tuning.searching import StudySearcher, make_searcher, replay_searcher
from tunefleet.tuning.standings import best_of
from tunefleet.tuning.study import BEST, Study, StudyFile
from tunefleet.tuning.studycheck import concurrency, load_study, make_goal, need, points_to_check
from tunefleet.tuning.studyreport.write import report_of_study
from tunefleet.tuning.trial import Plan

LIVE_REPORT_S = 20.0


@dataclass(frozen=True)
class StudyResult:
    """What a study left: its output, the best trial and its value, the run file with its parameters, and how many trials ended how."""

    output: str
    best: str | None
    value: float | None
    parameters: Mapping[str, Any]
    best_file: str | None
    trials: Mapping[str, int]


@dataclass(frozen=True)
class Room:
    """How trials are laid out: how many at a time, what each holds, and where its evaluation takes place."""

    concurrent: int
    needs: Mapping[str, float]
    placement: str
    decisions: tuple[str, ...] = ()


def tune_study(
    source: StudyFile | str | Path,
    overrides: Mapping[str, str] | None = None,
    *,
    resume: Resume = False,
    overwrite: bool = False,
    address: str | None = None,
) -> StudyResult:
    """Do a study, whole. ``resume`` goes on with one that was cut (``"auto"`` starts anew where there is none): what has ended stays.

    Raises RequestError (exit code 2) for everything that is wrong with the request, before a trial starts. A trial that fails does not end the study.
    """
    study = load_study(source, overrides, local=address is None)
    with ExitStack() as stack:
        storage = open_storage(study.file.output)
        console = stack.enter_context(StudyConsole(study.file.metric, study.file.mode, study.file.repeats))
        fence = stack.enter_context(held(storage, study, resume=resume, overwrite=overwrite))
        spent_s = spent_before(storage)
        earlier = caught_up(storage, study.file.metric)
        searcher = replay_searcher(make_searcher(study), earlier)  # raises, while the study file that began still stands, where the lines are not of this one
        put_study(storage, study)
        stack.callback(report_of_study, storage, console.say)  # once it is noted how the study ended, well or badly
        book = stack.enter_context(told(storage))
        trials = _run(study, storage, fence, searcher, earlier, spent_s, address, console, book)
        write_best(study, storage, trials)
        console.outcome(trials, storage.address, spent_before(storage))
    return result_of(study, storage, trials)


def result_of(study: Study, storage: Storage, trials: Mapping[str, TrialLine]) -> StudyResult:
    """What a study left."""
    best = best_of(trials, study.file.metric, study.file.mode, study.file.repeats)
    where = f"{storage.address.rstrip('/')}/{BEST}" if best else None
    value = value_of(best.metrics, study.file.metric) if best else None
    return StudyResult(storage.address, best.id if best else None, value, best.parameters if best else {}, where, counted(trials))


def caught_up(storage: Storage, metric: str) -> list[TrialLine]:
    """The lines of an earlier start of the study, with those that its driver could not write any more."""
    earlier = read_trials(storage)
    missing = missing_lines(earlier, metric)
    if missing:
        lines = Lines(storage, TRIALS)
        for line in missing:
            lines.add(line.to_json())
        lines.close()
    return [*earlier, *missing]


def spent_before(storage: Storage) -> float:
    """Wall seconds of the study so far; what a killed driver could not say is taken from its last line."""
    if not has_lines(storage, EVENTS):
        return 0.0
    lines = [{"time": line.time} for line in read_trials(storage)]
    return sum(seconds for phase, seconds in ledger([*read_events(storage), *lines]).items() if phase != "down")


@contextmanager
def told(storage: Storage) -> Iterator[Events]:
    """The study's own events: when it began and ended, and why."""
    events = Events(storage)
    events.add("started", phase="training")
    why = "done"
    try:
        yield events
    except BaseException as error:
        why = brief(error)
        raise
    finally:
        events.add("stopped", phase="stopped", why=why)
        for name in (TRIALS, EVENTS):
            join_lines(storage, name)


def _run(
    study: Study,
    storage: Storage,
    fence: int,
    searcher: StudySearcher,
    earlier: list[TrialLine],
    spent_s: float,
    address: str | None,
    console: StudyConsole,
    events: Events,
) -> Mapping[str, TrialLine]:
    from tunefleet.cluster.leftovers import remove_orphans
    from tunefleet.cluster.session import connect, owns_cluster, set_environment

    began = time.monotonic()
    base, links = base_of(study)
    here = machine_of([base])
    set_environment(local=address is None)  # before anything imports Ray
    room = room_for(study, here, local=True) if address is None else None
    if room is not None:
        for text in memory_warnings(links[-1].run, links[-1].known, at_once=room.concurrent):
            console.say(f"note: {text}")
            events.decisions([text])
    console.say("starting Ray" if address is None else f"joining the Ray cluster at {address}")
    with connect(address, cpus_needed=max(room.concurrent * room.needs["CPU"], base.evaluation.resources.cpu) if room else 1) as session:
        room = room or room_for(study, session.resources(), local=False)
        for text in (*session.decisions, *room.decisions):
            console.say(f"note: {text}")
            events.decisions([text])
        share_bases(links, base, session.resources(), address, console)
        limits = Limits(room.concurrent, study.file.budget, base.training.seed, spent_s + time.monotonic() - began)
        keeper, scheduler = book_of(study, storage, searcher, earlier, limits, console)
        absolute_file = study.file.model_copy(update={"run": base.model_dump(mode="json"), "output": storage.address})
        limit = study.file.budget.wall_time_s
        plan = Plan(
            study=absolute_file,
            placement="actors" if room.placement == "actors" else "inline",
            local=address is None and (session.owned or owns_cluster()),
            base=f"{storage.address.rstrip('/')}/{BASE}",
            deadline=time.time() + limit - keeper.seconds() if limit else None,
            begin_at={line.id: pointer for line in keeper.trials.values() if (pointer := line.pointer()) is not None},
        )
        try:
            from tunefleet.tuning.raytune import run_trials

            with graceful(keeper.leave, base.failures.stop_timeout_s), StopWatch([(storage, fence)], looks=True, then=keeper.leave) as asked:
                run_trials(plan, keeper, scheduler, concurrent=room.concurrent)
        finally:
            keeper.close()
            remove_orphans()
        if keeper.leaving:
            got = f"{asked.by or 'SIGTERM to the driver'}; its trials have saved"
            raise Stopped(f"{study.file.name}: stopped on request", got=got, fix="the same again with --resume (a job: submit it again) goes on with them")
        return keeper.trials


def base_of(study: Study) -> tuple[RunFile, list[Link]]:
    """The run file that trials vary, with every path absolute and an output beside theirs, and the runs that it stands on. Raises what is wrong with it."""
    read = study.trial({}, f"{study.file.output.rstrip('/')}/{BASE}")
    Refusal.raise_if(read.problems)
    assert read.value is not None
    base = absolute(read.value)
    links, problems = chain(base)
    Refusal.raise_if(problems)
    return base, links


def machine_of(runs: list[RunFile]) -> dict[str, float]:
    """Cores and GPUs of this machine; GPUs are counted only where a run asks for any."""
    from tunefleet.cluster.session import usable_cores
    from tunefleet.trainers.check import local_gpus

    wanted = any(run.scaling.use_gpu or run.evaluation.resources.gpu for run in runs)
    return {"CPU": float(usable_cores()), "GPU": float(local_gpus()) if wanted else 0.0}


def room_for(study: Study, available: Mapping[str, float], *, local: bool) -> Room:
    """Lay the trials out. Raises PreflightError, with the numbers, where there is no room."""
    from tunefleet.trainers.evaluation.policy import place

    runs = [read.value for point in points_to_check(study) if (read := study.trial(point)).value is not None]
    wanted = runs[0].evaluation.placement
    needs = most_needed(runs, beside=wanted == "actors")
    concurrent = concurrency(study, needs, available, local=local)
    if wanted != "auto":
        return Room(concurrent, needs, wanted)
    share = {name: amount / concurrent for name, amount in available.items()}
    found = max((place(run, share) for run in runs), key=lambda placed: placed.kind != "actors")  # beside the training only where each has room for it
    if found.kind == "actors":
        needs = most_needed(runs, beside=True)
        concurrent = concurrency(study, needs, available, local=local)
    return Room(concurrent, needs, found.kind, (f"{found.said}, with {concurrent} trial{'s' if concurrent > 1 else ''} at a time",))


def most_needed(runs: Sequence[RunFile], *, beside: bool) -> dict[str, float]:
    """The most of each resource that any trial holds: one may have more CPUs and another more GPUs."""
    every = [need(run, beside=beside) for run in runs]
    return {name: max(one[name] for one in every) for name in every[0]}


def share_bases(links: list[Link], base: RunFile, available: Mapping[str, float], address: str | None, console: StudyConsole) -> None:
    """Do once what every trial would do: the runs that it stands on, the shards, a tokenizer of the rows, the scores of the base model."""
    from tunefleet.cluster.tasks import Cluster
    from tunefleet.trainers.launch import prepared, train
    from tunefleet.trainers.output import Claim, finished

    for link in links[:-1]:
        if finished(link.run) is None:
            console.say(f"first the run that all trials stand on: {link.run.name}")
            train(link.run, resume="auto", address=address)
    console.say("preparing rows")
    quiet = RunConsole(Console(quiet=True))
    last = links[-1]
    ready = prepared(Claim(last.run, open_storage(base.output), 0, ()), last.known, quiet, lambda: nullcontext(Cluster()))
    if base.data.holdout:
        score_base(last.run, ready.prepared.store, ready.pad_id, available, console)


def score_base(run: RunFile, store: str, pad_id: int, available: Mapping[str, float], console: StudyConsole) -> None:
    """Score the base model for all trials. Where that does not work, as where it wants several GPUs, each trial scores its own; that is said."""
    from tunefleet.trainers.evaluation.actors import Order, keep_base_scores

    if open_storage(run.output).exists("evaluation/base.json"):
        return
    gpu = max(run.evaluation.resources.gpu, 1.0 if run.scaling.use_gpu else 0.0)
    cpu = run.evaluation.resources.cpu
    actors = min(run.evaluation.actors, int(available.get("CPU", 0.0) // cpu), int(available.get("GPU", 0.0) // gpu) if gpu else run.evaluation.actors)
    if actors < 1:
        console.say(f"note: the base model is scored by each trial: there is no room for an evaluation actor with {cpu:g} CPUs and {gpu:g} GPUs")
        return
    resources = run.evaluation.resources.model_copy(update={"gpu": gpu})
    evaluation = run.evaluation.model_copy(update={"resources": resources, "actors": actors})
    order = Order(run.model_copy(update={"evaluation": evaluation}).model_dump_json(), store, run.output, pad_id)
    console.say("scoring the base model, once for all trials")
    try:
        keep_base_scores(order, evaluation)
    except Exception as error:  # noqa: BLE001 - whatever it is, the trials find out for themselves, each for its own weights
        console.say(f"note: the base model is scored by each trial: {brief(error).splitlines()[0]}")


def book_of(study: Study, storage: Storage, searcher: StudySearcher, earlier: list[TrialLine], limits: Limits, console: StudyConsole) -> tuple[Keeper, Any]:
    """The keeper and the scheduler of a study, brought to where an earlier start of it stood, as ``searcher`` was."""
    from tunefleet.cluster.leftovers import remove_orphans
    from tunefleet.tuning.making import make_scheduler, trials_in_all
    from tunefleet.tuning.population import Population
    from tunefleet.tuning.stopping import StudyScheduler, replay_scheduler

    scheduler = replay_scheduler(make_scheduler(study), earlier)
    total = trials_in_all(study)
    reasons = scheduler.reasons if isinstance(scheduler, StudyScheduler) else {}
    if isinstance(scheduler, Population):  # all of it is begun, and Tune shares out the room
        scheduler.together = limits.live >= total
        limits = replace(limits, live=total)
    console.begin(total, make_goal(study).last_step, last_lines(earlier))
    keeper = Keeper(storage, searcher, limits, earlier, why=reasons.get, changed=LiveFiles(study, storage, console).changed, gone=remove_orphans)
    if isinstance(scheduler, Population):
        scheduler.ending = lambda: keeper.ending
    return keeper, scheduler


class LiveFiles:
    """What is kept up to date while a study runs: the console, best.yaml, the report."""

    def __init__(self, study: Study, storage: Storage, console: StudyConsole) -> None:
        self.study, self.storage, self.console = study, storage, console
        self._best: TrialLine | None = None
        self._written_s = -float("inf")

    def changed(self, line: TrialLine, trials: Mapping[str, TrialLine]) -> None:
        """A line of trials.jsonl was written."""
        self.console.show(line, trials)
        best = best_of(trials, self.study.file.metric, self.study.file.mode, self.study.file.repeats)
        if best is not None and best != self._best:  # another trial, or the same one further on
            self._best = best
            write_best(self.study, self.storage, trials)
        if time.monotonic() - self._written_s > LIVE_REPORT_S:
            report_of_study(self.storage)
            self._written_s = time.monotonic()


def write_best(study: Study, storage: Storage, trials: Mapping[str, TrialLine]) -> None:
    """Write the run file of the best trial, every default written out, ready for ``tunefleet train``."""
    best = best_of(trials, study.file.metric, study.file.mode, study.file.repeats)
    run = study.trial(dict(best.parameters)).value if best else None
    if best is None or run is None:
        return
    said = f"# the run file of trial {best.id} of the study {study.file.name}: {study.file.metric} {best.metrics[study.file.metric]} at step {best.step}\n"
    if best.parent is not None:
        said += "# its parameters were changed while it ran (trials.jsonl has them all); these are the last ones\n"
    said += f"# what it trained: tunefleet export {best.output}\n"
    storage.put(BEST, (said + yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False, allow_unicode=True)).encode())
