"""Somebody without a token who knocks at every port of a host, from another one or as another user of it; and what of the host listens there."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hosts import Host

KNOCKING = Path(__file__).with_name("knocking.py")
NOBODY = {"RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": "", "HOME": "/nonexistent"}
HEALTH = "grpc.health.v1.Health/Check"
_LISTENING = """
import json, psutil, sys
found = [c for c in psutil.net_connections("inet") if c.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)]
json.dump({c.laddr.port: " ".join(psutil.Process(c.pid).cmdline()).strip() for c in found if c.pid and psutil.pid_exists(c.pid)}, sys.stdout)
"""

Answers = Mapping[str, Mapping[str, Any]]


def knocked(stranger: Host, address: str) -> dict[str, dict[str, Any]]:
    """What answers at an address, and how, by port: {speaks: grpc | http | metrics | other, said: {question: answer}}."""
    done = stranger.run([sys.executable, str(KNOCKING), address], env=NOBODY)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def listening(host: Host) -> dict[str, str]:
    """The command line of whoever listens on a host, by port."""
    done = host.run([sys.executable, "-c", _LISTENING])
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def speaking(answers: Answers, how: str) -> list[str]:
    """The ports that speak gRPC, HTTP, show the metrics of Prometheus on every page, or speak something else (``other``)."""
    return [port for port, answer in answers.items() if answer["speaks"] == how]


def check_refused(answers: Answers, *, at_least: int) -> None:
    """That nothing which could run code, stop something or tell the cluster's state does so. ``at_least``: ports that must be there and refuse."""
    refusing = 0
    for port in speaking(answers, "grpc"):
        said = {method: status for method, status in answers[port]["said"].items() if status != "UNIMPLEMENTED"}
        assert {method for method, status in said.items() if status != "UNAUTHENTICATED"} <= {HEALTH}, (port, said)
        refusing += "UNAUTHENTICATED" in said.values()
    assert refusing >= at_least, answers
    for port in speaking(answers, "http"):
        done = {page for page, status in answers[port]["said"].items() if not 400 <= status < 500}
        assert done <= {"GET /", "GET /api/gcs_healthz"}, (port, answers[port])  # the dashboard's static page, and whether the head is well
