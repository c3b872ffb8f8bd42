"""`tunefleet evaluate`: a run, one of its checkpoints, an export or any model, against the base model of a run file, on its held-out rows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunefleet.cluster.errors import Refusal, SettingsError
from tunefleet.cluster.settings import Checked
from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.cluster.storages.folders import has_file
from tunefleet.trainers.evaluation.answers import make_answers
from tunefleet.trainers.evaluation.closer import Closer
from tunefleet.trainers.evaluation.files import read_base, result
from tunefleet.trainers.evaluation.gap import Scored, of_tokens, overfitting, trained_rows
from tunefleet.trainers.evaluation.gate import judge
from tunefleet.trainers.evaluation.gatefile import Gate, gate_problems, read_gate
from tunefleet.trainers.evaluation.heldout import HeldOut, held_out
from tunefleet.trainers.evaluation.metric import make_metrics, needs
from tunefleet.trainers.evaluation.plain import PlainModel
from tunefleet.trainers.evaluation.policy import Ticket
from tunefleet.trainers.evaluation.rows import RowScores, score_rows, score_share, shares
from tunefleet.trainers.exported import ADAPTER_CONFIG, load_exported, refuse_missing
from tunefleet.trainers.manifest import read_manifest
from tunefleet.trainers.objective import make_objective
from tunefleet.trainers.output import weights_of
from tunefleet.trainers.recorded import recorded_run
from tunefleet.trainers.run import Full, RunFile, load_run
from tunefleet.trainers.stage import RUN_FILE

if TYPE_CHECKING:
    import torch

    from tunefleet.trainers.evaluation.gap import Sampled
    from tunefleet.trainers.objective import Objective


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


def evaluate(source: str | Path, run: RunFile | str | Path | None = None, *, trust_code: bool = False, gate: Gate | str | Path | None = None) -> dict[str, Any]:
    """Score a source and its base model, and compare: the content of an evaluation file, with ``source`` beside.

    Args:
        source: a run's output folder (the weights it ended with, else its newest checkpoint), a checkpoint's folder, an export or model folder, or a hub id.
        run: the run file that names the base model and the rows; where ``source`` lies in a run's output, that run's own by default.
        gate: what must have been found; ``gate`` of the result says what passed (see judge).
        trust_code: run the code that a run's own file asks for (a model's remote code, modules of dotted kinds); off, such a file is refused.

    Raises RequestError for a source that is nothing of these, rows that are not there, or a gate that asks for what is not;
    CheckpointError for a torn checkpoint.
    """
    import torch

    began = time.monotonic()
    subject = find_subject(source, run, trust_code=trust_code)
    objective, held, trained = _rows(subject.run)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = subject.run.evaluation
    metrics = make_metrics(settings.metrics)
    closer = Closer(subject.run, held)
    asked = read_gate(gate) if gate is not None else Checked[Gate](None, [])
    if asked.value is not None:
        asked.problems.extend(gate_problems(asked.value, closer.offered(metrics, gap=trained is not None)))
    Refusal.raise_if(asked.problems)
    base, tuned = _Examined(subject, objective, held, trained, device, needs(metrics)).scores()
    found = closer.compare(tuned.held, base.held, metrics)
    found["gap"] = overfitting(tuned, base, of_tokens(metrics), resamples=settings.bootstrap, seed=subject.run.training.seed)
    if asked.value is not None:
        found["gate"] = judge(asked.value, found)
    ticket = subject.ticket or Ticket(0, None)
    content = result(ticket, found, placement="standalone", seconds=time.monotonic() - began)
    return {**content, "step": subject.ticket.step if subject.ticket else None, "source": str(source)}


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


def _rows(run: RunFile) -> tuple[Objective, HeldOut, Sampled | None]:
    """How rows are scored, the held-out ones, and a sample of those that were trained on."""
    from tunefleet.data.prepare import prepare
    from tunefleet.data.store import Store
    from tunefleet.trainers.vocabulary import load_tokenizer

    tokenizer = load_tokenizer(run.model, run.data.chat_template)
    objective = make_objective(run.objective, tokenizer.pad_token_id)
    store = Store.open(prepare(run.data, objective.layout, tokenizer).store, run.data.cache)
    return objective, held_out(store), trained_rows(store, run.evaluation.gap_rows, run.training.seed)


@dataclass(frozen=True)
class _Examined:
    """A subject and the rows that it is scored on; one model is in memory at a time."""

    subject: Subject
    objective: Objective
    held: HeldOut
    trained: Sampled | None
    device: torch.device
    needs: frozenset[str]

    def scores(self) -> tuple[Scored, Scored]:
        """Of the base model, kept ones where the run has them, and of the subject."""
        from tunefleet.trainers.models import weights_dtype

        subject, bare = self.subject, self.subject.run.model_copy(update={"peft": Full()})
        if subject.kind == "checkpoint":
            return self._checkpoint()
        model = PlainModel.base(bare, self.device)
        base = self._score(model)
        del model  # the base is let go before the other is read
        return base, self._score(PlainModel(load_exported(subject.where, dtype=weights_dtype(subject.run)), self.device))

    def _checkpoint(self) -> tuple[Scored, Scored]:
        storage, ticket = self.subject.storage, self.subject.ticket
        assert storage is not None
        assert ticket is not None
        assert ticket.manifest is not None
        model = PlainModel.base(self.subject.run, self.device)
        base = self._score(model, read_base(storage, self.held.key(self.subject.run), self.needs))
        model.load(storage, ticket.manifest)
        return base, self._score(model)

    def _score(self, model: PlainModel, kept: RowScores | None = None) -> Scored:
        """The scores of a model; ``kept`` ones of the held-out rows stand for themselves."""
        size, correct = self.subject.run.evaluation.batch_size, "correct" in self.needs
        trained = None
        if self.trained is not None:
            trained = score_rows(model.scorer, self.trained, self.objective, batch_size=size, device=self.device, correct=correct)
        return Scored(kept if kept is not None else self._held(model), trained)

    def _held(self, model: PlainModel) -> RowScores:
        split, run = self.held.split, self.subject.run
        divided = shares(split.lengths, run.evaluation.batch_size, 1)
        scores = score_share(model.scorer, split, divided[0], self.objective, device=self.device, correct="correct" in self.needs)
        answers = make_answers(run, split, self.needs)
        return scores if answers is None else answers.add(scores, model.model, divided, 0, self.device)
