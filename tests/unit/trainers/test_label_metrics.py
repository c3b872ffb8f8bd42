"""Metrics of labels and of certainty, against scikit-learn and torchmetrics, and of the clock, against the times that were put in."""

import random

import numpy as np
import pytest
import torch
from heldout import random_rows, score_rows
from sklearn.metrics import precision_recall_fscore_support
from torchmetrics.functional.classification import multiclass_calibration_error

from tunefleet.cluster.errors import SettingsError
from tunefleet.cluster.plugins import plugin
from tunefleet.trainers.evaluation.compare import compare
from tunefleet.trainers.evaluation.metric import measured
from tunefleet.trainers.evaluation.paired import Paired
from tunefleet.trainers.evaluation.regressions import regressions
from tunefleet.trainers.evaluation.rows import BINNED, BINS, TIMED, RowScores, merge, score_share, shares
from tunefleet.trainers.evaluation.slices import Slice, compare_slices
from tunefleet.trainers.objectives.sft import Sft
from tunefleet.trainers.run import METRICS
from tunefleet.trainers.scoring import TokenScorer

LABELS = ["no", "perhaps", "yes"]
PARTS = ("precision", "recall", "f1")


def made(kind, **settings):
    metric = plugin(METRICS, kind)
    return metric(metric.Config(**settings))


def value(metric, rows):
    return float(metric.value(metric.statistics(rows).sum(0)[None])[0])


def answered(answers, references):
    ones = np.ones(len(answers))
    return RowScores(np.arange(len(answers)), {"nll": ones, "tokens": ones}, {"answer": answers, "reference": references})


def drawn(seed):
    """Answers and labels of 40 rows, where one answer in eight is no label."""
    draw = random.Random(seed)
    wanted = [*LABELS, *draw.choices(LABELS, [6, 1, 3], k=37)]
    return [draw.choices([label, draw.choice(LABELS), "no idea"], [5, 2, 1])[0] for label in wanted], wanted


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("average", ["macro", "micro"])
def test_averages_are_scikit_learns(seed, average):
    said, wanted = drawn(seed)
    theirs = precision_recall_fscore_support(wanted, said, labels=LABELS, average=average, zero_division=0)
    for part, expected in zip(PARTS, theirs, strict=False):
        for labels in ([], LABELS):
            assert value(made("label_f1", part=part, average=average, labels=labels), answered(said, wanted)) == pytest.approx(expected)


def test_every_label_is_scikit_learns_alone_and_in_the_details():
    said, wanted = drawn(7)
    theirs = precision_recall_fscore_support(wanted, said, labels=LABELS, average=None, zero_division=0)
    told = made("label_f1").describe(answered(said, wanted))
    assert told["no_label"] == said.count("no idea") > 0
    for i, label in enumerate(LABELS):
        for part, expected in zip(PARTS, theirs, strict=False):
            assert value(made("label_f1", part=part, label=label), answered(said, wanted)) == pytest.approx(expected[i])
            assert told["labels"][label][part] == pytest.approx(expected[i])
        assert told["labels"][label]["rows"] == wanted.count(label)


def test_white_space_never_counts_capitals_do_unless_they_should_not_and_rows_not_asked_are_left_out():
    rows = answered([" Yes\n", None, "yes"], ["yes", "no", "yes"])
    assert value(made("label_f1", part="recall", average="micro", labels=["yes", "no"]), rows) == 0.5
    assert value(made("label_f1", part="recall", average="micro", case=False), rows) == 1.0


def test_labels_that_mean_nothing_are_refused():
    with pytest.raises(SettingsError, match="none of the labels"):
        made("label_f1", labels=["a", "b"], label="c")
    with pytest.raises(SettingsError, match="stands twice"):
        made("label_f1", labels=["a", " a"])


@pytest.fixture(scope="module")
def scorer():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=8, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64)
    model = LlamaForCausalLM(config).eval()
    model.lm_head.weight.data *= 60  # certain of much, and wrong about most of it
    return TokenScorer(model)


def test_the_calibration_error_is_torchmetrics(scorer):
    split, objective, metric = random_rows(30, vocabulary=8, seed=1), Sft(Sft.Config(), pad_id=0), made("calibration_error")
    rows = score_rows(scorer, split, objective, batch_size=7, needs=metric.reads)
    logits, targets = [], []
    for record in split.all:
        ids, learnt = (torch.from_numpy(record.columns[name].astype(np.int64)) for name in ("ids", "supervised"))
        with torch.no_grad():
            logits.append(scorer.model(ids[None]).logits[0, :-1][learnt[1:].bool()])
        targets.append(ids[1:][learnt[1:].bool()])
    probabilities, targets = torch.cat(logits).double().softmax(-1), torch.cat(targets)
    expected = float(multiclass_calibration_error(probabilities, targets, num_classes=8, n_bins=BINS, norm="l1"))
    assert 0.2 < expected < 0.9
    assert value(metric, rows) == pytest.approx(expected, rel=1e-5)
    told = metric.describe(rows)["bins"]
    assert sum(one["tokens"] for one in told) == len(targets)
    assert sum(one["tokens"] * abs(one["right"] - one["probability"]) for one in told) / len(targets) == pytest.approx(expected, rel=1e-5)


