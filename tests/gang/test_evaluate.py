"""`evaluate`: a run, its checkpoint and its export score what the ranks found, against the same base, on the same rows."""

import json
from pathlib import Path

import pytest
import yaml
from runs import small_run, train_on_gang

from tunefleet.cluster.errors import CheckpointError, Refusal, SettingsError
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.evaluation.files import BASE, read_results
from tunefleet.trainers.evaluation.gatefile import Gate
from tunefleet.trainers.evaluation.standalone import evaluate
from tunefleet.trainers.stage import RUN_FILE
from tunefleet.tuning.cli import main

pytestmark = pytest.mark.gang


@pytest.fixture(scope="module", params=["full", "lora"])
def run(request, tmp_path_factory):
    made = small_run(tmp_path_factory.mktemp(request.param), peft={"kind": request.param}, evaluation={"metrics": ["loss", "token_accuracy"]})
    train_on_gang(made)
    open_storage(made.output).put(RUN_FILE, yaml.safe_dump(made.model_dump(mode="json")).encode())  # a gang has no driver, which would write it
    return made


@pytest.fixture
def last(run):
    """What the ranks found after the last step."""
    return read_results(open_storage(run.output))[-1]


def assert_same(found, wanted, *, rel=1e-6):
    assert found["rows"] == wanted["rows"]
    for name in ("tuned", "base"):
        assert found[name] == pytest.approx(wanted[name], rel=rel)
    assert found["difference"]["loss"] == pytest.approx(wanted["difference"]["loss"], rel=1e-4, abs=1e-7)


def test_a_run_is_evaluated_at_its_newest_checkpoint_and_learnt_something(run, last):
    found = evaluate(run.output)
    assert_same(found, last)
    assert (found["step"], found["checkpoint"], found["placement"]) == (8, last["checkpoint"], "standalone")
    assert found["difference"]["loss"]["high"] < 0
    json.dumps(found, allow_nan=False)


def test_a_checkpoint_by_itself_is_evaluated_with_the_run_around_it(run, last):
    assert_same(evaluate(Path(run.output) / Path(last["manifest"]).parent), last)


def test_an_export_scores_what_the_checkpoint_scored(run, last):
    found = evaluate(Path(run.output) / "export")
    assert_same(found, last, rel=1e-5)
    assert found["step"] is None


def test_without_kept_scores_the_base_is_scored_again_to_the_same_numbers(run, last):
    storage = open_storage(run.output)
    kept = storage.read(BASE)
    storage.delete(BASE)
    assert_same(evaluate(run.output), last)
    assert not storage.exists(BASE)
    storage.put(BASE, kept)


def test_each_held_out_set_is_asked_the_rows_that_training_asked(tmp_path):
    held = []
    for name, rows in (("few", 8), ("many", 20)):
        lines = [json.dumps({"prompt": f"Of {name}, what is number {row}?", "completion": f"{row} of {name}"}) for row in range(rows)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        held.append({"path": str(tmp_path / f"{name}.jsonl")})
    wanted = {"metrics": ["loss", "token_f1"], "answers": {"rows": 5, "max_new_tokens": 4}}
    run = small_run(tmp_path, data={"holdout": held}, evaluation=wanted, scaling={"num_workers": 1})
    train_on_gang(run)
    open_storage(run.output).put(RUN_FILE, yaml.safe_dump(run.model_dump(mode="json")).encode())
    found, last = evaluate(run.output), read_results(open_storage(run.output))[-1]
    assert sum(found["rows_won"]["token_f1"].values()) == 10, "five of each set"
    for name in ("tuned", "base", "rows_won"):
        assert found[name]["token_f1"] == last[name]["token_f1"]


def test_what_lies_below_the_totals_is_said_too(run):
    found = evaluate(run.output)
    assert found["better"] == {"loss": "min", "token_accuracy": "max"}
    assert sum(found["rows_won"]["loss"].values()) == found["rows"]
    assert found["gap"]["rows"] + found["rows"] == 60, "all rows that were trained on are fewer than evaluation.gap_rows"
    worst = found["regressions"]["loss"]
    assert all(one["by"] > 0 and one["tuned"]["loss"] > one["base"]["loss"] and one["prompt"].startswith("After") for one in worst)
    json.dumps(found, allow_nan=False)


def test_a_gate_says_what_passes_and_what_does_not(run, tmp_path):
    checks = evaluate(run.output, gate=Gate.model_validate({"gain": [{"metric": "loss"}, {"metric": "loss", "least": 100.0}]}))["gate"]
    assert (checks["passed"], [one["passed"] for one in checks["checks"]]) == (False, [True, False])
    assert main(["evaluate", run.output, "--json", "--gate", _gate(tmp_path, "gain: [{metric: loss}]")]) == 0
    assert main(["evaluate", run.output, "--gate", _gate(tmp_path, "gain: [{metric: loss, least: 100.0}]")]) == 1


def test_a_gate_for_what_is_not_there_is_refused_before_a_model_is_loaded(run, tmp_path, monkeypatch):
    monkeypatch.setattr("tunefleet.trainers.evaluation.plain.PlainModel.base", None)
    gate = _gate(tmp_path, "gain: [{metric: los}, {metric: loss, set: holdut}, {metric: loss, least: much}]")
    with pytest.raises(Refusal) as refused:
        evaluate(run.output, gate=gate)
    assert len(refused.value.problems) == 3
    assert main(["evaluate", run.output, "--gate", gate]) == 2


def _gate(folder: Path, text: str) -> str:
    (folder / "gate.yaml").write_text(text)
    return str(folder / "gate.yaml")


def test_what_cannot_be_evaluated_is_told_apart(run, tmp_path):
    with pytest.raises(SettingsError, match="nothing that can be evaluated"):
        evaluate(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SettingsError, match="a model alone has no base"):
        evaluate(tmp_path)
    (tmp_path / RUN_FILE).write_text((Path(run.output) / RUN_FILE).read_text())
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        evaluate(tmp_path)
