"""What a launch decides and says without a worker: results name their own weights, decisions stand in the events, a tokenizer is made once."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from runs import small_run

from tunefleet.cluster.errors import PreflightError
from tunefleet.cluster.metrics import read_lines
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.console import RunConsole
from tunefleet.trainers.launch import _decide, _reused, _shared, prepared, result_of, stage_of, steps_saved, train
from tunefleet.trainers.nested import Nested
from tunefleet.trainers.output import Claim, finished
from tunefleet.trainers.resume import Differences
from tunefleet.trainers.rowtokenizer import make_tokenizer
from tunefleet.trainers.stage import EVENTS, Stage, write_done


def evaluation(storage, step):
    name = f"checkpoints/step-{step:08d}/manifest.json"
    storage.put(f"evaluation/step-{step:08d}.json", f'{{"version": 1, "step": {step}, "manifest": "{name}"}}'.encode())
    return name


def test_a_result_holds_the_evaluation_of_its_own_weights_or_none(tmp_path):
    storage = open_storage(tmp_path)
    best, _ = evaluation(storage, 10), evaluation(storage, 20)
    write_done(storage, step=30, weights=best, exported="e", stopped="early stopping")
    found = result_of(str(tmp_path))
    assert (found.step, found.evaluation["step"], found.exported, found.stopped) == (30, 10, "e", "early stopping")
    write_done(storage, step=30, weights="checkpoints/step-00000030/manifest.json", exported=None, stopped=None)
    assert result_of(str(tmp_path)).evaluation == {}


def test_decisions_are_said_and_stand_in_the_events(tmp_path):
    run = small_run(tmp_path)
    other = run.model_copy(update={"scaling": run.scaling.model_copy(update={"num_workers": 5}), "name": "five"})
    held, last = (Claim(r, open_storage(r.output), 1, ()) for r in (run, other))
    said = io.StringIO()
    texts = [*_shared(held, last), _reused("base", Differences((("zero.stage", 1, 2),), ()))]
    _decide([held], RunConsole(Console(file=said, width=200)), texts)
    assert [e["text"] for e in read_lines(held.storage, EVENTS)] == texts
    assert said.getvalue().count("note: ") == 2
    assert "5 workers of five" in texts[0]
    assert "zero.stage" in texts[1]
    assert _shared(last, last) == []
    assert finished(run) is None


def test_a_trial_is_not_held_against_the_gpus_of_the_node_where_its_process_is(tmp_path, monkeypatch):
    run = small_run(tmp_path, scaling={"use_gpu": True, "num_workers": 512})

    class ReachedError(Exception):
        pass

    def reached(*_):
        raise ReachedError

    monkeypatch.setattr("tunefleet.trainers.launch._run", reached)
    with pytest.raises(PreflightError, match="GPUs that can never be had"):
        train(run)
    with pytest.raises(ReachedError):
        train(run, nested=Nested(lambda name, line: None, local=False))


def test_a_stage_is_what_its_rows_and_settings_come_to_and_crosses_as_plain_values(tmp_path):
    run = small_run(tmp_path, training={"max_steps": None, "num_train_epochs": 2, "train_batch_size": 7})
    held = Claim(run, open_storage(run.output), 3, (), must_resume=True)
    ready = prepared(held, run.model, RunConsole(Console(file=io.StringIO())))
    stage = stage_of(held, ready, "inline", ())
    assert stage.steps == 2 * -(-ready.prepared.counts["train"] // 7)
    assert (stage.fence, stage.must_resume, stage.store) == (3, True, ready.prepared.store)
    assert Stage.from_json(stage.to_json()) == Stage(**{**vars(stage), "actors": []})
    assert steps_saved([run.output]) == 0


def test_a_tokenizer_appears_whole_and_is_made_once(tmp_path, monkeypatch):
    from transformers import PreTrainedTokenizerFast

    run = small_run(tmp_path)
    folder = Path(run.model.tokenizer.name_or_path)
    save = PreTrainedTokenizerFast.save_pretrained

    def cut(self, target, *args, **kwargs):
        save(self, target, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", cut)
    with pytest.raises(KeyboardInterrupt):
        make_tokenizer(run)
    assert not folder.exists()
    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", save)
    make_tokenizer(run)
    before = (folder / "tokenizer.json").stat().st_mtime_ns
    make_tokenizer(run)
    assert (folder / "tokenizer.json").stat().st_mtime_ns == before
