"""Who may write to an output, what is cleared away, what a run stands for: a run never takes up what is not its own, and never begins anew unasked."""

import json

import pytest
import torch

from tunefleet.cluster.errors import CheckpointError, DataError, OutputError, SettingsError
from tunefleet.cluster.metrics import read_lines
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.checkpoint import commit, write_part
from tunefleet.trainers.fragment_files import Fragment
from tunefleet.trainers.output import LEASE, check_fence, claim, finished, output_problems, weights_of
from tunefleet.trainers.run import RunFile
from tunefleet.trainers.stage import BASE, DONE, EVENTS, RUN_FILE, write_done


def run_file(tmp_path, **sections):
    value = {"model": {"name_or_path": "m"}, "data": {"train": [{"path": "x"}]}, "training": {"max_steps": 100}, "output": str(tmp_path / "out")}
    return RunFile.model_validate({**value, **sections})


def checkpoint(storage, step, *, full=True):
    folder = f"checkpoints/step-{step:08d}"
    write_part(storage, folder, "a", 0, [Fragment("w", "weight", (4,), 0, torch.full((4,), float(step)))])
    optimizer = {"kind": "adamw", "updates": step, "slots": []} if full else None
    return commit(storage, folder, {"version": 1, "step": step, "fence": 1, "attempt": "a", "optimizer": optimizer, "meta": {"step": step}}, 1)


@pytest.fixture
def run(tmp_path):
    """A run whose output was claimed once."""
    made = run_file(tmp_path)
    with claim(made, resume=False, overwrite=False):
        pass
    return made


@pytest.fixture
def storage(run):
    return open_storage(run.output)


def problem(run, **how):
    (found,) = output_problems(run, **{"resume": False, "overwrite": False, **how})
    return found.what


def test_an_output_that_exists_wants_to_be_resumed_or_overwritten(run):
    assert problem(run) == "output: exists already"
    assert problem(run, resume=True, overwrite=True) == "resume and overwrite exclude each other"
    assert output_problems(run, resume=False, overwrite=True) == []
    assert output_problems(run, resume="auto", overwrite=False) == []


def test_a_wrong_request_leaves_a_new_output_free_for_the_next_one_and_an_old_one_as_it_was(tmp_path, run):
    new = run_file(tmp_path, output=str(tmp_path / "new"))
    for made, left in ((new, []), (run, ["output: exists already"])):
        with pytest.raises(DataError), claim(made, resume="auto", overwrite=False):
            raise DataError("rows that cannot be trained on")
        assert [p.what for p in output_problems(made, resume=False, overwrite=False)] == left


def test_resume_wants_a_checkpoint_that_training_can_go_on_from(run, storage):
    assert problem(run, resume=True) == "output: nothing to resume"
    checkpoint(storage, 10, full=False)
    assert problem(run, resume=True) == "output: nothing to resume"
    checkpoint(storage, 20)
    assert output_problems(run, resume=True, overwrite=False) == []


def test_checkpoints_without_their_run_file_are_nobodys(run, storage):
    checkpoint(storage, 20)
    storage.delete(RUN_FILE)
    for how in ({}, {"resume": True}, {"resume": "auto"}, {"overwrite": True}):
        assert problem(run, **how) == "output: holds checkpoints, and no run that made them"


def test_what_fixes_the_weights_may_not_change_on_resume(run, tmp_path, storage):
    checkpoint(storage, 20)
    other = run_file(tmp_path, training={"max_steps": 200, "seed": 1})
    (found,) = output_problems(other, resume=True, overwrite=False)
    assert isinstance(found, SettingsError)
    assert found.what == "training.seed: may not change on resume"


def test_fewer_steps_than_are_done_are_refused(run, tmp_path, storage):
    checkpoint(storage, 20)
    (found,) = output_problems(run_file(tmp_path, training={"max_steps": 19}), resume="auto", overwrite=False)
    assert (found.what, found.want) == ("training.max_steps: more steps are done already", "at least 20")
    assert output_problems(run_file(tmp_path, training={"max_steps": 20}), resume="auto", overwrite=False) == []


