"""A suite over actors: one, two or three of them find the same, bit for bit, as one process does, also when one is killed on the way."""

import json
import os
import signal
from pathlib import Path

import pytest
import ray
import yaml
from runs import events, small_run, train_on_gang, write_rows

from tunefleet.cluster.errors import DataError, SettingsError
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.evaluation.afterwards import score_suite
from tunefleet.trainers.evaluation.files import SUITE
from tunefleet.trainers.evaluation.gatefile import Gate
from tunefleet.trainers.evaluation.standalone import evaluate
from tunefleet.trainers.stage import RUN_FILE

pytestmark = pytest.mark.ray
METRICS = ["loss", "calibration_error", {"kind": "rouge", "variant": "1"}]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = small_run(tmp_path_factory.mktemp("suite"), peft={"kind": "lora"}, scaling={"num_workers": 1}, evaluation={"samples": {"number": 0}})
    train_on_gang(made)
    open_storage(made.output).put(RUN_FILE, yaml.safe_dump(made.model_dump(mode="json")).encode())
    return made


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """Colours to be asked for, in two files, and texts that have nothing to do with them."""
    folder = tmp_path_factory.mktemp("rows")
    first, second, texts = write_rows(folder / "first.jsonl", 14), folder / "second.jsonl", folder / "texts.txt"
    second.write_text("".join(json.dumps({"prompt": f"Before {i}?", "completion": colour}) + "\n" for i, colour in enumerate(["red", "green", "blue"] * 3)))
    texts.write_text("<|endoftext|>".join(f"once upon a time there were {i} stones" for i in range(11)))
    sets = {
        "colours": {"sources": [{"path": str(first)}, {"path": str(second)}], "metrics": METRICS},
        "short": {"sources": [{"path": str(second)}], "metrics": ["loss", {"kind": "label_f1", "average": "micro"}, "latency"]},
        "texts": {"sources": [{"path": str(texts)}], "metrics": ["perplexity"], "general": True},
    }
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"sets": sets, "batch_size": 3, "bootstrap": 20, "answers": {"rows": 5, "max_new_tokens": 6}}))
    return path


def numbers(content):
    """What a suite found, without what depends on the clock."""
    kept = {key: content[key] for key in ("rows", "tuned", "base", "difference", "slices", "regressions", "sets", "suite", "failed", "gap")}
    kept = json.loads(json.dumps(kept))
    for side in ("tuned", "base"):
        assert kept["sets"]["short"][side].pop("latency")["value"] > 0
    kept["sets"]["short"]["details"].pop("latency")
    return kept


@pytest.fixture(scope="module")
def alone(run, suite):
    return evaluate(run.output, suite=suite)


def test_a_set_has_its_own_metrics_and_the_general_one_no_part_in_the_top(alone):
    sets = alone["sets"]
    assert {name: list(part["tuned"]) for name, part in sets.items()} == {
        "colours": ["loss", "calibration_error", "rouge"],
        "short": ["loss", "label_f1", "latency"],
        "texts": ["perplexity"],
    }
    assert [part["rows"] for part in sets.values()] == [23, 9, 11]
    assert (sets["texts"]["general"], alone["rows"], list(alone["tuned"])) == (True, 32, ["loss"])
    assert set(sets["short"]["details"]["label_f1"]["tuned"]["labels"]) == {"red", "green", "blue"}
    assert {one["name"] for one in alone["slices"] if one["by"] == "source"} <= {"first", "second", "second-2", "other sources"}
    assert alone["tuned"]["loss"] < alone["base"]["loss"]
    json.dumps(alone, allow_nan=False)


def test_training_rows_are_held_against_the_sets_that_are_not_general_each_by_its_own_metrics(run, suite, alone):
    gap = alone["gap"]
    assert {name: list(part["gaps"]["tuned"]) for name, part in gap["sets"].items()} == {"colours": ["loss", "calibration_error"], "short": ["loss"]}
    of_its_own_rows = evaluate(run.output)["gap"]
    assert (gap["rows"], gap["tuned"]["loss"]["value"]) == (of_its_own_rows["rows"], pytest.approx(of_its_own_rows["tuned"]["loss"]["value"], rel=1e-5))
    assert gap["gaps"]["tuned"]["loss"]["value"] == pytest.approx(alone["tuned"]["loss"] - gap["tuned"]["loss"]["value"])


