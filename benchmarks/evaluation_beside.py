"""What evaluation beside the training costs it: step times of one worker with one evaluation actor, a core each, against none.

    python benchmarks/evaluation_beside.py      some 7 minutes on 2 idle cores; writes benchmarks/results/<date>-evaluation-beside.json
    python benchmarks/evaluation_beside.py --parts      half as long again: also what saving the weights costs alone, with no actor beside

Two workers train the same Llama of 5 million parameters (workload.py), one thread each, and take turns (turns.py). The one saves its weights every few steps,
keeps as many as a run does, and hands them to a real actor in a Ray session, which scores held-out rows and compares; it is hardly ever idle in that worker's
turns, for an evaluation is due a little sooner than the actor is done with the one before. The other evaluates nothing. The actor finishes what it has before
the other's turn, so that nobody is beside that.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from contestants import ours
from recording import machine, save, show, spread
from turns import Contestant, Turn, contest
from workload import Work, make_work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunefleet.cluster.actors import Actors
    from tunefleet.cluster.world import World
    from tunefleet.trainers.engine import Engine
    from tunefleet.trainers.evaluation.actors import Order
    from tunefleet.trainers.loop import Watcher

BESIDE, SAVING, ALONE = "with an actor beside", "weights saved alone", "without"
GOAL = 1.05
NAMESPACE = "evaluation-beside"
HELD = 0.01  # of 7,473 rows
EVERY = 4  # steps between evaluations: the actor takes some 4.4 steps for one
KEEP = 2  # checkpoints, as checkpoint.keep


def evaluating(work: Work, engine: Engine, world: World, *, address: str, actors: Sequence[str]) -> list[Watcher]:
    """The watchers that save and evaluate, as in a run."""
    import ray

    from tunefleet.cluster.storage import open_storage
    from tunefleet.trainers.checkpoint import retain
    from tunefleet.trainers.checkpoint import save as save_weights
    from tunefleet.trainers.evaluation.watch import EvaluationWatch
    from tunefleet.trainers.ledger import Events
    from tunefleet.trainers.loop import State
    from tunefleet.trainers.watchers import CheckpointWatch, EvaluateWatch

    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    storage = open_storage(work.run.output)
    events = Events(storage)

    def saver(state: State, optimizer: bool) -> Any:
        return save_weights(storage, engine, {"step": state.step}, optimizer=optimizer, attempt="one", fence=1)

    checkpoints = CheckpointWatch(saver, events, every=None, steps=1_000_000)
    how: dict[str, Any] = {"actors": actors, "order": order_of(work), "steps": 1_000_000, "on_event": events.on_event}
    watch = EvaluateWatch(EvaluationWatch.beside(work.run, storage, world, **how), checkpoints)
    checkpoints.retain = lambda: retain(storage, KEEP, watch.protected())
    watch.begin(State())
    return [checkpoints, watch]


def saving(work: Work, engine: Engine, world: World) -> list[Watcher]:
    """A watcher that saves the weights as often, and does nothing else with them."""
    from tunefleet.cluster.storage import open_storage
    from tunefleet.trainers.checkpoint import retain
    from tunefleet.trainers.checkpoint import save as save_weights
    from tunefleet.trainers.ledger import Events
    from tunefleet.trainers.loop import State
    from tunefleet.trainers.watchers import CheckpointWatch

    storage = open_storage(f"{work.run.output}-saved")

    def saver(state: State, optimizer: bool) -> Any:
        return save_weights(storage, engine, {"step": state.step}, optimizer=False, attempt="one", fence=1)

    checkpoints = CheckpointWatch(saver, Events(storage), every=EVERY, steps=1_000_000)
    checkpoints.retain = lambda: retain(storage, KEEP, ())
    return [checkpoints]


def order_of(work: Work) -> Order:
    """What the actor evaluates."""
    from tunefleet.trainers.evaluation.actors import Order

    return Order(work.run.model_dump_json(), work.store, work.run.output, pad_id=0)


@contextmanager
def one_actor(work: Work) -> Iterator[tuple[str, Actors]]:
    """A local Ray with two CPUs, its address, and the actor in it, its model loaded and the base scored."""
    import ray

    from tunefleet.cluster.session import set_environment
    from tunefleet.trainers.evaluation.actors import create_evaluators

    set_environment(local=True)
    context = ray.init(address="local", num_cpus=2, namespace=NAMESPACE, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    actors = create_evaluators(work.run.evaluation)
    try:
        settle(actors, work)
        yield str(context.address_info["gcs_address"]), actors
    finally:
        actors.close()
        ray.shutdown()


def settle(actors: Actors, work: Work) -> None:
    """Wait until the actor has nothing left to do."""
    import ray

    for handle in actors.handles:
        ray.get(handle.prepare.remote(order_of(work), 0, 1))


def measured(folder: Path, *, pairs: int, steps: int, examples: int, parts: bool) -> dict[str, Any]:
    """Seconds a step of both workers, in turns; of a third that only saves, where the ``parts`` are asked for."""
    evaluation = {"every_steps": EVERY, "metrics": ["loss", "token_accuracy"], "samples": {"number": 0}, "bootstrap": 200}
    work = make_work(folder, holdout=HELD, evaluation=evaluation, train_batch_size=examples, micro_batch_size=8)
    with one_actor(work) as (address, actors):
        beside = partial(ours, also=partial(evaluating, address=address, actors=actors.names))
        third = [(SAVING, partial(ours, also=saving), work)] if parts else []
        with contest([(BESIDE, beside, work), *third, (ALONE, ours, work)], threads=1) as contestants:
            turns = in_turns(contestants, actors, work, pairs=pairs, steps=steps)
    seconds = {name: [turn.seconds / turn.steps for turn in found] for name, found in turns.items()}
    cpu = {name: [turn.cpu_seconds / turn.steps for turn in found] for name, found in turns.items()}
    return {
        "pairs": pairs,
        "steps_a_turn": steps,
        "examples_a_step": examples,
        "rows": work.rows,
        "evaluations": evaluations(work),
        "seconds_a_step": {name: spread(values) for name, values in seconds.items()},
        "cpu_seconds_a_step": {name: spread(values) for name, values in cpu.items()},
        "ratio": ratio(seconds[BESIDE], seconds[ALONE]),
        **({"ratio_of_saving_alone": ratio(seconds[SAVING], seconds[ALONE])} if parts else {}),
        "goal": GOAL,
    }


def in_turns(contestants: Sequence[Contestant], actors: Actors, work: Work, *, pairs: int, steps: int) -> dict[str, list[Turn]]:
    """All have a turn in every pair, in alternating order; the actor is done with what it has before the next begins."""
    for contestant in contestants:
        contestant.turn(EVERY - 1)  # so that an evaluation is due after the first step of every turn
    turns: dict[str, list[Turn]] = {contestant.name: [] for contestant in contestants}
    for number in range(pairs):
        for contestant in contestants if number % 2 else reversed(contestants):
            settle(actors, work)
            turns[contestant.name].append(contestant.turn(steps))
    return turns


def ratio(beside: Sequence[float], alone: Sequence[float]) -> dict[str, float]:
    """The geometric mean of the ratios pair by pair, and its 95% interval by 10,000 resamples of the pairs."""
    logs = np.log(np.asarray(beside) / np.asarray(alone))
    drawn = np.random.default_rng(0).choice(logs, (10_000, len(logs))).mean(1)
    low, high = np.exp(np.percentile(drawn, [2.5, 97.5])).tolist()
    return {"mean": float(np.exp(logs.mean())), "low": low, "high": high}


def evaluations(work: Work) -> dict[str, Any]:
    """How many were done and how long the actor took for each, and how many gave way."""
    from tunefleet.cluster.metrics import read_lines
    from tunefleet.cluster.storage import open_storage
    from tunefleet.trainers.stage import EVENTS

    events = read_lines(open_storage(work.run.output), EVENTS)
    took = [event["seconds"] for event in events if event["event"] == "evaluation_finished"]
    if not took:
        raise AssertionError("no evaluation was done, so nothing was measured")
    return {"done": len(took), "dropped": sum(event["event"] == "evaluation_dropped" for event in events), "seconds": spread(took)}


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=16, help="optimizer steps a turn")
    parser.add_argument("--examples", type=int, default=8, help="examples a step")
    parser.add_argument("--parts", action="store_true", help="measure a worker that only saves its weights too")
    parser.add_argument("--no-save", action="store_true", help="only print")
    options = parser.parse_args()
    began = machine()
    os.environ["OMP_NUM_THREADS"] = "1"
    with TemporaryDirectory(prefix="evaluation-beside-") as folder:
        found = measured(Path(folder), pairs=options.pairs, steps=options.steps, examples=options.examples, parts=options.parts)
    rows = [[name, f"{s['median'] * 1e3:.0f} ({s['low'] * 1e3:.0f}-{s['high'] * 1e3:.0f})"] for name, s in found["seconds_a_step"].items()]
    show("one worker, one core: ms a step, median (range)", ["", "ms"], rows)
    between, done = found["ratio"], found["evaluations"]
    verdict = "met" if between["mean"] <= GOAL else "missed"
    print(f"ratio {between['mean']:.3f} (95%: {between['low']:.3f} to {between['high']:.3f}); goal <= {GOAL}: {verdict}")
    if options.parts:
        saved = found["ratio_of_saving_alone"]
        print(f"of which saving the weights, with no actor beside: {saved['mean']:.3f} (95%: {saved['low']:.3f} to {saved['high']:.3f})")
    print(f"{done['done']} evaluations of {done['seconds']['median']:.1f} s each (median), {done['dropped']} gave way")
    if not options.no_save:
        print(save("evaluation-beside", found, began))


if __name__ == "__main__":
    main()
