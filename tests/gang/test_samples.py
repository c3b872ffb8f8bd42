"""Samples and answers for metrics: the same greedy texts wherever they are generated, the base asked once, and a training that does not notice."""

import json
from pathlib import Path

import pytest
from gangs import gang
from runs import curve, events, make_stage, small_run, train_on_gang

from tunefleet.cluster.storage import open_storage
from tunefleet.data.store import Store
from tunefleet.trainers.evaluation.files import read_results
from tunefleet.trainers.evaluation.heldout import held_out
from tunefleet.trainers.evaluation.plain import Examiner
from tunefleet.trainers.evaluation.samples import drop_samples_after, make_sampler
from tunefleet.trainers.manifest import folder_of
from tunefleet.trainers.run import RunFile

pytestmark = pytest.mark.gang
WANTED = {"number": 3, "max_new_tokens": 6}


def evaluation(**samples):
    metrics = ["loss", {"kind": "rouge", "variant": "1"}, "exact_match", {"kind": "matches", "name": "speaks", "pattern": "(?s).+"}]
    return {
        "every_steps": 4,
        "placement": "inline",
        "bootstrap": 20,
        "batch_size": 3,
        "samples": {**WANTED, **samples},
        "metrics": metrics,
        "answers": {"rows": 5, "max_new_tokens": 4},
    }


def asking(run, **samples):
    return RunFile.model_validate({**run.model_dump(), "evaluation": evaluation(**samples)})


def numbers(run):
    """What evaluations found, without times and digests."""
    return [
        {key: content[key] for key in ("step", "rows", "tuned", "base", "difference", "failed", "sets")} for content in read_results(open_storage(run.output))
    ]


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
    asked = evaluation()
    asked["metrics"] = [*asked["metrics"], "latency", "tokens_per_second", "calibration_error"]
    run = small_run(tmp_path, zero={"stage": stage}, scaling={"num_workers": ranks}, evaluation=asked)
    train_on_gang(run)
    assert samples(run, 4) == samples(alone, 4)
    assert samples(run, 8) == samples(alone, 8)
    for here, there in zip(numbers(run), numbers(alone), strict=True):
        for side in ("tuned", "base"):
            assert {name: value for name, value in here[side].items() if name in there[side] and name != "loss"} == {
                name: value for name, value in there[side].items() if name != "loss"
            }
            assert here[side]["latency"] > 0
            assert here[side]["tokens_per_second"] > 0
            assert 0 < here[side]["calibration_error"] < 1
            assert here[side]["loss"] == pytest.approx(there[side]["loss"], rel=1e-5)


def test_metrics_of_answers_stand_beside_the_loss_with_intervals(alone):
    first, last = numbers(alone)
    assert set(last["tuned"]) == {"loss", "rouge", "exact_match", "speaks"}
    assert first["base"] == last["base"]
    assert 0 <= last["sets"]["holdout"]["tuned"]["rouge"]["low"] <= last["tuned"]["rouge"] <= last["sets"]["holdout"]["tuned"]["rouge"]["high"] <= 1
    kept = json.loads(open_storage(alone.output).read("evaluation/base.json"))["scores"]["texts"]
    assert sum(answer is not None for answer in kept["answer"]) == min(5, last["rows"])


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
        base = [examiner.base_share(i, 3) for i in range(3)]
        tuned = [examiner.tuned_share(f"{folder_of(step)}/manifest.json", i, 3) for i in range(3)]
        found.append(({"step": step, "prompts": examiner.tuned_samples()}, examiner.compare(tuned, base)))
    return found


def test_three_actors_generate_and_measure_from_snapshots_what_the_ranks_do(alone):
    stage = make_stage(alone).to_json()
    kept, measured = [samples(alone, 4), samples(alone, 8)], numbers(alone)
    found = gang(1, examined, alone, stage)[0]
    assert [texts for texts, _ in found] == kept
    for (_, compared), content in zip(found, measured, strict=True):
        assert {key: compared[key] for key in content if key != "step"} == {key: value for key, value in content.items() if key != "step"}


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
