"""Scores of a base model and of what became of it, row by row: in this process, or shared out over Ray actors that each keep the model.

The rows are cut into pieces by their lengths alone, so no score depends on how many actors there are. What an actor had scored when it died stands; the
piece that it was at is begun again by the one that takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tunefleet.cluster.errors import PreflightError
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.evaluation.answers import Answers, make_answers
from tunefleet.trainers.evaluation.gap import trained_rows
from tunefleet.trainers.evaluation.plain import PlainModel
from tunefleet.trainers.evaluation.rows import Ids, RowScores, Share, SomeRows, merge, score_share, shares
from tunefleet.trainers.exported import load_exported
from tunefleet.trainers.objective import make_objective
from tunefleet.trainers.run import Full, Resources, RunFile

if TYPE_CHECKING:
    import torch

    from tunefleet.trainers.objective import Objective

Side = Literal["base", "tuned"]
Rows = Literal["held", "trained"]
"""Held-out rows, or the sample of training rows of the overfitting gap, which is never answered."""
Progress = Callable[[int, int], None]
_PIECES = 32  # most pieces of a side: little is lost with one, and few enough that each is worth the way to an actor


@dataclass(frozen=True)
class Paper:
    """What is to be scored, in addresses and JSON, so that it may travel.

    ``store`` has the held-out rows, ``trained`` those of the overfitting gap, or is empty. ``manifest``: the checkpoint in ``output``; None where ``where`` is
    a whole model.
    """

    run: str
    store: str
    trained: str
    where: str
    output: str
    manifest: str | None
    pad_id: int
    needs: frozenset[str]
    asked: Ids
    device: Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Piece:
    """Batches of rows that one of the two models scores."""

    side: Side
    rows: Rows
    batches: tuple[Ids, ...]


@dataclass(frozen=True)
class Where:
    """Who scores: this process (``actors`` 0), or actors of the Ray cluster at ``address``, of a local one without."""

    actors: int
    address: str | None


def pieces_of(side: Side, rows: Rows, lengths: np.ndarray[Any, Any], batch_size: int) -> list[Piece]:
    """Batches as training evaluates them, some together; none of no rows."""
    if not len(lengths):
        return []
    (share,) = shares(lengths, batch_size, 1)
    size = -(-len(share.batches) // _PIECES)
    return [Piece(side, rows, share.batches[start : start + size]) for start in range(0, len(share.batches), size)]


class Marker:
    """Scores pieces; an actor, or an object of this process. It loads a model when it is first asked for it, and holds one at a time."""

    def __init__(self, paper: Paper, threads: int | None = None) -> None:
        """``threads``: of an actor, that it does not take the processors of the others."""
        self.paper, self._threads = paper, threads
        self._held: _Held | None = None

    def do(self, piece: Piece) -> tuple[RowScores, str | None]:
        """The scores of a piece; and this actor's name when Ray has started it again."""
        name = None
        if self._held is None:
            if self._threads is not None:
                import torch

                from tunefleet.cluster.actors import restarted

                torch.set_num_threads(self._threads)
                name = restarted()
            self._held = _Held(self.paper)
        return self._held.score(piece), name


