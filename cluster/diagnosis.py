"""What a look at a cluster means for a long run: findings, each with what to do. Pure functions of what the nodes said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tunefleet.cluster.nodeprobe import Node, Sum

CLOCK_NOTE_S, CLOCK_PROBLEM_S = 1.0, 60.0
"""Offsets of clocks. Leases go by the storage's clock alone, but timelines are read across nodes, and S3 refuses a request that is minutes off."""

DISK_PROBLEM_SHARE, DISK_NOTE_BYTES = 0.05, 20 << 30
"""Below this share of free disk Ray takes no more work in; below these bytes a cache of shards has little room."""

RATE_NOTE, RATE_PROBLEM = 100e6, 10e6
"""Bytes per second: less than 1 Gbit/s slows every step, less than 0.1 Gbit/s is a network that is broken or not the one that was meant."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``state``: ok, note (slower or smaller, but it works), or problem."""

    subject: str
    state: str
    found: str
    fix: str = ""


def diagnose(nodes: Sequence[Node], total: Sum | None) -> Iterator[Finding]:
    """Everything that was found, by subject."""
    yield from _answers(nodes)
    answered = [node for node in nodes if node.versions]
    yield from _versions(answered)
    yield from _clocks(answered)
    yield from _disks(answered)
    yield from _storage(answered)
    yield from _network(answered)
    yield _speed(total)


def _answers(nodes: Sequence[Node]) -> Iterator[Finding]:
    silent = [node for node in nodes if not node.versions]
    for node in silent:
        yield Finding("nodes", "problem", f"{node.address} does not answer: {node.silence}", "end that node, or look at its raylet's log")
    if not silent:
        yield Finding("nodes", "ok", f"{len(nodes)}: " + ", ".join(_name(node) for node in nodes))


def _versions(nodes: Sequence[Node]) -> Iterator[Finding]:
    """The driver's node is what the others are held to: it is what the run is checked with."""
    if not nodes:
        return
    wanted = nodes[0].versions or {}
    wrong = False
    for node in nodes[1:]:
        have = node.versions or {}
        for name in sorted({*wanted, *have}):
            if have.get(name) != wanted.get(name):
                wrong = True
                found = f"{_name(node)} has {name} {have.get(name, 'not at all')}, {_name(nodes[0])} has {wanted.get(name, 'none')}"
                yield Finding(
                    "versions", "problem", found, f"install {name} {wanted.get(name, '')} on {_name(node)}, or use one image for all nodes".replace("  ", " ")
                )
    if not wrong:
        yield Finding("versions", "ok", "equal on all nodes: " + ", ".join(f"{name} {value}" for name, value in wanted.items()))


def _clocks(nodes: Sequence[Node]) -> Iterator[Finding]:
    worst = max(nodes, key=lambda node: abs(node.clock_offset), default=None)
    for node in nodes:
        state = _state(abs(node.clock_offset) - node.clock_error, CLOCK_NOTE_S, CLOCK_PROBLEM_S)
        if state != "ok":
            yield Finding("clocks", state, f"{_name(node)} is {_offset(node)} from the driver's", f"start chrony or another NTP client on {_name(node)}")
            worst = None
    if worst is not None:
        yield Finding("clocks", "ok", f"the farthest is {_name(worst)}, {_offset(worst)}")


def _disks(nodes: Sequence[Node]) -> Iterator[Finding]:
    good = True
    for node in nodes:
        share = node.disk_free / max(node.disk_total, 1)
        found = f"{_name(node)} has {node.disk_free / 2**30:.1f} GiB free, {share:.0%}"
        if share < DISK_PROBLEM_SHARE:
            good = False
            yield Finding("disks", "problem", found, f"free more than {DISK_PROBLEM_SHARE:.0%}: Ray takes in no more objects below that")
        elif node.disk_free < DISK_NOTE_BYTES:
            good = False
            yield Finding("disks", "note", found, "a cache of shards has little room: set data.cache.limit, or free some")
    if good and nodes:
        least = min(nodes, key=lambda node: node.disk_free)
        yield Finding("disks", "ok", f"the least is {_name(least)}, {least.disk_free / 2**30:.1f} GiB free")


def _storage(nodes: Sequence[Node]) -> Iterator[Finding]:
    if all(node.storage is None for node in nodes):
        yield Finding("storage", "note", "no output was named", "--output s3://bucket/folder is read and written from every node")
        return
    bad = [node for node in nodes if node.storage]
    for node in bad:
        yield Finding(
            "storage", "problem", f"{_name(node)}: {node.storage}", "use s3://, or a folder that is mounted on all nodes; give every node the credentials"
        )
    if not bad:
        yield Finding("storage", "ok", f"read and written from all {len(nodes)} nodes")


def _network(nodes: Sequence[Node]) -> Iterator[Finding]:
    for node in nodes:
        if node.trouble:
            yield Finding("interfaces", "problem", f"{_name(node)}: {node.trouble}", "see that every node has a route to every other")
    counted = Counter(node.interface for node in nodes if node.interface)
    if counted:
        each = ", ".join(f"{_name(node)} {node.interface}" for node in nodes if node.interface)
        yield Finding("interfaces", "ok", f"all by {next(iter(counted))}" if len(counted) == 1 else each)


def _speed(total: Sum | None) -> Finding:
    if total is None:
        return Finding("all-reduce", "note", "fewer than two nodes for workers: nothing to add up with")
    fix = "open all ports between the nodes, or name the right interface by GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
    if total.trouble:
        return Finding("all-reduce", "problem", f"the {total.nodes} nodes do not reach each other: {total.trouble}", fix)
    found = f"{total.rate() / 1e6:.1f} MB/s over {total.nodes} nodes by gloo, {total.size >> 20} MiB in {total.seconds * 1000:.0f} ms"
    state = _state(-total.rate(), -RATE_NOTE, -RATE_PROBLEM)
    return Finding("all-reduce", state, found, "" if state == "ok" else "put the nodes into one zone or placement group, or name the fast interface")


def _state(value: float, note: float, problem: float) -> str:
    return "problem" if value > problem else "note" if value > note else "ok"


def _name(node: Node) -> str:
    return node.host if node.host == node.address else f"{node.host} ({node.address})"


def _offset(node: Node) -> str:
    return f"{node.clock_offset:+.3f} s (±{node.clock_error:.3f})"
