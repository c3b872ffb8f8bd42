"""A cluster of several hosts with a token: looked at by the doctor, trained on, and cut in two in the middle of it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from hosts import INTERFACE, hosts, missing
from processes import until
from rayhosts import QUICK, RAY, STEADY, environment, start_head, start_node
from runs import curve, events, lines, small_run, train_on_gang

from tunefleet.cluster.metrics import read_lines
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.run import RunFile

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(900)]
COMMAND = Path(RAY).with_name("tunefleet")
SETTINGS = {**STEADY, "training": {"max_steps": 200}, "zero": {"stage": 3}}


@dataclass
class Story:
    """What happened, for the tests to judge."""

    run: RunFile
    doctor: subprocess.CompletedProcess[str]
    outcome: int = 0
    said: str = ""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A head with a CPU, a node with one; and a third that takes the place of the one that is cut off."""
    if why := missing():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("fleet")
    (token := folder / "token").write_text("0123456789abcdef" * 4)
    run = small_run(folder, **SETTINGS)
    (file := folder / "run.yaml").write_text(yaml.safe_dump(run.model_dump(mode="json")))
    with hosts("a", "b", "c", environment={**environment(token), **QUICK}) as (a, b, c):
        address = start_head(a, 1, folder / "a.log")
        start_node(b, address, 1, folder / "b.log")
        doctor = a.run([str(COMMAND), "doctor", "--cluster", "--address", address, "--output", "/tmp/ray/own", "--json"])
        told = Story(run, doctor)
        driver = a.start([str(COMMAND), "train", str(file), "--address", address], stderr=subprocess.PIPE)
        until(lambda: driver.poll() is not None or any(line["step"] >= 25 for line in lines(run)), timeout_s=400)
        b.plug("right")
        start_node(c, address, 1, folder / "c.log")
        _, told.said = driver.communicate(timeout=600)
        told.outcome = driver.returncode
    return told


def test_the_doctor_tries_every_node_and_finds_that_a_folder_is_not_shared(story: Story) -> None:
    found = {(finding["subject"], finding["state"]): finding for finding in json.loads(story.doctor.stdout)}
    assert story.doctor.returncode == 1, story.doctor.stderr
    assert "b (10.77.0.2): does not see what the driver wrote there" in found["storage", "problem"]["found"]
    assert found["storage", "problem"]["fix"].startswith("use s3://")
    assert found["nodes", "ok"]["found"] == "2: a (10.77.0.1), b (10.77.0.2)"
    assert found["interfaces", "ok"]["found"] == f"all by {INTERFACE}"
    assert "python 3." in found["versions", "ok"]["found"]
    assert ("clocks", "ok") in found
    speed = next(finding for (subject, _), finding in found.items() if subject == "all-reduce")
    assert "MB/s over 2 nodes" in speed["found"]


def test_a_run_that_is_cut_in_two_goes_on_elsewhere_and_no_number_changes(story: Story, tmp_path: Path) -> None:
    assert story.outcome == 0, story.said
    whole = small_run(tmp_path, **SETTINGS)
    train_on_gang(whole)
    assert curve(story.run) == curve(whole)
    happened = [event["event"] for event in events(story.run)]
    assert (happened.count("group_failed"), happened.count("resumed")) == (1, 1)
    assert "its node died" in story.said


def test_each_attempt_ran_on_two_hosts_by_the_interface_between_them_and_that_was_said_once(story: Story) -> None:
    started = read_lines(open_storage(story.run.output), "workers/started.jsonl")
    assert [{worker["host"] for worker in line["workers"]} for line in started] == [{"a", "b"}, {"a", "c"}]
    assert {worker["interface"] for line in started for worker in line["workers"]} == {INTERFACE}
    assert story.said.count(f"the ranks talk over {INTERFACE}") == 1


def test_there_were_never_two_writers(story: Story) -> None:
    """The isolated half still reached the storage. No line came twice, and the checkpoints of the first attempt end where those of the second begin."""
    steps = [line["step"] for line in lines(story.run)]
    assert steps == sorted(set(steps))
    attempts = [(event["step"], event["attempt"]) for event in events(story.run) if event["event"] == "checkpoint_complete"]
    assert attempts == sorted(attempts)
    assert [attempt for _, attempt in attempts] == sorted(attempt for _, attempt in attempts)
