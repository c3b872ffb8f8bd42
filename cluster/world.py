"""Who computes together: the ranks of one process group, and the small messages between them. Nothing here is ever unpickled."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class World:
    """This process's place among the ranks. All methods but ``main`` are collective: every rank calls them equally often, in the same order."""

    rank: int
    size: int
    local_rank: int
    device: torch.device
    mesh: Mapping[str, int]
    """Ranks along each axis: data, sequence, tensor, expert. Rows are divided along data only."""

    @classmethod
    def single(cls, device: torch.device | None = None) -> World:
        """A world of one; its messages go nowhere, and no process group is needed."""
        import torch

        return cls(0, 1, 0, device or torch.device("cpu"), _mesh(1))

    @classmethod
    def join(cls) -> World:
        """The world of the process group that Ray Train, or whoever started this process, has initialised."""
        import torch
        import torch.distributed as dist

        rank, size = dist.get_rank(), dist.get_world_size()
        on_gpu = "nccl" in str(dist.get_backend())
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        return cls(rank, size, int(os.environ.get("LOCAL_RANK", rank)), device, _mesh(size))

    @property
    def main(self) -> bool:
        """Whether this is the rank that speaks and writes for all."""
        return self.rank == 0

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over all ranks, in one float64 all-reduce. Raises ValueError when the ranks name different keys."""
        if self.size == 1:
            return {name: float(value) for name, value in values.items()}
        import torch
        import torch.distributed as dist

        names = sorted(values)
        spelling = float(zlib.crc32("\0".join(names).encode()))
        total = torch.tensor([spelling, *(values[name] for name in names)], dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        checked, *sums = total.tolist()
        if checked != spelling * self.size:
            raise ValueError(f"rank {self.rank} sums {names}, another rank sums something else")
        return dict(zip(names, sums, strict=True))

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, by rank, on every rank. Values are plain JSON."""
        if self.size == 1:
            return [_decode(_encode(value))]
        import torch
        import torch.distributed as dist

        data = _encode(value)
        lengths = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        lengths[self.rank] = len(data)
        dist.all_reduce(lengths)
        longest = int(lengths.max())
        mine = torch.zeros(longest, dtype=torch.uint8, device=self.device)
        mine[: len(data)] = _tensor(data, self.device)
        all_RL = torch.empty((self.size, longest), dtype=torch.uint8, device=self.device)
        dist.all_gather(list(all_RL.unbind(0)), mine)
        return [_decode(bytes(row[:length].cpu().numpy())) for row, length in zip(all_RL, lengths.tolist(), strict=True)]

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0, on every rank; what the others pass is not looked at. Values are plain JSON."""
        data = _encode(value) if self.main else b""
        if self.size == 1:
            return _decode(data)
        import torch
        import torch.distributed as dist

        length = torch.tensor([len(data)], dtype=torch.int64, device=self.device)
        dist.broadcast(length, src=0)
        message = _tensor(data, self.device) if self.main else torch.empty(int(length), dtype=torch.uint8, device=self.device)
        dist.broadcast(message, src=0)
        return _decode(bytes(message.cpu().numpy()))

    def barrier(self) -> None:
        """Return when every rank has come here."""
        self.sum({})


def _mesh(data: int) -> dict[str, int]:
    return {"data": data, "sequence": 1, "tensor": 1, "expert": 1}


def _encode(value: Any) -> bytes:
    return json.dumps(value).encode()


def _decode(data: bytes) -> Any:
    return json.loads(data)


def _tensor(data: bytes, device: torch.device) -> torch.Tensor:
    import torch

    return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device)
