"""The run file: strict, with defaults that are written out, and readable again."""

from pathlib import Path

import pytest
import yaml

from tunefleet.cluster.errors import Refusal, SettingsError
from tunefleet.cluster.settings import describe
from tunefleet.trainers.run import STAND_IN, Lora, RunFile, load_run, read_run

ROOT = Path(__file__).parents[3]
SMALL = """
version: 1
model: {name_or_path: some/model}
data: {train: [{path: rows.jsonl}]}
training: {max_steps: 10, learning_rate: 1e-4}
output: runs/x
"""


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(SMALL)
    return path


def test_unquoted_exponents_are_numbers_and_no_is_a_word(run_file):
    run = load_run(run_file, {"name": "no", "training.weight_decay": "1e-2"})
    assert run.learning_rate() == 1e-4
    assert run.training.weight_decay == 1e-2
    assert run.name == "no"


@pytest.mark.parametrize(
    "example", sorted(path for path in (ROOT / "examples").glob("*.yaml") if path.stem not in ("gate", "suite")), ids=lambda path: path.stem
)
def test_every_example_is_a_valid_run_file(example):
    run = load_run(example)
    assert run.scaling.num_workers == 2


def test_a_run_file_with_every_default_written_out_says_the_same(run_file, tmp_path):
    run = load_run(run_file, {"peft": "{kind: lora, r: 4}", "objective": "pretrain"})
    written = tmp_path / "written.yaml"
    written.write_text(yaml.safe_dump(run.model_dump(mode="json")))
    assert load_run(written) == run


def test_the_stand_in_is_a_run_file():
    RunFile.model_validate(STAND_IN)


def test_the_learning_rate_by_default_is_that_of_the_kind_of_training(run_file):
    assert load_run(run_file, {"training.learning_rate": "null"}).learning_rate() == 1e-5
    assert load_run(run_file, {"training.learning_rate": "null", "peft": "lora"}).learning_rate() == 1e-4


def test_every_key_has_a_description():
    assert [name for name, _, about in describe(RunFile) if not about] == []


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"training.num_train_epochs": "1"}, "training: one length is wanted"),
        ({"training.max_steps": "null"}, "training: one length is wanted"),
        ({"training.micro_batch_size": "1", "training.micro_batch_tokens": "9"}, "training: two bounds of a forward"),
        ({"model.name_or_path": "null"}, "model: name_or_path is missing"),
        ({"model.init": "random", "model.name_or_path": "null"}, "model: config is missing"),
        ({"data.train.0.weight": "0"}, "data.train.0.weight"),
        ({"data.mixture.temperature": "0"}, "data.mixture.temperature"),
        ({"data.replay": "{store: shards/old, ratio: 1}"}, "data.replay.ratio"),
        ({"training.train_batch_size": "64", "training.train_batch_tokens": "9000"}, "training: two sizes of a step"),
        ({"data.holdout": "1.0"}, "data.holdout: not allowed"),
        ({"zero.stage": "5"}, "zero.stage: not allowed"),
        ({"zero.offload": "cpu"}, "zero.offload: not allowed"),
        ({"parallel.tensor": "2"}, "parallel.tensor: not allowed"),
        ({"scaling.num_workers": "0"}, "scaling.num_workers: not allowed"),
        ({"training.learning_rate": ".nan"}, "training.learning_rate: not allowed"),
        ({"model.quantization": "int4"}, "model.quantization: not allowed"),
        ({"version": "2"}, "version: not allowed"),
        ({"training": "null"}, "training: not allowed"),
        ({"data.train": "[]"}, "data.train: not allowed"),
        ({"peft": "{kind: lora, rank: 4}"}, "peft.rank: unknown key"),
        ({"objective": "{kind: sft, beta: 1}"}, "objective.beta: unknown key"),
    ],
    ids=str,
)
def test_each_wrong_value_is_one_problem_with_a_fix(run_file, settings, what):
    checked = read_run(run_file, settings)
    (problem,) = checked.problems
    assert problem.what.startswith(what)
    assert problem.fix
    assert problem.want
    assert checked.value is not None  # the rest could still be looked at


def test_all_problems_of_a_text_come_in_one_error(run_file):
    with pytest.raises(Refusal) as refused:
        load_run(run_file, {"zero.stage": "5", "training.lerning_rate": "1", "objective": "dop"})
    assert len(refused.value.problems) == 3
    with pytest.raises(SettingsError):
        load_run(run_file, {"zero.stage": "5"})


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(SettingsError, match="missing") as refused:
        load_run(tmp_path / "nowhere.yaml")
    assert "nowhere.yaml" in refused.value.got


def test_a_run_made_in_python_takes_the_same_overrides_and_checks():
    run = RunFile.model_validate({"model": {"name_or_path": "m"}, "data": {"train": [{"path": "x"}]}, "training": {"max_steps": 5}, "output": "o"})
    assert read_run(run).value is run
    assert read_run(run, {"training.max_steps": "9", "peft": "lora"}).value == run.model_copy(
        update={"training": run.training.model_copy(update={"max_steps": 9}), "peft": Lora()}
    )
    (problem,) = read_run(run, {"training.max_stepz": "9"}).problems
    assert "max_stepz" in problem.what
