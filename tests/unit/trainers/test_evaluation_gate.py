"""The gate: what it wants, what it refuses before anything is spent, and that nothing passes by being missing."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from rich.console import Console

from tunefleet.cluster.plugins import config
from tunefleet.trainers.evaluation.compare import compare
from tunefleet.trainers.evaluation.gap import Scored, overfitting
from tunefleet.trainers.evaluation.gate import judge
from tunefleet.trainers.evaluation.gatefile import Gate, Offered, gate_problems, read_gate
from tunefleet.trainers.evaluation.metric import make_metrics
from tunefleet.trainers.evaluation.paired import Paired
from tunefleet.trainers.evaluation.rows import Floats, RowScores
from tunefleet.trainers.evaluation.slices import by_label, compare_slices
from tunefleet.trainers.gatetable import gate_table, unmet
from tunefleet.trainers.run import METRICS


class Wait:
    """A metric of the clock."""

    better: ClassVar[Literal["min", "max"]] = "min"
    reads: ClassVar[tuple[str, ...]] = ("answer_s",)

    def statistics(self, rows: RowScores) -> Floats:
        return rows.sums["answer_s"][:, None]

    def value(self, totals: Floats) -> Floats:
        return totals[:, 0]


METRICS_OF = {**make_metrics([config(METRICS, name)() for name in ("loss", "token_accuracy", "exact_match")]), "wait": Wait()}
OFFERED = Offered(
    {"pause": Wait(), **{name: METRICS_OF[name] for name in ("loss", "token_accuracy", "exact_match")}},
    {"sums": METRICS_OF, "stories": {"loss": METRICS_OF["loss"]}},
    ["stories"],
    {"source": [], "length": ["up to 9 tokens", "10 tokens or more"], "label": ["red", "blue"]},
    no_gap="",
)
ROWS = 40
STORIES = np.arange(ROWS) >= 30


def scored(nll: Any, correct: float) -> RowScores:
    return RowScores(np.arange(ROWS), {"nll": np.asarray(nll, float), "tokens": np.ones(ROWS), "correct": np.full(ROWS, correct)})


def content(sums: float, stories: float, *, base: float = 2.0, trained: float = 0.0, noise: float = 0.0) -> dict[str, Any]:
    """An evaluation: nats per token on sums and on stories, which are general; sums' rows are red and blue, and blue ones are better by a further 0.2."""
    random = np.random.default_rng(0)
    before = base + random.normal(0, 0.5, ROWS)
    tuned_nll = before + np.where(STORIES, stories, sums) + noise * random.normal(0, 1, ROWS) - 0.2 * (np.arange(ROWS) % 2)
    metrics = {name: METRICS_OF[name] for name in ("loss", "token_accuracy")}
    tuned, old = scored(tuned_nll, 0.9), scored(before, 0.5)
    sets = {"sums": np.flatnonzero(~STORIES), "stories": np.flatnonzero(STORIES)}
    found = compare(tuned, old, metrics, sets=sets, general=["stories"], resamples=200)
    labels = ["blue" if row % 2 else "red" for row in range(30)]
    found |= compare_slices(Paired.of(tuned.select(sets["sums"]), old.select(sets["sums"]), metrics), by_label(labels, np.arange(30)), resamples=200, seed=0)
    seen = scored(tuned_nll - trained, 0.9), scored(before, 0.5)
    found["gap"] = overfitting(Scored(tuned, seen[0]), Scored(old, seen[1]), metrics, sets=sets, resamples=50, seed=0)
    return {**found, "better": {name: metric.better for name, metric in metrics.items()}}


