"""How Ray Train's workers become one process group: by our choice of network, in a bounded time. Imports Ray: only for where a group is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend
from ray.util import get_node_ip_address

from tunefleet.cluster.errors import WorkerError
from tunefleet.cluster.network import Way, join_group, open_rendezvous, use_interface


@dataclass
class NetworkConfig(TorchConfig):  # type: ignore[misc]  # Ray has no types
    """Ray's own settings of a process group, where ``timeout_s`` is that of a collective, and ours."""

    rendezvous_timeout_s: float = 300.0
    wished: Mapping[str, str] = field(default_factory=dict)

    @property
    def backend_cls(self) -> type[NetworkBackend]:
        """What starts the process group."""
        return NetworkBackend


class NetworkBackend(_TorchBackend):  # type: ignore[misc]
    """Ray's, but for the start: it would let torch take any interface, and listen on all of them."""

    def on_start(self, worker_group: Any, backend_config: NetworkConfig) -> None:
        """Choose the interface on every worker, have rank 0 listen there, let all of them meet. Raises WorkerError when they do not in time."""
        ranks, bound_s = len(worker_group), backend_config.rendezvous_timeout_s
        addresses = worker_group.execute(get_node_ip_address)
        ways: list[Way] = worker_group.execute(_use, addresses, dict(backend_config.wished))
        worker_group.execute(_set_torch_distributed_env_vars)
        port = worker_group.execute_single(0, open_rendezvous, ways[0].address, ranks, bound_s)
        terms = (ranks, ways[0].address, port, bound_s, float(backend_config.timeout_s))
        joining = [worker_group.execute_single_async(rank, join_group, backend_config.backend, rank, *terms) for rank in range(ranks)]
        try:
            ray.get(joining, timeout=bound_s)
        except GetTimeoutError as error:
            ready, late = ray.wait(joining, num_returns=ranks, timeout=0)
            where = ", ".join(f"rank {rank} on {addresses[rank]} by {ways[rank].interface}" for rank in range(ranks) if joining[rank] in late)
            raise WorkerError(
                "the ranks did not find each other",
                got=f"{len(ready)} of {ranks} after {bound_s:g} s; not {where}",
                want=f"a connection from every node to {ways[0].address} and to each other, on any port",
                fix="open the network between the nodes, try it with `tunefleet doctor --cluster`, or raise failures.rendezvous_timeout_s",
            ) from error


def _use(addresses: list[str], wished: Mapping[str, str]) -> Way:
    return use_interface(get_node_ip_address(), addresses, wished)
