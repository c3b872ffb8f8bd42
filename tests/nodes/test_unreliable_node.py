"""A node whose rank dies twice is avoided from then on, though it is there and free."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hosts import hosts
from processes import until
from rayhosts import RAY, STEADY, environment, start_head, start_node
from runs import events, lines, small_run

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(900)]
SETTINGS = {**STEADY, "training": {"max_steps": 400}}


def test_a_node_that_fails_twice_is_avoided_and_that_is_said(tmp_path: Path) -> None:
    (token := tmp_path / "token").write_text("0123456789abcdef" * 4)
    run = small_run(tmp_path, **SETTINGS)
    (file := tmp_path / "run.yaml").write_text(yaml.safe_dump(run.model_dump(mode="json")))

    def started() -> list[dict[str, Any]]:
        return [event for event in events(run) if event["event"] == "group_started"]

    def trains(attempt: int, step: int) -> bool:
        return len(started()) == attempt and any(line["step"] >= step for line in lines(run))

    with hosts("a", "b", "c", environment=environment(token)) as (a, b, c):
        address = start_head(a, 1, tmp_path / "a.log")
        start_node(b, address, 1, tmp_path / "b.log")
        driver = a.start([str(Path(RAY).with_name("tunefleet")), "train", str(file), "--address", address], stderr=subprocess.PIPE)
        for attempt, step in ((1, 25), (2, 65)):
            until(lambda: driver.poll() is not None or trains(attempt, step), timeout_s=400)  # noqa: B023 - asked at once
            if attempt == 2:
                start_node(c, address, 1, tmp_path / "c.log")
            (pid,) = (worker["pid"] for worker in started()[-1]["workers"] if worker["host"] == "b")
            b.run(["kill", "-KILL", str(pid)])
        _, said = driver.communicate(timeout=400)
    assert driver.returncode == 0, said
    assert [{worker["host"] for worker in event["workers"]} for event in started()] == [{"a", "b"}, {"a", "b"}, {"a", "c"}]
    assert said.count("10.77.0.2 failed twice and is avoided from now on") == 1
