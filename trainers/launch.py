"""From a run file to a better model: check, prepare, start the workers, follow them, and say what came out.

``from tunefleet.trainers.launch import train; result = train("run.yaml")``
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tunefleet.cluster.errors import Refusal, RequestError, Stopped
from tunefleet.cluster.grace import graceful
from tunefleet.cluster.machine import commit, machine, versions
from tunefleet.cluster.metrics import Tail, read_lines
from tunefleet.cluster.network import network_used
from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.trainers.chain import Link, chain
from tunefleet.trainers.console import RunConsole
from tunefleet.trainers.evaluation.afterwards import score_suite
from tunefleet.trainers.handover import adopt
from tunefleet.trainers.ledger import Events, ledger, read_events, run_id
from tunefleet.trainers.manifest import newest_step
from tunefleet.trainers.nested import Nested, claim_patiently, take_base
from tunefleet.trainers.origin import lay_ready
from tunefleet.trainers.output import Claim, Resume, finished, join_logs, output_problems
from tunefleet.trainers.plan.fit import memory_warnings
from tunefleet.trainers.report.write import report_at_end
from tunefleet.trainers.run import Evaluation, Model, RunFile, read_run
from tunefleet.trainers.stage import DONE, EVENTS, WORKERS, Stage, read_done
from tunefleet.trainers.stopping import ask_to_stop, asked_to_stop
from tunefleet.trainers.tracking import Tracking

if TYPE_CHECKING:
    from tunefleet.cluster.session import Session
    from tunefleet.cluster.tasks import Tasks
    from tunefleet.data.prepare import Cluster, Prepared
    from tunefleet.trainers.evaluation.policy import Place, Placement
    from tunefleet.trainers.resume import Differences


@dataclass(frozen=True)
class Result:
    """What a run left: its output, its last step, the evaluation of its weights (the content of the file), the export, why it stopped early, its suite's."""

    output: str
    step: int
    evaluation: Mapping[str, Any]
    exported: str | None
    stopped: str | None
    suite: Mapping[str, Any]


def train(
    run: RunFile | str | Path,
    overrides: Mapping[str, str] | None = None,
    *,
    resume: Resume = False,
    overwrite: bool = False,
    address: str | None = None,
    trust_code: bool = False,
    nested: Nested | None = None,
) -> Result:
    """Do a run, whole. ``resume`` goes on from the newest complete checkpoint, ``"auto"`` starts anew where there is none. ``trust_code``: see ``read_run``.

    ``nested``: it takes place inside the session of this process, which others use too (see trainers/nested.py); then nothing is shown.

    Raises RequestError (exit code 2) for everything that is wrong with the request, all of it at once and before a worker starts;
    WorkerError and others of exit code 1 when the run itself fails.
    """
    alone = address is None and nested is None  # what other nodes have is not known here; of a trial its study has looked
    links = checked(run, overrides, resume=resume, overwrite=overwrite, local=alone, trust_code=trust_code)
    with ExitStack() as stack:
        console = stack.enter_context(RunConsole(Console(quiet=True) if nested else None))
        done = {link.run.output: found for link in links[:-1] if (found := finished(link.run)) is not None}
        pending = [link for link in links if link.run.output not in done]
        at_end = partial(report_at_end, say=console.say)
        patience_s = nested.patience_s if nested else 0.0
        claims = [stack.enter_context(_claim(link, links, resume, overwrite, at_end, patience_s)) for link in pending]
        for number, held in enumerate(claims):
            with_what = {"run_id": run_id(read_events(held.storage)), "machine": machine(), "versions": versions(), "commit": commit()}
            Events(held.storage).add("started", phase="starting" if number == 0 else "base", changed=held.changed, **with_what)
        _decide(claims[-1:], console, [_reused(output, found) for output, found in done.items()])
        if alone:
            _decide(claims[-1:], console, memory_warnings(links[-1].run, links[-1].known))
        stages = _run(claims, [link.known for link in pending], address, console, nested)
        _close(claims, stages)
        result = result_of(links[-1].run.output)
        console.outcome(result.output, [result.evaluation, result.suite], result.exported, ledger(read_lines(claims[-1].storage, EVENTS)))
    return result


