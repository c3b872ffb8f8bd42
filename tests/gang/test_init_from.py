"""model.init_from: a run begins with exactly the weights that an earlier one left, at every stage, and says so everywhere."""

import json
from pathlib import Path

import pytest
import yaml
from gangs import gang
from runs import make_stage, small_run, train_on_gang

from tunefleet.cluster.errors import Refusal, RequestError
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.chain import chain
from tunefleet.trainers.export import export
from tunefleet.trainers.origin import lay_ready
from tunefleet.trainers.output import weights_of
from tunefleet.trainers.run import RunFile

pytestmark = pytest.mark.gang
LORA = {"kind": "lora", "r": 4, "lora_alpha": 8}
FULL = {"kind": "full"}


def write_run_file(run):
    open_storage(run.output).put("run.yaml", yaml.safe_dump(run.model_dump(mode="json")).encode())


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """One finished run of each kind; the one with an adapter stands on the other's export."""
    folder = tmp_path_factory.mktemp("earlier")
    short = {"training": {"max_steps": 4, "train_batch_size": 7, "micro_batch_size": 4, "learning_rate": 1e-2, "warmup_ratio": 0.0}}
    full = small_run(folder / "full", **short, scaling={"num_workers": 1}, evaluation={"samples": {"number": 0}})
    train_on_gang(full)
    model = {"init": "pretrained", "name_or_path": f"{full.output}/export", "config": None, "tokenizer": {}}
    lora = small_run(folder / "lora", **short, scaling={"num_workers": 1}, evaluation={"samples": {"number": 0}}, model=model, peft=LORA)
    train_on_gang(lora)
    for run in (full, lora):
        write_run_file(run)
    return {"full": full, "lora": lora}


def later(folder, source, peft, stage=0, **model):
    """The run as the driver makes it ready; its problems."""
    model = {"init": "pretrained", "init_from": str(source), "config": None, "tokenizer": {}, **model}
    run = small_run(
        folder, model=model, peft=peft, zero={"stage": stage}, evaluation={"samples": {"number": 0}}, training={"max_steps": 2, "learning_rate": 1e-9}
    )
    links, problems = chain(run)
    Refusal.raise_if(problems)
    lay_ready(links[-1].run, open_storage(run.output))
    return links[-1].run


def held_out_loss(run):
    """Of the run's own base at its beginning, and of its last weights: nearly the same, since it trained by next to nothing."""
    train_on_gang(run)
    found = json.loads(open_storage(run.output).read("evaluation/step-00000002.json"))
    return found["base"]["loss"], found["tuned"]["loss"]


@pytest.mark.parametrize(("before", "after", "stage"), [("full", FULL, 2), ("lora", FULL, 3), ("lora", LORA, 3)])
def test_a_run_begins_where_the_earlier_one_ended(earlier, tmp_path, before, after, stage):
    source = earlier[before]
    ended = json.loads(open_storage(source.output).read("evaluation/step-00000004.json"))["tuned"]["loss"]
    began, stayed = held_out_loss(later(tmp_path, source.output, after, stage))
    assert began == pytest.approx(ended, rel=1e-5)
    assert stayed == pytest.approx(ended, rel=1e-5)


def test_checkpoints_and_exports_are_sources_too_and_an_adapter_is_merged_for_full_training(earlier, tmp_path):
    lora = earlier["lora"]
    checkpoint = f"{lora.output}/{weights_of(lora.output)[1].folder}"
    runs = [
        later(tmp_path / str(i), source, peft)
        for i, (source, peft) in enumerate([(checkpoint, LORA), (f"{lora.output}/export", LORA), (f"{lora.output}/export", FULL)])
    ]
    ended = json.loads(open_storage(lora.output).read("evaluation/step-00000004.json"))["tuned"]["loss"]
    for run in runs:
        assert first_loss(run) == pytest.approx(ended, rel=1e-5)


def first_loss(run):
    return gang(1, base_loss, run, make_stage(run).to_json())[0]


def base_loss(run, stage):
    from tunefleet.trainers.evaluation.plain import Examiner

    examiner = Examiner.open(run.model_dump_json(), stage["store"], run.output, stage["pad_id"])
    share = examiner.base_share(0, 1)
    return examiner.compare([share], [share])["base"]["loss"]


def test_lineage_stands_in_the_run_file_the_card_and_beside_the_export(earlier, tmp_path):
    run = later(tmp_path, earlier["lora"].output, LORA)
    train_on_gang(run)
    digest = weights_of(earlier["lora"].output)[1].digest
    recorded = RunFile.model_validate(run.model_dump(mode="json"))
    assert digest in recorded.model.began_as
    assert recorded.model.began_as_path == earlier["lora"].output
    storage, manifest = weights_of(run.output)
    export(run, storage, manifest, str(tmp_path / "exported"), merge=False)
    assert digest in (tmp_path / "exported" / "README.md").read_text()
    origin = json.loads((tmp_path / "exported" / "tunefleet.json").read_text())
    assert digest in origin["began_as"]
    first = weights_of(earlier["full"].output)[1].digest
    assert [(one["step"], one["checkpoint"]) for one in origin["lineage"]] == [(4, first), (4, digest), (manifest.step, manifest.digest)]
    assert origin["data"]["counts"]["rows"] == 60


def test_a_run_that_goes_on_keeps_what_it_began_with(earlier, tmp_path):
    import shutil

    shutil.copytree(earlier["lora"].output, tmp_path / "source")
    first = later(tmp_path / "run", tmp_path / "source", LORA)
    shutil.rmtree(tmp_path / "source")
    assert later(tmp_path / "run", tmp_path / "source", LORA).model == first.model
    with pytest.raises(RequestError, match="may not change"):
        later(tmp_path / "run", earlier["full"].output, LORA)


@pytest.mark.parametrize(
    ("before", "peft", "model", "what"),
    [
        ("lora", {**LORA, "r": 8}, {}, "another shape"),
        ("full", FULL, {"name_or_path": "elsewhere"}, "contradicts"),
        (None, FULL, {}, "nothing here to begin from"),
    ],
)
def test_what_cannot_be_is_refused_with_a_way_out(earlier, tmp_path, before, peft, model, what):
    source = earlier[before].output if before else tmp_path / "nothing"
    with pytest.raises(RequestError, match=what) as caught:
        later(tmp_path, source, peft, **model)
    assert caught.value.fix


def test_somebody_elses_run_may_not_bring_code(earlier, tmp_path):
    import shutil

    shutil.copytree(earlier["full"].output, tmp_path / "foreign")
    path = tmp_path / "foreign" / "run.yaml"
    value = yaml.safe_load(path.read_text())
    value["objective"] = {"kind": "evil.objective"}
    path.write_text(yaml.safe_dump(value))
    with pytest.raises(RequestError, match="asks for code"):
        later(tmp_path / "mine", tmp_path / "foreign", FULL)
    assert not Path(tmp_path / "mine" / "out" / "init").exists()


def test_new_adapters_on_an_earlier_runs_weights_are_that_run_at_first(earlier, tmp_path):
    ended = json.loads(open_storage(earlier["full"].output).read("evaluation/step-00000004.json"))["tuned"]["loss"]
    assert first_loss(later(tmp_path, earlier["full"].output, LORA)) == pytest.approx(ended, rel=1e-5)
