"""Ranks on two hosts, one of which is stopped for a while, reached by a slow link, or never comes: named, and ended in its bound."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hosts import Host, hosts
from processes import until
from rayhosts import environment
from runs import curve, events, lines, make_stage, small_run, train_on_gang

from tunefleet.cluster.heartbeat import EXIT_CODE
from tunefleet.trainers.run import RunFile

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]
RANK = Path(__file__).parents[1] / "rankonhost.py"
SETTINGS: dict[str, Any] = {"training": {"max_steps": 40}, "zero": {"stage": 3}, "checkpoint": {"every_steps": None}, "evaluation": {"every_steps": None}}
STOPPED_S = 4.0


def start(folder: Path, made: Sequence[Host], hang_s: float) -> list[subprocess.Popen[str]]:
    addresses = [host.address for host in made]
    command = [sys.executable, str(RANK)]
    return [host.start([*command, str(rank), str(folder), str(hang_s), host.address, *addresses], stderr=subprocess.PIPE) for rank, host in enumerate(made)]


def at_step(run: RunFile, step: int) -> None:
    until(lambda: any(line["step"] >= step for line in lines(run)))


def process_on(started: subprocess.Popen[str]) -> int:
    """The rank itself: nsenter waits for it outside."""
    return int(Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()[0])


@pytest.mark.slow
def test_a_rank_that_stands_still_is_named_and_a_slow_link_too_and_no_number_changes(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", **SETTINGS)
    (tmp_path / "stage.json").write_text(json.dumps(make_stage(run).to_json()))
    with hosts("a", "b", environment=environment(tmp_path / "none")) as made:
        ranks = start(tmp_path, made, 100.0)
        at_step(run, 10)
        os.kill(rank := process_on(ranks[1]), signal.SIGSTOP)
        with pytest.raises(subprocess.TimeoutExpired):
            ranks[0].wait(STOPPED_S)
        os.kill(rank, signal.SIGCONT)
        ranks[1].send_signal(signal.SIGCONT)  # nsenter stops with its child
        at_step(run, 15)
        made[1].slow("4mbit")
        at_step(run, 20)
        made[1].slow()
        said = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    late = [event["rank"] for event in events(run) if event["event"] == "straggler" and event["seconds"] > 2]
    assert 1 in late  # a busy machine may hold up the other one too
    stopped = max(lines(run), key=lambda line: line["rank_seconds"][1])
    assert stopped["slowest_rank"] == 1
    assert stopped["rank_seconds"][1] > 2 > stopped["rank_seconds"][0]
    assert any(line["waiting"] > 0.5 for line in lines(run) if line["step"] > 15)
    whole = small_run(tmp_path / "whole", **SETTINGS)
    train_on_gang(whole)
    assert curve(run) == curve(whole)


def test_a_collective_that_hangs_between_hosts_ends_in_its_bound_with_the_stacks_of_all_ranks(tmp_path: Path) -> None:
    (tmp_path / "skip").touch()
    with hosts("a", "b", environment=environment(tmp_path / "none")) as made:
        ranks = start(tmp_path, made, 4.0)
        said = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [EXIT_CODE] * 2, said
    stacks = [(tmp_path / f"stacks-{rank}.txt").read_text() for rank in range(2)]
    assert all("no progress for 4 s" in text for text in stacks)
    assert "all_reduce" in stacks[0]
    assert "in skip" in stacks[1]
