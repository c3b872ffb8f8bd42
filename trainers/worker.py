"""What every rank does: for each run of the chain, model, engine, stream at the cursor, the loop, the last checkpoint, the export.

A restarted group comes in here again, finds the newest complete checkpoint, and goes on with the same next example.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunefleet.cluster import heartbeat
from tunefleet.cluster.errors import CheckpointError, OutputError
from tunefleet.cluster.machine import hardware
from tunefleet.cluster.metrics import Lines
from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.trainers.chain import EXPORT
from tunefleet.trainers.hostmemory import kept_from_step_to_step
from tunefleet.trainers.ledger import Events
from tunefleet.trainers.loop import State, Watcher, seed_round, to_device, train_loop
from tunefleet.trainers.objective import Objective, make_objective
from tunefleet.trainers.output import check_fence
from tunefleet.trainers.schedule import schedule
from tunefleet.trainers.stage import DONE, METRICS, Stage, write_done
from tunefleet.trainers.stopping import StopWatch
from tunefleet.trainers.watchers import CheckpointWatch, EvaluateWatch, FiniteGuard, LogWatch, Pulse

if TYPE_CHECKING:
    from tunefleet.cluster.world import World
    from tunefleet.data.packing import Kind
    from tunefleet.data.stream import Stream
    from tunefleet.trainers.checkpoint import Manifest, Saving
    from tunefleet.trainers.engine import Engine


def train_worker(payload: Mapping[str, Any]) -> None:
    """Do the runs of a chain that are not done, on this rank. ``payload``: ``stages`` as JSON, and the number of this ``attempt``."""
    from tunefleet.cluster.world import World

    world, stages = World.join(), [Stage.from_json(value) for value in payload["stages"]]
    for number, stage in enumerate(stages):
        final = number == len(stages) - 1
        if not train_stage(stage, world, payload["attempt"], final=final, named=stages[-1], refuse_ghosts=payload["refuse_ghosts"]):
            return
        if not final:  # at the end only rank 0 has something left to do, and nobody's patience ends while it exports
            world.barrier()  # the next run of the chain reads this one's export


def train_stage(
    stage: Stage, world: World, attempt: int, *, final: bool = True, named: Stage | None = None, refuse_ghosts: Callable[[], None] = lambda: None
) -> bool:
    """Do one run, on this rank; nothing where it is done already. False when it was asked to stop.

    ``final``: it is the last of its chain. ``named``: that last one, whose output may be asked too. ``refuse_ghosts`` raises in an attempt that was
    given up; it is called before anything of weight is written.
    """
    storage = open_storage(stage.run.output)
    if world.broadcast(storage.exists(DONE)):
        return True
    with ExitStack() as stack:
        worker = Worker(stage, storage, world, attempt, final=final, stack=stack, refuse_ghosts=refuse_ghosts)
        asked = [(open_storage(one.run.output), one.fence) for one in (stage, *([named] if named and not final else []))]
        worker.stop = stack.enter_context(StopWatch(asked, looks=world.main))
        worker.rehearse()
        state = worker.train()
        if by := world.broadcast(worker.stop.by if state.step < stage.steps else None):
            worker.leave(state, by)
            return False
        worker.finish(state)
    return True


@dataclass(frozen=True)
class Parts:
    """What a rank trains with."""

    objective: Objective
    engine: Engine
    stream: Stream
    base_fingerprint: str


class Worker:
    """One rank of one run: made at the newest checkpoint, trained, finished."""

    def __init__(self, stage: Stage, storage: Storage, world: World, attempt: int, *, final: bool, stack: ExitStack, refuse_ghosts: Callable[[], None]) -> None:
        """``stack``: what must be closed however this ends."""
        from tunefleet.data.store import Store

        self.final, self._stack, self._refuse_ghosts = final, stack, refuse_ghosts
        self.lines: Lines | None = None
        self.stage, self.run, self.storage, self.world = stage, stage.run, storage, world
        self.events = Events(storage, attempt=attempt, writes=world.main, background=True)
        stack.callback(self.events.close)
        self.name = f"{stage.fence:06d}-{attempt:03d}-{world.broadcast(secrets.token_hex(3))}"
        self.events.add(
            "workers_ready", phase="starting" if attempt == 1 else "restarting", ranks=world.size, device=str(world.device), hardware=hardware(world.device)
        )
        self.store = Store.open(stage.store, stage.run.data.cache)
        manifest = self._newest()
        self.parts = self._build(manifest)
        self.state = self._state(manifest)
        self.checkpoints = CheckpointWatch(self._save, self.events, every=self.run.checkpoint.every_steps, steps=stage.steps)
        if manifest is not None:
            self.checkpoints.saved = {manifest.step: manifest.name}
        self.evaluation = self._evaluation()
        self.checkpoints.retain = self._retain
        self.stop = StopWatch((), looks=False)
        heartbeat.beat()

    def rehearse(self) -> None:
        """Forward and backward over the costliest micro-batch that can come, so that running out of memory happens now; no weight changes."""
        parts, stream = self.parts, self.parts.stream
        batch = to_device(parts.objective.collate(stream.costliest()), self.world.device)
        seed_round(self.run.training.seed, -1, stream.take(self.state.step % stream.steps_per_epoch)[0])
        weights = parts.objective.weights(batch)
        parts.engine.rehearse(parts.objective.loss(parts.engine.scorer, batch).over(weights))
        heartbeat.beat()

    def train(self) -> State:
        """From the newest checkpoint to the last step, or to early stopping."""
        if self.world.device.type == "cpu":
            kept_from_step_to_step()
        watchers = self._watchers()
        if self.evaluation is not None:
            self.evaluation.begin(self.state)
        self.events.add("training_started", phase="training", step=self.state.step, steps=self.stage.steps)
        return train_loop(
            self.state,
            self.stage.steps,
            source=self.parts.stream,
            objective=self.parts.objective,
            engine=self.parts.engine,
            world=self.world,
            rate=schedule(self.run, self.stage.steps),
            watchers=watchers,
            seed=self.run.training.seed,
        )

    def leave(self, state: State, by: str) -> None:
        """Save, since somebody has asked the run to stop before its end. Before the first step there is nothing to save."""
        self.checkpoints.settle()
        self.world.barrier()  # what another rank may still be saving of this very step is whole before anything is written over it
        saved = self.checkpoints.resumable(state) if state.step else None
        self.parts.engine.close()
        self._flush()
        self.events.add("stopping", step=state.step, checkpoint=saved, by=by)

    def finish(self, state: State) -> None:
        """Save and evaluate the last state, export on rank 0 (the best weights after early stopping), and say that the run is done."""
        last = self.checkpoints.last(state)
        best = self._await_evaluation(state)
        stopped = "early stopping" if state.step < self.stage.steps else None
        self.parts.engine.close()
        if self.world.main:
            self._check_writer()
            self._flush()
            weights = best if stopped and best else last
            exported = self._export(weights) if self.run.export.at_end else None
            write_done(self.storage, step=state.step, weights=weights, exported=exported, stopped=stopped)
            self.events.add("run_done", phase="finishing" if self.final else "stopped", step=state.step)

    def _await_evaluation(self, state: State) -> str | None:
        """The manifest of the best weights, once every evaluation is in."""
        if self.evaluation is None:
            return None
        with self.events.during("last_evaluation", "evaluation", "training", step=state.step):
            return self.evaluation.finish()

    def _export(self, manifest: str) -> str:
        from tunefleet.trainers.checkpoint import read_manifest
        from tunefleet.trainers.export import export

        with self.events.during("export", "exporting", "exporting"):
            place = f"{self.storage.address}/{EXPORT}"
            done = export(self.run, self.storage, read_manifest(self.storage, manifest), place, merge=self.run.export.merge)
        self.events.add("exported", path=done.path, checks=done.checks)
        return done.path

    def _build(self, manifest: Manifest | None) -> Parts:
        """Model, engine and stream, at the checkpoint where there is one."""
        from tunefleet.trainers.checkpoint import load_optimizer, load_weights
        from tunefleet.trainers.engine import Engine
        from tunefleet.trainers.models import build
        from tunefleet.trainers.scoring import TokenScorer, batching_kind, verify
        from tunefleet.trainers.zero import prepare_optimizer

        objective = make_objective(self.run.objective, self.stage.pad_id)
        built = build(self.run, self.world)
        if manifest is not None:
            load_weights(self.storage, manifest, built.model)
        prepare_optimizer(self.run, lambda text: self.events.decisions([text]))
        kind, why = batching_kind(self.run.data.batching, built.model, self.world.device)
        engine = Engine(scorer := TokenScorer(built.model.to(self.world.device), pack=kind == "pack"), self.run, self.world)
        verify(scorer, to_device(objective.collate(objective.sample_records()), self.world.device))
        if manifest is not None:
            load_optimizer(self.storage, manifest, engine)
        heartbeat.beat()
        self.events.decisions((*built.decisions, *why, *engine.decisions))
        return Parts(objective, engine, self._stream(kind), built.base_fingerprint)

    def _stream(self, kind: Kind) -> Stream:
        from tunefleet.data.feed import feed_of
        from tunefleet.data.stream import Stream

        training = self.run.training
        feed = feed_of(self.store, self.run.data, training.step_size(), training.seed)
        return Stream(
            feed,
            kind=kind,
            limits=training.limits(),
            rank=self.world.rank,
            ranks=self.world.size,
        )

    def _newest(self) -> Manifest | None:
        """The newest complete checkpoint, agreed by all ranks; what an earlier attempt wrote beyond it is dropped.

        Raises OutputError where a run that is to go on finds none that is whole.
        """
        from tunefleet.trainers.checkpoint import drop_after, newest, read_manifest

        name = None
        if self.world.main:
            self._check_writer()
            found = newest(self.storage, on_skip=self._skipped)
            if found is None and self.stage.must_resume:
                fix = "put the files back from a copy, or --overwrite"
                raise OutputError("output: no checkpoint is whole", got=self.storage.address, want="one that is as it was written", fix=fix)
            drop_after(self.storage, found.step if found else 0)
            name = found.name if found else None
            if found:
                self.events.add("resumed", step=found.step, checkpoint=found.name)
        name = self.world.broadcast(name)
        return read_manifest(self.storage, name) if name else None

    def _state(self, manifest: Manifest | None) -> State:
        """Where to go on. Raises CheckpointError when the checkpoint stands on another base model, or elsewhere in the data than this run would."""
        if manifest is None:
            return State()
        manifest.check_base(self.parts.base_fingerprint)
        state = State(**manifest.meta["state"])
        ours = self.parts.stream.cursor(state.step).to_json()
        if ours != manifest.meta["cursor"]:
            raise CheckpointError(
                f"{manifest.folder} is of other data",
                got=f"{manifest.meta['cursor']}",
                want=f"{ours}",
                fix="put the rows and data settings back as they were, or start a new run with another output",
            )
        return state

    def _skipped(self, name: str, why: CheckpointError) -> None:
        self.events.add("checkpoint_skipped", checkpoint=name, why=f"{why.what}: {why.got}")

    def _save(self, state: State, optimizer: bool) -> Saving:
        from tunefleet.trainers.checkpoint import save

        meta = {
            "step": state.step,
            "state": {"step": state.step, "tokens": state.tokens, "nonfinite": state.nonfinite},
            "cursor": self.parts.stream.cursor(state.step).to_json(),
            "base": {"name_or_path": self.run.model.name_or_path, "revision": self.run.model.revision, "fingerprint": self.parts.base_fingerprint},
            "run": self.run.name,
        }
        heartbeat.beat()
        if self.world.main:
            self._check_writer()
        return save(self.storage, self.parts.engine, meta, optimizer=optimizer, attempt=self.name, fence=self.stage.fence, before_commit=self._flush)

    def _check_writer(self) -> None:
        """Raises when another run, or another attempt of this one, writes here by now."""
        check_fence(self.storage, self.stage.fence)
        self._refuse_ghosts()

    def _flush(self) -> None:
        """See that every line of metrics stands: one that a checkpoint is past would never be written again. Called before a manifest is written."""
        self._refuse_ghosts()
        if self.lines is not None:
            self.lines.flush()

    def _retain(self) -> None:
        from tunefleet.trainers.checkpoint import retain
        from tunefleet.trainers.handover import pinned

        protected = self.evaluation.protected() if self.evaluation is not None else set()
        retain(self.storage, self.run.checkpoint.keep, protected | pinned(self.storage))

    def _evaluation(self) -> EvaluateWatch | None:
        from tunefleet.trainers.evaluation.actors import Order
        from tunefleet.trainers.evaluation.inline import Trained
        from tunefleet.trainers.evaluation.watch import EvaluationWatch

        if self.stage.placement == "none":
            return None
        parts, steps, on_event = self.parts, self.stage.steps, self.events.on_event
        if self.stage.placement == "inline":
            trained = Trained(parts.engine.scorer, parts.engine.deepspeed, parts.objective, parts.engine.model)
            watch = EvaluationWatch.inline(self.run, self.storage, self.world, trained=trained, store=self.store, steps=steps, on_event=on_event)
        else:
            order = Order(self.run.model_dump_json(), self.stage.store, self.storage.address, parts.objective.pad_id)
            watch = EvaluationWatch.beside(self.run, self.storage, self.world, actors=self.stage.actors, order=order, steps=steps, on_event=on_event)
        return EvaluateWatch(watch, self.checkpoints)

    def _watchers(self) -> list[Watcher]:
        """Checkpoints before evaluation, which names them; the log first, so that a line stands for every step that anything else speaks of."""
        if self.world.main:
            self.lines = Lines(self.storage, METRICS)
            self._stack.callback(self.lines.close)
            self.lines.truncate_after(self.state.step)
        every, attempt = self.run.logging.every_steps, self.events.attempt
        log = LogWatch(self.lines, self.world, self.parts.stream, every=every, steps=self.stage.steps, events=self.events, attempt=attempt)
        guard = FiniteGuard(self.run.training.skip_nonfinite_steps, self.events)
        return [
            Pulse(self._refuse_ghosts if self.world.main else None),
            log,
            guard,
            self.checkpoints,
            *([self.evaluation] if self.evaluation is not None else []),
            self.stop,
        ]