def checked(
    run: RunFile | str | Path, overrides: Mapping[str, str] | None, *, resume: Resume, overwrite: bool, local: bool, trust_code: bool = False
) -> list[Link]:
    """The runs of the chain, bases first, when nothing is wrong with any of them. Raises the problem, or a Refusal with all of them."""
    from tunefleet.trainers.check import check_run

    read = read_run(run, overrides, trust_code=trust_code)
    problems = list(read.problems)
    if read.value is not None:
        links, found = chain(read.value, trust_code=trust_code)
        problems += found
        for link in links:
            problems += check_run(link.run, known=link.known, text=read if link is links[-1] else None, local=local)
        problems += output_problems(links[-1].run, resume=resume, overwrite=overwrite) if links else []
    Refusal.raise_if(problems)
    return links


def result_of(output: str) -> Result:
    """What a finished run left. ``evaluation`` is that of its own weights, and empty where there is none."""
    from tunefleet.trainers.evaluation.files import read_results, read_suite

    storage = open_storage(output)
    said = read_done(storage)
    named = [r for r in read_results(storage) if r["manifest"] == said["weights"]]
    return Result(output, said["step"], named[-1] if named else {}, said["exported"], said["stopped"], read_suite(storage))


def _claim(link: Link, links: Sequence[Link], resume: Resume, overwrite: bool, at_end: Callable[[Storage], None], patience_s: float) -> Any:
    """A base run goes on where it stood; --resume and --overwrite speak of the run that was named."""
    named = link is links[-1]
    return claim_patiently(link.run, patience_s, resume=resume if named else "auto", overwrite=overwrite and named, at_end=at_end)


def _run(claims: Sequence[Claim], known: Sequence[Model], address: str | None, console: RunConsole, nested: Nested | None) -> list[Stage]:
    """Prepare while Ray starts, then train, all under one session."""
    from tunefleet.cluster.session import connect

    placed = _placements(claims, _machine(claims))
    joined: Future[Session] = Future()
    console.say("preparing rows and starting Ray" if address is None else f"preparing rows and joining the Ray cluster at {address}")
    with ExitStack() as stack:
        preparing = stack.enter_context(ThreadPoolExecutor(1)).submit(
            lambda: [prepared(held, model, console, partial(_once, joined)) for held, model in zip(claims, known, strict=True)]
        )
        try:
            session = stack.enter_context(connect(address, cpus_needed=_cpus(claims, placed)))
        except BaseException as error:
            joined.set_exception(error)  # the preparing thread may wait for it
            raise
        joined.set_result(session)
        if address is not None:
            placed = _placements(claims, session.resources())
            Refusal.raise_if(_too_large(claims, placed, session))
        ready = preparing.result()
        _decide(claims[-1:], console, session.decisions)
        if session.dashboard:
            console.say(f"Ray's dashboard: {session.dashboard}")
        for held, where in zip(claims, placed, strict=True):
            _decide([held], console, _shared(held, claims[-1]) + ([where.said] if held.run.evaluation.placement == "auto" else []))
        beside = stack.enter_context(ExitStack())
        actors = _actors(claims, placed, beside)
        stages = [stage_of(held, made, where.kind, actors) for held, made, where in zip(claims, ready, placed, strict=True)]
        for held in claims:
            tracking = stack.enter_context(Tracking(held.run, held.storage, console.say))
            stack.enter_context(Tail(held.storage, partial(_show, console, held.run, tracking)))
        if nested is not None:
            _join(claims[-1], nested, stack)
        console.say(f"starting {claims[-1].run.scaling.num_workers} workers")
        _train(stages, claims, local=nested.local if nested else None)
        beside.close()  # what the actors held, those of the suite may need
        if nested is None:
            score_suite(claims[-1].run, claims[-1].storage, console.say, alone=address is None)
    return stages


def _join(held: Claim, nested: Nested, stack: ExitStack) -> None:
    """What a run takes over from the others of its session, and who follows it."""
    take_base(held.storage, nested.base)
    if nested.begin_at is not None:
        adopt(held.storage, nested.begin_at, held.fence)
    stack.enter_context(Tail(held.storage, nested.follow))


def _train(stages: Sequence[Stage], claims: Sequence[Claim], *, local: bool | None) -> None:
    from tunefleet.cluster.group import run_group
    from tunefleet.trainers.worker import train_worker

    last = stages[-1].run
    outputs = [stage.run.output for stage in stages]
    with graceful(partial(_ask_all, claims), last.failures.stop_timeout_s):
        run_group(
            train_worker,
            {"stages": [stage.to_json() for stage in stages]},
            workers=last.scaling.num_workers,
            use_gpu=last.scaling.use_gpu,
            cpus_per_worker=last.scaling.cpus_per_worker,
            max_failures=last.failures.max_failures,
            start_timeout_s=last.failures.start_timeout_s,
            rendezvous_timeout_s=last.failures.rendezvous_timeout_s,
            collective_timeout_s=last.failures.collective_timeout_s,
            hang_timeout_s=last.failures.hang_timeout_s,
            name=WORKERS,
            storage_path=last.output,
            progress=partial(steps_saved, outputs),
            on_event=partial(_group_event, claims),
            local=local,
        )
    raise_if_stopped(claims)


