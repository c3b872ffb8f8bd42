"""Evaluation by the ranks: the same numbers at every stage and number of ranks, and a training that does not notice."""

import numpy as np
import pytest
from gangs import gang
from heldout import random_rows
from toys import VOCABULARY, tiny_llama, tiny_run, train_step

from tunefleet.cluster.storage import open_storage
from tunefleet.cluster.world import World
from tunefleet.trainers.engine import Engine
from tunefleet.trainers.evaluation.files import read_results
from tunefleet.trainers.evaluation.heldout import HeldOut
from tunefleet.trainers.evaluation.inline import Inline, Trained
from tunefleet.trainers.evaluation.watch import EvaluationWatch
from tunefleet.trainers.objectives.sft import Sft
from tunefleet.trainers.run import Evaluation

pytestmark = pytest.mark.gang
HELD = HeldOut(random_rows(9, vocabulary=VOCABULARY), {"first": np.arange(4), "rest": np.arange(4, 9)}, "rows")
METRICS = ["loss", "perplexity", "token_accuracy"]


def make_watch(run, world, trained, folder, events):
    def on_event(kind, fields):
        events.append(kind)

    storage = open_storage(folder)
    return EvaluationWatch(run, storage, world, Inline(run, trained, HELD, world, storage, on_event), placement="inline", steps=3, on_event=on_event)


def train(folder, stage, evaluates=True):
    """Three steps, evaluated at the second and the third; the losses of the steps and what rank 0 says of the evaluations."""
    from tunefleet.trainers.scoring import TokenScorer

    world, events = World.join(), []
    run = tiny_run(stage=stage)
    run = run.model_copy(update={"evaluation": Evaluation.model_validate({"every_steps": 2, "metrics": METRICS, "batch_size": 2})})
    module = TokenScorer(tiny_llama()).train()
    engine = Engine(module, run, world)
    watch = make_watch(run, world, Trained(engine.scorer, engine.deepspeed, Sft(Sft.Config(), 0)), folder, events)
    if evaluates:
        watch.begin(0, None)
    losses, results = [], []
    for step in range(3):
        losses.append(train_step(engine, world, step)[0])
        if evaluates and watch.due(step + 1):
            results += watch.start(step + 1, None)
        assert module.training
    return losses, results, events


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return gang(1, train, str(tmp_path_factory.mktemp("alone")), 0)[0]


@pytest.mark.parametrize(("ranks", "stage"), [(2, 0), (2, 2), (2, 3), (3, 3)])
def test_ranks_give_the_numbers_that_one_gives(alone, tmp_path, ranks, stage):
    (_, results, events), *others = gang(ranks, train, str(tmp_path), stage)
    assert [result["step"] for result in results] == [2, 3]
    for result, wanted in zip(results, alone[1], strict=True):
        for model in ("tuned", "base"):
            assert result[model] == pytest.approx(wanted[model], rel=1e-5)
    assert {name: found["rows"] for name, found in results[0]["sets"].items()} == {"first": 4, "rest": 5}
    assert results[-1]["tuned"]["loss"] != results[-1]["base"]["loss"]
    assert all(rank[1:] == ([], []) for rank in others)
    assert events == ["evaluation_started", "evaluation_finished"] * 2
    assert read_results(open_storage(tmp_path)) == results


@pytest.mark.parametrize("stage", [0, 3])
def test_training_does_not_notice_that_it_was_evaluated(tmp_path, stage):
    evaluated, left_alone = (gang(2, train, str(tmp_path / name), stage, name == "yes")[0][0] for name in ("yes", "no"))
    assert evaluated == left_alone


def resume(folder):
    """Begin again after the third step, with the scores of the base kept."""
    world, events = World.join(), []
    watch = make_watch(tiny_run(), world, None, folder, events)
    watch.begin(3, None)
    return watch.best.best_step, events


def test_a_resumed_run_scores_the_base_no_second_time(tmp_path):
    results = gang(2, train, str(tmp_path), 0)[0][1]
    (best, events), _ = gang(2, resume, str(tmp_path))
    assert best == min(results, key=lambda result: result["tuned"]["loss"])["step"]
    assert events == []
