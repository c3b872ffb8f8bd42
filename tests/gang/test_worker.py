"""The whole way of a run without Ray: what is killed goes on as if nothing had happened, and the way rows are split moves no number."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gangs import GangDiedError, gang
from runs import LLAMA, curve, events, lines, make_stage, small_run, train_on_gang, work

from tunefleet.cluster.errors import CheckpointError, OutputError
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.evaluation.files import read_results
from tunefleet.trainers.manifest import newest
from tunefleet.trainers.output import LEASE
from tunefleet.trainers.run import RunFile
from tunefleet.trainers.stage import DONE, STOP, read_done

pytestmark = pytest.mark.gang


def work_and_die(stage: dict[str, Any], rank: int, step: int) -> None:
    """Kill one rank in the middle of a step, after its backward passes."""
    from tunefleet.trainers.engine import Engine

    finish = Engine.step

    def die(self: Engine, rate: float) -> Any:
        self.steps_done = getattr(self, "steps_done", -1) + 1  # the rehearsal is one
        if self.steps_done == step and self.world.rank == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return finish(self, rate)

    Engine.step = die  # type: ignore[method-assign]
    work(stage, 1)


def work_and_ask(stage: dict[str, Any], before_step: int) -> None:
    """Leave the note that asks to stop just before a step is looked at, and let that look see it."""
    from tunefleet.trainers.stopping import StopWatch

    look, calls = StopWatch.wants_stop, []

    def ask(self: StopWatch) -> bool:
        calls.append(1)
        if len(calls) == before_step and self._thread.ident:
            open_storage(stage["run"]["output"]).put(STOP, json.dumps({"fence": stage["fence"], "by": "a test"}).encode())
            while self.by is None:
                time.sleep(0.01)
        return look(self)

    StopWatch.wants_stop = ask  # type: ignore[method-assign]
    work(stage, 1)


def beats_of(stage: dict[str, Any]) -> int:
    """How often a rank tells its watchdog that it gets on."""
    from tunefleet.cluster import heartbeat

    beats, beat = [], heartbeat.beat
    heartbeat.beat = lambda: (beats.append(1), beat())[1]  # type: ignore[assignment]
    work(stage, 1)
    return len(beats)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    run = small_run(tmp_path_factory.mktemp("whole"))
    train_on_gang(run)
    return run


def test_a_run_learns_evaluates_against_its_base_and_exports(whole: RunFile) -> None:
    assert [line["step"] for line in lines(whole)] == list(range(1, 9))
    first, last = read_results(open_storage(whole.output))
    assert (first["step"], last["step"]) == (4, 8)
    assert last["tuned"]["loss"] < last["base"]["loss"]
    assert Path(read_done(open_storage(whole.output))["exported"], "model.safetensors").exists()


@pytest.mark.fault
def test_a_killed_rank_changes_no_number(whole: RunFile, tmp_path: Path) -> None:
    run = small_run(tmp_path)
    stage = make_stage(run).to_json()
    with pytest.raises(GangDiedError):
        gang(2, work_and_die, stage, 1, 6)
    assert len(lines(run)) >= 5
    gang(2, work, stage, 2)
    assert curve(run) == curve(whole)
    assert [e["step"] for e in events(run) if e["event"] == "resumed"] == [4]
    assert read_results(open_storage(run.output))[-1]["tuned"] == read_results(open_storage(whole.output))[-1]["tuned"]


@pytest.mark.fault
def test_a_stopped_run_has_saved_and_goes_on_without_a_trace(whole: RunFile, tmp_path: Path) -> None:
    # the snapshot for the evaluation of step 3 holds the weights alone: the stop saves that step anew, with the optimizer
    run = small_run(tmp_path, evaluation={"every_steps": 3}, checkpoint={"every_steps": None}, export={"at_end": False})
    storage, stage = open_storage(run.output), make_stage(run).to_json()
    gang(2, work_and_ask, stage, 4)  # before the fourth step: three are done
    saved = newest(storage)
    assert saved is not None
    assert saved.step == len(lines(run)) == 3
    assert [(e["step"], e["by"]) for e in events(run) if e["event"] == "stopping"] == [(3, "a test")]
    assert not storage.exists(DONE)
    storage.delete(STOP)
    gang(2, work, stage, 2)
    assert curve(run) == curve(whole)
    assert storage.exists(DONE)


@pytest.mark.parametrize("changes", [{"workers": 1}, {"workers": 3}, {"stage": 3}, {"micro": 7}, {"batching": "pad"}, {"batching": "bucket"}], ids=str)
def test_the_split_of_the_work_moves_no_loss(whole: RunFile, tmp_path: Path, changes: dict[str, Any]) -> None:
    run = small_run(
        tmp_path,
        scaling={"num_workers": changes.get("workers", 2)},
        zero={"stage": changes.get("stage", 2)},
        training={"micro_batch_size": changes.get("micro", 2)},
        data={"batching": changes.get("batching", "pack")},
        evaluation={"every_steps": None},
        export={"at_end": False},
    )
    train_on_gang(run)
    for ours, theirs in zip(lines(run), lines(whole), strict=True):
        assert ours["examples"] == theirs["examples"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6 if ours["step"] == 1 else 1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)


def test_early_stopping_ends_all_ranks_and_exports_the_best(tmp_path: Path) -> None:
    run = small_run(
        tmp_path,
        training={"learning_rate": 1.0, "max_steps": 40},  # it can only get worse
        evaluation={"every_steps": 2, "early_stopping_patience": 2},
        checkpoint={"every_steps": None},
    )
    train_on_gang(run)
    done = read_done(open_storage(run.output))
    assert done["stopped"] == "early stopping"
    assert done["step"] < 40
    values = {r["step"]: r["tuned"]["loss"] for r in read_results(open_storage(run.output))}
    best = min(values, key=lambda step: values[step])
    assert done["weights"] == f"checkpoints/step-{best:08d}/manifest.json"


@pytest.fixture
def saved(tmp_path: Path) -> RunFile:
    """A run of four of its eight steps, with a checkpoint at each second one."""
    run = small_run(tmp_path, peft={"kind": "lora"}, checkpoint={"every_steps": 2, "keep": 9}, data={"holdout": 0}, export={"at_end": False})
    train_on_gang(run.model_copy(update={"training": run.training.model_copy(update={"max_steps": 4})}))
    open_storage(run.output).delete(DONE)
    return run


@pytest.mark.fault
def test_a_run_that_is_to_go_on_never_begins_anew(saved: RunFile) -> None:
    storage = open_storage(saved.output)
    for name in storage.list("checkpoints/"):
        if name.endswith(".safetensors"):
            storage.put(name, storage.read(name)[:-1])
    before = storage.list("checkpoints/")
    stage = replace(make_stage(saved), must_resume=True)
    with pytest.raises(OutputError, match="no checkpoint is whole"):
        gang(1, work, stage.to_json(), 1)
    assert storage.list("checkpoints/") == before
    assert [e["checkpoint"] for e in events(saved) if e["event"] == "checkpoint_skipped"]


@pytest.mark.fault
def test_adapters_do_not_go_on_with_another_base(saved: RunFile) -> None:
    other = saved.model_copy(update={"model": saved.model.model_copy(update={"config": {**LLAMA, "rms_norm_eps": 1e-3}})})
    with pytest.raises(CheckpointError, match="stands on another base model"):
        gang(1, work, make_stage(other).to_json(), 2)


@pytest.mark.fault
def test_a_ghost_writes_nothing_into_the_run_that_took_over(saved: RunFile) -> None:
    storage = open_storage(saved.output)
    storage.put(f"{LEASE}/00000002.json", b'{"holder": "later", "host": "h", "pid": 1}')
    before = storage.list()
    with pytest.raises(OutputError, match="taken over by another run"):
        gang(1, work, make_stage(saved, fence=1).to_json(), 2)
    assert storage.list() == before
    gang(1, work, make_stage(saved, fence=2).to_json(), 3)
    assert read_done(storage)["step"] == 8


def test_every_step_of_every_rank_is_a_sign_of_life(tmp_path: Path) -> None:
    run = small_run(tmp_path, checkpoint={"every_steps": None}, evaluation={"every_steps": None}, logging={"every_steps": 8}, export={"at_end": False})
    assert all(beats >= run.training.max_steps for beats in gang(2, beats_of, make_stage(run).to_json()))