def _ask_all(claims: Sequence[Claim]) -> None:
    """Ask the workers to save and end, whichever run of the chain they are at."""
    for held in claims:
        if not held.storage.exists(DONE):
            ask_to_stop(held.storage, "SIGTERM to the driver")


def raise_if_stopped(claims: Sequence[Claim]) -> None:
    """Raises Stopped when the workers ended, as they were asked to, before the run was done."""
    for held in claims:
        if not held.storage.exists(DONE):
            step = newest_step(held.storage)
            by = next((by for one in claims if (by := asked_to_stop(one.storage, one.fence))), "nobody")
            fix = "--resume (a job: submit it again) goes on from there" if step else "nothing was trained yet: --resume=auto starts anew"
            raise Stopped(f"{held.run.name}: stopped on request", got=f"{by}; saved at step {step}" if step else by, fix=fix)


def steps_saved(outputs: Sequence[str]) -> int:
    """How far the runs of a chain have come: steps of their newest complete checkpoints, summed. It only grows while a chain gets on."""
    return sum(newest_step(open_storage(output)) for output in outputs)


def _group_event(claims: Sequence[Claim], event: str, fields: dict[str, Any]) -> None:
    """A failure of the group belongs to every run that is not done. The network that the ranks took is said once."""
    if event == "group_started" and fields["attempt"] == 1 and (said := network_used(fields["workers"])):
        Events(claims[-1].storage).decisions([said])  # the console follows the events
    for held in claims:
        if not held.storage.exists(DONE):
            Events(held.storage, attempt=fields.get("attempt", 0)).add(event, phase="restarting" if event == "group_failed" else None, **fields)


def _show(console: RunConsole, run: RunFile, tracking: Tracking, name: str, record: Mapping[str, Any]) -> None:
    tracking.line(name, record)
    if record.get("event") == "training_started":
        console.begin(run.name, record["steps"])
    console.line(name, record)


@dataclass(frozen=True)
class Ready:
    """A run's shards, the id that fills the padding of their batches, and optimizer steps in an epoch."""

    prepared: Prepared
    pad_id: int
    steps_per_epoch: int


@contextmanager
def _once(joined: Future[Session]) -> Iterator[Tasks]:
    """The cores of the run's own Ray session, once it stands."""
    from tunefleet.cluster.tasks import Cluster

    joined.result()
    yield Cluster()


def prepared(held: Claim, known: Model, console: RunConsole, cluster: Cluster | None = None) -> Ready:
    """The run's shards, made now unless they are there; its tokenizer is trained first where it wants one.

    ``known`` is the model that can be looked at now; ``cluster`` does the work where the rows are many.

    Raises DataError for the rows, SettingsError for a tokenizer that does not fit the model.
    """
    from tunefleet.data.datareport import sources_of
    from tunefleet.data.feed import feed_of, refuse_short_epoch
    from tunefleet.data.prepare import prepare
    from tunefleet.data.store import Store
    from tunefleet.trainers.models import model_config
    from tunefleet.trainers.objective import make_objective
    from tunefleet.trainers.rowtokenizer import make_tokenizer
    from tunefleet.trainers.vocabulary import load_tokenizer, vocabulary_problems

    run = held.run
    if (lineage := lay_ready(run, held.storage)) is not None:
        Events(held.storage).add("init_from", source=lineage["source"], began_as=lineage["began_as"])
        console.say(f"begins from {lineage['began_as']}")
    make_tokenizer(run)
    decisions: list[str] = []
    tokenizer = load_tokenizer(run.model, run.data.chat_template, decisions=decisions)
    Refusal.raise_if(vocabulary_problems(tokenizer, model_config(known)))
    made = prepare(run.data, make_objective(run.objective, tokenizer.pad_token_id).layout, tokenizer, cluster=cluster)
    feed = feed_of(Store.open(made.store, run.data.cache), run.data, run.training.step_size(), run.training.seed)
    refuse_short_epoch(feed.course, run.training.step_size())
    _decide([held], console, (*decisions, *made.decisions, *feed.decisions()))
    told = {name: value for name, value in asdict(made).items() if name in ("store", "fingerprint", "report", "created", "counts")}
    Events(held.storage).add("prepared", data_version=made.version, sources=sources_of(open_storage(made.store)), **told)
    return Ready(made, tokenizer.pad_token_id, feed.steps.per_epoch)


