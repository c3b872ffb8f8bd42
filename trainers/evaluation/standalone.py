"""`tunefleet evaluate`: a run, one of its checkpoints, an export or any model, against the base model of a run file, on its held-out rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tunefleet.cluster.errors import Refusal, RequestError, SettingsError
from tunefleet.cluster.settings import Checked
from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.cluster.storages.folders import has_file
from tunefleet.trainers.evaluation.exam import Exam, exam_of_run, exam_of_suite
from tunefleet.trainers.evaluation.files import read_base, result
from tunefleet.trainers.evaluation.gap import Scored, Seen, overfitting, seen_rows
from tunefleet.trainers.evaluation.gate import judge
from tunefleet.trainers.evaluation.gatefile import Gate, gate_problems, read_gate
from tunefleet.trainers.evaluation.heldout import held_out
from tunefleet.trainers.evaluation.marking import Paper, Progress, Rows, Side, Where, mark, pieces_of
from tunefleet.trainers.evaluation.policy import Ticket
from tunefleet.trainers.evaluation.suite import Suite, load_suite, rows_of
from tunefleet.trainers.exported import ADAPTER_CONFIG, refuse_missing
from tunefleet.trainers.manifest import read_manifest
from tunefleet.trainers.objective import make_objective
from tunefleet.trainers.output import weights_of
from tunefleet.trainers.recorded import recorded_run
from tunefleet.trainers.run import RunFile, load_run
from tunefleet.trainers.stage import RUN_FILE


@dataclass(frozen=True)
class Subject:
    """What is evaluated, and the run whose base model and held-out rows it is compared with.

    ``checkpoint``: that of the ``ticket``, in ``storage``. ``model``: a whole model or an adapter, in the folder (or hub id) ``where``.
    """

    run: RunFile
    kind: Literal["checkpoint", "model"]
    where: str
    storage: Storage | None = None
    ticket: Ticket | None = None


def evaluate(
    source: str | Path,
    run: RunFile | str | Path | None = None,
    *,
    suite: Suite | str | Path | None = None,
    gate: Gate | str | Path | None = None,
    actors: int | None = None,
    address: str | None = None,
    trust_code: bool = False,
    progress: Progress = lambda done, rows: None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Score a source and its base model, and compare: the content of an evaluation file, with ``source`` beside.

    Args:
        source: a run's output folder (the weights it ended with, else its newest checkpoint), a checkpoint's folder, an export or model folder, or a hub id.
        run: the run file that names the base model and the rows; where ``source`` lies in a run's output, that run's own by default.
        suite: a suite file, whose sets are scored instead of the run's held-out rows; its name is ``suite`` of the result.
        gate: what must have been found; ``gate`` of the result says what passed (see judge).
        actors: how many Ray actors share the rows; 0: this process scores them; None: as many as the suite names, else 0.
        address: the Ray cluster of the actors, one at least; without it they are of a local one.
        trust_code: run the code that a run's own file asks for (a model's remote code, modules of dotted kinds); off, such a file is refused.
        progress: gets rows done and rows in all, of both models.
        say: gets lines for people.

    Raises RequestError, before a model is loaded, for a source that is nothing of these, rows that are not there, or a gate that asks for what is not;
    CheckpointError for a torn checkpoint.
    """
    began = time.monotonic()
    subject, examined, asked = _checked(source, run, suite, gate, trust_code)
    pad_id, exam, seen = _exam(subject.run, examined)
    if asked.value is not None:
        Refusal.raise_if([*asked.problems, *gate_problems(asked.value, exam.closer.offered(exam.metrics, no_gap=seen.lacks))])
    if seen.lacks:
        say(f"note: overfitting is not looked at, for no training rows are scored: {seen.lacks}")
    if actors is None:
        actors = examined.actors if examined is not None else 0
    where = Where(max(actors, 1) if address else actors, address)
    base, tuned = _scored(subject, exam, seen, pad_id, where, progress, say)
    found = exam.closer.compare(tuned.held, base.held, exam.metrics)
    drawn: dict[str, Any] = {"resamples": exam.run.evaluation.bootstrap, "seed": exam.run.training.seed}
    found["gap"] = overfitting(tuned, base, exam.metrics, sets=exam.top, own=exam.own, **drawn)
    if asked.value is not None:
        found["gate"] = judge(asked.value, found)
    content = result(subject.ticket or Ticket(0, None), found, placement="standalone", seconds=time.monotonic() - began)
    named = {"suite": examined.name} if examined is not None else {}
    named |= {"source": str(source), "base_model": subject.run.model.name_or_path or subject.run.model.init_from or "with random weights"}
    return {**content, **named, "step": subject.ticket.step if subject.ticket else None}


def _checked(
    source: str | Path, run: RunFile | str | Path | None, suite: Suite | str | Path | None, gate: Gate | str | Path | None, trust_code: bool
) -> tuple[Subject, Suite | None, Checked[Gate]]:
    """What is evaluated, on what, and what must come out, as far as it could be read. Raises the problem, or a Refusal with those of all three.

    What is wrong with a gate alone is left to be told with what it asks for in vain.
    """
    problems: list[RequestError] = []
    subject, examined = None, None
    try:
        subject = find_subject(source, run, trust_code=trust_code)
    except RequestError as error:
        problems.append(error)
    try:
        examined = load_suite(suite, trust_code=trust_code) if suite is not None else None
    except RequestError as error:
        problems.append(error)
    asked = read_gate(gate) if gate is not None else Checked[Gate](None, [])
    if problems or asked.value is None:
        Refusal.raise_if([*problems, *asked.problems])
    assert subject is not None, "what it lacked was raised"
    return subject, examined, asked


