"""A real S3 server on loopback: OpenStack Swift, four processes with free ports and a folder of their own, which end with whoever started them.

It comes from PyPI into an environment of its own, made by ``make test`` or here. Run as a program it makes that environment and ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from ownenvironment import ROOT, home_of, made

HOME = home_of(".venv-s3")
REQUIREMENTS = ROOT / "tests" / "s3" / "requirements.txt"
BUCKET = "tests"
CANARY = "canary-5f1d0c7a9b"
"""In every secret that tests use, so that a search for it finds one that got out."""
USERS = {"test:tester": f"{CANARY}-secret", "test:second": f"{CANARY}-second"}
"""Access keys and their secrets; both may do everything."""

_STORAGE = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
mount_check = false
devices = {folder}/node
swift_dir = {folder}/conf
log_address = {folder}/nolog
log_level = ERROR
disable_fallocate = true
conn_timeout = 30
node_timeout = 60
container_update_timeout = 60
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

_PROXY = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {folder}/conf
log_address = {folder}/nolog
log_level = ERROR
[pipeline:main]
pipeline = catch_errors gatekeeper listing_formats s3api tempauth bulk slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
error_suppression_interval = 0
error_suppression_limit = 1000
conn_timeout = 30
node_timeout = 60
recoverable_node_timeout = 60
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
s3_acl = false
min_segment_size = 1
[filter:tempauth]
use = egg:swift#tempauth
{users}
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""

_RINGS = """
import sys
from swift.common.ring import RingBuilder
for argument in sys.argv[1:]:
    path, _, port = argument.rpartition("=")
    builder = RingBuilder(6, 1, 1)
    place = {"ip": "127.0.0.1", "port": int(port), "replication_ip": "127.0.0.1", "replication_port": int(port)}
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1.0, "device": "d1", "meta": "", **place})
    builder.rebalance()
    builder.get_ring().save(path)
"""
"""One process for what ``swift-ring-builder`` would take nine for."""

_COMMON = """
[swift-hash]
swift_hash_path_suffix = test
swift_hash_path_prefix = test
[storage-policy:0]
name = default
default = yes
"""


def free_port() -> int:
    """A port of loopback that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(home: Path = HOME) -> Path:
    """The folder of Swift's commands."""
    return made(home, of=REQUIREMENTS.read_text(), requirements=["-r", str(REQUIREMENTS)])


@dataclass
class Server:
    """A running server. ``endpoint`` is its URL; ``key`` and ``secret`` may do everything there."""

    folder: Path
    port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    key: str = "test:tester"
    secret: str = USERS["test:tester"]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def variables(self, endpoint: str | None = None) -> dict[str, str]:
        """The environment that makes a client use this server, or a proxy before it."""
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def stop(self) -> None:
        """End every process of it, at once; what it holds stays in its folder."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()


def start(folder: Path) -> Server:
    """A server that keeps its objects in a folder; it answers when this returns."""
    commands = environment()
    (folder / "node" / "d1").mkdir(parents=True)
    (folder / "conf").mkdir()
    (folder / "conf" / "swift.conf").write_text(_COMMON)
    server = Server(folder, free_port())
    ports = {kind: free_port() for kind in ("account", "container", "object")}
    for kind, port in ports.items():
        (folder / "conf" / f"{kind}.conf").write_text(_STORAGE.format(kind=kind, port=port, folder=folder))
    rings = [f"{folder / 'conf' / kind}.ring.gz={port}" for kind, port in ports.items()]
    subprocess.run([str(commands / "python"), "-c", _RINGS, *rings], check=True, capture_output=True)
    users = "\n".join(f"user_{key.replace(':', '_')} = {secret} .admin" for key, secret in USERS.items())
    (folder / "conf" / "proxy.conf").write_text(_PROXY.format(port=server.port, folder=folder, users=users))
    try:
        for kind in ("account", "container", "object", "proxy"):
            server.processes.append(_process(commands, kind, folder))
        _await(server)
    except BaseException:
        server.stop()
        raise
    return server


def _process(commands: Path, kind: str, folder: Path) -> subprocess.Popen[bytes]:
    with (folder / f"{kind}.log").open("wb") as log:
        arguments = [str(commands / f"swift-{kind}-server"), str(folder / "conf" / f"{kind}.conf")]
        return subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True, preexec_fn=_end_with_parent)


def _end_with_parent() -> None:
    """Ask the kernel to end this process when the one that starts it dies (PR_SET_PDEATHSIG), kill -9 included."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _await(server: Server, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(server.endpoint, timeout=5):
                return
        except urllib.error.HTTPError:  # it speaks: nobody is let in without a key
            return
        except OSError:
            dead = [process.args for process in server.processes if process.poll() is not None]
            logs = "".join(path.read_text(errors="replace") for path in server.folder.glob("*.log"))
            if dead or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server does not start: {dead}\n{logs}") from None
            time.sleep(0.05)


if __name__ == "__main__":
    environment()
