"""Worker groups: restarted within a budget of progress, ended with a cause, silent on the console."""

from functools import partial
from pathlib import Path

import groupjobs
import pytest

from tunefleet.cluster.errors import SettingsError, WorkerError
from tunefleet.cluster.group import run_group

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


@pytest.fixture
def group(tmp_path):
    """Runs a group; what it told is in ``group.events``."""

    def run(*, workers=2, function=groupjobs.work, hang_timeout_s=60.0, start_timeout_s=120.0, max_failures=2, **payload):
        run_group(
            function,
            {"folder": str(tmp_path), **payload},
            workers=workers,
            use_gpu=False,
            cpus_per_worker=1,
            max_failures=max_failures,
            start_timeout_s=start_timeout_s,
            hang_timeout_s=hang_timeout_s,
            name="group",
            storage_path=str(tmp_path),
            progress=partial(groupjobs.newest_step, str(tmp_path)),
            on_event=lambda kind, record: run.events.append((kind, record)),
        )

    run.events = []
    run.folder = tmp_path
    return run


def notes(folder):
    """Which attempt did each step, and with how many ranks."""
    return [tuple(map(float, Path(folder, f"step-{step}").read_text().split())) for step in range(1, 7)]


def kinds(events):
    return [kind for kind, _ in events]


def test_killed_ranks_restart_the_group_for_as_long_as_it_gets_on_and_nothing_reaches_the_console(group, capfd):
    group(max_failures=1, fault={1: {"rank": 1, "kind": "kill"}, 2: {"rank": 0, "kind": "kill", "step": 4}})
    assert kinds(group.events) == ["group_started", "group_failed"] * 2 + ["group_started"]
    assert notes(group.folder) == [(1, 2)] + [(2, 2)] * 2 + [(3, 2)] * 3
    failed = [record for kind, record in group.events if kind == "group_failed"]
    assert [(record["kind"], record["ranks"], record["restart"], record["progress"]) for record in failed] == [("died", [1], True, 1), ("died", [0], True, 3)]
    started = [record for kind, record in group.events if kind == "group_started"]
    assert [record["attempt"] for record in started] == [1, 2, 3]
    pids = {worker["pid"] for record in started for worker in record["workers"]}
    assert len(pids) == 6
    assert capfd.readouterr() == ("", "")


def test_a_wrong_request_found_by_a_worker_comes_out_as_itself_without_a_restart(group):
    with pytest.raises(SettingsError) as caught:
        group(fault={1: {"rank": 1, "kind": "request"}})
    assert str(caught.value) == "objective.beta: wrong\n  got:  -1\n  want: above 0\n  fix:  raise it"
    assert kinds(group.events) == ["group_started", "group_failed"]


def test_a_crash_that_comes_again_stops_early_and_is_told_though_it_cannot_be_pickled(group):
    crash = {"rank": 1, "kind": "crash"}
    with pytest.raises(WorkerError, match=r"rank 1 failed: UnpicklableError: made in a worker \(groupjobs\.py:\d+\)") as caught:
        group(max_failures=9, fault={1: crash, 2: crash, 3: crash})
    assert "twice without progress" in caught.value.got
    assert len(group.events) == 4


def test_a_frozen_rank_is_named_the_stacks_of_the_others_are_kept_and_the_group_starts_again(group):
    group(hang_timeout_s=5.0, fault={1: {"rank": 1, "kind": "freeze"}})
    failed = group.events[1][1]
    assert (failed["kind"], failed["ranks"], failed["restart"]) == ("hung", [1], True)
    stacks = (group.folder / "group" / "stacks" / "attempt-1-rank-0.txt").read_text()
    assert "all_reduce" in stacks
    assert notes(group.folder)[-1] == (2, 2)
    frozen = group.events[0][1]["workers"][1]["pid"]
    assert not Path(f"/proc/{frozen}").exists()


def test_workers_that_find_no_room_are_given_up_after_their_time(group):
    with pytest.raises(WorkerError, match="did not start"):
        group(workers=64, start_timeout_s=2.0)
    assert kinds(group.events) == ["group_failed"]
