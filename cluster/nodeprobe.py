"""What every node of a cluster says about itself: versions, clock, disks, storage, and how fast the nodes add up numbers together. A Ray actor a node asks."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunefleet.cluster.errors import StorageError, TunefleetError
from tunefleet.cluster.machine import versions
from tunefleet.cluster.network import Way, join_group, open_rendezvous, use_interface, wishes
from tunefleet.cluster.storage import open_storage

ANSWER_S = 120.0
"""Seconds within which a node must answer anything; joining the others and adding up with them included."""

_STACK = ("ray", "torch", "deepspeed", "transformers", "tunefleet")
_CLOCK_ROUNDS = 8
_SMALL_BYTES, _LARGE_BYTES = 1 << 20, 64 << 20
_ROUNDS = 3


@dataclass(frozen=True)
class Node:
    """What one node said. ``storage``: why it cannot use the output, empty when it can, None when none was named. Sizes in bytes, times in seconds."""

    host: str
    address: str
    works: bool = True
    """Whether workers can land there: a head without CPUs and GPUs holds none."""
    versions: Mapping[str, str] | None = None
    """None: the node did not answer."""
    silence: str = ""
    interface: str = ""
    trouble: str = ""
    clock_offset: float = 0.0
    clock_error: float = 0.0
    storage: str | None = None
    disk_free: int = 0
    disk_total: int = 0


@dataclass(frozen=True)
class Sum:
    """An all-reduce over the nodes: how much, how long, or why not."""

    nodes: int
    size: int = 0
    seconds: float = 0.0
    trouble: str = ""

    def rate(self) -> float:
        """Bytes per second that each link carries, as rings of any size compare: 2 (n - 1) / n of the data cross it."""
        return 2 * (self.nodes - 1) / self.nodes * self.size / self.seconds


class Probe:
    """Lives on one node, holds none of its resources, and ends with the check."""

    def facts(self, own: str, addresses: Sequence[str], wished: Mapping[str, str]) -> dict[str, Any]:
        """Versions, disk, and the interface that a run of the same wishes would take to the others."""
        disk = shutil.disk_usage(tempfile.gettempdir())
        found = {"host": socket.gethostname(), "versions": known_versions(), "disk_free": disk.free, "disk_total": disk.total}
        try:
            use_interface(own, addresses, wished)
        except TunefleetError as error:
            return {**found, "trouble": f"{error.what}: {error.got}"}
        return {**found, "interface": os.environ["GLOO_SOCKET_IFNAME"]}

    def clock(self) -> float:
        """What time it is here."""
        return time.time()

    def writes(self, output: str, sign: str) -> str:
        """Why this node cannot use the output; empty when it sees what the driver wrote there, and can write."""
        try:
            storage = open_storage(output)
            if not storage.exists(sign):
                return "does not see what the driver wrote there: it is a folder of each node's own"
            mine = f"{sign}-{uuid.uuid4().hex}"
            storage.put(mine, b"x")
            storage.delete(mine)
        except StorageError as error:
            return f"{error.what}: {error.got}"
        return ""

    def way(self, own: str, addresses: Sequence[str], wished: Mapping[str, str]) -> Way:
        """How this node reaches the others."""
        return use_interface(own, addresses, wished)

    def listen(self, address: str, ranks: int) -> int:
        """As rank 0, open the rendezvous; its port."""
        return open_rendezvous(address, ranks, ANSWER_S)

    def join(self, rank: int, ranks: int, address: str, port: int) -> None:
        """Become a rank."""
        join_group("gloo", rank, ranks, address, port, ANSWER_S, ANSWER_S)

    def add_up(self, size: int, rounds: int) -> float:
        """Seconds of the fastest of some all-reduces of so many bytes."""
        import torch
        import torch.distributed as dist

        data = torch.ones(size // 4)
        taken = []
        for _ in range(rounds):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(data)
            taken.append(time.perf_counter() - began)
        return min(taken)


def known_versions() -> dict[str, str]:
    """Versions of what must be equal on all nodes; of tunefleet the code itself, since a driver sends its own along."""
    found = {name: value for name, value in versions(_STACK).items() if name in ("python", *_STACK)}
    top = Path(__file__).resolve().parents[1]
    files = sorted(path for floor in ("cluster", "data", "trainers", "tuning") for path in (top / floor).rglob("*.py"))
    code = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()
    return {**found, "tunefleet": f"code {code[:12]}"}


def ask_nodes(output: str | None) -> tuple[list[Node], Sum | None]:
    """Ask every living node of the session that this process is in; the driver's own first. None for the sum where fewer than two nodes can work."""
    with _probes() as probes:
        nodes = _met([address for address, _, _ in probes], [works for _, works, _ in probes], actors := [probe for _, _, probe in probes])
        nodes = [_timed(probe, node) if node.versions else node for node, probe in zip(nodes, actors, strict=True)]
        if output is not None:
            nodes = _written(output, nodes, actors)
        able = [(node.address, probe) for node, probe in zip(nodes, actors, strict=True) if node.works and node.interface and node.versions]
        return nodes, _sum(*zip(*able, strict=True)) if len(able) > 1 else None


