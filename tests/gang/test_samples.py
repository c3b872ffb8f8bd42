"""Samples: the same greedy answers wherever they are generated, the base asked once, and a training that does not notice."""

import json
from pathlib import Path

import pytest
from gangs import gang
from runs import curve, events, make_stage, small_run, train_on_gang

from tunefleet.cluster.storage import open_storage
from tunefleet.data.store import Store
from tunefleet.trainers.evaluation.heldout import held_out
from tunefleet.trainers.evaluation.plain import Examiner
from tunefleet.trainers.evaluation.samples import drop_samples_after, make_sampler
from tunefleet.trainers.manifest import folder_of
from tunefleet.trainers.run import RunFile

pytestmark = pytest.mark.gang
WANTED = {"number": 3, "max_new_tokens": 6}


def evaluation(**samples):
    return {"every_steps": 4, "placement": "inline", "bootstrap": 20, "samples": {**WANTED, **samples}}


def asking(run, **samples):
    return RunFile.model_validate({**run.model_dump(), "evaluation": evaluation(**samples)})


def samples(run, step):
    return json.loads(open_storage(run.output).read(f"evaluation/samples-step-{step:08d}.json"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One rank, no ZeRO."""
    run = small_run(tmp_path_factory.mktemp("alone"), zero={"stage": 0}, scaling={"num_workers": 1}, evaluation=evaluation(), checkpoint={"keep": 5})
    train_on_gang(run)
    return run


def test_every_evaluation_answers_rows_from_all_over_the_held_out_ones(alone):
    first, last = samples(alone, 4), samples(alone, 8)
    assert (first["step"], last["step"]) == (4, 8)
    assert [set(sample) for sample in first["prompts"]] == [{"prompt", "reference", "base", "tuned"}] * 3
    assert [s["base"] for s in first["prompts"]] == [s["base"] for s in last["prompts"]]
    assert any(s["tuned"] != s["base"] for s in last["prompts"])
    rows = [json.loads(line) for line in Path(alone.data.train[0].path).read_text().splitlines()]
    for sample in first["prompts"]:
        row = next(row for row in rows if row["prompt"] in sample["prompt"])
        assert sample["reference"].startswith(row["completion"])
    said = [event for event in events(alone) if event["event"] == "sampled"]
    assert [event["step"] for event in said] == [4, 8]
    assert said[-1]["tuned"] == " ".join(last["prompts"][0]["tuned"].split())


@pytest.mark.parametrize(("ranks", "stage"), [(2, 2), (4, 3)])
def test_ranks_give_the_answers_that_one_gives_at_every_stage(alone, tmp_path, ranks, stage):
    run = small_run(tmp_path, zero={"stage": stage}, scaling={"num_workers": ranks}, evaluation=evaluation())
    train_on_gang(run)
    assert samples(run, 4) == samples(alone, 4)
    assert samples(run, 8) == samples(alone, 8)


def test_training_does_not_notice_that_it_was_sampled(tmp_path):
    with_samples, without = (
        small_run(tmp_path / str(number), zero={"stage": 3}, evaluation=evaluation(number=number), data={"store": str(tmp_path / "shards")})
        for number in (3, 0)
    )
    for run in (with_samples, without):
        train_on_gang(run)
    assert curve(with_samples) == curve(without)
    assert open_storage(without.output).list("evaluation/samples") == []


def examined(run, stage):
    """What an evaluation actor generates from the checkpoints."""
    storage = open_storage(run.output)
    storage.delete_tree("evaluation")
    examiner = Examiner.open(run.model_dump_json(), stage["store"], run.output, stage["pad_id"])
    examiner.base_samples()
    found = []
    for step in (4, 8):
        examiner.tuned_share(f"{folder_of(step)}/manifest.json", 0, 1)
        found.append({"step": step, "prompts": examiner.tuned_samples()})
    return found


def test_an_actor_generates_from_snapshots_what_the_ranks_generate(alone):
    stage = make_stage(alone).to_json()
    kept = [samples(alone, 4), samples(alone, 8)]
    assert gang(1, examined, alone, stage)[0] == kept


def test_own_prompts_are_asked_through_the_template_and_rows_that_leave_no_room_are_passed_over(alone, tmp_path):
    held = held_out(Store.open(make_stage(alone).store))
    own = asking(alone, prompts=["Hi"])
    (asked,) = make_sampler(own, held.split).asked
    assert (asked.prompt, asked.reference) == ("Hi", None)
    assert len(asked.ids) > 2  # the user's turn and the header of the answer
    long = asking(alone, number=3, max_new_tokens=127)
    assert make_sampler(long, held.split) is None  # a context of 128 tokens holds no prompt beside 127 new ones


def test_samples_of_a_branch_that_was_given_up_are_removed(tmp_path):
    storage = open_storage(tmp_path)
    for step in (4, 8, 12):
        storage.put(f"evaluation/samples-step-{step:08d}.json", b"{}")
    drop_samples_after(storage, 8)
    assert [name[-7:-5] for name in storage.list("evaluation/")] == ["04", "08"]
