"""A study before and after its trials: its output is held and refused like a run's, its room is reckoned, its time adds up, its best run file is one."""

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
from livestudies import RATE, small_study
from rich.console import Console

from tunefleet.cluster.errors import OutputError, PreflightError, SettingsError
from tunefleet.cluster.metrics import SharedLines
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.run import load_run
from tunefleet.trainers.stopping import asked_to_stop
from tunefleet.tuning.cli import main
from tunefleet.tuning.console import StudyConsole
from tunefleet.tuning.keeper import Limits
from tunefleet.tuning.lines import TRIALS, TrialLine
from tunefleet.tuning.output import changes, held, put_study
from tunefleet.tuning.runstudy import base_of, book_of, room_for, spent_before, told, write_best
from tunefleet.tuning.searching import make_searcher, replay_searcher
from tunefleet.tuning.study import BEST, STUDY, Budget, read_study


@pytest.fixture
def study(tmp_path):
    return read_study(small_study(tmp_path, [1e-3, 3e-3])).study


@pytest.fixture
def storage(study):
    return open_storage(study.file.output)


def hold(storage, study, *, resume=False, overwrite=False):
    with held(storage, study, resume=resume, overwrite=overwrite):
        put_study(storage, study)


def test_an_output_that_exists_wants_a_word_and_an_empty_one_has_nothing_to_resume(storage, study):
    with pytest.raises(OutputError, match="nothing to resume"):
        hold(storage, study, resume=True)
    hold(storage, study)
    with pytest.raises(OutputError, match="exists already"):
        hold(storage, study)
    hold(storage, study, resume=True)
    storage.put("trials/00000/run.yaml", b"")
    hold(storage, study, overwrite=True)
    assert storage.list("trials/") == []
    with pytest.raises(OutputError, match="exclude"):
        hold(storage, study, resume=True, overwrite=True)


@pytest.mark.parametrize("name", ["run.yaml", "checkpoints/step-00000001/manifest.json", "trials/a", "base/a", "events.jsonl", "trials.jsonl", "report.html"])
@pytest.mark.parametrize("asked", [{}, {"overwrite": True}, {"resume": "auto"}], ids=str)
def test_what_is_not_a_studys_is_left_alone(storage, study, name, asked):
    storage.put(name, b"{}\n")
    with pytest.raises(OutputError, match="holds something else") as refused:
        hold(storage, study, **asked)
    assert name.partition("/")[0] in refused.value.got
    assert not storage.exists(STUDY)
    assert storage.read(name) == b"{}\n"


def test_a_run_beside_a_study_is_not_written_over(storage, study):
    hold(storage, study)
    storage.put("run.yaml", b"")
    with pytest.raises(OutputError, match="holds something else"):
        hold(storage, study, overwrite=True)
    assert storage.exists(STUDY)


def test_a_resume_that_is_refused_later_takes_nothing_away_that_another_start_wrote(storage, study):
    hold(storage, study)
    storage.put("base/scores", b"")
    with pytest.raises(SettingsError), held(storage, study, resume=True, overwrite=False):
        raise SettingsError("no room")
    assert storage.exists(STUDY)
    assert storage.exists("base/scores")


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({"budget.max_steps": "60"}, []),
        ({"budget.concurrent_trials": "1"}, []),
        ({"name": "other"}, []),
        ({"run.output": "elsewhere"}, []),
        ({"run.scaling.num_workers": "1"}, []),
        ({"run.evaluation.placement": "inline"}, []),
        ({"metric": "perplexity"}, ["metric"]),
        ({"mode": "max"}, ["mode"]),
        ({"repeats": "2"}, ["repeats"]),
        ({"stopper": "{kind: asha, grace_steps: 10}"}, ["stopper.grace_steps", "stopper.kind", "stopper.reduction_factor"]),
        ({"space": "{training.learning_rate: {choice: [0.001]}}"}, ["space.training.learning_rate"]),
        ({"run.training.max_steps": "40"}, ["training.max_steps"]),
        ({"run.training.weight_decay": "0.1"}, ["training.weight_decay"]),
        ({"run.training.learning_rate": "0.5"}, []),  # the space sets it
        ({"run.data.holdout": "0.4"}, ["data.holdout"]),
        ({"run.evaluation.every_steps": "5"}, ["evaluation.every_steps"]),
        ({"run.objective": "pretrain", "mode": "max"}, ["mode", "objective.kind"]),
    ],
    ids=str,
)
def test_a_study_goes_on_as_the_one_that_began_or_says_every_difference(tmp_path, study, changed, refused):
    now = read_study(study.file, changed).study
    found = [problem.what.removesuffix(": may not change on resume") for problem in changes(study, now)]
    assert set(refused) <= set(found)
    assert bool(found) == bool(refused)


def test_a_changed_study_is_refused_before_anything_of_it_is_written(storage, study):
    hold(storage, study)
    before = storage.read(STUDY)
    with pytest.raises(SettingsError, match="mode: may not change on resume"):
        hold(storage, read_study(study.file, {"mode": "max"}).study, resume="auto")
    assert storage.read(STUDY) == before
    hold(storage, read_study(study.file, {"budget.max_steps": "60"}).study, resume="auto")
    assert storage.read(STUDY) != before


def test_two_studies_do_not_write_one_output(storage, study):
    with held(storage, study, resume=False, overwrite=False), pytest.raises(OutputError, match="in use"):
        hold(storage, study)


