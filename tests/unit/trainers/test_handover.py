"""A checkpoint that is handed from one run to another: whole, under the fence of the run that takes it, and once for one pointer."""

import json
from dataclasses import replace

import pytest
import torch

from tunefleet.cluster.errors import CheckpointError
from tunefleet.cluster.metrics import read_lines
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.checkpoint import commit, load_plain, newest, retain, write_part
from tunefleet.trainers.fragment_files import Fragment
from tunefleet.trainers.handover import adopt, pinned, point
from tunefleet.trainers.stage import EVENTS


def put(storage, step, *, fence=1, value=0.0):
    """A checkpoint of one number."""
    fragments = [Fragment("w", slot, (1,), 0, torch.full((1,), value)) for slot in ("weight", "exp_avg")]
    write_part(storage, f"checkpoints/step-{step:08d}", f"a{fence}", 0, fragments)
    optimizer = {"kind": "adamw", "updates": step, "slots": []}
    head = {"version": 1, "step": step, "fence": fence, "attempt": f"a{fence}", "optimizer": optimizer, "meta": {"step": step}}
    return commit(storage, f"checkpoints/step-{step:08d}", head, 1)


@pytest.fixture
def places(tmp_path):
    return open_storage(tmp_path / "one"), open_storage(tmp_path / "other")


def value(storage):
    return float(load_plain(storage, newest(storage))["w"])


def test_a_pointer_keeps_its_checkpoint_until_two_others_were_pointed_at(places):
    one, _ = places
    assert point(one, "m", 10) is None
    put(one, 10)
    pointer = point(one, "m", 10)
    assert (pointer.step, pinned(one)) == (10, {"checkpoints/step-00000010/manifest.json"})
    for step in (20, 30):
        put(one, step)
        retain(one, 1, pinned(one))
    assert one.exists(pointer.manifest)
    for step, stays in ((40, True), (50, False)):
        point(one, "n", step)
        put(one, step)
        retain(one, 1, pinned(one))
        assert one.exists(pointer.manifest) == stays


def test_a_pointer_names_the_checkpoint_of_a_step_though_the_run_has_gone_on_or_the_nearest_that_still_stands(places):
    one, _ = places
    for step in (20, 30, 40):
        put(one, step)
    assert [point(one, str(step), step).step for step in (10, 20, 30, 50)] == [20, 20, 30, 40]
    put(one, 10, fence=2)
    assert point(one, "later", 40).step == 10, "what an earlier run left does not count beside a later one's"


def test_what_is_adopted_is_the_only_checkpoint_of_the_output_whatever_stood_there(places):
    one, other = places
    put(one, 20, fence=7, value=2.0)
    for step in (10, 20, 30):
        put(other, step, value=1.0)
    for step in (10, 20):
        other.put(f"evaluation/step-{step:08d}.json", json.dumps({"version": 1, "step": step}).encode())
    assert adopt(other, point(one, "m", 20), fence=2)
    assert (newest(other).step, newest(other).fence, value(other)) == (20, 2, 2.0)
    assert {name.split("/")[1] for name in other.list("checkpoints/")} == {"step-00000020"}
    assert other.list("evaluation/") == ["evaluation/step-00000010.json"]
    put(other, 25, fence=2, value=3.0)
    assert value(other) == 3.0, "what is trained after it is newer"
    assert value(one) == 2.0


def test_a_pointer_is_followed_once(places):
    one, other = places
    put(one, 20, value=2.0)
    pointer = point(one, "m", 20)
    assert adopt(other, pointer, fence=1)
    put(other, 30, value=3.0)
    assert not adopt(other, pointer, fence=2)
    assert value(other) == 3.0
    assert adopt(other, replace(pointer, mark="n"), fence=3)
    assert value(other) == 2.0


def test_a_pointer_reads_no_file_of_a_checkpoint_and_one_at_a_torn_one_leads_to_the_nearest_whole_one(places):
    one, other = places
    for step, number in ((10, 1.0), (20, 2.0)):
        put(one, step, value=number)
    for name in one.list("checkpoints/step-00000020/"):
        if not name.endswith("manifest.json"):
            one.delete(name)
    pointer = point(one, "m", 20)
    assert pointer.step == 20
    assert adopt(other, pointer, fence=1)
    assert value(other) == 1.0
    assert [(event["step"], event["exact"]) for event in read_lines(other, EVENTS)] == [(10, False)]


def test_where_the_checkpoint_is_gone_the_newest_of_that_run_is_taken_and_said(places):
    one, other = places
    put(one, 20, value=2.0)
    pointer = point(one, "m", 20)
    put(one, 30, value=3.0)
    one.delete_tree("checkpoints/step-00000020")
    assert adopt(other, pointer, fence=1)
    assert value(other) == 3.0
    assert [(event["event"], event["step"], event["exact"]) for event in read_lines(other, EVENTS)] == [("adopted", 30, False)]
    one.delete_tree("checkpoints")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        adopt(other, replace(pointer, mark="n"), fence=2)
    assert value(other) == 3.0, "what the run had stays"
