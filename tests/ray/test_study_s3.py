"""A study whose rows, shards and output lie on S3: how it stands can be asked from elsewhere at any moment, and it leaves what it leaves in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from livestudies import small_study, trials, written
from processes import of_session, until
from runs import write_rows

from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.run import load_run
from tunefleet.tuning.commands.status import study_status
from tunefleet.tuning.lines import TRIALS
from tunefleet.tuning.study import BEST, STUDY

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_a_study_on_s3_says_how_it_stands_while_it_runs_and_after(s3_address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tunefleet.tuning.cli import main

    open_storage(s3_address).put("rows.jsonl", write_rows(tmp_path / "rows.jsonl").read_bytes())
    run = {"data": {"train": [{"path": f"{s3_address}/rows.jsonl"}], "store": f"{s3_address}/shards"}, "training": {"max_steps": 20}}
    study = small_study(tmp_path, [3e-3, 1e-3, 2e-3], run=run, output=f"{s3_address}/study")
    storage, file = open_storage(study.output), written(study, tmp_path)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""}
    with (tmp_path / "said").open("w") as said:
        words = [sys.executable, "-P", "-m", "tunefleet.tuning.cli", "tune", str(file)]
        driver = subprocess.Popen(words, stderr=said, text=True, env=environment, start_new_session=True)
    until(lambda: driver.poll() is not None or storage.exists(STUDY), timeout_s=600)
    seen: list[dict[str, Any]] = [study_status(storage)]
    while driver.poll() is None:  # asked all the time, also while its lines are parts that are being joined
        seen.append(study_status(storage))
    assert driver.returncode == 0, (tmp_path / "said").read_text()
    assert seen[0]["trials"] == {}
    assert any(one["trials"].get("running") and one["held_by"] for one in seen)
    counts = [sum(one["trials"].values()) for one in seen]
    assert counts == sorted(counts), "a trial that was there is not lost while lines are joined"
    assert main(["status", study.output]) == 0
    assert "3 finished" in capsys.readouterr().out
    assert {line.status for line in trials(study).values()} == {"finished"}
    assert storage.exists(TRIALS)
    (tmp_path / BEST).write_bytes(storage.read(BEST))
    assert load_run(tmp_path / BEST).training.learning_rate in (3e-3, 1e-3, 2e-3)
    assert main(["report", study.output]) == 0
    assert b"3 of 3 trials ended" in storage.read("report.html")
    until(lambda: not of_session(driver.pid), timeout_s=240)
