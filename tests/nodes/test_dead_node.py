"""A node dies under a run (its raylet is killed): the run goes on from its newest checkpoint on the nodes that are left, and no number changes."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from hosts import Host, hosts
from processes import until
from rayhosts import QUICK, RAY, STEADY, environment, start_head, start_node
from runs import curve, events, lines, small_run, train_on_gang

from tunefleet.trainers.ledger import ledger

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(900)]
SETTINGS = {**STEADY, "training": {"max_steps": 200}, "zero": {"stage": 3}}


def test_a_run_whose_node_dies_goes_on_elsewhere_and_no_number_changes(tmp_path: Path) -> None:
    (token := tmp_path / "token").write_text("0123456789abcdef" * 4)
    run = small_run(tmp_path, **SETTINGS)
    (file := tmp_path / "run.yaml").write_text(yaml.safe_dump(run.model_dump(mode="json")))

    def where() -> list[set[str]]:
        return [{worker["host"] for worker in event["workers"]} for event in events(run) if event["event"] == "group_started"]

    with hosts("a", "b", "c", environment={**environment(token), **QUICK}) as made:
        address = start_head(made[0], 1, tmp_path / "a.log")
        for host in made[1:]:
            start_node(host, address, 1, tmp_path / f"{host.name}.log")
        raylets = {host.name: host.pids("raylet") for host in made}
        driver = made[0].start([str(Path(RAY).with_name("tunefleet")), "train", str(file), "--address", address], stderr=subprocess.PIPE)
        until(lambda: driver.poll() is not None or any(line["step"] >= 45 for line in lines(run)), timeout_s=400)
        assert driver.poll() is None, driver.communicate()[1]
        dead: Host = next(host for host in made[1:] if host.name in where()[0])  # two ranks, and the head has room for one
        (raylet,) = raylets[dead.name]
        os.kill(raylet, signal.SIGKILL)
        _, said = driver.communicate(timeout=400)
    assert driver.returncode == 0, said
    whole = small_run(tmp_path / "whole", **SETTINGS)
    train_on_gang(whole)
    assert curve(run) == curve(whole)
    assert where()[1:] == [{host.name for host in made} - {dead.name}]
    happened = events(run)
    assert [event["kind"] for event in happened if event["event"] == "group_failed"] == ["died"]
    assert [event["step"] % 20 for event in happened if event["event"] == "resumed"] == [0]
    assert "died" in said
    assert sum(ledger(happened).values()) == pytest.approx(happened[-1]["time"] - happened[0]["time"], rel=1e-9)
