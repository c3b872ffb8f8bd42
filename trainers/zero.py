"""DeepSpeed's settings and its start: what we set ourselves, what a run file may add, and what must not happen (a compiler, noise, a half read model)."""

from __future__ import annotations

import io
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import Refusal, SettingsError, nearest

if TYPE_CHECKING:
    import torch

    from tunefleet.cluster.world import World
    from tunefleet.trainers.run import RunFile

ZERO_KEYS = (
    "allgather_bucket_size",
    "allgather_partitions",
    "contiguous_gradients",
    "ignore_unused_parameters",
    "log_trace_cache_warnings",
    "overlap_comm",
    "reduce_bucket_size",
    "reduce_scatter",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "stage3_model_persistence_threshold",
    "stage3_module_granularity_threshold",
    "stage3_param_persistence_threshold",
    "stage3_prefetch_bucket_size",
    "sub_group_size",
    "use_multi_rank_bucket_allreduce",
)
"""Keys of ``zero.extra.zero_optimization``: they move memory and messages, and change neither the loss nor where a fragment lies."""

DIAGNOSTICS = ("dump_state", "memory_breakdown", "wall_clock_breakdown")
"""Switches of ``zero.extra`` that make DeepSpeed talk; without one of them it is kept quiet."""

OURS = {
    "train_batch_size": "training.train_batch_size",
    "train_micro_batch_size_per_gpu": "training.micro_batch_size",
    "gradient_accumulation_steps": "training.train_batch_size, micro_batch_size and scaling.num_workers",
    "gradient_clipping": "training.max_grad_norm",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "torch_autocast": "training.precision",
    "data_types": "training.precision",
    "optimizer": "training.optimizer",
    "scheduler": "training.lr_scheduler_type",
    "zero_optimization.stage": "zero.stage",
    "zero_optimization.offload_optimizer": "zero.offload",
    "zero_optimization.offload_param": "zero.offload",
}
"""DeepSpeed's keys that have a key of their own in the run file."""


def effective_stage(run: RunFile) -> int:
    """The stage that DeepSpeed runs: in bf16 it accumulates in fp32 only where it also partitions, so stage 0 is run as stage 1."""
    return 1 if run.zero.stage == 0 and run.training.precision == "bf16" else run.zero.stage


def zero_decisions(run: RunFile) -> list[str]:
    """What was chosen for the user, to be said once."""
    if effective_stage(run) == run.zero.stage:
        return []
    return [
        f"zero.stage: {run.zero.stage} with precision: bf16 runs as stage {effective_stage(run)}, which accumulates gradients in fp32; the loss is the same"
    ]


