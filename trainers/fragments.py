"""What a rank holds of every trained parameter: where its fragment begins, and live views of the fp32 weights and of the optimizer's state.

ZeRO cuts parameters where it likes: stages 1 and 2 cut one flat list of all of them, stage 3 cuts each, stage 0 cuts nothing. This file is the only
one that knows. A fragment is named by (parameter, first element), so that it fits any number of ranks and any stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from tunefleet.trainers.engine import Engine

SLOTS = ("exp_avg", "exp_avg_sq")
"""The optimizer's state, one value an element (AdamW). Its step count is one number for all, see Engine.updates."""


@dataclass(frozen=True, slots=True)
class Held:
    """A rank's part of one parameter: ``count`` elements of its flat order from ``start``. The tensors are live, one-dimensional and fp32.

    ``shape`` is that of the whole parameter; ``slots`` is empty before the first update.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    master: torch.Tensor
    slots: Mapping[str, torch.Tensor]

    @property
    def count(self) -> int:
        """Elements held."""
        return self.master.numel()

    def part(self, begin: int, end: int) -> Held:
        """The elements from ``begin`` to ``end``, counted from the first one held."""
        slots = {slot: values[begin:end] for slot, values in self.slots.items()}
        return replace(self, start=self.start + begin, master=self.master[begin:end], slots=slots)


def held(engine: Engine) -> list[Held]:
    """Everything that this rank holds, in the order of the model's parameters. At stage 0 every rank holds everything."""
    views = {0: _replicated, 3: _partitioned}.get(engine.stage, _mapped)
    return list(views(engine))


def owned(engine: Engine) -> list[Held]:
    """What this rank is to write: over all ranks, every element exactly once."""
    everything = held(engine)
    return share(everything, engine.world.rank, engine.world.size) if engine.stage == 0 else everything


def share(parts: Iterable[Held], rank: int, size: int) -> list[Held]:
    """The rank's equal share, in elements, of what all ranks hold alike."""
    parts = list(parts)
    total = sum(part.count for part in parts)
    first, last = total * rank // size, total * (rank + 1) // size
    mine, offset = [], 0
    for part in parts:
        begin, end = max(0, first - offset), min(part.count, last - offset)
        if begin < end:
            mine.append(part.part(begin, end))
        offset += part.count
    return mine


def targets(parameters: Mapping[str, torch.nn.Parameter]) -> Iterator[tuple[str, int, torch.Tensor]]:
    """Where weights go before the engine exists: (name, first element, one-dimensional live view), whole or partitioned by ZeRO-3."""
    import torch.distributed as dist
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus, is_zero_param

    for name, parameter in parameters.items():
        zero: Any = parameter
        if not is_zero_param(parameter):
            yield name, 0, parameter.detach().view(-1)
            continue
        start, count = _range(zero.ds_tensor.numel(), zero.ds_numel, dist.get_rank(zero.ds_process_group))
        yield name, start, zero.ds_tensor.detach().view(-1)[:count]
        if zero.ds_status == ZeroParamStatus.AVAILABLE:  # small parameters are also kept whole
            yield name, 0, parameter.detach().view(-1)


def _replicated(engine: Engine) -> Iterator[Held]:
    import torch

    states, started = engine.deepspeed.basic_optimizer.state, engine.updates() > 0
    for name, parameter in engine.parameters.items():
        state = states.get(parameter) or {slot: torch.zeros_like(parameter) for slot in SLOTS}  # a parameter that never had a gradient has no state
        slots = {slot: state[slot].view(-1) for slot in SLOTS} if started else {}
        yield Held(name, tuple(parameter.shape), 0, parameter.detach().view(-1), slots)


def _mapped(engine: Engine) -> Iterator[Held]:
    states, started, flats = engine.deepspeed.basic_optimizer.state, engine.updates() > 0, engine.flat_parameters()
    for name, parameter in engine.parameters.items():
        linked: Any = parameter
        mapping = linked._hp_mapping
        if mapping is not None:  # None: this rank holds nothing of it
            place, state = mapping.hp_fragment_address, states.get(flats[mapping.param_group_index], {})
            slots = (
                {slot: state[slot].narrow(0, place.start, place.numel) for slot in SLOTS} if started else {}
            )  # DeepSpeed's own links miss all groups but one
            yield Held(name, tuple(parameter.shape), mapping.lp_fragment_address.start, mapping.hp_fragment.detach(), slots)


def _partitioned(engine: Engine) -> Iterator[Held]:
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

    started = engine.updates() > 0
    for name, parameter in engine.parameters.items():
        zero: Any = parameter
        start, count = _range(zero.ds_tensor.numel(), zero.ds_numel, engine.world.rank)
        if count > 0:
            slots = {slot: safe_get_local_optimizer_state(parameter, slot)[:count] for slot in SLOTS} if started else {}
            yield Held(name, tuple(zero.ds_shape), start, safe_get_local_fp32_param(parameter).detach()[:count], slots)


def _range(partition: int, whole: int, rank: int) -> tuple[int, int]:
    """First element and number of real elements of a rank's partition; the last partitions are padded."""
    start = partition * rank
    return start, max(0, min(partition, whole - start))
