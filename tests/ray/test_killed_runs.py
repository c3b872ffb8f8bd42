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
from processes import called, contents, of_session, until
from raymetadata import metadata
from runs import curve, events, lines, small_run, train_on_gang, write_rows
from s3proxy import Proxy
from s3server import CANARY

from tunefleet.cluster.metrics import read_lines
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.ledger import ledger
from tunefleet.trainers.manifest import newest_step
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
    return lambda: reached(run, step)


def reached(run: RunFile, step: int) -> bool:
    return any(line["step"] >= step for line in lines(run))


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


def option_of(leader: int, name: str) -> str:
    """An option that a process of Ray below the command was started with."""
    for number in of_session(leader):
        for argument in Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0"):
            if argument.startswith(f"--{name}=".encode()):
                return argument.decode().partition("=")[2]
    raise AssertionError(f"no process of {leader} has an option --{name}")


def written(run: RunFile, folder: Path) -> Path:
    """A run file in a folder."""
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(run.model_dump(mode="json")))
    return file


def test_an_interrupted_driver_leaves_nothing_behind_and_resume_goes_on(whole: RunFile, tmp_path: Path) -> None:
    run = small_run(tmp_path, **SETTINGS)
    file = written(run, tmp_path)

    interrupted = command(file)
    when(at_step(run, 30), lambda: interrupted.send_signal(signal.SIGINT)).join()
    _, said = interrupted.communicate(timeout=600)
    assert interrupted.returncode == 130, said
    assert "Traceback" not in said
    until(lambda: not of_session(interrupted.pid), timeout_s=240)

    again = command(file)
    _, said = again.communicate(timeout=600)
    assert again.returncode == 2, said
    assert "--resume" in said

    last = command(file, "--resume")
    _, said = last.communicate(timeout=600)
    assert last.returncode == 0, said
    assert curve(run) == curve(whole)
    until(lambda: not of_session(last.pid), timeout_s=240)


def test_an_evaluation_actor_that_is_killed_while_it_answers_beside_zero_3_moves_no_number_and_is_made_up_for(ray_session: Any, tmp_path: Path) -> None:
    import ray

    from tunefleet.trainers.launch import train

    settings: dict[str, Any] = {"training": {"max_steps": 24}, "zero": {"stage": 3}}
    measured = {"metrics": ["loss", "exact_match"], "answers": {"rows": 6, "max_new_tokens": 6}}
    quiet = small_run(tmp_path / "quiet", **settings)
    train_on_gang(quiet)
    run = small_run(tmp_path / "disturbed", **settings, evaluation={**measured, "every_steps": 8, "placement": "actors", "behind": "wait"})

    def kill_actor() -> None:
        (name,) = [one for one in ray.util.list_named_actors(all_namespaces=True) if one["name"].startswith("tunefleet-evaluator")]
        actor = ray.get_actor(name["name"], namespace=name["namespace"])
        os.kill(ray.get(actor.__ray_call__.remote(lambda held: os.getpid())), signal.SIGKILL)

    killing = when(lambda: any(event["event"] == "evaluation_started" for event in events(run)), kill_actor)
    train(run)
    killing.join()
    told = events(run)
    assert curve(run) == curve(quiet)
    assert [event["event"] for event in told if event["event"].startswith("evaluation_actor")] == ["evaluation_actor_restarted"]
    assert not [event for event in told if event["event"] == "group_failed"]
    assert [event["step"] for event in told if event["event"] == "evaluation_finished"] == [8, 16, 24]
    assert all(event["tuned"]["exact_match"] is not None for event in told if event["event"] == "evaluation_finished")


def test_a_run_on_s3_whose_rank_and_then_driver_are_killed_is_the_run_in_a_folder(
    whole: RunFile, s3_proxy: Proxy, s3_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows, store and output on S3. A checkpoint whose upload stands still holds the run at the next one, so that both are killed while they upload."""
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SESSION_TOKEN", "A_PASSWORD_OF_MINE"):
        monkeypatch.setenv(name, f"{CANARY}-{name}")
    there = open_storage(s3_address)
    there.put("rows.jsonl", write_rows(tmp_path / "rows.jsonl").read_bytes())
    run = small_run(tmp_path, data={"train": [{"path": f"{s3_address}/rows.jsonl"}], "store": f"{s3_address}/shards"}, output=f"{s3_address}/out", **SETTINGS)
    file, output = written(run, tmp_path), there.sub("out")

    s3_proxy.fault("pause", method="PUT", path="checkpoints/step-00000040")
    killed = command(file)
    until(lambda: reached(run, 50), timeout_s=240)  # steps go on until the next save is due, and no further
    assert newest_step(output) == 20
    kill_rank(run, 1)
    s3_proxy.clear()
    s3_proxy.fault("pause", method="PUT", path="checkpoints/step-00000080")
    until(lambda: reached(run, 100), timeout_s=240)
    assert newest_step(output) == 60
    session = Path(option_of(killed.pid, "session-dir"))
    known = metadata(option_of(killed.pid, "gcs-address"))
    killed.kill()
    _, first = killed.communicate(timeout=600)
    until(lambda: not called(of_session(killed.pid), "ray::RayTrainWorker"), timeout_s=240)  # Ray's agents, which hold nothing, take a minute more
    s3_proxy.clear()

    last = command(file, "--resume")
    _, said = last.communicate(timeout=600)
    assert last.returncode == 0, said
    assert curve(run) == curve(whole)
    happened = [event["event"] for event in events(run)]
    assert (happened.count("group_failed"), happened.count("resumed")) == (1, 2)
    assert {"metrics.jsonl", "events.jsonl", "report.html", "done.json", "export/model.safetensors"} <= set(output.list())
    assert all(output.size(name) == 0 for name in output.list() if name.startswith(("metrics/", "events/"))), "parts are joined, and seals stay"

    leaks = [name for name in there.list() if CANARY.encode() in there.read(name)]
    logs = contents(session)
    leaks += [str(path) for path, data in logs.items() if CANARY.encode() in data]
    assert leaks == []
    assert logs
    assert "run.yaml" in known
    assert CANARY not in first + said + known
