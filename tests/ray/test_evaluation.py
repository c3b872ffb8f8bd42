"""Evaluation by actors: the numbers of the ranks, while the caller goes on; through a death, a torn checkpoint and a queue that overflows."""

import os
import signal

import pytest
import ray
from gangs import gang
from heldout import random_rows, write_store
from tiny_models import CONFIGS, VOCABULARY
from toys import train_step

from tunefleet.cluster.storage import open_storage
from tunefleet.cluster.world import World
from tunefleet.data.store import Store
from tunefleet.trainers.evaluation.actors import Order, create_evaluators
from tunefleet.trainers.evaluation.files import BASE, read_results
from tunefleet.trainers.evaluation.inline import Trained
from tunefleet.trainers.evaluation.watch import EvaluationWatch
from tunefleet.trainers.objectives.sft import Sft
from tunefleet.trainers.run import RunFile

pytestmark = pytest.mark.ray
STEPS = (1, 2, 3)
NUMBERS = ("tuned", "base", "difference", "sets", "rows")


def run_file(folder, peft):
    return RunFile.model_validate(
        {
            "model": {"init": "random", "config": CONFIGS["llama"]},
            "data": {"train": [{"path": "none"}]},
            "peft": peft,
            "training": {"max_steps": 3, "learning_rate": 1e-2},
            "zero": {"stage": 2},
            "evaluation": {"every_steps": 1, "metrics": ["loss", "token_accuracy"], "batch_size": 4, "actors": 2, "bootstrap": 100, "samples": {"number": 0}},
            "output": str(folder),
        }
    )


def train(run, store):
    """Three steps on two ranks; weights saved and evaluated inline after each. The results, of rank 0."""
    from tunefleet.trainers.checkpoint import save
    from tunefleet.trainers.engine import Engine
    from tunefleet.trainers.models import build
    from tunefleet.trainers.scoring import TokenScorer

    world, storage = World.join(), open_storage(run.output)
    engine = Engine(TokenScorer(build(run, world).model), run, world)
    trained = Trained(engine.scorer, engine.deepspeed, Sft(Sft.Config(), 0))
    watch = EvaluationWatch.inline(run, storage, world, trained=trained, store=Store.open(store), steps=3, on_event=lambda kind, fields: None)
    watch.begin(0, None)
    results = []
    for step in STEPS:
        train_step(engine, world, step, rate=1e-2)
        saving = save(storage, engine, {"step": step}, optimizer=False, attempt="a", fence=1)
        saving.wait()
        world.barrier()
        results += watch.start(step, saving.name)
    return results


@pytest.fixture(scope="module", params=["full", "lora"])
def trained(request, tmp_path_factory):
    """A run, its store, and what its ranks found inline; the files of evaluation are taken away again."""
    folder = tmp_path_factory.mktemp(request.param)
    store = write_store(folder / "store", random_rows(19, vocabulary=VOCABULARY))
    run = run_file(folder / "run", {"kind": request.param})
    inline = gang(2, train, run, store)[0]
    open_storage(run.output).delete_tree("evaluation")
    return run, store, inline


@pytest.fixture(scope="module")
def actors(ray_session, tmp_path_factory):
    made = create_evaluators(run_file(tmp_path_factory.mktemp("none"), {"kind": "full"}).evaluation)
    yield made
    made.close()


@pytest.fixture
def watch(trained, actors):
    run, store, inline = trained
    events = []
    found = EvaluationWatch.beside(
        run,
        open_storage(run.output),
        World.single(),
        actors=actors.names,
        order=Order(run.model_dump_json(), store, run.output, pad_id=0),
        steps=3,
        on_event=lambda kind, fields: events.append((kind, fields["step"])),
    )
    return found, events, inline


def assert_same(results, inline):
    for content, wanted in zip(results, inline, strict=True):
        assert (content["placement"], wanted["placement"]) == ("actors", "inline")
        assert (content["step"], content["checkpoint"]) == (wanted["step"], wanted["checkpoint"])
        for name in NUMBERS:
            assert flat(content[name]) == pytest.approx(flat(wanted[name]), rel=1e-6, abs=1e-9)


def flat(value, name=""):
    if not isinstance(value, dict):
        return {name: float(value)}
    return {key: item for inner in value for key, item in flat(value[inner], f"{name}.{inner}").items()}


def test_actors_find_what_the_ranks_found_and_drop_the_older_waiting_one(watch, actors):
    found, events, inline = watch
    names = [content["manifest"] for content in inline]
    assert found.begin(0, None) == []
    pid = ray.get(actors.handles[0].__ray_call__.remote(lambda actor: os.getpid()))
    os.kill(pid, signal.SIGSTOP)  # so that the first is surely at work when the others come
    try:
        assert [found.start(step, name) for step, name in zip(STEPS, names, strict=True)] == [[], [], []]
        assert found.protected == {names[0], names[2]}
    finally:
        os.kill(pid, signal.SIGCONT)
    results = found.finish()
    assert_same(results, [inline[0], inline[2]])
    assert events == [
        ("evaluation_started", 1),
        ("evaluation_dropped", 2),
        ("evaluation_finished", 1),
        ("evaluation_started", 3),
        ("evaluation_finished", 3),
    ]
    assert read_results(found.storage) == results
    assert found.storage.exists(BASE)
    assert results[-1]["tuned"]["loss"] != results[-1]["base"]["loss"]


def test_a_torn_checkpoint_is_a_failure_of_that_evaluation_only(watch):
    found, events, inline = watch
    weights = next(name for name in found.storage.list("checkpoints/step-00000002/weights/"))
    whole = found.storage.read(weights)
    found.storage.put(weights, whole[:-1] + bytes([whole[-1] ^ 1]))
    found.start(2, inline[1]["manifest"])
    assert found.finish() == []
    found.storage.put(weights, whole)
    found.start(2, inline[1]["manifest"])
    assert_same(found.finish(), [inline[1]])
    assert events == [("evaluation_started", 2), ("evaluation_failed", 2), ("evaluation_started", 2), ("evaluation_finished", 2)]


def test_an_actor_that_dies_is_started_again_and_its_share_is_not_lost(watch, actors):
    found, events, inline = watch
    pid = ray.get(actors.handles[1].__ray_call__.remote(lambda actor: os.getpid()))
    os.kill(pid, signal.SIGSTOP)  # so that it surely has not answered when it dies
    found.start(3, inline[2]["manifest"])
    os.kill(pid, signal.SIGKILL)
    assert_same(found.finish(), [inline[2]])
    assert events == [("evaluation_started", 3), ("evaluation_actor_restarted", 3), ("evaluation_finished", 3)]