def verdict(gate: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    return judge(Gate.model_validate(gate), found)


def test_a_better_model_passes_and_a_worse_one_does_not() -> None:
    gate = {"gain": [{"metric": "loss", "least": 0.3}], "regression": [{"metric": "loss", "slice": "label"}]}
    assert verdict(gate, content(-0.5, 0.0))["passed"]
    worse = verdict(gate, content(0.5, 0.0))
    assert [one["passed"] for one in worse["checks"]] == [False, False, False]
    assert "gain.0: loss of all held-out rows: wanted at least 0.3, got -0.4" in unmet(worse)
    json.dumps(worse, allow_nan=False)


def test_a_label_of_a_row_does_not_steer_the_terminal() -> None:
    found = verdict({"gain": [{"metric": "loss", "least": 100.0}]}, content(0.0, 0.0))
    found["checks"][0]["place"] = "label: [red]\x1b]0;title\x07\x1b[31m\nFAKE"
    console = Console(file=StringIO(), width=200)
    console.print(gate_table(found))
    for said in (unmet(found), console.file.getvalue()):
        assert "\x1b" not in said
        assert "[red]" in said
        assert "\nFAKE" not in said


def test_what_was_forgotten_does_not_pass_however_much_was_gained() -> None:
    gate = {"gain": [{"metric": "loss"}], "forgetting": [{"metric": "loss", "most": 0.2}]}
    assert verdict(gate, content(-0.5, 0.2))["passed"]
    gain, forgetting = verdict(gate, content(-0.5, 1.5))["checks"]
    assert gain["passed"]
    assert (forgetting["passed"], forgetting["place"]) == (False, "stories")
    assert forgetting["got"] == pytest.approx(1.4)


@pytest.mark.parametrize(("end", "passes"), [("better", True), ("value", False), ("worse", False)])
def test_the_end_of_the_interval_decides(end: str, passes: bool) -> None:
    found = content(0.1, 0.0, noise=1.0)
    low, high = (found["whole"]["difference"]["loss"][name] for name in ("low", "high"))
    assert low < 0 < found["whole"]["difference"]["loss"]["value"] < high
    assert verdict({"regression": [{"metric": "loss", "end": end}]}, found)["passed"] is passes


def test_numbers_and_intervals_are_turned_to_the_words_of_their_check() -> None:
    found = content(-0.5, 0.0)
    difference = found["sets"]["sums"]["difference"]["loss"]
    gate = {name: [{"metric": "loss", "set": "sums", "end": "value"}] for name in ("gain", "regression")}
    gain, regression = verdict(gate, found)["checks"]
    assert (gain["got"], gain["low"], gain["high"]) == (-difference["value"], -difference["high"], -difference["low"])
    assert (regression["got"], regression["low"], regression["high"]) == (difference["value"], difference["low"], difference["high"])


def test_a_metric_that_is_better_when_larger_gains_upward() -> None:
    (gain,) = verdict({"gain": [{"metric": "token_accuracy", "least": 0.39}]}, content(0.0, 0.0))["checks"]
    assert gain["passed"]
    assert gain["got"] == pytest.approx(0.4)


def test_compliance_is_of_the_tuned_model_alone() -> None:
    wanted = [
        {"metric": "token_accuracy", "least": 0.89},
        {"metric": "token_accuracy", "least": 0.91, "set": "sums"},
        {"metric": "loss", "most": 1.9, "end": "worse"},
    ]
    found = content(0.0, 0.0)
    accurate, too_much, loss = verdict({"compliance": wanted}, found)["checks"]
    assert (accurate["passed"], too_much["passed"], loss["passed"]) == (True, False, False)
    assert loss["got"] == found["whole"]["tuned"]["loss"]["high"], "the worse end of a loss is the upper one"


def test_every_set_that_is_not_general_is_checked_by_itself() -> None:
    assert [one["place"] for one in verdict({"gain": [{"metric": "loss", "set": "*"}]}, content(-0.5, 0.0))["checks"]] == ["sums"]


def test_slices_are_judged_by_the_intervals_that_hold_together() -> None:
    found = content(-0.05, 0.0, noise=0.5)
    (red,) = verdict({"gain": [{"metric": "loss", "slice": "label=red"}]}, found)["checks"]
    told = next(one for one in found["slices"] if one["name"] == "red")
    assert red["low"] == -told["corrected"]["loss"]["high"] <= -told["difference"]["loss"]["high"]


def test_overfitting_is_how_much_better_the_tuned_model_is_on_training_rows() -> None:
    gate = {"overfitting": [{"metric": "loss", "most": 0.3}]}
    assert verdict(gate, content(-0.5, -0.5))["passed"]
    (found,) = verdict(gate, content(-0.5, -0.5, trained=0.4))["checks"]
    assert (found["passed"], found["got"]) == (False, pytest.approx(0.4))


def test_overfitting_is_held_against_the_set_that_is_named() -> None:
    found = content(-0.5, 1.0)
    (alike, unlike) = verdict({"overfitting": [{"metric": "loss", "most": 0.3, "set": name} for name in ("sums", "stories")]}, found)["checks"]
    assert (alike["place"], unlike["place"]) == ("training rows against sums", "training rows against stories")
    assert unlike["got"] - alike["got"] == pytest.approx(1.5, abs=0.5)


@pytest.mark.parametrize("kind", ["gain", "regression", "compliance"])
def test_a_number_that_is_not_finite_never_passes(kind: str) -> None:
    threshold = {"compliance": {"most": 1e9}, "regression": {"most": 1e9}, "gain": {"least": 0.0}}[kind]
    (found,) = verdict({kind: [{"metric": "loss", "end": "value", **threshold}]}, content(np.nan, 0.0))["checks"]
    assert (found["passed"], found["got"]) == (False, None)


def test_no_gain_is_none() -> None:
    alike = content(0.0, 0.0)
    same = {**alike, "whole": {**alike["whole"], "difference": {"loss": {"value": 0.0, "low": 0.0, "high": 0.0}}}}
    for end in ("value", "worse", "better"):
        (found,) = verdict({"gain": [{"metric": "loss", "end": end}]}, same)["checks"]
        assert (found["passed"], found["wanted"]) == (False, "above 0")
    assert verdict({"regression": [{"metric": "loss"}]}, same)["passed"]


def test_a_check_without_a_place_does_not_pass() -> None:
    found = content(-0.5, 0.0)
    for part in found["sets"].values():
        part["general"] = True
    (check,) = verdict({"gain": [{"metric": "loss", "set": "*"}]}, found)["checks"]
    assert (check["passed"], check["got"]) == (False, None)
    general = replace(OFFERED, general=list(OFFERED.sets))
    (problem,) = gate_problems(Gate.model_validate({"gain": [{"metric": "loss", "set": "*"}]}), general)
    assert "every set is general" in str(problem)


def test_slices_of_which_few_rows_were_answered_are_left_out_by_name() -> None:
    found = content(0.5, 0.0)
    for part in found["slices"]:
        if part["name"] == "red":
            part["rows_won"]["loss"], part["rows_lost"]["loss"], part["rows_tied"]["loss"] = 0, 3, 0
    said = verdict({"regression": [{"metric": "loss", "slice": "label"}]}, found)
    assert ([one["place"] for one in said["checks"]], said["left_out"]) == (["label: blue"], ["regression.0: label: red"])
    table = StringIO()
    Console(file=table, width=160).print(gate_table(said))
    assert "too few rows were counted: regression.0: label: red" in table.getvalue()


def asked(**checks: Any) -> list[str]:
    return [str(problem) for problem in gate_problems(Gate.model_validate(checks), OFFERED)]


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ({"gain": [{"metric": "los"}]}, "gain.0.metric: the evaluation has no such metric"),
        ({"gain": [{"metric": "loss", "set": "sum"}]}, "did you mean sums?"),
        ({"gain": [{"metric": "token_accuracy", "set": "stories"}]}, "gain.0.metric: the evaluation has no such metric"),
        ({"forgetting": [{"metric": "token_accuracy", "most": 1}]}, "forgetting.0.metric: the evaluation has no such metric"),
        ({"forgetting": [{"metric": "loss", "most": 1, "set": "*"}]}, "forgetting.0.set: the evaluation has no such set"),
        ({"gain": [{"metric": "wait", "set": "sums"}]}, "not compared by the clock"),
        ({"compliance": [{"metric": "wait", "set": "sums", "most": 1, "end": "worse"}]}, "compliance.0.end: times have no interval"),
        ({"compliance": [{"metric": "pause", "slice": "label", "most": 1}]}, "compliance.0.slice: no slice has times"),
        ({"regression": [{"metric": "loss", "slice": "source"}]}, "no slices by source"),
        ({"regression": [{"metric": "loss", "slice": "label=green"}]}, "regression.0.slice: no such slice"),
        ({"regression": [{"metric": "loss", "slice": "lenght"}]}, "did you mean length?"),
        ({"overfitting": [{"metric": "exact_match", "most": 1}]}, "training rows are not answered"),
        ({"overfitting": [{"metric": "exact_match", "most": 1, "set": "sums"}]}, "training rows are not answered"),
        ({"overfitting": [{"metric": "loss", "most": 1, "set": "stories"}]}, "a general set is unlike the training rows"),
    ],
)
def test_what_an_evaluation_does_not_have_is_told_before_a_model_is_loaded(check: dict[str, Any], said: str) -> None:
    (problem,) = asked(**check)
    assert said in problem


