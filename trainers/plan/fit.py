"""Whether a run fits: host memory of a plan, and a quick floor that is asked before every training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tunefleet.trainers.zero import effective_stage

if TYPE_CHECKING:
    from tunefleet.trainers.plan.dry import Memory
    from tunefleet.trainers.plan.work import Sizes
    from tunefleet.trainers.run import Model, RunFile

PROCESS_BYTES = 390 << 20
"""Private memory of a process that has imported torch, DeepSpeed, transformers, PEFT and Ray (RssAnon, 2026-11-21, torch 2.13 for CPUs)"""


def weight_bytes(run: RunFile) -> int:
    """Bytes of one weight as the model holds it."""
    return 2 if run.model.dtype == "bfloat16" or (run.model.dtype == "auto" and run.training.precision == "bf16") else 4


def need_of_host(run: RunFile, sizes: Sizes, memory: Memory, *, ranks: int) -> int:
    """Bytes of host memory for ``ranks`` ranks on one host; what the system may drop (the cache of weights files and shards) is apart.

    On a CPU everything is there. Beside a GPU: what offload keeps, or, if that is more, the weights on their way to the device: every rank reads them whole, at
    stage 3 all together about once.
    """
    if not run.scaling.use_gpu:
        return ranks * (memory.device + PROCESS_BYTES)
    whole = sizes.parameters * weight_bytes(run)
    loading = whole if effective_stage(run) == 3 else whole * ranks
    return max(loading, memory.host * ranks) + ranks * PROCESS_BYTES


def floor_bytes(run: RunFile, sizes: Sizes) -> tuple[int, int]:
    """What a rank holds between steps at the least, without one activation: on its device, and (with offload) in host memory.

    Weights; fp32 weights of the optimizer where it has its own; two fp32 moments; gradients where they are kept whole.
    """
    stage, ranks, bf16 = effective_stage(run), run.scaling.num_workers, run.training.precision == "bf16"
    weights = sizes.parameters * weight_bytes(run) // (ranks if stage == 3 else 1)
    state = 8 * sizes.trained if stage == 0 else 12 * sizes.trained // ranks
    gradients = 4 * sizes.trained if stage == 0 or (stage == 1 and bf16) else 0
    if not run.scaling.use_gpu or run.zero.offload == "none":
        return weights + state + gradients, 0
    if run.zero.offload == "optimizer":
        return weights + (gradients if stage == 1 else 0), state
    return 0, weights + state


def memory_warnings(run: RunFile, known: Model, *, at_once: int = 1) -> list[str]:
    """What this machine is too small for whatever a step looks like: a line each, in a moment. ``at_once``: runs of this kind that it holds at a time.

    ``known`` is the model that can be looked at now. A run that passes may still be too large: the worker's rehearsal and ``tunefleet plan`` count activations.
    """
    from tunefleet.cluster.errors import RequestError
    from tunefleet.trainers.models import skeleton
    from tunefleet.trainers.plan.work import sizes_of

    try:
        sizes = sizes_of(skeleton(known))
    except RequestError:
        return []  # whoever builds the model says what is wrong with it
    if run.peft.kind != "full":
        sizes = replace(sizes, trained=0)  # adapters are a few percent of the least that is held, and to make them takes longer than all else here
    return too_small(run, sizes, host=free_host(), device=smallest_gpu() if run.scaling.use_gpu else None, at_once=at_once)


def too_small(run: RunFile, sizes: Sizes, *, host: int | None, device: int | None, at_once: int = 1) -> list[str]:
    """What does not fit into ``host`` bytes of free memory, and ``device`` bytes of a GPU; None is not known."""
    on_device, on_host = floor_bytes(run, sizes)
    ranks, found = run.scaling.num_workers, []
    held = f"zero.stage: {run.zero.stage}, zero.offload: {run.zero.offload}, {ranks} ranks, {sizes.parameters:,} parameters, peft: {run.peft.kind}"
    if run.scaling.use_gpu and device is not None and on_device > device:
        found.append(f"a rank needs at least {_gib(on_device)} of GPU memory before any activation, and a GPU here has {_gib(device)} ({held})")
    wanted = at_once * ranks * (PROCESS_BYTES + (on_host if run.scaling.use_gpu else on_device))
    if host is not None and wanted > host:
        found.append(f"the ranks need at least {_gib(wanted)} of host memory before any activation, and {_gib(host)} are free here ({held})")
    return [f"memory: {text}; see `tunefleet plan`" for text in found]


def free_host() -> int | None:
    """Bytes that processes of this machine can still take; the smaller of what the system and the container's limit leave. None where it is not told."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        return min(free, int(limit) - int(used)) if limit != "max" else free
    except (OSError, ValueError):
        return free


def smallest_gpu() -> int | None:
    """Bytes of this machine's smallest GPU; None without one."""
    import torch

    sizes = [torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count())]
    return min(sizes) if sizes else None


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