def deepspeed_config(run: RunFile, world: World) -> dict[str, Any]:
    """DeepSpeed's configuration of a run. Raises SettingsError or Refusal for keys of ``zero.extra`` that are not the user's to set.

    Accumulation is ours (DeepSpeed is told 1 and given the boundary), gradients are accumulated and reduced in fp32, nothing is timed or printed.
    """
    Refusal.raise_if([*extra_problems(run), *offload_problems(run)])
    stage = effective_stage(run)
    config: dict[str, Any] = {
        "train_batch_size": world.size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": (run.training.max_grad_norm or 0.0) if stage > 0 else 0.0,  # at stage 0 the engine clips: DeepSpeed would not tell the norm
        "bf16": {"enabled": run.training.precision == "bf16", "check_grad_overflow": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "timers": {"throughput": {"enabled": False}},
    }
    config["zero_optimization"].update(_offload(run))
    config["zero_force_ds_cpu_optimizer"] = False  # torch's AdamW updates tensors of the host as well, and nothing is compiled for it
    extra = dict(run.zero.extra)
    config["zero_optimization"].update(extra.pop("zero_optimization", {}))
    return {**config, **extra}


def _offload(run: RunFile) -> dict[str, Any]:
    """What DeepSpeed keeps in host memory; page-locked where a GPU reads it."""
    host = {"device": "cpu", "pin_memory": run.scaling.use_gpu}
    held = {"none": (), "optimizer": ("offload_optimizer",), "parameters": ("offload_optimizer", "offload_param")}[run.zero.offload]
    return {key: dict(host) for key in held}


def offload_problems(run: RunFile) -> list[SettingsError]:
    """What cannot be held in host memory at this stage, and an optimizer of the host without anything there to optimize."""
    zero, least = run.zero, {"none": 0, "optimizer": 1, "parameters": 3}[run.zero.offload]
    problems = []
    if zero.stage < least:
        want = "zero.stage 3, which partitions the weights" if least == 3 else "zero.stage 1, 2 or 3, which partition the optimizer"
        fix = f"set zero.stage to {least}, or zero.offload to " + ("optimizer" if least == 3 and zero.stage else "none")
        problems.append(SettingsError(f"zero.offload: {zero.offload} cannot be offloaded at this stage", got=f"zero.stage: {zero.stage}", want=want, fix=fix))
    if run.training.optimizer.kind == "cpu_adamw" and zero.offload == "none":
        fix = "set zero.offload to optimizer, or training.optimizer to adamw"
        want = "zero.offload: optimizer or parameters"
        problems.append(SettingsError("training.optimizer: cpu_adamw updates what lies in host memory", got="zero.offload: none", want=want, fix=fix))
    return problems


def compiler_problems(run: RunFile) -> list[SettingsError]:
    """What this machine lacks to compile the optimizer that was asked for."""
    from shutil import which

    if run.training.optimizer.kind != "cpu_adamw" or (which("g++") and which("ninja")):
        return []
    missing = ", ".join(name for name in ("g++", "ninja") if not which(name))
    fix = "install it on every node, or set training.optimizer to adamw, which needs none"
    return [SettingsError("training.optimizer: cpu_adamw must be compiled", got=f"no {missing}", want="g++ and ninja on the path of every worker", fix=fix)]


def extra_problems(run: RunFile) -> list[SettingsError]:
    """What is wrong with ``zero.extra``. An allow-list: DeepSpeed itself would silently ignore a misspelt key, and some of its keys write files."""
    extra = run.zero.extra
    inner = extra.get("zero_optimization", {})
    if not isinstance(inner, dict):
        return [SettingsError("zero.extra.zero_optimization: is no mapping", got=repr(inner), want="{key: value}", fix="see DeepSpeed's zero_optimization")]
    top = (*DIAGNOSTICS, "zero_optimization")
    problems = [_problem(key, key, top) for key in extra if key not in top]
    return problems + [_problem(f"zero_optimization.{key}", key, ZERO_KEYS) for key in inner if key not in ZERO_KEYS]


def _problem(path: str, key: str, known: tuple[str, ...]) -> SettingsError:
    ours = OURS.get(path)
    if ours:
        return SettingsError(f"zero.extra.{path}: has a key of its own", got=path, want="only DeepSpeed keys that are not ours to set", fix=f"set {ours}")
    close = nearest(key, known)
    return SettingsError(
        f"zero.extra.{path}: not allowed",
        got=key,
        want=f"one of {', '.join(known)}",
        fix=f"did you mean {close}?" if close else "remove it: it is not tested here",
    )


def prepare_deepspeed(run: RunFile, device: torch.device) -> None:
    """Make DeepSpeed quiet unless asked, keep it from compiling anything on CPU, and give it a process group where there is none. Idempotent."""
    os.environ.setdefault("LOCAL_RANK", str(device.index or 0))  # DeepSpeed insists on it; who starts several ranks sets it
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    import torch.distributed as dist
    from deepspeed.utils import logger

    logger.setLevel(logging.INFO if _talks(run) else logging.ERROR)
    warnings.filterwarnings("ignore", message=r".*(all_gather_into_tensor|reduce_scatter_tensor).*deprecated", category=FutureWarning)  # DeepSpeed's calls
    if device.type == "cpu":  # its shared-memory all-reduce would be compiled for 53 s at the first start
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():
        dist.init_process_group("gloo" if device.type == "cpu" else "nccl", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]


def prepare_optimizer(run: RunFile, say: Callable[[str], object]) -> None:
    """Have DeepSpeed compile what the optimizer asks for, and say so before and after; nothing for torch's own. Ranks of a node wait for one another.

    Raises SettingsError when it cannot be compiled here.
    """
    if run.training.optimizer.kind != "cpu_adamw":
        return
    from deepspeed.ops.op_builder import CPUAdamBuilder

    say("training.optimizer: DeepSpeed compiles its CPU Adam, once a node: a minute or some, a moment where that was done before")
    began = time.monotonic()
    try:
        with quiet(run):
            CPUAdamBuilder().load()
    except (RuntimeError, ImportError, OSError) as error:
        got = (str(error).strip().splitlines() or [type(error).__name__])[0]
        fix = "install what is missing, or set training.optimizer to adamw, which needs no compiler"
        raise SettingsError("training.optimizer: cpu_adamw cannot be compiled here", got=got, want="g++ and ninja on every node", fix=fix) from error
    say(f"training.optimizer: CPU Adam is ready after {time.monotonic() - began:.0f} s")


@contextmanager
def quiet(run: RunFile) -> Iterator[None]:
    """Swallow what DeepSpeed prints while it starts (tables of memory in bf16), unless the run file asks for diagnostics."""
    if _talks(run):
        yield
    else:
        with redirect_stdout(io.StringIO()):
            yield


def _talks(run: RunFile) -> bool:
    return any(run.zero.extra.get(key) for key in DIAGNOSTICS)


@contextmanager
def partitioned_loading(run: RunFile, world: World) -> Iterator[bool]:
    """At stage 3, models made inside by ``from_pretrained`` or ``from_config`` are partitioned over the ranks as they are made.

    Yields whether that is so. Every rank enters with the same model; the device must be set before.
    """
    if effective_stage(run) < 3:
        yield False
        return
    prepare_deepspeed(run, world.device)
    import deepspeed
    from transformers.integrations import HfDeepSpeedConfig

    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(verbose=False)
    keep = HfDeepSpeedConfig(deepspeed_config(run, world))  # transformers asks it as long as it lives
    yield True
    del keep