def test_all_problems_are_told_at_once_and_what_is_there_is_none() -> None:
    assert len(asked(gain=[{"metric": "los"}, {"metric": "loss", "set": "no"}], overfitting=[{"metric": "x", "most": 1}])) == 3
    assert (
        asked(gain=[{"metric": "loss", "set": "*"}], forgetting=[{"metric": "loss", "most": 1}], compliance=[{"metric": "wait", "set": "sums", "most": 1}])
        == []
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gain: []", "a gate without checks lets everything through"),
        ("version: 1", "a gate without checks lets everything through"),
        ("gains: [{metric: loss}]", "did you mean gain?"),
        ("gain: [{metric: loss, least: a lot}]", "gain.0.least: not allowed"),
        ("gain: [{least: 1}]", "gain.0.metric: missing"),
        ("gain: [{metric: loss, set: a, slice: length}]", "two places are given"),
        ("compliance: [{metric: loss}]", "one threshold is wanted"),
        ("compliance: [{metric: loss, least: 1, most: 2}]", "one threshold is wanted"),
        ("regression: [{metric: loss, end: low}]", "regression.0.end: not allowed"),
        ("forgetting: [{metric: loss}]", "forgetting.0.most: missing"),
    ],
)
def test_a_gate_file_is_strict(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "gate.yaml").write_text(text)
    problems = [str(problem) for problem in read_gate(tmp_path / "gate.yaml").problems]
    assert len(problems) == 1
    assert said in problems[0]


def test_all_problems_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text("gain: [{least: 1}]\nregression: [{metric: loss, most: much}]\nwhat: 1\n")
    assert len(read_gate(tmp_path / "gate.yaml").problems) == 3
    assert "the file is missing" in str(read_gate(tmp_path / "none.yaml").problems[0])


def test_the_example_is_a_gate() -> None:
    checked = read_gate(Path(__file__).parents[3] / "examples" / "gate.yaml")
    assert checked.problems == []
    assert checked.value is not None
    assert {name.partition(".")[0] for name, _ in checked.value.checks()} == {"gain", "regression", "overfitting"}