class _Held:
    """Rows, objective and the model of one side."""

    def __init__(self, paper: Paper) -> None:
        import torch

        from tunefleet.data.store import Store
        from tunefleet.trainers.evaluation.heldout import HOLDOUT

        self.paper, self.run = paper, RunFile.model_validate_json(paper.run)
        cache, seed = self.run.data.cache, self.run.training.seed
        self.split = Store.open(paper.store, cache).split(HOLDOUT)
        self.trained = trained_rows(Store.open(paper.trained, cache), self.run.evaluation.gap_rows, seed) if paper.trained else None
        self.objective: Objective = make_objective(self.run.objective, paper.pad_id)
        self.answers: Answers | None = make_answers(self.run, self.split, paper.needs, paper.asked)
        self.device: torch.device = torch.device(paper.device)
        self._side: Side | None = None
        self._model: PlainModel | None = None

    def score(self, piece: Piece) -> RowScores:
        """All of a piece's rows."""
        model = self._of(piece.side)
        share = Share(piece.batches, (True,) * len(piece.batches))
        rows: SomeRows | None = self.split if piece.rows == "held" else self.trained
        assert rows is not None, "training rows were sampled where they were cut into pieces"
        scores = score_share(model.scorer, rows, share, self.objective, device=self.device, needs=self.paper.needs)
        return scores if self.answers is None or piece.rows == "trained" else self.answers.add(scores, model.model, [share], 0, self.device)

    def _of(self, side: Side) -> PlainModel:
        from tunefleet.trainers.models import weights_dtype

        if self._model is not None and self._side == side:
            return self._model
        paper, run = self.paper, self.run
        goes_on = self._model if paper.manifest is not None and self._side == "base" else None  # a checkpoint's weights go into the model that is there
        self._model = None  # the one is let go before the other is read
        if paper.manifest is None and side == "tuned":
            found = PlainModel(load_exported(paper.where, dtype=weights_dtype(run)), self.device)
        else:
            found = goes_on or PlainModel.base(run if paper.manifest is not None else run.model_copy(update={"peft": Full()}), self.device)
        if paper.manifest is not None and side == "tuned":
            found.load(open_storage(paper.output), paper.manifest)
        self._side, self._model = side, found
        return found


def mark(paper: Paper, pieces: Sequence[Piece], where: Where, *, progress: Progress, say: Callable[[str], None]) -> dict[tuple[Side, Rows], RowScores]:
    """The scores of all pieces, by side and rows. ``progress`` gets rows done and rows in all.

    Raises what scoring raised; WorkerError for a piece whose actors died time and again; PreflightError for a cluster that is not there.
    """
    found: dict[tuple[Side, Rows], list[RowScores]] = {}
    done, rows = 0, sum(len(ids) for piece in pieces for ids in piece.batches)
    with ExitStack() as stack:
        for number, scores in _scored(paper, pieces, where, stack, say):
            found.setdefault((pieces[number].side, pieces[number].rows), []).append(scores)
            done += len(scores.ids)
            progress(done, rows)
    return {which: merge(parts) for which, parts in found.items()}


def _scored(paper: Paper, pieces: Sequence[Piece], where: Where, stack: ExitStack, say: Callable[[str], None]) -> Iterator[tuple[int, RowScores]]:
    if not where.actors:
        marker = Marker(paper)
        yield from ((number, marker.do(piece)[0]) for number, piece in enumerate(pieces))
        return
    from tunefleet.cluster.actors import create_actors, spread
    from tunefleet.cluster.session import connect

    held = RunFile.model_validate_json(paper.run).evaluation.resources
    count = min(where.actors, len(pieces))
    session = stack.enter_context(connect(where.address, cpus_needed=count * held.cpu, gpus_needed=count * held.gpu))
    refuse_no_room(held, session.resources())
    for decision in session.decisions:
        say(f"note: {decision}")
    say(f"{count} actor{'s' if count > 1 else ''}, {f'{held.gpu:g} GPU' if held.gpu else f'{held.cpu:g} CPU'} each")
    actors = create_actors(Marker, count, paper, max(1, round(held.cpu)), stem="tunefleet-marker", cpu=held.cpu, gpu=held.gpu)
    stack.callback(actors.close)
    for number, (scores, again) in spread(actors, pieces):
        if again:
            say(f"{again} had died and was started again; its piece is done anew, the others' rows stand")
        yield number, scores


def refuse_no_room(held: Resources, available: Mapping[str, float]) -> None:
    """Raises PreflightError for an actor that Ray would wait for, for ever. Where there is room for some of several, those do the work."""
    for name, each in (("CPU", held.cpu), ("GPU", held.gpu)):
        if each > available.get(name, 0.0):
            want = f"at most {available.get(name, 0.0):g}, all that the Ray session has"
            raise PreflightError(f"resources: {name}s that can never be had", got=f"{each:g} an actor", want=want, fix="set resources lower, or no actors")
