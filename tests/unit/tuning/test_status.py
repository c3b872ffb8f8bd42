"""How a run stands is read from its output alone."""

import json
import time

import pytest
import yaml

from tunefleet.cluster.lease import Lease
from tunefleet.cluster.metrics import SharedLines
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.ledger import Events
from tunefleet.trainers.output import LEASE
from tunefleet.trainers.stage import METRICS, RUN_FILE
from tunefleet.tuning.cli import main
from tunefleet.tuning.lines import TRIALS
from tunefleet.tuning.study import BEST, STUDY
from tunefleet.tuning.study import LEASE as STUDY_LEASE


@pytest.fixture
def storage(tmp_path):
    found = open_storage(tmp_path)
    run = {"name": "mine", "model": {"name_or_path": "m"}, "data": {"train": [{"path": "x"}]}, "training": {"max_steps": 9}, "output": str(tmp_path)}
    found.put(RUN_FILE, yaml.safe_dump(run).encode())
    Events(found).add("started", phase="starting")
    SharedLines(found, METRICS).add({"step": 4, "time": time.time(), "loss": 0.5})
    return found


def told(storage, capsys):
    assert main(["status", storage.address, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_at_work_is_named_with_who_holds_it(storage, capsys):
    held = Lease.acquire(storage, LEASE, holder="mine")
    said = told(storage, capsys)
    assert {"state": "going", "step": 4, "steps": 9, "loss": 0.5, "name": "mine"}.items() <= said.items()
    assert said["held_by"].startswith("mine on ")
    held.release()
    assert told(storage, capsys)["held_by"] is None


def test_a_run_that_was_stopped_says_where_it_goes_on(storage, capsys):
    Events(storage).add("checkpoint_complete", step=4, optimizer=True)
    Events(storage).add("stopped", phase="stopped", why="Stopped: mine: stopped on request")
    said = told(storage, capsys)
    assert (said["state"], said["checkpoint_step"]) == ("stopped", 4)
    assert "on request" in said["said"]
    assert main(["status", storage.address]) == 0
    assert "--resume, or submitting it again, goes on from step 4" in capsys.readouterr().out.replace("\n", " ")


def test_a_study_is_told_by_the_last_lines_of_its_trials_also_before_the_first(tmp_path, capsys):
    storage = open_storage(tmp_path)
    storage.put(STUDY, b"")
    held = Lease.acquire(storage, STUDY_LEASE, holder="mine")
    said = told(storage, capsys)
    assert (said["said"], said["trials"], said["best"]) == ("No trial has begun yet.", {}, None)
    assert said["held_by"].startswith("mine on ")
    held.release()
    for line in ({"id": "a", "status": "running"}, {"id": "b", "status": "running"}, {"id": "a", "status": "finished"}):
        SharedLines(storage, TRIALS).add(line)
    storage.put(BEST, b"")
    said = told(storage, capsys)
    assert (said["trials"], said["best"], said["held_by"]) == ({"running": 1, "finished": 1}, BEST, None)


def test_what_is_no_output_is_refused_and_nobody_is_stopped_there(tmp_path, storage, capsys):
    assert main(["status", str(tmp_path / "nothing")]) == 2
    assert main(["stop", storage.address]) == 2
    assert "nobody runs there" in capsys.readouterr().err
