"""The plan of a run: its own dry runs at every stage, its rows, its work, and the machine types that can do it. Nothing is started and no weight is read."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tunefleet.trainers.plan.dry import Job, Memory, dry_runs
from tunefleet.trainers.plan.fit import PROCESS_BYTES, need_of_host
from tunefleet.trainers.plan.machines import MACHINES, UTILISATION, Machine
from tunefleet.trainers.plan.rows import Rows, rows_of
from tunefleet.trainers.plan.work import Sizes, flops_per_token, sizes_of

if TYPE_CHECKING:
    from tunefleet.trainers.chain import Link
    from tunefleet.trainers.run import RunFile

SETTINGS = ((0, "none"), (1, "none"), (1, "optimizer"), (2, "none"), (2, "optimizer"), (3, "none"), (3, "optimizer"), (3, "parameters"))


@dataclass(frozen=True)
class Figures:
    """What the user knows better: measured tokens a second of all ranks together, peak FLOP/s of a device, its share that is reached, dollars an hour."""

    tokens_per_second: float | None = None
    peak: float | None = None
    utilisation: float = UTILISATION
    price: float | None = None


@dataclass(frozen=True)
class Choice:
    """One ZeRO setting. ``host``: bytes that all ranks of one host need there beside the page cache."""

    stage: int
    offload: str
    chosen: bool
    memory: Memory
    host: int


@dataclass(frozen=True)
class Offer:
    """What a machine type makes of the run. ``why`` says what does not fit; ``hours`` and ``dollars`` are None where nothing says how fast it is."""

    name: str
    machines: int
    fits: bool
    why: str
    hours: float | None
    dollars: float | None


@dataclass(frozen=True)
class Plan:
    """Everything that is known of a run before it starts; bytes, tokens, floating-point operations, hours, dollars."""

    name: str
    ranks: int
    sizes: Sizes
    rows: Rows
    choices: tuple[Choice, ...]
    checkpoint: int
    snapshot: int
    flops_per_token: float
    flops: float | None
    offers: tuple[Offer, ...]
    own_hours: float | None
    assumed: tuple[str, ...]

    @property
    def chosen(self) -> Choice:
        """The setting of the run file."""
        return next(choice for choice in self.choices if choice.chosen)


def plan_of(link: Link, figures: Figures, *, at_once: int, own: bool = False) -> Plan:
    """The plan of a run that has no problems; with ``own`` of its own ZeRO setting alone. Raises SettingsError for a model whose config cannot be had."""
    import torch

    from tunefleet.trainers.models import equipped, skeleton
    from tunefleet.trainers.scoring import batching_kind

    run = planned(link)
    bare = equipped(skeleton(run.model), run)
    sizes = sizes_of(bare)
    kind, _ = batching_kind(run.data.batching, bare, torch.device("cuda" if run.scaling.use_gpu else "cpu"))
    rows = rows_of(run, kind)
    choices = _choices(run, sizes, rows, at_once, own=own)
    chosen = next(choice for choice in choices if choice.chosen)
    each = flops_per_token(sizes, context=rows.tokens_a_row or run.data.max_length, recompute=run.training.gradient_checkpointing)
    flops = None if rows.tokens is None else each * rows.tokens
    snapshot, checkpoint = (sizes.trained * width for width in ((2, 14) if run.training.precision == "bf16" else (4, 12)))
    hours = None if not figures.tokens_per_second or rows.tokens is None else rows.tokens / figures.tokens_per_second / 3600
    offers = tuple(_offer(machine, run, chosen, flops, figures, hours) for machine in MACHINES) if run.scaling.use_gpu else ()
    return Plan(run.name, run.scaling.num_workers, sizes, rows, choices, checkpoint, snapshot, each, flops, offers, hours, _assumed(run, rows, figures))


def planned(link: Link) -> RunFile:
    """The run with the model that can be looked at now, and torch's optimizer, which has the same state and is never compiled."""
    run = link.run
    model = link.known.model_copy(update={"attn_implementation": run.model.attn_implementation, "dtype": run.model.dtype})
    training = run.training
    if training.optimizer.kind == "cpu_adamw":
        from tunefleet.trainers.run import Adamw

        training = training.model_copy(update={"optimizer": Adamw()})
    return run.model_copy(update={"model": model, "training": training})


def _choices(run: RunFile, sizes: Sizes, rows: Rows, at_once: int, *, own: bool) -> tuple[Choice, ...]:
    mine = (run.zero.stage, run.zero.offload)
    settings = [mine] if own else [one for one in SETTINGS if run.scaling.use_gpu or one[1] == "none" or one == mine]
    jobs = [Job(with_zero(run, stage, offload).model_dump_json(), rows.shape) for stage, offload in settings]
    return tuple(
        Choice(stage, offload, (stage, offload) == mine, memory, need_of_host(with_zero(run, stage, offload), sizes, memory, ranks=run.scaling.num_workers))
        for (stage, offload), memory in zip(settings, dry_runs(jobs, at_once=at_once), strict=True)
    )


def with_zero(run: RunFile, stage: int, offload: str) -> RunFile:
    """The run with another ZeRO setting."""
    return run.model_copy(update={"zero": run.zero.model_copy(update={"stage": stage, "offload": offload})})


def _offer(machine: Machine, run: RunFile, chosen: Choice, flops: float | None, figures: Figures, measured_hours: float | None) -> Offer:
    ranks = run.scaling.num_workers
    count = math.ceil(ranks / machine.gpus)
    on_one = min(ranks, machine.gpus)
    device, host = chosen.memory.device, chosen.host // ranks * on_one
    lacks = []
    if device > machine.gpu.memory:
        lacks.append(f"{device / 2**30:,.1f} GiB a GPU, it has {machine.gpu.memory / 2**30:,.1f}")
    if host > machine.host:
        lacks.append(f"{host / 2**30:,.1f} GiB of host memory, it has {machine.host / 2**30:,.0f}")
    peak = figures.peak or (machine.gpu.bf16 if run.training.precision == "bf16" else machine.gpu.fp32)
    hours = measured_hours if measured_hours is not None else None if flops is None else flops / (peak * figures.utilisation * ranks) / 3600
    price = figures.price if figures.price is not None else machine.price
    if chosen.memory.why:
        lacks.append("not known: the dry run could not be done")
    return Offer(machine.name, count, not lacks, "; ".join(lacks), hours, None if hours is None else hours * price * count)


def _assumed(run: RunFile, rows: Rows, figures: Figures) -> tuple[str, ...]:
    said: list[str] = [*rows.assumed]
    if run.scaling.use_gpu:
        if figures.tokens_per_second is None:
            which = "your peak" if figures.peak else f"the maker's dense {run.training.precision} peak"
            said.append(f"time: {which} x {figures.utilisation:g} of it, an assumption; --tokens-per-second takes what you measured")
        said.append("GPU memory: counted on tensors without memory, not measured on a GPU; allow for the CUDA context and the allocator's gaps")
    elif figures.tokens_per_second is None:
        said.append("time: not told, since nothing says how fast these CPUs are; --tokens-per-second takes what you measured")
    if not run.scaling.use_gpu and run.training.precision == "bf16":
        said.append(
            "memory: tensors; what libraries take beside them comes on top (bf16 on a CPU: 14 to 25 MB a rank were seen, of models of 3 to 6 million weights)"
        )
    said.append(f"host memory: {PROCESS_BYTES / 2**20:,.0f} MiB a process for its libraries (measured), Ray, evaluation actors and other processes apart")
    return tuple(said)


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan in plain values; bytes are bytes."""
    return asdict(plan)
