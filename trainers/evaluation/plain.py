"""A run's model in one process, without DeepSpeed, and the held-out rows that it is examined on: what an actor and `tunefleet evaluate` hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import CheckpointError
from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.trainers.evaluation.answers import make_answers
from tunefleet.trainers.evaluation.compare import totals
from tunefleet.trainers.evaluation.exam import exam_of_run
from tunefleet.trainers.evaluation.files import read_base, write_base
from tunefleet.trainers.evaluation.heldout import HeldOut, held_out
from tunefleet.trainers.evaluation.rows import RowScores, Share, merge, score_share, shares
from tunefleet.trainers.evaluation.samples import Sampler, keep_base, kept_base, make_sampler
from tunefleet.trainers.objective import make_objective
from tunefleet.trainers.run import RunFile

if TYPE_CHECKING:
    import torch


class Examiner:
    """Scores the base model once and any weights of the run after it, on the held-out rows of the run's store."""

    def __init__(self, run: RunFile, held: HeldOut, storage: Storage, pad_id: int, device: torch.device) -> None:
        self.run, self.held, self.storage, self.device = run, held, storage, device
        self.objective = make_objective(run.objective, pad_id)
        self.key, self.exam = held.key(run), exam_of_run(run, held)
        self.answers = make_answers(run, held.split, self.exam.needs, self.exam.asked)
        self._model = PlainModel.base(self.run, device)
        self._base: dict[tuple[int, int], RowScores] = {}
        self._trained, self._kept = False, False
        self._sampler: Sampler | None = None
        self._base_samples: list[str] | None = None

    @classmethod
    def open(cls, run: str, store: str, output: str, pad_id: int) -> Examiner:
        """From JSON and addresses. The model is on a GPU where ``evaluation.resources.gpu`` asks for one."""
        import torch

        from tunefleet.data.store import Store

        file = RunFile.model_validate_json(run)
        device = torch.device("cuda" if file.evaluation.resources.gpu else "cpu")
        return cls(file, held_out(Store.open(store, file.data.cache)), open_storage(output), pad_id, device)

    def base_share(self, index: int, count: int) -> RowScores:
        """The base model's scores of one share: from the run's output where they were kept, else scored now."""
        if (index, count) not in self._base:
            kept = read_base(self.storage, self.key, self.exam.needs)
            self._kept = kept is not None
            self._base[index, count] = kept.select(self._shares(count)[index].ids()) if kept else self._score_base(index, count)
        return self._base[index, count]

    def tuned_share(self, manifest: str, index: int, count: int) -> RowScores:
        """The scores of one share with the weights of a manifest. Raises CheckpointError when they are torn or do not fit."""
        self._trained = True
        self._model.load(self.storage, manifest)
        return self._score(index, count)

    def base_samples(self) -> None:
        """Have the base model's answers to the prompts: kept ones, or given now, before any weights are loaded."""
        self._sampler = self._sampler or make_sampler(self.run, self.held.split)
        if self._sampler is None or self._base_samples is not None:
            return
        key = self._sampler.key(self.key)
        self._base_samples = kept_base(self.storage, key)
        if self._base_samples is None and not self._trained:
            self._base_samples = self._sampler.answer(self._model.model, self._sampler.asked, self.device)
            keep_base(self.storage, key, self._base_samples)

    def tuned_samples(self) -> list[dict[str, Any]]:
        """The prompts of a samples file, answered with the weights that were scored last."""
        if self._sampler is None:
            return []
        return self._sampler.content(self._base_samples, self._sampler.answer(self._model.model, self._sampler.asked, self.device))

    def compare(self, tuned: Sequence[RowScores], base: Sequence[RowScores]) -> dict[str, Any]:
        """Numbers and intervals of all shares together; the base's scores are kept in the run's output."""
        whole, whole_base = merge(tuned), merge(base)
        found = self.exam.closer.compare(whole, whole_base, self.exam.metrics)
        if not self._kept:
            write_base(self.storage, self.key, whole_base, found["base"])
            self._kept = True
        return found

    def keep_base(self, base: Sequence[RowScores]) -> None:
        """Keep the base model's scores, before any weights have been scored."""
        whole = merge(base)
        write_base(self.storage, self.key, whole, totals(whole, self.exam.metrics))

    def _score_base(self, index: int, count: int) -> RowScores:
        if self._trained:
            self._model, self._trained = PlainModel.base(self.run, self.device), False
        return self._score(index, count)

    def _score(self, index: int, count: int) -> RowScores:
        divided = self._shares(count)
        scores = score_share(self._model.scorer, self.held.split, divided[index], self.objective, device=self.device, needs=self.exam.needs)
        return scores if self.answers is None else self.answers.add(scores, self._model.model, divided, index, self.device)

    def _shares(self, count: int) -> list[Share]:
        return shares(self.held.split.lengths, self.run.evaluation.batch_size, count)


class PlainModel:
    """A model without DeepSpeed, in evaluation mode, on one device, and its scorer. ``fingerprint`` is that of the base model, where there is one."""

    def __init__(self, model: Any, device: torch.device, fingerprint: str = "") -> None:
        from tunefleet.trainers.scoring import TokenScorer

        self.fingerprint = fingerprint
        self.model = model.eval().to(device)
        self.scorer = TokenScorer(self.model)

    @classmethod
    def base(cls, run: RunFile, device: torch.device) -> PlainModel:
        """The base model of a run, with the run's adapter (if any) attached, which changes nothing until weights are loaded."""
        from tunefleet.cluster.world import World
        from tunefleet.trainers.models import build

        built = build(of_one_process(run), World.single(device))
        return cls(built.model, device, built.base_fingerprint)

    def load(self, storage: Storage, manifest: str) -> None:
        """Put the weights of a checkpoint in. Raises CheckpointError when it is torn, of another model or on another base; then nothing is changed."""
        import torch

        from tunefleet.trainers.checkpoint import load_plain, read_manifest

        found = read_manifest(storage, manifest)
        found.check_base(self.fingerprint)
        tensors = load_plain(storage, found)
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        wrong = sorted({(name, tuple(p.shape)) for name, p in parameters.items()} ^ {(name, tuple(t.shape)) for name, t in tensors.items()})
        if wrong:
            raise CheckpointError(
                f"{manifest} is of another model",
                got=", ".join(f"{name} {shape}" for name, shape in wrong[:4]) + " on one side only",
                want=f"the {len(parameters)} trained parameters of the run",
                fix="evaluate it with the run file that trained it",
            )
        with torch.no_grad():
            for name, tensor in tensors.items():
                parameters[name].copy_(tensor)


def of_one_process(run: RunFile) -> RunFile:
    """The run as it is computed without others: nothing partitioned, nothing recomputed."""
    training = run.training.model_copy(update={"gradient_checkpointing": False})
    return run.model_copy(update={"zero": run.zero.model_copy(update={"stage": 0, "offload": "none"}), "training": training})
