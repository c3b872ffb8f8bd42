"""A Ray cluster on several hosts, started by hand with a token, as an administrator would."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hosts import Host
from processes import until

TESTS = Path(__file__).parent
RAY = str(Path(sys.executable).with_name("ray"))
PORT = 6379
QUICK = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "3000", "RAY_health_check_failure_threshold": "3"}
"""Ray notices a lost node after threshold x (period + timeout): 12 s so, 65 s as it comes."""

STEADY: dict[str, Any] = {
    "checkpoint": {"every_steps": 20},
    "evaluation": {"every_steps": None},
    "failures": {"start_timeout_s": 600},
}
"""A run on several hosts that nothing but its steps and checkpoints keeps busy."""


def environment(token: Path) -> dict[str, str]:
    """What every process of the cluster is started with; workers find tests/ and this code."""
    import os

    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "GLOO_", "NCCL_"))}
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
    ours = {"PYTHONPATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    return {**kept, **ours, "RAY_raylet_start_wait_time_s": "120"}


def start_head(host: Host, cpus: int, log: Path, ray: Sequence[str] = (RAY,)) -> str:
    """Start the head; its address, once it answers. ``ray``: the command, of another environment than this one."""
    address = f"{host.address}:{PORT}"
    _start(host, ["--head", f"--port={PORT}", "--dashboard-host=127.0.0.1"], cpus, log, ray)
    return address


def start_node(host: Host, address: str, cpus: int, log: Path) -> subprocess.Popen[str]:
    """Start a node that joins the head."""
    return _start(host, [f"--address={address}"], cpus, log)


def _start(host: Host, how: Sequence[str], cpus: int, log: Path, ray: Sequence[str] = (RAY,)) -> subprocess.Popen[str]:
    command = [*ray, "start", *how, f"--node-ip-address={host.address}", f"--num-cpus={cpus}", "--object-store-memory=200000000", "--block"]
    with log.open("w") as file:
        process = host.start(command, stdout=file, stderr=subprocess.STDOUT)
    until(lambda: process.poll() is not None or "Ray runtime started" in log.read_text(), timeout_s=240)
    assert process.poll() is None, log.read_text()
    return process
