"""Two steps of training with every allocation written down and named: of real weights, or of ones without memory. It imports torch and DeepSpeed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from tunefleet.cluster.world import World
from tunefleet.trainers.engine import Engine
from tunefleet.trainers.plan.dry import PARTS, PASSES, START, STEP, Memory, Shape
from tunefleet.trainers.plan.tape import Held, Tape, peak
from tunefleet.trainers.run import RunFile
from tunefleet.trainers.scoring import TokenScorer

ROUNDS = 2  # the second finds gradients of the first; a third would find no more


class PlannedScorer(TokenScorer):
    """The scorer as on the run's device: there rows are padded on a GPU, and lie end to end on a CPU."""

    on_gpu = False

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> PlannedScorer:
        """Weights stay where they are: once an optimizer knows them, ones without memory cannot be moved, and they were made in their dtype."""
        return self

    def _unpadded(self, device: torch.device) -> bool:
        return not self.on_gpu and super()._unpadded(device)


def followed(run: RunFile, shape: Shape, world: World, tape: Tape, model: Any, *, after: Callable[[str], object] = lambda phase: None) -> Memory:
    """The memory of a model in training, under a tape. ``after`` is called at the end of every phase.

    Two steps: the second has the optimizer's state in memory from its beginning, and at stage 3 DeepSpeed knows the order of the layers by then.
    """
    tape.phase = START
    tape.mark(_weights(model), "weights")
    scorer = PlannedScorer(model, pack=shape.packed and not run.scaling.use_gpu)
    scorer.on_gpu = run.scaling.use_gpu
    engine = Engine(scorer, run, world)
    tape.mark(_weights(model), "weights")
    tape.mark(_masters(engine), "optimizer")
    tape.mark(_gradients(engine), "gradients")
    after(START)
    for rounds in (1, min(shape.rounds, ROUNDS)):
        tape.phase = PASSES
        for number in range(rounds):
            loss = _loss(engine, shape)
            tape.mark(_weights(model), "weights")  # those that stage 3 has gathered
            tape.mark_live((PASSES,), "activations")
            engine.backward(loss, last=number == rounds - 1)
            del loss
            tape.mark(_gradients(engine), "gradients")
        after(PASSES)
        tape.phase = STEP
        engine.step(1e-3)
        for states in engine.deepspeed.basic_optimizer.state.values():
            tape.mark([value for value in states.values() if isinstance(value, torch.Tensor)], "optimizer")
        after(STEP)
    return _summed(run, tape)


def _loss(engine: Engine, shape: Shape) -> torch.Tensor:
    with _disable_current_modes():  # real numbers, so that what depends on lengths does what it would do
        rows, longest = len(shape.lengths), max(shape.lengths)
        lengths_B1 = torch.tensor(shape.lengths)[:, None]
        positions_BT = torch.arange(longest).expand(rows, longest).clone()
        real_BT = positions_BT < lengths_B1
        labels_BT = torch.where(real_BT & (positions_BT >= lengths_B1 - torch.tensor(shape.supervised)[:, None]), 1, -100)
        batch = {"input_ids": torch.ones_like(positions_BT), "attention_mask": real_BT.long(), "position_ids": positions_BT, "labels": labels_BT}
    return -engine.scorer.token_scores(batch).logp_BT.sum() / sum(shape.supervised)


def _weights(model: Any) -> Iterator[torch.Tensor]:
    """What holds weights now: whole ones, and at stage 3 this rank's share of each."""
    from deepspeed.runtime.zero.partition_parameters import is_zero_param

    for parameter in model.parameters():
        yield parameter
        if is_zero_param(parameter):
            yield parameter.ds_tensor
    yield from model.buffers()


def _masters(engine: Engine) -> list[torch.Tensor]:
    """The fp32 weights that the optimizer updates, where they are other tensors than the model's."""
    return engine.flat_parameters() if engine.stage else []


def _gradients(engine: Engine) -> Iterator[torch.Tensor | None]:
    """Where gradients are kept until the step; DeepSpeed's optimizers keep them in different places."""
    from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    yield from (parameter.grad for parameter in engine.parameters.values())
    yield from (flat.grad for flat in engine.flat_parameters())
    optimizer = engine.deepspeed.optimizer
    match optimizer:
        case BF16_Optimizer():
            yield from optimizer.fp32_groups_gradients_flat
        case DeepSpeedZeroOptimizer_Stage3():
            yield optimizer.grad_partitions_flat_buffer
        case DeepSpeedZeroOptimizer():
            yield from map(optimizer.get_param_gradient_attribute, engine.parameters.values())  # in fp32 beside bf16 weights, where they are not partitioned
            yield from (gradient for group in optimizer.averaged_gradients.values() for gradient in group or ())


def _summed(run: RunFile, tape: Tape) -> Memory:
    for held in tape.held:
        held.kind = held.kind or "buffers"
    kept: set[str] = {"none": set[str](), "optimizer": {"optimizer"}, "parameters": {"optimizer", "weights"}}[run.zero.offload]

    def on_host(held: Held) -> bool:
        """Whether offload keeps it in host memory: weights are there until a layer is gathered to be used."""
        return held.kind in kept and not (held.kind == "weights" and held.phase == PASSES)

    host = [held for held in tape.held if on_host(held)]
    device = [held for held in tape.held if not on_host(held)] if run.scaling.use_gpu else tape.held
    highest = peak(device)
    return Memory(
        device=highest.bytes,
        phase=highest.phase,
        parts={name: highest.parts.get(name, 0) for name in PARTS},
        resting=sum(held.bytes for held in device if held.died > tape.now),
        host=peak(host).bytes,
        phases={name: peak(device, phases=[name]).bytes for name in (START, PASSES, STEP)},
    )
