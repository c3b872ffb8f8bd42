"""A run on Ray that is killed, rank or driver, and goes on as if nothing had happened: the same examples at every step, every number bit-equal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import curve, events, lines, small_run, train_on_gang

from tunefleet.cluster.metrics import read_lines
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.ledger import ledger
from tunefleet.trainers.run import RunFile

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.timeout(1500)]
SETTINGS: dict[str, Any] = {
    "training": {"max_steps": 150},
    "checkpoint": {"every_steps": 20},
    "evaluation": {"every_steps": 50},
    "failures": {"start_timeout_s": 600},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    """The same run without a fault and without Ray: ranks are ranks, whoever starts them."""
    run = small_run(tmp_path_factory.mktemp("whole"), **SETTINGS)
    train_on_gang(run)
    return run


def when(condition: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """Act as soon as a condition holds, from a thread, however slow the machine is; the test's own time limit ends a wait in vain."""

    def watch() -> None:
        pause = threading.Event()
        while not condition():
            pause.wait(0.01)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def at_step(run: RunFile, step: int) -> Callable[[], bool]:
    return lambda: Path(run.output, "metrics.jsonl").exists() and any(line["step"] >= step for line in lines(run))


def kill_rank(run: RunFile, rank: int) -> None:
    newest = read_lines(open_storage(run.output), "workers/started.jsonl")[-1]
    os.kill(next(w["pid"] for w in newest["workers"] if w["rank"] == rank), signal.SIGKILL)


def test_a_killed_rank_is_replaced_and_no_number_changes(ray_session: Any, whole: RunFile, tmp_path: Path) -> None:
    from tunefleet.trainers.launch import train

    run = small_run(tmp_path, **SETTINGS)
    killer = when(at_step(run, 50), lambda: kill_rank(run, 1))
    result = train(run)
    killer.join()
    assert curve(run) == curve(whole)
    happened = [e["event"] for e in events(run)]
    assert happened.count("group_failed") == 1
    assert happened.count("resumed") == 1
    assert result.step == 150
    timeline = events(run)
    spent = ledger(timeline)
    assert sum(spent.values()) == pytest.approx(timeline[-1]["time"] - timeline[0]["time"], rel=1e-9)
    assert spent["restarting"] > 0


def command(run_file: Path, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""}
    arguments = [sys.executable, "-P", "-m", "tunefleet.tuning.cli", "train", str(run_file), *more]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def of_session(leader: int) -> list[int]:
    """Live processes of the command and of the Ray that it started (Ray's processes share its session)."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else []
        except OSError:
            continue
        if fields and int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], bool], timeout_s: float = 240) -> bool:
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.1)):
        if condition():
            return True
        pause.wait(0.1)
    return condition()


def test_a_killed_or_interrupted_driver_leaves_nothing_behind_and_resume_goes_on(whole: RunFile, tmp_path: Path) -> None:
    run = small_run(tmp_path, **SETTINGS)
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(run.model_dump(mode="json")))

    interrupted = command(file)
    when(at_step(run, 30), lambda: interrupted.send_signal(signal.SIGINT)).join()
    _, said = interrupted.communicate(timeout=600)
    assert interrupted.returncode == 130, said
    assert "Traceback" not in said
    assert wait_until(lambda: not of_session(interrupted.pid))

    again = command(file)
    _, said = again.communicate(timeout=600)
    assert again.returncode == 2, said
    assert "--resume" in said

    killed = command(file, "--resume")
    when(at_step(run, 80), killed.kill).join()
    killed.communicate(timeout=600)
    assert killed.returncode == -signal.SIGKILL
    assert wait_until(lambda: not of_session(killed.pid))

    last = command(file, "--resume")
    _, said = last.communicate(timeout=600)
    assert last.returncode == 0, said
    assert curve(run) == curve(whole)
    assert wait_until(lambda: not of_session(last.pid))
