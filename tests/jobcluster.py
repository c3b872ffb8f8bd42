"""A Ray cluster as an administrator starts one by hand: a head on loopback with a token, a dashboard and a job server, ended with whoever started it.

Its Python is an environment of its own over the project's: it has what ``tunefleet[cluster]`` brings, and not this project, which jobs must ship.
A second Ray on one host needs ports, a folder and a group of processes of its own; only that group is ended. Run as a program it makes the environment.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sysconfig
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from ownenvironment import ROOT, home_of, made
from processes import until
from s3server import free_port

HOME = home_of(".venv-jobs")
CONSTRAINTS = ROOT / "constraints.txt"


def environment(home: Path = HOME) -> Path:
    """The Python of the cluster's nodes."""
    from importlib.metadata import version

    below = sysconfig.get_path("purelib")

    def stand_on_the_projects() -> None:
        inside = next((home / "lib").glob("python3*")) / "site-packages"
        (inside / "below.pth").write_text(below + "\n")  # its own .pth, which names this project, is not read

    wanted = ["-c", str(CONSTRAINTS), f"ray[default]=={version('ray')}"]
    return made(home, of=f"{CONSTRAINTS.read_text()}{below}", requirements=wanted, prepare=stand_on_the_projects) / "python"


@dataclass
class Head:
    """A running head. ``variables``: what a client of it has in its environment; ``folder`` holds all that Ray writes."""

    folder: Path
    port: int
    dashboard: int
    token: str
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def variables(self) -> dict[str, str]:
        """Where the cluster is, and its token."""
        return {"RAY_API_SERVER_ADDRESS": self.address, "RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}

    def stop(self) -> None:
        """End its group of processes, and nothing else of this host."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.folder / "ray", ignore_errors=True)


def start(folder: Path, *, cpus: int = 4, labels: str = "ray.io/market-type=on-demand", variables: dict[str, str] | None = None) -> Head:
    """A head that answers when this returns. ``folder`` must be short: sockets lie in it. ``variables`` are added to what its processes inherit."""
    python = environment()
    token = f"canary{secrets.token_hex(16)}"
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(token)
    ports = {name: free_port() for name in _PORTS}
    least = 20500 + os.getpid() % 50 * 200  # of the workers: below the ports that the kernel hands out, where all the others lie
    options = [f"--{name}={port}" for name, port in ports.items()]
    options += [f"--min-worker-port={least}", f"--max-worker-port={least + 199}", f"--num-cpus={cpus}", f"--labels={labels}"]
    options += [f"--temp-dir={folder / 'ray'}", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1", "--object-store-memory=200000000"]
    command = [str(python), "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats", *options]
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    clean |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **(variables or {})}
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(command, env=clean, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    head = Head(folder, ports["port"], ports["dashboard-port"], token, process)
    try:
        until(lambda: process.poll() is not None or _answers(head.address), timeout_s=180)
        assert process.poll() is None, (folder / "head.log").read_text()[-2000:]
    except BaseException:
        head.stop()
        raise
    return head


_PORTS = (
    "port",
    "dashboard-port",
    "ray-client-server-port",
    "metrics-export-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "object-manager-port",
    "node-manager-port",
)


def _answers(address: str) -> bool:
    """Whether the job server speaks: without a token it says that one is missing."""
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=5)
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False
    return False


if __name__ == "__main__":
    environment()
