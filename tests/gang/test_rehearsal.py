"""The rehearsal of the costliest micro-batch: memory is taken as in a real step, and no number of the run moves."""

from __future__ import annotations

import pytest
from gangs import gang
from toys import make_engine, step_records, tiny_llama, tiny_run, train_step

from tunefleet.cluster.storage import open_storage
from tunefleet.cluster.world import World
from tunefleet.trainers.checkpoint import load_optimizer, load_weights, newest, save
from tunefleet.trainers.engine import Engine
from tunefleet.trainers.objectives.sft import Sft

pytestmark = pytest.mark.gang


def rehearse(engine: Engine) -> None:
    objective = Sft(Sft.Config(), 0)
    batch = objective.collate(step_records(99, 5))
    engine.rehearse(objective.loss(engine.scorer, batch).over(objective.weights(batch)))


def curves(cases: list[tuple[int, str]], folder: str) -> list[tuple[list[tuple[float, float]], list[tuple[float, float]]]]:
    """Three steps, and two more after a resume: without a rehearsal, and with one before each part."""
    world, found = World.join(), []
    for stage, precision in cases:
        pair = []
        for rehearsed in (False, True):
            storage = open_storage(f"{folder}/{stage}-{precision}-{rehearsed}")
            run = tiny_run(stage=stage, precision=precision, weight_decay=0.1)
            engine = make_engine(run, world)
            if rehearsed:
                rehearse(engine)
                assert all(float(state["step"]) == 0 for state in engine.deepspeed.basic_optimizer.state.values())
            steps = [train_step(engine, world, step) for step in range(3)]
            save(storage, engine, {"step": 3}, optimizer=True, attempt="a", fence=1).wait()
            world.barrier()
            manifest = newest(storage)
            assert manifest is not None
            model = tiny_llama()
            load_weights(storage, manifest, model)
            resumed = make_engine(run, world, model)
            load_optimizer(storage, manifest, resumed)
            if rehearsed:
                rehearse(resumed)
            steps += [train_step(resumed, world, step) for step in (3, 4)]
            pair.append([(loss, stepped.grad_norm) for loss, stepped in steps])
        found.append((pair[0], pair[1]))
    return found


CASES = [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16"), (2, "bf16"), (3, "bf16")]


def test_a_rehearsal_moves_no_bit_of_the_curve_nor_of_what_follows_a_resume(tmp_path) -> None:
    for case, (plain, rehearsed) in zip(CASES, gang(2, curves, CASES, str(tmp_path))[0], strict=True):
        assert rehearsed == plain, f"stage and precision {case}"
