"""A dry run: the run's own engine, model and costliest micro-batch on tensors without memory, in a process of its own, with every allocation written down.

Nothing here says how much a ZeRO stage takes. DeepSpeed is started as it is for training, in a group of as many ranks as the run has, whose messages go
nowhere; so its buckets, flat copies and gathered weights are what its own code asks for, and stay right when it changes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tunefleet.trainers.run import RunFile

if TYPE_CHECKING:
    from tunefleet.cluster.world import World
    from tunefleet.trainers.plan.tape import Tape

PRELOADED = ("torch", "transformers", "deepspeed", "deepspeed.runtime.zero.muon.muon_optimizer", "peft", "tunefleet.trainers.plan.tape")
BUILD, START, PASSES, STEP = "model", "start of the engine", "forward and backward", "optimizer step"
PARTS = ("weights", "gradients", "optimizer", "activations", "buffers")


@dataclass(frozen=True)
class Shape:
    """The costliest micro-batch of a run: tokens and supervised tokens of each row, padded or end to end; and how many rounds a step has at most."""

    lengths: tuple[int, ...]
    supervised: tuple[int, ...]
    rounds: int
    packed: bool


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank. ``device``: at its highest, in the named phase, with what it is made of (PARTS); ``resting``: between steps.

    ``host``: what offload keeps in host memory at its highest; on a CPU it is one memory, and ``device`` holds it too.
    ``phases``: the highest of each phase. ``why`` is set, and all else empty, where the dry run could not be done.
    """

    device: int = 0
    phase: str = ""
    parts: Mapping[str, int] = field(default_factory=dict)
    resting: int = 0
    host: int = 0
    phases: Mapping[str, int] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True)
class Job:
    """One dry run: a run file as JSON, whose model's config stands in it or can be read here."""

    run: str
    shape: Shape


def dry_runs(jobs: Sequence[Job], *, at_once: int) -> list[Memory]:
    """The memory of each, in their order; every one in a fresh process, since DeepSpeed and a process group can be had once."""
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    with ProcessPoolExecutor(min(at_once, len(jobs)), mp_context=context, max_tasks_per_child=1) as pool:
        return list(pool.map(in_process, jobs))


def in_process(job: Job) -> Memory:
    """The dry run in this process, which is of no use for anything else afterwards."""
    import gc
    import warnings

    import torch

    gc.freeze()  # what was imported ahead lives on: DeepSpeed collects garbage again and again
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    try:
        return dry_run(RunFile.model_validate(json.loads(job.run)), job.shape)
    except Exception as error:  # noqa: BLE001 - any architecture may do what cannot be done without values; the plan says so and goes on
        return Memory(why=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}")


def dry_run(run: RunFile, shape: Shape) -> Memory:
    """Build, start and take two steps, without memory. Ends with a process group that is no good for messages."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from tunefleet.trainers.models import model_config
    from tunefleet.trainers.plan.followed import followed
    from tunefleet.trainers.plan.tape import Tape

    world = fake_world(run.scaling.num_workers)
    config = model_config(run.model).get_text_config().to_dict()
    experts = config.get("num_experts") or config.get("num_local_experts") or 1
    with FakeTensorMode(allow_non_fake_inputs=True) as fakes, Tape(fakes, experts=experts) as tape:
        return followed(run, shape, world, tape, bare_model(run, world, tape))


def fake_world(ranks: int) -> World:
    """A group of so many ranks, of which only this one is there: its messages are sent nowhere and answered at once."""
    import torch
    import torch.distributed as dist
    from torch.distributed._tools import fake_collectives  # noqa: F401 - registers what collectives give for tensors without memory
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from tunefleet.cluster.world import World

    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE=str(ranks), DS_ACCELERATOR="cpu")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    return World(0, ranks, 0, torch.device("cpu"), {"data": ranks, "sequence": 1, "tensor": 1, "expert": 1})


def bare_model(run: RunFile, world: World, tape: Tape) -> Any:
    """The run's model by its config: what reading or making weights takes on the way is counted apart (see trainers/plan/host.py)."""
    from transformers import AutoModelForCausalLM

    from tunefleet.trainers.models import attention_settings, equipped, model_config, weights_dtype
    from tunefleet.trainers.zero import partitioned_loading, prepare_deepspeed

    tape.phase = BUILD
    prepare_deepspeed(run, world.device)
    config = model_config(run.model)
    kwargs, _ = attention_settings(run.model, config)
    with partitioned_loading(run, world):
        made = AutoModelForCausalLM.from_config(config, dtype=weights_dtype(run), trust_remote_code=run.model.trust_remote_code, **kwargs)
        return equipped(made, run).train()
