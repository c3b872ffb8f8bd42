"""Several hosts inside one: network namespaces on switches, each with its own processes, /tmp/ray and host name, and links that can be cut or slowed.

    with hosts("a", "b") as (a, b):
        process = a.start(["ray", "start", "--head", ...])
        b.plug("right")                    # a partition: a stays on the left switch

A host is a process in namespaces of its own; nothing has a name outside it, so that all of it is gone when the process is. Needs root and iproute2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import until

INTERFACE = "fabric0"
"""The interface to the other hosts, by the same name on all of them; not eth0, so that no default finds it by luck."""
_INIT = "hostname {name}; mount -t tmpfs none {ray}; mount -t tmpfs -o size=2g none /dev/shm; sleep infinity & wait"


def missing() -> str:
    """Why hosts cannot be made here; empty where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    lacking = [tool for tool in ("ip", "tc", "unshare", "nsenter") if shutil.which(tool) is None]
    if lacking:
        return f"{', '.join(lacking)} not found: apt-get install iproute2 util-linux"
    tried = subprocess.run(["unshare", "--net", "ip", "link", "add", "probe", "type", "bridge"], capture_output=True, text=True, check=False)
    return f"no network namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


needs_hosts = pytest.mark.skipif(bool(missing()), reason=missing())


@dataclass(frozen=True)
class Host:
    """One host. ``port``: the switch's end of its cable."""

    name: str
    address: str
    init: int
    port: str
    switch: int
    environment: Mapping[str, str]

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a command on this host; it ends with the host at the latest."""
        environment = {**self.environment, **options.pop("env", {})}
        return subprocess.Popen([*_enter(self.init), *command], env=environment, text=True, **options)

    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on this host to its end, and keep what it says."""
        environment = {**self.environment, **options.pop("env", {})}
        return subprocess.run([*_enter(self.init), *command], env=environment, text=True, capture_output=True, check=False, **options)

    def pids(self, name: str) -> list[int]:
        """Numbers, as they are outside, of this host's processes of a name."""
        named = [process.pid for process in psutil.process_iter(["name"]) if process.info["name"] == name]
        return [pid for pid in named if Path(f"/proc/{pid}/ns/pid").readlink() == Path(f"/proc/{self.init}/ns/pid").readlink()]

    def slow(self, rate: str = "") -> None:
        """Let no more than ``rate`` (as tc says it: 1mbit) reach this host; an empty one is as fast as it was."""
        queue = ("dev", self.port, "root")
        words = ("replace", *queue, "tbf", "rate", rate, "burst", "16kb", "latency", "400ms") if rate else ("del", *queue)
        _do(*_enter(self.switch, "--net"), "tc", "qdisc", *words)

    def plug(self, switch: str) -> None:
        """Plug the cable into ``left`` or ``right``: hosts reach those on the same switch, and no packet or word of an error comes from the others."""
        _do(*_enter(self.switch, "--net"), "ip", "link", "set", self.port, "master", switch)


@contextmanager
def hosts(*names: str, environment: Mapping[str, str] | None = None) -> Iterator[list[Host]]:
    """Hosts on the left switch, for as long as the block lasts; then they and all their processes are gone."""
    with ExitStack() as stack:
        switch = _namespace(stack, ["--net", "--pid"], "sleep infinity & wait")
        for name in ("left", "right"):
            _do(*_enter(switch, "--net"), "ip", "link", "add", name, "type", "bridge")
            _do(*_enter(switch, "--net"), "ip", "link", "set", name, "up")
        made = []
        Path("/tmp/ray").mkdir(exist_ok=True)
        for number, name in enumerate(names):
            init = _namespace(stack, ["--net", "--mount", "--uts", "--pid", "--mount-proc"], _INIT.format(name=name, ray="/tmp/ray"))
            host = Host(name, f"10.77.0.{number + 1}", init, f"port{number}", switch, dict(os.environ if environment is None else environment))
            _do(*_enter(switch, "--net"), "ip", "link", "add", host.port, "type", "veth", "peer", "name", INTERFACE, "netns", str(init))
            _do(*_enter(switch, "--net"), "ip", "link", "set", host.port, "master", "left", "up")
            for words in (("addr", "add", f"{host.address}/24", "dev", INTERFACE), ("link", "set", INTERFACE, "up"), ("link", "set", "lo", "up")):
                _do(*_enter(init, "--net"), "ip", *words)
            made.append(host)
        yield made


def _namespace(stack: ExitStack, kinds: Sequence[str], script: str) -> int:
    """The number of a process that is the first of new namespaces; it ends, and they with it, when the stack does."""
    process = subprocess.Popen(["unshare", *kinds, "--fork", "--kill-child", "bash", "-c", f"echo ready; {script}"], stdout=subprocess.PIPE, text=True)
    stack.callback(_end, process)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return int(until(lambda: children.read_text().strip()))


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _enter(pid: int, *kinds: str) -> tuple[str, ...]:
    return ("nsenter", "--target", str(pid), *(kinds or ("--net", "--mount", "--uts", "--pid")))


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
