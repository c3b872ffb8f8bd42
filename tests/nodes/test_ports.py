"""Who answers a stranger: nothing of a local run; of a cluster, also in the middle of a run, nothing that could run code."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import jobcluster
import pytest
import yaml
from hosts import hosts
from processes import until
from rayhosts import RAY, environment, start_head, start_node
from runs import lines, small_run
from uninvited import Answers, check_refused, knocked, listening, speaking

from tunefleet.trainers.run import RunFile

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
COMMAND = str(Path(RAY).with_name("tunefleet"))
DASHBOARD = "8265"
READ = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=60).read().decode())"


def endless(folder: Path) -> tuple[RunFile, Path]:
    """A run that is at work for as long as it is let, and its file."""
    run = small_run(folder, training={"max_steps": 100000}, evaluation={"every_steps": None}, checkpoint={"every_steps": None})
    (file := folder / "run.yaml").write_text(yaml.safe_dump(run.model_dump(mode="json")))
    return run, file


def test_nothing_of_a_local_run_answers_another_host_or_runs_code_for_another_user_of_this_one(tmp_path: Path) -> None:
    """As it comes: nothing is said about a token, so Ray makes one. The ranks have met and are at work, so that their own ports are open too."""
    run, file = endless(tmp_path)
    plain = {name: value for name, value in environment(tmp_path / "none").items() if not name.startswith("RAY_AUTH")} | {"HOME": str(tmp_path)}
    with hosts("a", "b", environment=plain) as (a, b):
        driver = a.start([COMMAND, "train", str(file)], stderr=subprocess.DEVNULL)
        until(lambda: driver.poll() is not None or lines(run), timeout_s=400)
        outside, inside, known = knocked(b, a.address), knocked(a, "127.0.0.1"), listening(a)
        assert driver.poll() is None, "the run was there all the time"
    assert outside == {}
    assert stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode) == 0o600
    check_refused(inside, at_least=6)  # GCS, raylet, object manager, driver, two ranks
    assert of_ranks(inside, known)


def test_nothing_of_a_cluster_that_could_run_code_answers_a_stranger_while_its_ranks_are_at_work(tmp_path: Path) -> None:
    (token := tmp_path / "token").write_text("0123456789abcdef" * 4)
    run, file = endless(tmp_path)
    with hosts("a", "b", "c", environment=environment(token)) as (a, b, c):
        address = start_head(a, 1, tmp_path / "a.log")
        start_node(b, address, 1, tmp_path / "b.log")
        driver = a.start([COMMAND, "train", str(file), "--address", address], stderr=subprocess.DEVNULL)
        until(lambda: driver.poll() is not None or lines(run), timeout_s=400)
        answers = {host.name: knocked(c, host.address) for host in (a, b)}
        known = {host.name: listening(host) for host in (a, b)}
        assert driver.poll() is None, "the run was there all the time"
    for name, found in answers.items():
        check_refused(found, at_least=3)  # raylet, object manager and a worker
        assert of_ranks(found, known[name]), "the rendezvous on the node of rank 0, and gloo's own of the one rank on each"


def of_ranks(answers: Answers, known: dict[str, str]) -> bool:
    """Whether the ports that speak neither gRPC nor HTTP, which know no token, are there and the ranks' alone."""
    return {known[port].partition(".")[0] for port in speaking(answers, "other")} == {"ray::RayTrainWorker"}


def test_of_a_head_that_takes_jobs_only_metrics_answer_a_stranger_and_they_hold_no_secret(tmp_path: Path) -> None:
    (token := tmp_path / "token").write_text("0123456789abcdef" * 4)
    ray = [str(jobcluster.environment()), "-m", "ray.scripts.scripts"]
    kept = {name: value for name, value in environment(token).items() if name != "PYTHONPATH"}
    with hosts("a", "b", environment={**kept, "A_PASSWORD_OF_MINE": "canary-environment"}) as (a, b):
        start_head(a, 1, tmp_path / "a.log", ray)
        until(lambda: any(port == DASHBOARD for port in listening(a)), timeout_s=240)
        outside, inside, known = knocked(b, a.address), knocked(a, "127.0.0.1"), listening(a)
        pages = [b.run([sys.executable, "-c", READ, f"http://{a.address}:{port}"]).stdout for port in speaking(outside, "metrics")]
    for answers in (outside, inside):
        check_refused(answers, at_least=3)  # GCS, raylet, object manager
    assert DASHBOARD not in outside
    assert inside[DASHBOARD]["said"]["GET /api/jobs/"] == 401
    assert speaking(outside, "other") == [], known
    assert any("ray_" in page for page in pages), "metrics are open, and are what they are said to be"
    assert not any(word in page for page in pages for word in ("canary", token.read_text()))
