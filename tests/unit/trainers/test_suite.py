"""A suite file is refused with all that is wrong, before a model is looked at; a good one says which rows are read and what is measured on each set."""

import json

import pytest
import yaml
from jsonschema import Draft202012Validator

from tunefleet.cluster.errors import Refusal, TunefleetError
from tunefleet.trainers.check import check_run
from tunefleet.trainers.evaluation.standalone import evaluate
from tunefleet.trainers.evaluation.suite import Suite, load_suite, metrics_by_set, rows_of
from tunefleet.trainers.run import RunFile


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "2 + 2?", "completion": "4"}) + "\n")
    return str(path)


def write(folder, content):
    path = folder / "suite.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def refused(path):
    """What a suite is refused for."""
    with pytest.raises(TunefleetError) as caught:
        load_suite(path)
    assert caught.value.exit_code == 2
    problems = caught.value.problems if isinstance(caught.value, Refusal) else [caught.value]
    return "\n".join(str(problem) for problem in problems)


def test_every_problem_is_told_at_once_with_its_place_and_before_any_model(tmp_path, rows):
    (tmp_path / "empty.jsonl").touch()
    sets = {
        "gone": {"sources": [{"path": str(tmp_path / "gone.jsonl")}]},
        "empty": {"sources": [{"path": str(tmp_path / "empty.jsonl")}]},
        "odd": {"sources": [{"path": rows, "format": "alpacca"}], "metrics": [{"kind": "rouge"}, {"kind": "rouge", "variant": "1"}]},
        "mute": {"sources": [{"path": rows}], "metrics": ["perplexty"]},
        "blank": {"sources": [{"path": rows}], "metrics": []},
    }
    said = refused(write(tmp_path, {"version": 1, "sets": sets, "batch_sise": 3}))
    for wanted in (
        "sets.gone.sources.0.path",
        "sets.empty.sources.0: holds no rows",
        "sets.odd.sources.0.format",
        "did you mean alpaca",
        "sets.odd.metrics: a name stands twice",
        "did you mean perplexity",
        "sets.blank.metrics: nothing is measured",
        "batch_sise",
        "did you mean batch_size",
    ):
        assert wanted in said
    with pytest.raises(Refusal, match="perplexty"):
        evaluate(tmp_path / "no-such-run", suite=tmp_path / "suite.yaml")


def test_a_name_of_two_kinds_of_metric_is_refused(tmp_path, rows):
    sets = {name: {"sources": [{"path": rows}], "metrics": [{"kind": kind, "name": "mine"}]} for name, kind in (("a", "loss"), ("b", "rouge"))}
    assert "mine stands for different kinds" in refused(write(tmp_path, {"sets": sets}))


@pytest.mark.parametrize("sets", ["sets: {}", "name: no sets at all", "sets: {a: {sources: []}}"])
def test_a_suite_without_rows_is_refused(tmp_path, sets):
    assert "sets" in refused(write(tmp_path, f"version: 1\n{sets}\n"))


def test_a_file_that_is_not_there_and_an_address_that_holds_a_secret_are_refused(tmp_path):
    assert "the file is missing" in refused(tmp_path / "gone.yaml")
    said = refused(write(tmp_path, {"sets": {"a": {"sources": [{"path": "s3://AKIA:very-secret@bucket/rows.jsonl"}]}}}))
    assert "very-secret" not in said
    assert "sets.a.sources.0.path" in said


def test_all_rows_of_a_suite_are_held_out_and_read_as_the_run_reads_its_own(tmp_path, rows):
    suite = load_suite(write(tmp_path, {"sets": {"a": {"sources": [{"path": rows}]}, "b": {"sources": [{"path": rows}], "metrics": ["rouge"]}}}))
    run = {"model": {"name_or_path": "m"}, "data": {"train": [{"path": "x"}], "max_length": 77, "chat_template": "{{ 1 }}"}, "training": {"max_steps": 1}}
    data = rows_of(suite, RunFile.model_validate({**run, "output": "o"}))
    assert (data.train, [source.path for source in data.holdout], data.max_length, data.chat_template) == ([], [rows, rows], 77, "{{ 1 }}")
    assert {name: [wanted.kind for wanted in measured] for name, measured in metrics_by_set(suite).items()} == {"a": ["loss"], "b": ["rouge"]}


def test_the_schema_takes_what_the_suite_takes(tmp_path, rows):
    schema = Draft202012Validator(Suite.model_json_schema())
    good = {"version": 1, "sets": {"a": {"sources": [{"path": rows}], "metrics": ["loss", {"kind": "label_f1", "average": "micro"}], "general": True}}}
    assert schema.is_valid(good)
    assert not schema.is_valid({**good, "sets": {}})
    assert not schema.is_valid({**good, "metrics": ["perplexty"]})
    load_suite(write(tmp_path, good))


def test_a_run_whose_suite_is_wrong_is_refused_with_the_rest(tmp_path, rows):
    run = {"model": {"name_or_path": str(tmp_path / "gone")}, "data": {"train": [{"path": rows}]}, "training": {"max_steps": 1}, "output": str(tmp_path / "o")}
    suite = write(tmp_path, {"sets": {"a": {"sources": [{"path": rows}], "metrics": ["perplexty"]}, "b": {"sources": [{"path": "gone.jsonl"}]}}})
    said = "\n".join(str(found) for found in check_run(RunFile.model_validate({**run, "evaluation": {"suite": str(suite)}})))
    for wanted in ("model.name_or_path", "evaluation.suite: sets.a.metrics.0: unknown kind", "evaluation.suite: sets.b.sources.0.path"):
        assert wanted in said


def test_a_suite_in_somebodys_output_may_not_bring_code(tmp_path, rows):
    (tmp_path / "run.yaml").write_text("version: 1\n")
    (tmp_path / "events.jsonl").touch()
    content = {"sets": {"a": {"sources": [{"path": rows}], "metrics": ["somebody.metric"]}}}
    assert "asks for code" in refused(write(tmp_path, content))