def stage_of(held: Claim, ready: Ready, placement: Place, actors: Sequence[str]) -> Stage:
    """What the workers get of a run whose shards stand."""
    run, made = held.run, ready.prepared
    steps = run.training.max_steps or math.ceil((run.training.num_train_epochs or 0) * ready.steps_per_epoch)
    return Stage(run, made.store, ready.pad_id, steps, held.fence, placement, actors, held.must_resume)


def _decide(claims: Sequence[Claim], console: RunConsole, texts: Iterable[str]) -> None:
    """Say what was chosen for the user, and note it in the events."""
    for text in texts:
        console.say(f"note: {text}")
        for held in claims:
            Events(held.storage).decisions([text])


def _reused(output: str, found: Differences) -> str:
    """A base that is done is taken as it stands, and what has changed in its file since has no effect."""
    changed = ", ".join(key for key, _, _ in found.changed)
    return f"model.name_or_path: the run in {output} is done and taken as it stands" + (f"; changed since, without effect: {changed}" if changed else "")


def _shared(held: Claim, last: Claim) -> list[str]:
    """The runs of a chain share one worker group: that of the run that was named."""
    mine, used = held.run.scaling, last.run.scaling
    return [] if mine == used else [f"scaling: {held.run.name} is done by the {used.num_workers} workers of {last.run.name}"]


def _machine(claims: Sequence[Claim]) -> dict[str, float]:
    """Cores and GPUs of this machine; GPUs are counted only where a run asks for any."""
    from tunefleet.cluster.session import usable_cores
    from tunefleet.trainers.check import local_gpus

    wanted = any(held.run.scaling.use_gpu or held.run.evaluation.resources.gpu for held in claims)
    return {"CPU": float(usable_cores()), "GPU": float(local_gpus()) if wanted else 0.0}


def _placements(claims: Sequence[Claim], available: Mapping[str, float]) -> list[Placement]:
    """Where the evaluation of each run takes place."""
    from tunefleet.trainers.evaluation.policy import place

    return [place(held.run, available) for held in claims]


def _examined(claims: Sequence[Claim], placed: Sequence[Placement]) -> Evaluation | None:
    """The settings of the evaluation actors, which the runs of a chain share: those of the last run that has any."""
    return next((held.run.evaluation for held, where in reversed(list(zip(claims, placed, strict=True))) if where.kind == "actors"), None)


def _cpus(claims: Sequence[Claim], placed: Sequence[Placement]) -> float:
    """Logical CPUs that workers and actors hold at once."""
    scaling, actors = claims[-1].run.scaling, _examined(claims, placed)
    return scaling.num_workers * scaling.cpus_per_worker + (actors.actors * actors.resources.cpu if actors else 0.0)


def _too_large(claims: Sequence[Claim], placed: Sequence[Placement], session: Session) -> list[RequestError]:
    """Why the cluster could never hold workers and actors at once."""
    from tunefleet.cluster.preflight import resource_problems

    run, actors = claims[-1].run, _examined(claims, placed)
    return resource_problems(
        workers=run.scaling.num_workers,
        cpus_per_worker=run.scaling.cpus_per_worker,
        use_gpu=run.scaling.use_gpu,
        actors=actors.actors if actors else 0,
        actor_cpu=actors.resources.cpu if actors else 0.0,
        actor_gpu=actors.resources.gpu if actors else 0.0,
        available=session.resources(),
        local=False,
    )


def _actors(claims: Sequence[Claim], placed: Sequence[Placement], stack: ExitStack) -> Sequence[str]:
    """The names of the evaluation actors; they end with the stack."""
    from tunefleet.trainers.evaluation.actors import create_evaluators

    wanted = _examined(claims, placed)
    if wanted is None:
        return ()
    actors = create_evaluators(wanted)
    stack.callback(actors.close)
    return actors.names


def _close(claims: Sequence[Claim], stages: Sequence[Stage]) -> None:
    """End the ledger of the run that was named; those of its bases ended when they were done."""
    Events(claims[-1].storage).add("finished", phase="stopped", steps=stages[-1].steps)
    for held in claims:
        join_logs(held.storage)
