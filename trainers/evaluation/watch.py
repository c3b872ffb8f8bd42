"""What the training loop knows of evaluation: when it is due, what came of it, whether to stop, and which checkpoints must stay."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunefleet.cluster import heartbeat
from tunefleet.trainers.evaluation.files import by_set, digest, drop_after, read_results, result, write_result
from tunefleet.trainers.evaluation.heldout import held_out
from tunefleet.trainers.evaluation.outcome import OnEvent, Outcome, Placed
from tunefleet.trainers.evaluation.policy import Judgement, Ticket, due, judge
from tunefleet.trainers.evaluation.samples import drop_samples_after, make_sampler, short, write_samples
from tunefleet.trainers.manifest import MANIFEST, folder_of

if TYPE_CHECKING:
    from tunefleet.cluster.storage import Storage
    from tunefleet.cluster.world import World
    from tunefleet.data.store import Store
    from tunefleet.trainers.evaluation.actors import Order
    from tunefleet.trainers.evaluation.inline import Trained
    from tunefleet.trainers.run import RunFile

WAIT_S = 5.0


class EvaluationWatch:
    """Every rank holds one and calls ``begin``, ``due``, ``start`` and ``finish`` alike; results and decisions are rank 0's."""

    def __init__(self, run: RunFile, storage: Storage, world: World, placed: Placed | None, *, placement: str, steps: int, on_event: OnEvent) -> None:
        """``placed`` is None on the ranks that actors leave nothing to do; ``steps`` is the last step of the run."""
        self.run, self.storage, self.world, self.steps, self.on_event = run, storage, world, steps, on_event
        self.placement, self._placed = placement, placed
        self._values: dict[int, float | None] = {}
        self._manifests: dict[int, str | None] = {}
        self._judgement = Judgement()

    @classmethod
    def beside(cls, run: RunFile, storage: Storage, world: World, *, actors: Sequence[str], order: Order, steps: int, on_event: OnEvent) -> EvaluationWatch:
        """Evaluation by actors, which rank 0 finds by their names."""
        from tunefleet.trainers.evaluation.pool import Pool

        pool = Pool(actors, order, on_event) if world.main else None
        return cls(run, storage, world, pool, placement="actors", steps=steps, on_event=on_event)

    @classmethod
    def inline(cls, run: RunFile, storage: Storage, world: World, *, trained: Trained, store: Store, steps: int, on_event: OnEvent) -> EvaluationWatch:
        """Evaluation by the ranks themselves, between steps, on the held-out rows of a store."""
        from tunefleet.trainers.evaluation.inline import Inline

        held = held_out(store)
        ranks = Inline(run, trained, held, world, storage, on_event, make_sampler(run, held.split))
        return cls(run, storage, world, ranks, placement="inline", steps=steps, on_event=on_event)

    def begin(self, step: int, manifest: str | None) -> list[dict[str, Any]]:
        """Call once, before the first step or after a resume at ``step``: replays what was decided, and starts again what was lost on the way.

        Collective. Files of later steps are removed, for the resume gave up that branch. Inline, the base model is scored here. What an earlier step was
        to be given by actors is asked for again while its weights stand; ranks can only score the weights that they hold.
        """
        if self.world.main:
            gone = drop_after(self.storage, step)
            drop_samples_after(self.storage, step)
            if gone:
                self.on_event("evaluation_given_up", {"steps": gone, "resumed_at": step})
            for content in read_results(self.storage):
                self._remember(content)
        if self._placed is not None:
            self._placed.begin(step)
        lost = self.world.broadcast([at for at in range(1, step + 1) if self.due(at) and at not in self._values])
        standing = {step: manifest} if self.placement == "inline" or self._placed is None else {**self._standing(lost), step: manifest}
        return [found for at in lost if at in standing for found in self.start(at, standing[at])]

    def due(self, step: int) -> bool:
        """Whether the weights after this many optimizer steps are to be evaluated."""
        return due(step, every=self.run.evaluation.every_steps, steps=self.steps)

    @property
    def patient(self) -> bool:
        """Whether training waits, before weights are evaluated, for the evaluations of those before them, that none is dropped."""
        return self.run.evaluation.behind == "wait"

    def start(self, step: int, manifest: str | None) -> list[dict[str, Any]]:
        """Evaluate the weights of ``step``, which ``manifest`` names. Actors return at once; inline, every rank scores, and the result is returned.

        Collective when inline. ``manifest`` may be None only inline; the result then names the step alone.
        """
        if self._placed is None:
            return []
        name = digest(self.storage, manifest) if manifest is not None and self.world.main else None
        self._placed.submit(Ticket(step, manifest, name))
        return self.poll()

    def poll(self) -> list[dict[str, Any]]:
        """Results that came in since the last call, written and judged; never waits."""
        return self._take(self._placed.wait(0.0)) if self._placed is not None else []

    def finish(self) -> list[dict[str, Any]]:
        """Wait for what is at work and what waits, each for at most ``failures.hang_timeout_s``; then it counts as failed.

        Collective: rank 0 tells the others every few seconds that it still waits, so that no rank counts as hung.
        """
        results, limit_s = self.poll(), self.run.failures.hang_timeout_s
        since = time.monotonic()
        while self.world.broadcast(self._placed is not None and self._placed.busy()):
            heartbeat.beat()
            if self._placed is None:
                continue
            found = self._placed.wait(min(WAIT_S, limit_s / 4))
            if not found and time.monotonic() - since > limit_s:
                found = self._placed.give_up(f"no numbers after {limit_s:g} s (failures.hang_timeout_s)")
            if found:
                since = time.monotonic()
                results += self._take(found)
        return results

    @property
    def wants_stop(self) -> bool:
        """Early stopping's decision: rank 0's; False on the others."""
        return self._judgement.stop

    @property
    def best(self) -> Judgement:
        """The best step so far by ``evaluation.early_stopping_metric``, and its value; on rank 0."""
        return self._judgement

    @property
    def best_manifest(self) -> str | None:
        """The manifest of the best step's weights; on rank 0."""
        return self._manifests.get(self._judgement.best_step) if self._judgement.best_step is not None else None

    @property
    def protected(self) -> set[str]:
        """Manifests that must not be removed: at work, waiting, or best; on rank 0."""
        best = self.best_manifest
        return (self._placed.names() if self._placed is not None else set()) | ({best} if best else set())

    def _standing(self, steps: Sequence[int]) -> dict[int, str]:
        """Those of some steps whose weights are still there, with their manifests."""
        names = {step: f"{folder_of(step)}/{MANIFEST}" for step in steps}
        return {step: name for step, name in names.items() if self.storage.exists(name)}

    def _take(self, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
        results = []
        for outcome in outcomes:
            ticket = outcome.ticket
            fields = {"step": ticket.step, "manifest": ticket.manifest, "placement": self.placement, "seconds": round(outcome.seconds, 3)}
            if outcome.comparison is None:
                self.on_event("evaluation_failed", {**fields, "error": outcome.error})
                continue
            content = result(ticket, outcome.comparison, placement=self.placement, seconds=outcome.seconds)
            write_result(self.storage, content)
            found = {"tuned": content["tuned"], "base": content["base"], "sets": by_set(content), "failed": sorted(content["failed"])}
            self.on_event("evaluation_finished", {**fields, **found})
            for name, why in content["failed"].items():
                self.on_event("metric_failed", {"step": ticket.step, "metric": name, "error": why})
            self._remember(content, said=False)
            self._show_samples(outcome)
            results.append(content)
        return results

    def _show_samples(self, outcome: Outcome) -> None:
        """Write what was generated; one prompt is shown on the console."""
        step = outcome.ticket.step
        if outcome.samples:
            write_samples(self.storage, step, outcome.samples)
            self.on_event("sampled", {"step": step, "prompts": len(outcome.samples), **{k: short(v) for k, v in outcome.samples[0].items()}})
        if outcome.samples_error:
            self.on_event("samples_failed", {"step": step, "error": outcome.samples_error})

    def _remember(self, content: dict[str, Any], *, said: bool = True) -> None:
        """Judge a result. A decision that a resume replays (``said``) is no new event."""
        settings, stopped = self.run.evaluation, self._judgement.stop
        self._values[content["step"]] = content["tuned"].get(settings.early_stopping_metric)
        self._manifests[content["step"]] = content["manifest"]
        self._judgement = judge(sorted(self._values.items()), mode=settings.early_stopping_mode, patience=settings.early_stopping_patience)
        if self._judgement.stop and not stopped and not said:
            best = {"best_step": self._judgement.best_step, "best": self._judgement.best_value, "since_best": self._judgement.since_best}
            self.on_event("early_stopping", {"step": content["step"], "metric": settings.early_stopping_metric, **best})