def test_the_probability_of_the_first_choice_costs_no_row_its_scores_and_is_shared_out_alike(scorer):
    split, objective, needs = random_rows(11, vocabulary=8), Sft(Sft.Config(), pad_id=0), made("calibration_error").reads
    whole = score_rows(scorer, split, objective, batch_size=2, needs=needs)
    parts = merge([score_share(scorer, split, share, objective, needs=needs) for share in shares(split.lengths, 2, 4)])
    for name in ("nll", *needs):
        np.testing.assert_array_equal(whole.sums[name], parts.sums[name])
    assert "correct" not in whole.sums


def test_a_perfect_model_that_is_certain_has_no_calibration_error():
    sums = {name: np.zeros(2) for name in made("calibration_error").reads}
    sums |= {"binned_14": np.array([3.0, 1.0]), "confidence_14": np.array([3.0, 1.0]), "hits_14": np.array([3.0, 1.0])}
    assert value(made("calibration_error"), RowScores(np.arange(2), sums)) == 0.0


SURE = (0.5, 0.7, 0.9)  # probabilities of three bins, so that the error of a model that is right less often by `gap` is `gap`


def certain(gap, seed, rows=100, tokens=8):
    """Scores of a model whose true calibration error is ``gap``."""
    random = np.random.default_rng(seed)
    p_RT = random.choice(SURE, (rows, tokens))
    hits_RT = random.random((rows, tokens)) < p_RT - gap
    bins = np.arange(1, BINS + 1) == np.ceil(p_RT * BINS)[..., None]
    parts = np.concatenate([(bins * of[..., None]).sum(1) for of in (np.ones_like(p_RT), p_RT, hits_RT)], axis=1)
    return RowScores(np.arange(rows), {"nll": np.ones(rows), "tokens": np.full(rows, float(tokens)), **dict(zip(BINNED, parts.T, strict=True))})


@pytest.mark.parametrize("gap", [0.0, 0.05, 0.2])
def test_the_interval_of_a_calibration_error_holds_its_value_and_nearly_always_the_truth(gap):
    """The value of a sample is too large, and that of a resample more so: percentiles of resamples hold neither."""
    held, metric = 0, {"calibration_error": made("calibration_error")}
    for seed in range(150):
        found = compare(certain(gap, seed), certain(gap, seed + 1000), metric, resamples=200)
        own = found["whole"]["tuned"]["calibration_error"]
        for one in (own, found["difference"]["calibration_error"]):
            assert one["low"] <= one["value"] <= one["high"]
        held += own["low"] <= gap <= own["high"]
    assert held >= 0.9 * 150


def test_two_models_that_are_as_well_calibrated_are_seldom_told_apart_and_two_that_are_not_are():
    metric, apart = {"calibration_error": made("calibration_error")}, {}
    for tuned in (0.05, 0.2):
        ends = [compare(certain(tuned, s), certain(0.05, s + 1000), metric, resamples=200)["difference"]["calibration_error"] for s in range(60)]
        apart[tuned] = sum(one["low"] > 0 for one in ends), sum(one["high"] < 0 for one in ends)
    assert sum(apart[0.05]) <= 9
    assert apart[0.2][0] >= 54


def test_a_calibration_error_wins_and_loses_no_single_row():
    metrics = {"calibration_error": made("calibration_error"), "loss": made("loss")}
    paired = Paired.of(certain(0.2, 1), certain(0.0, 2), metrics)
    slices = [Slice("source", name, ids) for name, ids in (("a", np.arange(60)), ("b", np.arange(60, 100)))]
    first = compare_slices(paired, slices, resamples=200, seed=0)["slices"][0]
    assert set(first["rows_won"]) == {"loss"}
    assert first["outcome"]["calibration_error"] == "worse"
    assert set(regressions(certain(0.2, 1), certain(0.0, 2), paired, lambda _: {})) == {"loss"}


def test_times_are_those_of_the_rows_that_were_answered():
    first, whole, busy = np.array([0.1, 0.3, 0.0, 0.2]), np.array([1.0, 4.0, 0.0, 2.0]), np.array([1.0, 2.0, 0.0, 2.0])
    sums = dict(zip(TIMED, (first, whole, busy, np.array([1.0, 1.0, 0.0, 1.0]), np.array([10.0, 20.0, 0.0, 20.0])), strict=True))
    rows = RowScores(np.arange(4), sums, {"answer": ["a", "b", None, "c"], "reference": ["a", "b", None, "c"]})
    assert value(made("latency"), rows) == pytest.approx(7 / 3)
    assert value(made("latency", upto="first_token_s"), rows) == pytest.approx(0.2)
    assert value(made("tokens_per_second"), rows) == pytest.approx(10.0)
    told = made("latency").describe(rows)
    assert told["answer_s"] == pytest.approx({"median": 2.0, "p95": float(np.percentile([1.0, 4.0, 2.0], 95))})
    assert told["first_token_s"]["median"] == pytest.approx(0.2)
    assert told["answers"] == 3
    assert all(measured(made(kind)) for kind in ("latency", "tokens_per_second"))
    assert not measured(made("label_f1"))