def test_a_run_file_of_another_version_is_told_apart(run, storage):
    storage.put(RUN_FILE, b"version: 7\nsurprise: 1\n")
    assert "cannot be read" in problem(run, resume="auto")


def test_a_claim_keeps_the_run_file_and_counts_its_holders(run, storage, tmp_path):
    checkpoint(storage, 20)
    with claim(run_file(tmp_path, training={"max_steps": 200}), resume=True, overwrite=False) as held:
        assert held.fence == 2
        assert held.must_resume
        assert held.changed == (("training.max_steps", 100, 200),)
        with pytest.raises(OutputError, match="in use by another run"), claim(run, resume=True, overwrite=False):
            pass


def test_overwriting_removes_what_the_run_wrote_and_nothing_else(run, storage):
    checkpoint(storage, 20)
    for name in (f"{BASE}/config.json", "export/config.json", "export-merged/config.json", "evaluation/base.json", "tokenizer/tokenizer.json", "notes.txt"):
        storage.put(name, b"{}")
    with claim(run, resume=False, overwrite=True):
        left = [name for name in storage.list() if not name.startswith(LEASE)]
    assert left == ["notes.txt", RUN_FILE]


def test_overwriting_a_folder_without_a_run_removes_nothing(tmp_path):
    run = run_file(tmp_path)
    storage = open_storage(run.output)
    storage.put("evaluation/thesis.txt", b"years of work")
    with claim(run, resume=False, overwrite=True):
        assert storage.exists("evaluation/thesis.txt")


def test_an_overwrite_that_is_cut_short_leaves_a_run_to_overwrite(run, storage, monkeypatch):
    checkpoint(storage, 20)
    from tunefleet.cluster import storage as module

    def cut(event, path):
        if event == "delete" and path.endswith(EVENTS):
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "file_events", [cut])
    with pytest.raises(KeyboardInterrupt), claim(run, resume=False, overwrite=True):
        pass
    assert problem(run) == "output: exists already"


def test_a_bad_end_is_an_event_and_stops_the_clock(run, storage):
    with pytest.raises(CheckpointError), claim(run, resume="auto", overwrite=False):
        raise CheckpointError("torn")
    last = read_lines(storage, EVENTS)[-1]
    assert (last["event"], last["phase"], last["why"]) == ("stopped", "stopped", "CheckpointError: torn")


def test_who_was_overtaken_may_not_write_any_more(run, storage):
    def overtaken():
        with claim(run, resume="auto", overwrite=False) as held:
            check_fence(storage, held.fence)
            storage.put(f"{LEASE}/{held.fence + 1:08d}.json", json.dumps({"holder": "later", "host": "h", "pid": 1}).encode())
            check_fence(storage, held.fence)

    with pytest.raises(OutputError, match="taken over by another run"):
        overtaken()
    assert not storage.exists(EVENTS)


def test_a_run_stands_for_the_weights_that_it_ended_with(run, storage):
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        weights_of(run.output)
    best = checkpoint(storage, 10, full=False)
    newest = checkpoint(storage, 20)
    assert weights_of(run.output)[1] == newest
    write_done(storage, step=25, weights=best.name, exported=None, stopped="early stopping")
    assert weights_of(run.output)[1] == best
    storage.put(best.files[0].name, b"x")
    with pytest.raises(CheckpointError, match="torn"):
        weights_of(run.output)


def test_a_base_is_done_until_it_is_asked_to_be_longer_or_exported_otherwise(run, storage, tmp_path):
    assert finished(run) is None
    storage.put(DONE, b"{}")
    assert finished(run) is None  # its export is missing
    storage.put("export/config.json", b"{}")
    assert finished(run).changed == ()
    assert [key for key, _, _ in finished(run_file(tmp_path, scaling={"num_workers": 2})).changed] == ["scaling.num_workers"]
    assert finished(run_file(tmp_path, training={"max_steps": 200})) is None
    assert finished(run_file(tmp_path, export={"merge": True})) is None
    assert finished(run_file(tmp_path, objective={"kind": "pretrain"})) is None
