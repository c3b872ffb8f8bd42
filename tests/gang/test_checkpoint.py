"""Promise 3: a checkpoint knows no world size and no ZeRO stage, holds no pickle, and counts only once its manifest stands."""

import json
from pathlib import Path

import pytest
from gangs import gang
from toys import WholeLogits, make_engine, tiny_llama, tiny_run, train_step

from tunefleet.cluster.errors import CheckpointError
from tunefleet.cluster.storage import open_storage
from tunefleet.cluster.world import World
from tunefleet.trainers.checkpoint import load_optimizer, load_plain, load_weights, newest, save
from tunefleet.trainers.zero import partitioned_loading

pytestmark = pytest.mark.gang

SAVED, END = 4, 8


def train_and_save(folder, stage, precision):
    """Train to END, saving at SAVED on the way. Returns (loss, norm) of the steps after the save."""
    world = World.join()
    engine = make_engine(tiny_run(stage=stage, precision=precision), world)
    after, saving = [], None
    for step in range(END):
        if step == SAVED:
            saving = save(open_storage(folder), engine, {"step": SAVED, "cursor": {"epoch": 0}}, optimizer=True, attempt="first", fence=1)
        loss, stepped = train_step(engine, world, step)
        if step >= SAVED:
            after.append((loss, stepped.grad_norm))
    manifest = saving.wait()
    assert (manifest is not None) == world.main
    return after


def resume(folder, stage, precision, partitioned):
    """Go on from the newest checkpoint. Returns (loss, norm) of the steps after it, and the parameters as they were loaded."""
    world, storage = World.join(), open_storage(folder)
    run = tiny_run(stage=stage, precision=precision)
    manifest = newest(storage)
    assert manifest.step == SAVED
    assert manifest.meta["cursor"] == {"epoch": 0}
    model = make_model(run, world, partitioned)
    load_weights(storage, manifest, model)
    engine = make_engine(run, world, model)
    load_optimizer(storage, manifest, engine)
    assert engine.updates() == SAVED
    found = [train_step(engine, world, step) for step in range(SAVED, END)]
    return [(loss, stepped.grad_norm) for loss, stepped in found]


def make_model(run, world, partitioned):
    """Another seed than training began with, so that only the checkpoint can make it equal."""
    if not partitioned:
        return tiny_llama(seed=1)
    import torch
    from transformers import AutoModelForCausalLM

    config = tiny_llama(seed=1).config
    with partitioned_loading(run, world) as told:
        assert told
        torch.manual_seed(1)
        return AutoModelForCausalLM.from_config(config)


def same_on_all(ranks):
    assert all(rank == ranks[0] for rank in ranks)
    return ranks[0]


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def trained(request, tmp_path_factory):
    """A run at stage 2 on 2 ranks."""
    folder = str(tmp_path_factory.mktemp("run"))
    return folder, request.param, same_on_all(gang(2, train_and_save, folder, 2, request.param))


@pytest.mark.parametrize(
    ("ranks", "stage", "partitioned"), [(2, 2, False), (1, 3, True), (2, 1, False), (1, 0, False), (2, 3, True), (3, 3, False), (3, 2, False)]
)
def test_any_world_and_stage_goes_on_from_it(trained, ranks, stage, partitioned):
    folder, precision, expected = trained
    found = same_on_all(gang(ranks, resume, folder, stage, precision, partitioned))
    if (ranks, stage) == (2, 2):
        assert found == expected  # the same world: the same bits
    for here, there in zip(found, expected, strict=True):
        assert here == pytest.approx(there, rel=1e-5 if precision == "fp32" else 2e-2)


def train_and_resume(folder, stage):
    world = World.join()
    expected = train_and_save(folder, stage, "fp32")
    world.barrier()
    return expected == resume(folder, stage, "fp32", partitioned=False)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_every_stage_goes_on_from_itself_bit_by_bit(tmp_path, stage):
    assert gang(2, train_and_resume, str(tmp_path), stage) == [True, True]


def test_it_holds_safetensors_and_json_only(trained):
    folder, _, _ = trained
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    assert not any("receipt" in str(path) for path in files)


def test_plain_tensors_are_those_of_the_model_by_its_own_names(trained):
    folder, precision, _ = trained
    storage = open_storage(folder)
    plain, model = load_plain(storage, newest(storage)), tiny_llama()
    assert {name: tuple(t.shape) for name, t in plain.items()} == {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert {str(t.dtype) for t in plain.values()} == {"torch.float32" if precision == "fp32" else "torch.bfloat16"}


def refused(folder):
    storage = open_storage(folder)
    model = tiny_llama()
    model.model.norm.weight.requires_grad_(False)
    load_weights(storage, newest(storage), model)


def test_another_models_checkpoint_is_refused(trained):
    with pytest.raises(CheckpointError, match="another model") as caught:
        gang(1, refused, trained[0])
    assert "model.norm.weight" in caught.value.got


def snapshot_only(folder):
    world = World.join()
    engine = make_engine(tiny_run(stage=1), world)
    train_step(engine, world, 0)
    name = save(open_storage(folder), engine, {"step": 1}, optimizer=False, attempt="a", fence=1).wait()
    return name.name if name else None


def test_a_snapshot_of_weights_is_nothing_to_resume_from(tmp_path):
    names = gang(2, snapshot_only, str(tmp_path))
    assert names == ["checkpoints/step-00000001/manifest.json", None]
    assert newest(open_storage(str(tmp_path))) is None
    manifest = json.loads((tmp_path / names[0]).read_text())
    assert manifest["optimizer"] is None
    assert all(file["name"].startswith("weights/") for file in manifest["files"])


def save_at_every_stage(folder):
    world = World.join()
    for stage in (0, 2, 3):
        engine = make_engine(tiny_run(stage=stage), world)
        train_step(engine, world, 0)
        save(open_storage(f"{folder}/{stage}"), engine, {"step": 1}, optimizer=True, attempt="a", fence=1).wait()


def test_no_rank_writes_more_than_its_share(tmp_path):
    gang(2, save_at_every_stage, str(tmp_path))
    for stage in (0, 2, 3):
        sizes = [path.stat().st_size for path in (tmp_path / str(stage)).rglob("optimizer/*.safetensors")]
        assert len(sizes) == 2
        assert max(sizes) < 1.2 * min(sizes)


def test_the_scorer_of_the_tests_is_what_it_says():
    assert set(dict(WholeLogits(tiny_llama()).named_children())) == {"model"}
