"""Whoever ends the driver ends the run: with an exit code that tells, and nothing that goes on."""

import os
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from processes import marked, until

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)])
def test_no_worker_outlives_its_driver(tmp_path, number, exit_code):
    mark = uuid.uuid4().hex
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
    environment = {**os.environ, "TUNEFLEET_TEST_DRIVER": mark, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TESTS / "driver.py"), str(tmp_path)]
    with (tmp_path / "out").open("w") as out:
        driver = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    workers = [int(until(lambda rank=rank: driver.poll() is not None or read(tmp_path / f"rank-{rank}"))) for rank in range(2)]
    driver.send_signal(number)
    assert driver.wait(60) == exit_code
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), timeout_s=30)
    if number == signal.SIGKILL:  # Ray's agents, which hold nothing, notice within about a minute
        for pid in marked(f"TUNEFLEET_TEST_DRIVER={mark}"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert until(lambda: not list(marked(f"TUNEFLEET_TEST_DRIVER={mark}")), timeout_s=30)
    said = (tmp_path / "out").read_text()
    assert ("KeyboardInterrupt" in said) == (number == signal.SIGINT)
    assert number == signal.SIGINT or said == ""


def read(path):
    return path.read_text() if path.exists() else ""
