"""The ledger's parts sum to the wall time, and no pause is taken for training."""

import pytest

from tunefleet.cluster.metrics import read_lines
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.ledger import Events, ledger


def line(time, event, phase=None):
    return {"time": time, "event": event, **({"phase": phase} if phase else {})}


def test_every_moment_belongs_to_one_phase():
    found = ledger([line(10, "started", "starting"), line(15, "training_started", "training"), line(20, "said"), line(30, "finished", "stopped")])
    assert found == {"starting": 5, "training": 15}


def test_a_pause_after_an_orderly_end_is_nobodys():
    lines = [line(0, "started", "starting"), line(5, "stopped", "stopped"), line(1000, "started", "starting"), line(1002, "finished", "stopped")]
    assert ledger(lines) == {"starting": 7}


def test_a_killed_driver_was_down_until_the_next_one_started_and_did_not_train():
    lines = [line(0, "started", "starting"), line(5, "training_started", "training"), line(9, "evaluation_started"), line(1000, "started", "starting")]
    found = ledger([*lines, line(1003, "finished", "stopped")])
    assert found == {"starting": 8, "training": 4, "down": 991}
    assert sum(found.values()) == 1003


def test_only_the_rank_that_speaks_writes_and_a_block_is_booked(tmp_path):
    storage = open_storage(tmp_path)
    with Events(storage, attempt=2).during("save", "checkpoint", "training", step=3):
        Events(storage, writes=False).add("unheard")
    first, last = read_lines(storage, "events.jsonl")
    assert (first["event"], first["phase"], last["event"], last["phase"]) == ("save_started", "checkpoint", "save_ended", "training")
    assert first["step"] == last["step"] == 3
    assert first["time"] == pytest.approx(last["time"], abs=60)
