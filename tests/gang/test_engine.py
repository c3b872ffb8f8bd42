"""What the engine promises beside the curve: skipped steps, frozen weights, precision, and no compiler."""

import math

import pytest
from gangs import gang
from toys import WholeLogits, make_engine, step_records, tiny_llama, tiny_run, train_step

from tunefleet.cluster.errors import SettingsError
from tunefleet.cluster.storage import open_storage
from tunefleet.cluster.world import World
from tunefleet.trainers.checkpoint import load_plain, newest, save
from tunefleet.trainers.engine import Engine
from tunefleet.trainers.objectives.sft import Sft

pytestmark = pytest.mark.gang

everywhere = pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16"), (2, "bf16"), (3, "bf16")])


def poisoned_step(stage, precision):
    """Steps 0 and 2 are sound, in step 1 the last rank's gradient is not a number."""
    world = World.join()
    engine = make_engine(tiny_run(stage=stage, precision=precision), world)
    objective = Sft(Sft.Config(), 0)
    train_step(engine, world, 0)
    batch = objective.collate(step_records(1, 4))
    loss = objective.loss(engine.scorer, batch).over({"tokens": 10.0})
    engine.backward(loss * (math.nan if world.rank == world.size - 1 else 1.0), last=True)
    poisoned = engine.step(1e-3)
    loss, sound = train_step(engine, world, 2)
    return poisoned.applied, math.isfinite(poisoned.grad_norm), engine.updates(), sound.applied, loss


def two_sound_steps(stage, precision):
    world = World.join()
    engine = make_engine(tiny_run(stage=stage, precision=precision), world)
    train_step(engine, world, 0)
    return train_step(engine, world, 2)[0]


@everywhere
def test_a_step_that_is_not_finite_on_one_rank_is_skipped_on_all_and_leaves_no_trace(stage, precision):
    answers = gang(2, poisoned_step, stage, precision)
    assert answers[0] == answers[1]
    assert answers[0][:4] == (False, False, 2, True)
    assert answers[0][4] == gang(2, two_sound_steps, stage, precision)[0]


def bf16_curve(stage, micro):
    world = World.join()
    engine = make_engine(tiny_run(stage=stage, precision="bf16"), world)
    found = [train_step(engine, world, step, micro=micro) for step in range(20)]
    return [(loss, stepped.grad_norm) for loss, stepped in found], {str(p.dtype) for p in engine.parameters.values()}, len(engine.decisions)


def test_in_bf16_the_stages_agree_and_stage_0_says_that_it_is_stage_1():
    curves = {}
    for stage in (0, 1, 2, 3):
        curves[stage], dtypes, decisions = gang(2, bf16_curve, stage, 2)[0]
        assert dtypes == {"torch.bfloat16"}
        assert decisions == (stage == 0)
    assert curves[0] == curves[1]
    for stage in (2, 3):
        for here, there in zip(curves[stage], curves[1], strict=True):
            assert here == pytest.approx(there, rel=2e-2)


def unclipped(stage):
    world = World.join()
    norms = {}
    for limit in (None, 1e-3, 1.0):
        engine = make_engine(tiny_run(stage=stage, max_grad_norm=limit), world)
        norms[limit] = [train_step(engine, world, step)[1].grad_norm for step in range(3)]
    return norms


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_gradient_norm_is_that_before_clipping(stage):
    norms = gang(2, unclipped, stage)[0]
    assert norms[None][0] == norms[1e-3][0] == norms[1.0][0]
    assert norms[None][0] > 0.1


def adapter(stage, folder):
    """Five steps of LoRA with gradient checkpointing. Returns losses, and whether a frozen weight moved."""
    import torch
    from peft import LoraConfig, get_peft_model

    world = World.join()
    model = tiny_llama()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.manual_seed(5)
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")).train()
    engine = make_engine(tiny_run(stage=stage), world, wrapped)
    losses = [train_step(engine, world, step, rate=1e-2)[0] for step in range(5)]
    save(open_storage(folder), engine, {"step": 5}, optimizer=True, attempt="a", fence=1).wait()
    world.barrier()
    frozen = all(
        torch.equal(before[n.replace(".base_layer", "").removeprefix("base_model.model.")], p) for n, p in wrapped.named_parameters() if "lora" not in n
    )
    return losses, frozen or stage == 3, sorted(engine.parameters)


def test_lora_trains_alike_at_every_stage_and_saves_the_adapter_only(tmp_path):
    answers = {}
    for stage in (0, 1, 2, 3):
        storage = open_storage(tmp_path / str(stage))
        losses, frozen, names = gang(2, adapter, stage, str(tmp_path / str(stage)))[0]
        plain = load_plain(storage, newest(storage))
        answers[stage] = losses
        assert frozen
        assert sorted(plain) == names
        assert all("lora_" in name for name in names)
        assert all(t.abs().sum() > 0 for t in plain.values())
    for stage in (1, 2, 3):
        assert answers[stage] == pytest.approx(answers[0], rel=1e-6)


def nothing_to_train():
    world = World.join()
    model = tiny_llama()
    model.requires_grad_(False)
    Engine(WholeLogits(model), tiny_run(), world)


def test_nothing_to_train_is_said():
    with pytest.raises(SettingsError, match="nothing is trained"):
        gang(1, nothing_to_train)


def built_extensions(stage, folder):
    import os
    from pathlib import Path

    os.environ["TORCH_EXTENSIONS_DIR"] = folder
    world = World.join()
    train_step(make_engine(tiny_run(stage=stage), world), world, 0)
    return [path.name for path in Path(folder).rglob("*")]


@pytest.mark.parametrize("stage", [0, 3])
def test_nothing_is_compiled_on_cpu(stage, tmp_path):
    assert gang(2, built_extensions, stage, str(tmp_path)) == [[], []]