def test_where_the_runs_own_rows_are_not_prepared_the_gap_is_left_out_and_that_is_said(run, suite, tmp_path):
    said, moved = [], run.model_copy(update={"data": run.data.model_copy(update={"store": str(tmp_path / "elsewhere")})})
    assert evaluate(run.output, moved, suite=suite, say=said.append)["gap"] is None
    assert [line for line in said if "overfitting" in line and "not prepared in" in line]
    with pytest.raises(SettingsError, match="not prepared in"):
        evaluate(run.output, moved, suite=suite, gate=Gate.model_validate({"overfitting": [{"metric": "loss", "most": 1.0}]}))


def test_a_set_alone_has_the_numbers_that_it_has_among_others(run, suite, alone, tmp_path):
    content = yaml.safe_load(Path(suite).read_text())
    content["sets"] = {"short": content["sets"]["short"]}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(content))
    found = evaluate(run.output, suite=tmp_path / "one.yaml")
    for name in ("loss", "label_f1"):
        assert found["sets"]["short"]["tuned"][name]["value"] == pytest.approx(alone["sets"]["short"]["tuned"][name]["value"], rel=1e-5)


@pytest.mark.parametrize("actors", [1, 3])  # two of them below
def test_splitting_rows_over_actors_changes_no_score(ray_session, run, suite, alone, actors):
    assert numbers(evaluate(run.output, suite=suite, actors=actors)) == numbers(alone)


def test_one_of_two_actors_is_killed_and_started_again_and_what_was_scored_stands(ray_session, run, suite, alone):
    said, killed = [], []

    def progress(done, rows):
        if done and not killed:
            names = [one["name"] for one in ray.util.list_named_actors(all_namespaces=True) if one["name"].startswith("tunefleet-marker")]
            actor = ray.get_actor(names[0], namespace=ray.get_runtime_context().namespace)
            os.kill(ray.get(actor.__ray_call__.remote(lambda marker: os.getpid())), signal.SIGKILL)  # dead before another piece is handed out
            killed.append(names[0])

    found = evaluate(run.output, suite=suite, actors=2, progress=progress, say=said.append)
    assert numbers(found) == numbers(alone)
    assert killed
    assert {line.split()[0] for line in said if "died" in line} <= set(killed)  # none, where the other had done everything before it was there again


def test_a_run_leaves_what_its_own_suite_found_and_says_so_when_that_goes_wrong(run, suite, alone):
    storage = open_storage(run.output)

    def score(name):
        score_suite(run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"suite": name})}), storage, print, alone=True)

    score("/nowhere/suite.yaml")
    assert not storage.exists(SUITE)
    (failed,) = [event for event in events(run) if event["event"] == "suite_failed"]
    assert "the file is missing" in failed["error"]
    score(str(suite))
    assert numbers(json.loads(storage.read(SUITE))) == numbers(alone)
    assert [event["tuned"] for event in events(run) if event["event"] == "suite_scored"] == [alone["tuned"]]
    score("/nowhere/suite.yaml")  # it is there, of these weights: they are scored no second time
    assert sum(event["event"] == "suite_failed" for event in events(run)) == 1
    storage.put(SUITE, json.dumps({**alone, "checkpoint": "of weights that were trained on since"}).encode())
    score("/nowhere/suite.yaml")
    assert sum(event["event"] == "suite_failed" for event in events(run)) == 2
    assert not storage.exists(SUITE)


def test_a_set_of_which_no_row_is_kept_is_an_error_that_names_it(run, tmp_path):
    path = str(write_rows(tmp_path / "rows.jsonl", 5))
    content = {"sets": {name: {"sources": [{"path": path}]} for name in ("first", "again")}, "quality": {"exact_duplicates": "drop"}}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(DataError, match=r"sets\.(first|again): no row is left"):
        evaluate(run.output, suite=tmp_path / "suite.yaml")