def _exam(run: RunFile, suite: Suite | None) -> tuple[int, Exam, Seen]:
    """The id that fills padding, the rows, prepared where they are not yet, and a sample of those that were trained on."""
    from tunefleet.data.prepare import prepare
    from tunefleet.data.store import Store
    from tunefleet.trainers.vocabulary import load_tokenizer

    tokenizer = load_tokenizer(run.model, run.data.chat_template)
    layout = make_objective(run.objective, tokenizer.pad_token_id).layout
    data = run.data if suite is None else rows_of(suite, run)
    store = Store.open(prepare(data, layout, tokenizer).store, run.data.cache)
    exam = exam_of_run(run, held_out(store)) if suite is None else exam_of_suite(suite, run, store)
    return tokenizer.pad_token_id, exam, seen_rows(run, store if suite is None else None, layout, tokenizer)


def _scored(subject: Subject, exam: Exam, seen: Seen, pad_id: int, where: Where, progress: Progress, say: Callable[[str], None]) -> tuple[Scored, Scored]:
    """Of the base model, kept ones where the run has them, and of the subject."""
    assert exam.held.home is not None, "the rows were prepared"
    kept = read_base(subject.storage, exam.held.key(exam.run), exam.needs) if subject.storage is not None else None
    paper = Paper(
        run=exam.run.model_dump_json(),
        store=exam.held.home.address,
        trained=seen.store,
        where=subject.where,
        output=subject.storage.address if subject.storage is not None else "",
        manifest=subject.ticket.manifest if subject.ticket is not None else None,
        pad_id=pad_id,
        needs=exam.needs,
        asked=exam.asked,
        device=_device(exam.run, where),
    )
    wanted: list[tuple[Side, Rows]] = [("base", "held")] if kept is None else []
    wanted += [("base", "trained"), ("tuned", "held"), ("tuned", "trained")]  # all of the base model's first: an actor holds one at a time
    lengths = {"held": exam.held.split.lengths, "trained": seen.rows.lengths if seen.rows is not None else np.zeros(0, np.int32)}
    pieces = [piece for side, rows in wanted for piece in pieces_of(side, rows, lengths[rows], exam.run.evaluation.batch_size)]
    scores = mark(paper, pieces, where, progress=progress, say=say)
    base = Scored(kept or scores["base", "held"], scores.get(("base", "trained")))
    return base, Scored(scores["tuned", "held"], scores.get(("tuned", "trained")))


def _device(run: RunFile, where: Where) -> Literal["cpu", "cuda"]:
    """This process takes a GPU where there is one; an actor where ``resources.gpu`` gives it one."""
    import torch

    if where.actors:
        return "cuda" if run.evaluation.resources.gpu else "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def find_subject(source: str | Path, run: RunFile | str | Path | None, *, trust_code: bool = False) -> Subject:
    """What a source is. Raises SettingsError when it is nothing that can be evaluated, or a model without a run file to compare it with."""
    place = str(source)
    folder = Path(place).expanduser()
    if has_file(place, RUN_FILE):
        storage, manifest = weights_of(place)
        return Subject(_run_of(place, run, trust_code), "checkpoint", place, storage, Ticket(manifest.step, manifest.name, manifest.digest))
    if has_file(place, "manifest.json"):
        output, kind, step = open_storage(place).address.rsplit("/", 2)
        storage = open_storage(output)
        manifest = read_manifest(storage, f"{kind}/{step}/manifest.json")
        ticket = Ticket(manifest.step, manifest.name, manifest.digest)
        return Subject(_run_of(output, run, trust_code), "checkpoint", place, storage, ticket)
    refuse_missing(place)
    if folder.is_dir() and not ((folder / "config.json").is_file() or (folder / ADAPTER_CONFIG).is_file()):
        raise SettingsError(
            "this folder is nothing that can be evaluated",
            got=str(folder),
            want=f"a run's output ({RUN_FILE}), a checkpoint (manifest.json), or a model (config.json or {ADAPTER_CONFIG})",
            fix="check the path",
        )
    return Subject(_run_of(place.rstrip("/").rpartition("/")[0] or ".", run, trust_code), "model", place)


def _run_of(output: str, run: RunFile | str | Path | None, trust_code: bool) -> RunFile:
    """The run to compare with: the one given, its base runs resolved to their exports; else that of the output."""
    from tunefleet.trainers.chain import absolute, chain

    if run is None and has_file(output, RUN_FILE):
        return absolute(recorded_run(open_storage(output), trusted=None if trust_code else ()))
    if run is None:
        raise SettingsError("a model alone has no base and no held-out rows", got="no run file", want="--run FILE", fix="name the run file to compare it with")
    given = run if isinstance(run, RunFile) else load_run(run, trust_code=trust_code)
    links, problems = chain(given, trust_code=trust_code)
    Refusal.raise_if(problems)
    return links[-1].run