@contextmanager
def _probes() -> Iterator[list[tuple[str, bool, Any]]]:
    """An actor on every living node: (address, whether it can hold workers, actor)."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    remote = ray.remote(Probe)
    made = []
    for node in sorted((n for n in ray.nodes() if n["Alive"]), key=lambda n: (n["NodeID"] != here, n["NodeManagerAddress"])):
        works = node["Resources"].get("CPU", 0) + node["Resources"].get("GPU", 0) > 0
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        made.append((str(node["NodeManagerAddress"]), works, remote.options(num_cpus=0, scheduling_strategy=place).remote()))
    try:
        yield made
    finally:
        for _, _, probe in made:
            with suppress(Exception):  # it may be gone already, or out of reach
                ray.kill(probe)


def _answers(asked: Sequence[Any]) -> list[tuple[Any, str]]:
    """What each actor said and, where it said nothing, why; all are waited for together, so that ten silent ones take no longer than one."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S) if asked else ([], [])
    said: list[tuple[Any, str]] = []
    for reference in asked:
        try:
            said.append((ray.get(reference, timeout=ANSWER_S if reference in answered else 0), ""))
        except GetTimeoutError:
            said.append((None, f"nothing within {ANSWER_S:g} s"))
        except RayError as error:  # dead, or out of reach
            said.append((None, _first_line(error)))
    return said


def _met(addresses: Sequence[str], work: Sequence[bool], probes: Sequence[Any]) -> list[Node]:
    """Every node with its facts, or its silence."""
    wished = wishes()
    said = _answers([probe.facts.remote(address, addresses, wished) for address, probe in zip(addresses, probes, strict=True)])
    return [
        Node(address, address, works, silence=silence) if facts is None else Node(address=address, works=works, **facts)
        for address, works, (facts, silence) in zip(addresses, work, said, strict=True)
    ]


def _timed(probe: Any, node: Node) -> Node:
    """With its clock against ours: the round trip that took least tells most. Source: Mills 1991, Internet time synchronization."""
    import ray
    from ray.exceptions import RayError

    seen = []
    for _ in range(_CLOCK_ROUNDS):
        sent = time.time()
        try:
            there = ray.get(probe.clock.remote(), timeout=ANSWER_S)
        except RayError as error:
            return replace(node, versions=None, silence=_first_line(error))
        back = time.time()
        seen.append(((back - sent) / 2, there - (sent + back) / 2))
    half_trip, offset = min(seen)
    return replace(node, clock_offset=offset, clock_error=half_trip)


def _written(output: str, nodes: Sequence[Node], probes: Sequence[Any]) -> list[Node]:
    """With what became of a file that every node looks for and of one that it writes."""
    storage = open_storage(output)
    sign = f"probe-{uuid.uuid4().hex}"
    try:
        storage.put(sign, b"x")
    except StorageError as error:
        return [replace(node, storage=f"{error.what}: {error.got}") for node in nodes]
    asked = [i for i, node in enumerate(nodes) if node.versions]
    said = dict(zip(asked, _answers([probes[i].writes.remote(storage.address, sign) for i in asked]), strict=True))
    with suppress(StorageError):  # one that takes files and deletes none has been said enough about
        storage.delete(sign)
    found = {i: f"it could not be tried: {silence}" if silence else trouble for i, (trouble, silence) in said.items()}
    return [replace(node, storage=found.get(i)) for i, node in enumerate(nodes)]


def _sum(addresses: Sequence[str], probes: Sequence[Any]) -> Sum:
    """Have the nodes meet as the ranks of a run would, and add up: a little first, then as much as takes about a second."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    ranks, wished = len(probes), wishes()
    try:
        ways = ray.get([probe.way.remote(address, addresses, wished) for address, probe in zip(addresses, probes, strict=True)], timeout=ANSWER_S)
        port = ray.get(probes[0].listen.remote(ways[0].address, ranks), timeout=ANSWER_S)
        ray.get([probe.join.remote(rank, ranks, ways[0].address, port) for rank, probe in enumerate(probes)], timeout=ANSWER_S)
        small_s = max(ray.get([probe.add_up.remote(_SMALL_BYTES, 2) for probe in probes], timeout=ANSWER_S))
        size = max(_SMALL_BYTES, min(_LARGE_BYTES, int(_SMALL_BYTES / small_s) // 4 * 4))
        seconds = max(ray.get([probe.add_up.remote(size, _ROUNDS) for probe in probes], timeout=ANSWER_S))
    except GetTimeoutError:
        return Sum(ranks, trouble=f"no answer within {ANSWER_S:g} s")
    except RayError as error:
        return Sum(ranks, trouble=str(error).strip().splitlines()[-1].strip())
    return Sum(ranks, size, seconds)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
