"""zero.offload moves memory and nothing else: the same curve, the same checkpoints."""

import shutil

import pytest
from gangs import gang
from toys import make_engine, tiny_run, train_step

from tunefleet.cluster.storage import open_storage
from tunefleet.cluster.world import World
from tunefleet.trainers.checkpoint import load_optimizer, load_weights, newest, save
from tunefleet.trainers.models import build
from tunefleet.trainers.run import RunFile
from tunefleet.trainers.zero import prepare_optimizer

pytestmark = pytest.mark.gang
KINDS = [(1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "parameters")]
STEPS = range(4)


def step(engine, world, number):
    loss, stepped = train_step(engine, world, number)
    return loss, stepped.grad_norm


def curves(stage, offloads, precision):
    """(loss, gradient norm) of every step, for each offload; and where the master weights lie."""
    world = World.join()
    found = {}
    for offload in offloads:
        engine = make_engine(tiny_run(stage=stage, precision=precision, offload=offload), world)
        found[offload] = [step(engine, world, number) for number in STEPS]
        engine.close()
    return found


@pytest.mark.parametrize(("stage", "precision"), [(1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16"), (3, "bf16")])
def test_the_curve_is_that_without_offload(stage, precision):
    found = gang(2, curves, stage, ["none", *[offload for at, offload in KINDS if at == stage]], precision)[0]
    for offload in found:
        for here, there in zip(found[offload], found["none"], strict=True):
            assert here == pytest.approx(there, rel=1e-6)


def saved_and_resumed(folder, kinds):
    """Every kind goes on from one checkpoint that each kind has written: (loss, norm) of the steps after it."""
    world, storage, expected, found = World.join(), open_storage(folder), {}, {}
    for stage, offload in kinds:
        engine = make_engine(tiny_run(stage=stage, offload=offload), world)
        for number in STEPS[:2]:
            step(engine, world, number)
        save(storage.sub(f"{stage}-{offload}"), engine, {"step": 2}, optimizer=True, attempt="a", fence=1).wait()
        expected[stage, offload] = [step(engine, world, number) for number in STEPS[2:]]
        engine.close()
    world.barrier()
    for (wrote, before), (stage, offload) in zip(kinds, [*kinds[1:], kinds[0]], strict=True):
        kept = storage.sub(f"{wrote}-{before}")
        run = real_run(stage, offload)
        model = build(run, world).model  # at stage 3 partitioned while it is made, in host memory
        load_weights(kept, newest(kept), model)
        engine = make_engine(run, world, model)
        load_optimizer(kept, newest(kept), engine)
        found[wrote, before] = [step(engine, world, number) for number in STEPS[2:]]
        engine.close()
    return expected, found


def real_run(stage, offload):
    """The toy's own model, made as a run makes it, from another seed than training began with."""
    from toys import tiny_llama

    run = tiny_run(stage=stage, offload=offload)
    config = {key: value for key, value in tiny_llama().config.to_dict().items() if key not in ("dtype", "architectures", "transformers_version")}
    model = run.model.model_copy(update={"init": "random", "config": config})
    return RunFile.model_validate(run.model_copy(update={"model": model, "training": run.training.model_copy(update={"seed": 7})}).model_dump())


def test_a_checkpoint_goes_on_with_any_other_offload_and_stage(tmp_path):
    expected, found = gang(2, saved_and_resumed, str(tmp_path), [(2, "none"), *KINDS, (0, "none")])[0]
    for kind in expected:
        for here, there in zip(found[kind], expected[kind], strict=True):
            assert here == pytest.approx(there, rel=1e-6)


def compiled_curves():
    """AdamW of torch and DeepSpeed's compiled one, and a checkpoint from the one to the other."""
    world, said = World.join(), []
    torchs = make_engine(tiny_run(stage=2, offload="optimizer"), world)
    run = tiny_run(stage=2, offload="optimizer", optimizer="cpu_adamw")
    prepare_optimizer(run, said.append)
    compiled = make_engine(run, world)
    found = [[step(engine, world, number) for number in STEPS] for engine in (torchs, compiled)]
    return found, compiled.updates(), said


@pytest.mark.slow  # the first time on a machine it compiles for about a minute
@pytest.mark.skipif(not (shutil.which("g++") and shutil.which("ninja")), reason="needs a compiler")
def test_the_compiled_optimizer_gives_the_same_curve_and_says_that_it_compiles():
    (torchs, compiled), updates, said = gang(2, compiled_curves, timeout=400)[0]
    for here, there in zip(compiled, torchs, strict=True):
        assert here == pytest.approx(there, rel=1e-5)
    assert updates == len(STEPS)
    assert "compiles" in said[0]
    assert "ready" in said[1]
