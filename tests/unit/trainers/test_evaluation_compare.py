"""Metrics and comparison against values worked out by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tunefleet.cluster.errors import DataError, SettingsError
from tunefleet.cluster.plugins import config, kinds, plugin
from tunefleet.trainers.evaluation.compare import compare, totals
from tunefleet.trainers.evaluation.metric import Describing, make_metrics, needs
from tunefleet.trainers.evaluation.paired import resampled_totals
from tunefleet.trainers.evaluation.rows import BINNED, TIMED, RowScores
from tunefleet.trainers.run import METRICS

ALL = ["loss", "perplexity", "token_accuracy"]
SAID = ["six apples", "7 apples are left, 3 are gone", "", '{"apples": 4}', "so 11 pears"]


def metrics_of(*names):
    return make_metrics([config(METRICS, name)() for name in names])


def scores(nll, tokens, correct=None):
    sums = {"nll": np.array(nll, float), "tokens": np.array(tokens, float)}
    if correct is not None:
        sums["correct"] = np.array(correct, float)
    return RowScores(np.arange(len(nll)), sums)


def random_scores(rows, seed, scale=1.0):
    random = np.random.default_rng(seed)
    tokens = random.integers(1, 50, rows)
    found = scores(scale * tokens * random.uniform(1, 3, rows), tokens, random.integers(0, tokens + 1))
    texts = {name: [SAID[i] for i in random.integers(0, len(SAID), rows)] for name in ("answer", "reference")}
    others = {name: random.integers(1, 9, rows).astype(float) for name in (*BINNED, *TIMED)}
    return RowScores(found.ids, {**found.sums, **others}, {**texts, "answer": [None, *texts["answer"][1:]]})


@pytest.fixture(params=kinds(METRICS))
def metric(request):
    given = {"label_f1": {"labels": SAID}}  # without them they are those of the rows, so rows that are split have fewer
    return plugin(METRICS, request.param)(config(METRICS, request.param)(**given.get(request.param, {})))


def test_the_values_are_of_all_tokens_not_means_of_rows():
    tuned, base = scores([2.0, 1.0], [4, 1], [3, 0]), scores([6.0, 4.0], [4, 1], [1, 0])
    result = compare(tuned, base, metrics_of(*ALL), resamples=50)
    assert result["rows"] == 2
    assert result["tuned"] == {"loss": 3.0 / 5, "perplexity": pytest.approx(math.exp(0.6)), "token_accuracy": 3.0 / 5}
    assert result["base"] == {"loss": 2.0, "perplexity": pytest.approx(math.exp(2.0)), "token_accuracy": 0.2}
    assert result["difference"]["loss"]["value"] == pytest.approx(-1.4)
    assert result["sets"]["holdout"]["tokens"] == 5
    assert result["sets"]["holdout"]["tuned"]["loss"]["value"] == result["tuned"]["loss"]


def test_rows_that_are_all_alike_have_an_interval_of_no_width():
    result = compare(scores([3.0] * 7, [2] * 7), scores([4.0] * 7, [2] * 7), metrics_of("loss"), resamples=200)
    assert result["difference"]["loss"] == {"value": -0.5, "low": -0.5, "high": -0.5}
    assert result["sets"]["holdout"]["base"]["loss"] == {"value": 2.0, "low": 2.0, "high": 2.0}


def test_two_rows_give_the_percentiles_of_a_coin_thrown_twice():
    result = compare(scores([0.0, 1.0], [1, 1]), scores([1.0, 1.0], [1, 1]), metrics_of("loss"), resamples=4000)
    assert result["sets"]["holdout"]["tuned"]["loss"] == {"value": 0.5, "low": 0.0, "high": 1.0}
    drawn = resampled_totals(np.array([[0.0], [1.0]]), 4000, 0)[:, 0]
    assert [np.mean(drawn == k) for k in (0, 1, 2)] == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_the_difference_is_paired_so_a_constant_gain_is_certain():
    base = random_scores(60, 1)
    tuned = RowScores(base.ids, {**base.sums, "nll": base.sums["nll"] - 0.25 * base.sums["tokens"]})
    difference = compare(tuned, base, metrics_of("loss"))["difference"]["loss"]
    assert list(difference.values()) == pytest.approx([-0.25] * 3)
    wide = compare(tuned, base, metrics_of("loss"))["sets"]["holdout"]["tuned"]["loss"]
    assert wide["high"] - wide["low"] > 0.1


def test_the_interval_of_a_mean_is_about_two_standard_errors_wide():
    values = np.random.default_rng(3).normal(5.0, 1.0, 400)
    found = compare(scores(values, [1] * 400), scores(values, [1] * 400), metrics_of("loss"), resamples=4000)["sets"]["holdout"]["tuned"]["loss"]
    error = values.std() / 20
    assert found["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert found["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others():
    tuned, base = random_scores(40, 1), random_scores(40, 2)
    base = RowScores(base.ids, {**base.sums, "tokens": tuned.sums["tokens"]})
    first, again, other = (compare(tuned, base, metrics_of(*ALL), seed=s) for s in (0, 0, 1))
    assert first == again
    assert first["difference"] != other["difference"]


def test_chunks_of_resamples_change_nothing_of_what_is_drawn(monkeypatch):
    columns = np.random.default_rng(0).normal(size=(30, 2))
    whole = resampled_totals(columns, 100, seed=5)
    monkeypatch.setattr("tunefleet.trainers.evaluation.paired.DRAWS_AT_ONCE", 30 * 7)
    np.testing.assert_allclose(resampled_totals(columns, 100, seed=5), whole)


def test_every_set_is_compared_by_itself_and_the_top_pools_all_rows():
    tuned, base = scores([1.0, 2.0, 9.0], [1, 1, 3]), scores([2.0, 2.0, 3.0], [1, 1, 3])
    result = compare(tuned, base, metrics_of("loss"), sets={"chat": np.array([0, 1]), "code": np.array([2])}, resamples=20)
    assert [result["sets"][n]["tuned"]["loss"]["value"] for n in ("chat", "code")] == [1.5, 3.0]
    assert result["tuned"]["loss"] == 12.0 / 5
    assert result["rows"] == 3


def test_a_model_that_diverged_is_written_as_null_which_is_json():
    result = compare(scores([math.inf, 1.0], [1, 1]), scores([1.0, 2.0], [1, 1]), metrics_of("loss", "perplexity"), resamples=20)
    assert result["tuned"] == {"loss": None, "perplexity": None}
    assert result["base"]["loss"] == 1.5
    json.dumps(result, allow_nan=False)


def test_a_perplexity_beyond_floats_is_null_and_warns_of_nothing():
    assert compare(scores([1e4], [1]), scores([1.0], [1]), metrics_of("perplexity"), resamples=5)["tuned"] == {"perplexity": None}


def test_rows_without_a_token_do_not_spoil_the_intervals_of_the_others():
    found = compare(scores([0.0, 2.0], [0, 1]), scores([0.0, 3.0], [0, 1]), metrics_of("loss"), resamples=100)
    assert found["sets"]["holdout"]["tuned"]["loss"] == {"value": 2.0, "low": 2.0, "high": 2.0}


def test_a_set_without_a_supervised_token_is_refused():
    with pytest.raises(DataError, match="holdout has no supervised token"):
        compare(scores([0.0], [0]), scores([0.0], [0]), metrics_of("loss"))


def test_a_metric_of_totals_does_not_change_when_rows_are_split(metric):
    rows = random_scores(20, 4)
    halves = [metric.statistics(rows.select(rows.ids[s])).sum(0) for s in (slice(0, 7), slice(7, None))]
    whole = metric.statistics(rows).sum(0)
    assert metric.value(sum(halves)[None]) == pytest.approx(metric.value(whole[None]))
    assert np.isfinite(metric.value(whole[None])).all()


def test_what_a_metric_says_beside_its_value_is_json_also_of_no_row(metric):
    if isinstance(metric, Describing):
        for rows in (random_scores(8, 2), random_scores(8, 2).select(np.zeros(0, np.int64))):
            json.dumps(metric.describe(rows), allow_nan=False)


def test_what_is_measured_by_the_clock_has_no_interval_and_is_not_compared():
    found = compare(random_scores(9, 1), random_scores(9, 1), metrics_of("latency", "tokens_per_second", "loss"), resamples=20)
    assert list(found["difference"]) == ["loss"]
    clocked = found["sets"]["holdout"]["tuned"]["latency"]
    assert clocked["value"] > 0
    assert (clocked["low"], clocked["high"]) == (None, None)
    assert found["sets"]["holdout"]["details"]["latency"]["tuned"]["answer_s"]["p95"] > 0


def test_a_metric_reads_only_the_parts_that_it_names_and_is_nothing_of_nothing(metric):
    rows = random_scores(5, 0)
    sums, texts = ({name: held[name] for name in metric.reads if name in held} for held in (rows.sums, rows.texts))
    found = metric.statistics(RowScores(rows.ids, sums, texts))
    assert len(found) == 5
    np.testing.assert_array_equal(found, metric.statistics(rows))
    assert np.isnan(metric.value(np.zeros((3, found.shape[1])))).all()
    assert metric.better in ("min", "max")


def test_only_what_a_metric_reads_is_computed():
    assert needs(metrics_of("loss", "perplexity")) == {"nll", "tokens"}
    assert needs(metrics_of("loss", "token_accuracy")) == {"nll", "tokens", "correct"}
    assert needs(metrics_of("exact_match")) == {"answer", "reference"}


def test_two_of_a_kind_stand_beside_each_other_by_name():
    rouge = config(METRICS, "rouge")
    assert list(make_metrics([rouge(variant="1", name="rouge_1"), rouge()])) == ["rouge_1", "rouge"]
    with pytest.raises(SettingsError, match="a name stands twice"):
        make_metrics([rouge(variant="1"), rouge()])


def test_a_misspelt_metric_is_told_the_nearest():
    with pytest.raises(SettingsError, match="did you mean perplexity"):
        metrics_of("perplexty")


def test_a_metric_of_one_file_outside_the_package_is_found_by_its_dotted_name(tmp_path: Path, monkeypatch):
    home = tmp_path / "ourlab"
    home.mkdir()
    (home / "__init__.py").touch()
    (home / "bits.py").write_text(
        "import math\nfrom typing import Literal\nfrom tunefleet.cluster.settings import Settings\n\n"
        "class Bits:\n    class Config(Settings):\n        kind: Literal['ourlab.bits'] = 'ourlab.bits'\n"
        "    better, reads = 'min', ('nll', 'tokens')\n    def __init__(self, config): pass\n"
        "    def statistics(self, rows): return rows.sums['nll'][:, None]\n    def value(self, totals): return totals[:, 0] / math.log(2)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    result = compare(scores([math.log(2)], [1]), scores([0.0], [1]), metrics_of("ourlab.bits"), resamples=5)
    assert result["tuned"]["ourlab.bits"] == pytest.approx(1.0)


class Broken:
    """A metric of somebody who counts on an answer that is not there."""

    better, reads = "max", ("answer",)

    def statistics(self, rows):
        raise ZeroDivisionError("no answer has a word")

    def value(self, totals):
        return totals[:, 0]


def test_a_metric_that_raises_is_named_and_spoils_no_other_number():
    tuned, base = scores([1.0], [1]), scores([2.0], [1])
    found = compare(tuned, base, {"broken": Broken(), **metrics_of("loss")}, resamples=5)
    assert found["failed"] == {"broken": "ZeroDivisionError: no answer has a word"}
    assert found["tuned"] == {"broken": None, "loss": 1.0}
    assert found["difference"] == compare(tuned, base, metrics_of("loss"), resamples=5)["difference"]
    assert totals(base, {"broken": Broken(), **metrics_of("loss")}) == {"loss": 2.0, "broken": None}
    json.dumps(found, allow_nan=False)


class Fussy:
    """A metric of somebody whose value, and whose further words, are not for all rows."""

    better, reads = "max", ("tokens",)

    def __init__(self, wrong):
        self.wrong = wrong

    def statistics(self, rows):
        return rows.sums["tokens"][:, None]

    def value(self, totals):
        if self.wrong == "value" and (totals == 0).any():
            raise ZeroDivisionError("of nothing")
        return totals[: 1 if self.wrong == "count" else None, 0]

    def describe(self, rows):
        if self.wrong == "describe":
            raise ValueError("not today")
        return {"mean": float("nan") if self.wrong == "nan" else 1.0}


@pytest.mark.parametrize(
    ("wrong", "why", "value"),
    [("value", "of nothing", None), ("count", "have 1 values", None), ("describe", "not today", 3.0), ("nan", "not JSON compliant", 3.0), ("", "", 3.0)],
)
def test_whatever_is_wrong_with_a_metric_spoils_no_other_number(wrong, why, value):
    tuned, base = scores([1.0, 1.0], [1, 2]), scores([2.0, 1.0], [1, 2])
    found = compare(tuned, base, {"fussy": Fussy(wrong), **metrics_of("loss")}, resamples=5)
    assert why in found["failed"].get("fussy", "")
    assert ("fussy" in found["failed"]) == bool(why)
    assert found["tuned"]["fussy"] == value
    assert found["difference"]["loss"] == compare(tuned, base, metrics_of("loss"), resamples=5)["difference"]["loss"]
    json.dumps(found, allow_nan=False)


def test_what_failed_in_one_set_only_is_told_with_the_set():
    tuned, base = scores([1.0, 1.0], [1, 1]), scores([2.0, 1.0], [1, 1])
    sets, own = {"a": np.array([0]), "b": np.array([1])}, {"b": {"fussy": Fussy("count")}}
    assert compare(tuned, base, metrics_of("loss"), sets=sets, own=own, resamples=5)["failed"] == {"fussy": "b: ValueError: 3 totals have 1 values"}


def test_a_general_set_is_marked_and_has_no_part_in_the_numbers_at_the_top():
    tuned, base = scores([1.0, 5.0], [1, 1]), scores([2.0, 1.0], [1, 1])
    sets = {"own": np.array([0]), "general": np.array([1])}
    found = compare(tuned, base, metrics_of("loss"), sets=sets, own={"general": metrics_of("perplexity")}, general=["general"], resamples=5)
    assert (found["tuned"], found["rows"]) == ({"loss": 1.0}, 1)
    assert found["sets"]["general"]["general"] is True
    assert list(found["sets"]["general"]["tuned"]) == ["perplexity"]
    assert "general" not in found["sets"]["own"]
