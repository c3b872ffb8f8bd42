"""Which network the ranks talk over: on every worker the interface that leads to the others, and a rendezvous that listens there and nowhere else.

gloo takes the address that the host's name stands for, often 127.0.0.1, and NCCL the first interface that it likes, often a container's bridge.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import WorkerError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

NAMES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Who reads the choice. What the user has set stays."""
_PORT = 9  # any: nothing is sent
_store: TCPStore | None = None  # of rank 0, from the moment it listens


@dataclass(frozen=True)
class Way:
    """How a worker reaches the others: its interface and its address there. ``several``: others are reached by other interfaces than this one."""

    interface: str
    address: str
    several: tuple[str, ...] = ()


def way_to(own: str, others: Sequence[str]) -> Way:
    """The way from this node, ``own``, to the nodes of the other ranks, by the addresses that Ray knows them by; this node may be among them.

    Raises WorkerError when a node is out of reach: no route leads there.
    """
    counted = Counter(local_address(other) for other in sorted(set(others)) if other != own) or Counter([own])
    known = interfaces()
    named = {address: known.get(address, "") for address in counted}
    (address, _), *rest = counted.most_common()
    if not named[address]:
        raise WorkerError(
            f"no interface of {socket.gethostname()} has the address {address}",
            got=", ".join(f"{name} {where}" for where, name in sorted(known.items())) or "no interface",
            want="the address by which Ray knows this node",
            fix=f"start Ray with --node-ip-address, or set {' and '.join(NAMES)} on this node",
        )
    return Way(named[address], address, tuple(sorted({named[other] for other, _ in rest} - {named[address]})))


def local_address(peer: str) -> str:
    """The address of this machine that packets to a peer come from, as its routes have it; none is sent. Raises WorkerError without a route."""
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((peer, _PORT))
        except OSError as error:
            raise WorkerError(
                f"no way leads from {socket.gethostname()} to {peer}", got=str(error), want="a route to every node", fix="check the network between the nodes"
            ) from error
        return str(probe.getsockname()[0])


def interfaces() -> dict[str, str]:
    """Names of this machine's interfaces by their addresses."""
    import psutil

    families = (socket.AF_INET, socket.AF_INET6)
    return {a.address.partition("%")[0]: name for name, addresses in psutil.net_if_addrs().items() for a in addresses if a.family in families}


def wishes(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the user has said about interfaces where the run is started; it holds for every worker."""
    return {name: environment[name] for name in NAMES if environment.get(name)}


def use_interface(own: str, others: Sequence[str], wished: Mapping[str, str]) -> Way:
    """Have gloo and NCCL of this process talk over the interface that leads to the others, unless the user named one, there or on this node."""
    way = way_to(own, others)
    chosen = {"GLOO_SOCKET_IFNAME": way.interface, "NCCL_SOCKET_IFNAME": f"={way.interface}"}  # with a sign: eth1 alone would mean eth10 too
    for name in NAMES:
        os.environ[name] = wished.get(name) or os.environ.get(name) or chosen[name]
    return way


def network_used(workers: Sequence[Mapping[str, Any]]) -> str:
    """One line for people, of workers {host, interface}: what the ranks talk over; empty where that is this machine alone."""
    said = {worker["host"]: worker["interface"] for worker in workers}
    names = sorted(set(said.values()))
    if names == ["lo"]:
        return ""
    return f"the ranks talk over {names[0]}" if len(names) == 1 else "the ranks talk over " + ", ".join(f"{said[host]} on {host}" for host in sorted(said))


def open_rendezvous(address: str, ranks: int, timeout_s: float) -> int:
    """On rank 0: listen at one address, where the ranks are to find each other; the port.

    torch alone would listen on every interface, and whoever reached it could send the ranks to an address of his own.
    """
    from torch._C._distributed_c10d import TCPStore

    global _store
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind((address, 0))
    listener.listen(1024)
    port = int(listener.getsockname()[1])
    bound = timedelta(seconds=timeout_s)
    _store = TCPStore(address, port, ranks, is_master=True, timeout=bound, wait_for_workers=False, master_listen_fd=listener.detach())
    return port


def join_group(backend: str, rank: int, ranks: int, address: str, port: int, rendezvous_timeout_s: float, collective_timeout_s: float) -> None:
    """On every rank: meet the others and make the process group, which DeepSpeed takes as it finds it."""
    import torch.distributed as dist
    from torch._C._distributed_c10d import TCPStore

    bound = timedelta(seconds=rendezvous_timeout_s)
    store = _store if rank == 0 and _store is not None else TCPStore(address, port, ranks, is_master=False, timeout=bound, wait_for_workers=False)
    os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port))
    if "nccl" in backend:
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")  # a collective that ran out of time ends the process, rather than nothing
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=collective_timeout_s))