def test_stop_asks_the_study_that_holds_an_output_and_no_later_start_of_it(storage, study, monkeypatch):
    folder = Path(study.file.output)
    monkeypatch.chdir(folder.parent)
    with held(storage, study, resume=False, overwrite=False) as fence:
        put_study(storage, study)
        assert main(["stop", folder.name]) == 0
        assert asked_to_stop(storage, fence) == "tunefleet stop"
    assert main(["stop", folder.name]) == 2
    with held(storage, study, resume=True, overwrite=False) as fence:
        assert asked_to_stop(storage, fence) is None


def test_a_request_that_turns_out_wrong_leaves_the_output_free_unless_a_trial_has_begun(storage, study):
    def begin(resume):
        with held(storage, study, resume=resume, overwrite=False):
            put_study(storage, study)
            raise SettingsError("wrong")

    with pytest.raises(SettingsError):
        begin(resume=False)
    assert not storage.exists(STUDY)
    hold(storage, study)
    SharedLines(storage, TRIALS).add(TrialLine("00000", 0, {}, "running").to_json())
    with pytest.raises(SettingsError):
        begin(resume=True)
    assert storage.exists(STUDY)


def test_the_time_of_a_study_leaves_out_the_pauses_also_after_a_kill(storage):
    lines, now = SharedLines(storage, "events.jsonl"), time.time()
    assert spent_before(storage) == 0
    lines.add({"time": now - 1000, "event": "started", "phase": "training"})
    SharedLines(storage, TRIALS).add(TrialLine("00000", 0, {}, "running", time=now - 900).to_json())  # and then its driver was killed
    lines.add({"time": now - 500, "event": "started", "phase": "training"})
    lines.add({"time": now - 460, "event": "stopped", "phase": "stopped"})
    assert spent_before(storage) == pytest.approx(140)
    with pytest.raises(KeyboardInterrupt), told(storage):
        raise KeyboardInterrupt
    assert 140 <= spent_before(storage) < 200


def test_trials_share_a_machine_and_are_refused_with_the_numbers_where_a_cluster_is_too_small(tmp_path, study):
    room = room_for(study, {"CPU": 2.0}, local=True)
    assert (room.concurrent, room.needs["CPU"], room.placement) == (2, 2.0, "inline")
    alone = read_study(small_study(tmp_path, [1e-3, 3e-3], budget={})).study
    assert room_for(alone, {"CPU": 8.0}, local=False).concurrent == 4
    with pytest.raises(PreflightError, match="more than there is") as caught:
        room_for(alone, {"CPU": 1.0}, local=False)
    assert "2 CPUs asked for" in caught.value.got
    assert "at most 1 CPUs" in caught.value.want


def test_room_is_made_for_the_most_of_each_resource_that_any_trial_takes(tmp_path):
    workers = {"scaling": {"num_workers": 2, "use_gpu": True, "cpus_per_worker": 1}, "evaluation": {"placement": "inline"}}
    layouts = [{"num_workers": 2, "use_gpu": True, "cpus_per_worker": 1}, {"num_workers": 1, "use_gpu": True, "cpus_per_worker": 6}]
    study = read_study(small_study(tmp_path, [1e-3], run=workers, space={"scaling": {"choice": layouts}}, budget={})).study
    room = room_for(study, {"CPU": 12.0, "GPU": 8.0}, local=False)
    assert (dict(room.needs), room.concurrent) == ({"CPU": 6.0, "GPU": 2.0}, 2)


def test_the_base_of_all_trials_lies_in_the_study_with_the_tokenizer_that_they_share(study):
    base, links = base_of(study)
    assert base.output == f"{study.file.output}/base"
    assert base.model.tokenizer.name_or_path == f"{study.file.output}/base/tokenizer"
    assert [link.run.output for link in links] == [base.output]


def test_the_best_run_file_is_that_of_the_best_trial_and_says_where_it_comes_from(storage, study):
    write_best(study, storage, {})
    assert not storage.exists(BEST)
    trials = {
        name: TrialLine(name, i, {RATE: rate}, "finished", step=30, metrics={"loss": loss})
        for i, (name, rate, loss) in enumerate([("00000", 1e-3, 2.0), ("00001", 3e-3, 1.0)])
    }
    write_best(study, storage, trials)
    assert storage.read(BEST).decode().startswith("# the run file of trial 00001 of the study small: loss 1.0 at step 30")
    assert load_run(f"{storage.address}/{BEST}").training.learning_rate == 3e-3


def test_a_trial_that_its_stopper_would_stop_now_is_given_up_when_the_study_goes_on(tmp_path, storage):
    file = small_study(tmp_path, [1e-3, 3e-3, 5e-3], stopper={"kind": "asha", "grace_steps": 10, "reduction_factor": 2})
    study = read_study(file).study
    rates = [1e-3, 3e-3]
    began = [TrialLine(f"0000{i}", i, {RATE: rate}, "running", output=f"{storage.address}/trials/0000{i}") for i, rate in enumerate(rates)]
    judged = [replace(line, step=10, metrics={"loss": 1.0 + i}) for i, line in enumerate(began)]
    said = io.StringIO()
    lines = [*began, *judged]
    searcher = replay_searcher(make_searcher(study), lines)
    keeper, _ = book_of(study, storage, searcher, lines, Limits(2, Budget()), StudyConsole("loss", "min", console=Console(file=said, width=300)))
    assert [line.status for line in keeper.trials.values()] == ["running", "stopped"]
    assert "trial 00001 stopped: loss 2.0000 at step 10" in said.getvalue()
    assert "1/3 done" in said.getvalue()
    assert storage.exists("best.yaml")
    assert [keeper.next().id, keeper.next().id] == ["00000", "00002"]
