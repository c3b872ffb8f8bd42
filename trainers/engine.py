"""The engine: one model on all ranks under DeepSpeed ZeRO, with the same loss curve at every stage, number of ranks and split into micro-batches.

DeepSpeed is told no accumulation and given the boundary by us; its mean over ranks is undone, so that gradients are those of the loss as the loop
divided it. The gradient norm is that of the whole step, before clipping, at every stage.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import SettingsError
from tunefleet.trainers.objective import TokenScores
from tunefleet.trainers.zero import deepspeed_config, effective_stage, prepare_deepspeed, quiet, zero_decisions

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tunefleet.cluster.world import World
    from tunefleet.trainers.objective import Batch
    from tunefleet.trainers.run import RunFile

COALESCE_BYTES = 1 << 28
"""Where all gradients of a rank take no more than this, stages 2 and 3 keep them through a step and reduce once, not once a micro-batch."""

BUCKET_ELEMENTS = 500_000_000
"""DeepSpeed's own default; a smaller model takes a smaller bucket, since stage 3 allocates it whole."""


@dataclass(frozen=True, slots=True)
class Stepped:
    """What one optimizer step did: global gradient norm before clipping (inf when not finite), and whether the weights were updated."""

    grad_norm: float
    applied: bool


class EngineScorer:
    """The way to the model that keeps DeepSpeed's hooks: its forward pass is always the engine's."""

    def __init__(self, deepspeed: Any, module: Any) -> None:
        self.deepspeed, self.module = deepspeed, module

    def token_scores(self, batch: Batch, *, correct: bool = False) -> TokenScores:
        """See trainers.objective.Scorer."""
        return TokenScores(*self.deepspeed(batch, correct=correct))

    def computed_tokens(self, batch: Batch) -> int:
        """See trainers.objective.Scorer."""
        computed: int = self.module.computed_tokens(batch)
        return computed


class Engine:
    """Trains the parameters of ``module`` that require gradients.

    Args:
        module: a TokenScorer: ``forward(batch, correct=False) -> TokenScores``, with the Hugging Face or PEFT model as ``module.model``, whose
            parameter names are the names of checkpoints.
        run: the run file.
        world: the ranks; every rank makes its engine at the same time.

    Raises SettingsError when nothing can be trained, or for a key of ``zero.extra`` that is not the user's to set.
    """

    def __init__(self, module: nn.Module, run: RunFile, world: World) -> None:
        import deepspeed

        prepare_deepspeed(run, world.device)
        if run.training.deterministic:
            be_deterministic()
        self.run, self.world, self.stage = run, world, effective_stage(run)
        self.decisions = zero_decisions(run)
        self.model: Any = module.get_submodule("model")
        self.parameters = trainable_parameters(module)
        elements = sum(full_size(p) for p in self.parameters.values())
        config = deepspeed_config(run, world)
        config["zero_optimization"].setdefault("reduce_bucket_size", min(BUCKET_ELEMENTS, elements))
        optimizer = make_optimizer(self.parameters, run)
        with quiet(run):
            self.deepspeed, *_ = deepspeed.initialize(model=_tuples(module), optimizer=optimizer, config=config, dist_init_required=False)
        self.scorer = EngineScorer(self.deepspeed, module)
        self._reduces_once = self.stage >= 2 and run.training.precision == "fp32" and 4 * elements <= COALESCE_BYTES
        self._coalescing: ExitStack | None = None

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add the gradients of one micro-batch of this rank; every rank calls it equally often.

        Args:
            loss: scalar with grad, already divided by the weights of the whole step; its sum over ranks and micro-batches is the loss of the step.
            last: this was the last micro-batch before ``step``.
        """
        if not last and self._coalescing is None and self._reduces_once:
            self._coalescing = ExitStack()
            self._coalescing.enter_context(self.deepspeed.coalesce_grad_reduction())
        self.deepspeed.set_gradient_accumulation_boundary(last)
        self.deepspeed.backward(loss * self.world.size, scale_wrt_gas=False)  # DeepSpeed takes the mean over ranks, the step wants the sum
        if last and self._coalescing is not None:
            done, self._coalescing = self._coalescing, None
            done.close()

    def rehearse(self, loss: torch.Tensor) -> None:
        """A whole step that changes nothing, so that running out of memory happens before the first real one.

        The loss weighs zero and so does the learning rate; moments stay zero and Adam's count is put back. With state from a checkpoint, whose moments
        would decay, there is only the backward pass: the state is in memory already.
        """
        import torch

        if not torch.isfinite(loss):
            return  # zero times infinity would stay in the gradients; the same batch on every rank, so all return
        fresh = not self.deepspeed.basic_optimizer.state
        self.backward(loss * 0.0, last=fresh)
        if fresh:
            self.step(0.0)
            for state in self.deepspeed.basic_optimizer.state.values():
                state["step"] *= 0  # a tensor, or the plain number of cpu_adamw

    def step(self, rate: float) -> Stepped:
        """Clip, update the weights with learning rate ``rate``, clear the gradients. A step that is not finite on any rank is skipped on all."""
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = rate
        if self.stage == 0:
            return self._plain_step()
        self.deepspeed.step()
        return Stepped(float(self.deepspeed.get_global_grad_norm()), bool(self.deepspeed.was_step_applied()))

    def _plain_step(self) -> Stepped:
        """Stage 0 in fp32: every rank holds every reduced gradient, so each finds the same norm without a message. DeepSpeed would keep it to itself."""
        import torch

        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            self.deepspeed.zero_grad()
            return Stepped(math.inf, applied=False)
        limit = self.run.training.max_grad_norm
        if limit is not None and norm > limit:
            torch._foreach_mul_(gradients, limit / (norm + 1e-6))
        self.deepspeed.step()
        return Stepped(norm, applied=True)

    def updates(self) -> int:
        """Optimizer updates that were applied: Adam's step count, which skipped steps do not advance."""
        for state in self.deepspeed.basic_optimizer.state.values():
            return int(state["step"])
        return 0

    def flat_parameters(self) -> list[torch.Tensor]:
        """The tensors that the torch optimizer updates: flat fp32 partitions, or the parameters themselves at stage 0."""
        if self.stage == 3:
            return list(self.deepspeed.optimizer.fp32_partitioned_groups_flat)
        return [p for group in self.deepspeed.basic_optimizer.param_groups for p in group["params"]]

    def start_state(self, updates: int) -> None:
        """Make the optimizer's state as it stands after ``updates`` updates, moments zero, for a checkpoint to be filled in."""
        import torch

        optimizer = self.deepspeed.basic_optimizer
        plain = self.run.training.optimizer.kind == "cpu_adamw"  # counts its steps in a plain number
        for flat in self.flat_parameters():
            step = updates if plain else torch.tensor(float(updates), dtype=torch.float32, device=flat.device)
            optimizer.state[flat] = {"step": step, "exp_avg": torch.zeros_like(flat), "exp_avg_sq": torch.zeros_like(flat)}

    def close(self) -> None:
        """Take DeepSpeed's hooks off the model."""
        self.deepspeed.destroy()


def trainable_parameters(module: nn.Module) -> dict[str, torch.nn.Parameter]:
    """Parameters that are trained, by their names in the Hugging Face or PEFT model ``module.model``. Raises SettingsError when there is none."""
    model = module.get_submodule("model")
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {id(p) for p in parameters.values()} == {id(p) for p in module.parameters() if p.requires_grad}, "a trained parameter outside of module.model"
    if not parameters:
        raise SettingsError("peft: nothing is trained", got="0 trainable parameters", want="at least one", fix="check peft.target_modules")
    return parameters


def full_shape(parameter: torch.Tensor) -> tuple[int, ...]:
    """The shape of a parameter, also of one that ZeRO-3 has partitioned (which is then empty here)."""
    from deepspeed.runtime.zero.partition_parameters import is_zero_param

    partitioned: Any = parameter
    return tuple(partitioned.ds_shape) if is_zero_param(parameter) else tuple(parameter.shape)


def full_size(parameter: torch.Tensor) -> int:
    """The number of elements of a parameter, also of a partitioned one."""
    return math.prod(full_shape(parameter))


def make_optimizer(parameters: Mapping[str, torch.nn.Parameter], run: RunFile) -> torch.optim.Optimizer:
    """AdamW in one fused pass; biases and norms (vectors) are spared from weight decay. The first ``cpu_adamw`` of a machine is compiled."""
    import torch

    training = run.training
    matrices = [p for p in parameters.values() if len(full_shape(p)) > 1]
    vectors = [p for p in parameters.values() if len(full_shape(p)) <= 1]
    groups: Iterable[list[torch.nn.Parameter]] = [matrices, vectors] if training.weight_decay else [list(parameters.values())]
    decays = (training.weight_decay, 0.0)
    decaying = [{"params": group, "weight_decay": decay} for group, decay in zip(groups, decays, strict=False) if group]
    numbers: dict[str, Any] = {"lr": run.learning_rate(), "betas": (training.optimizer.beta1, training.optimizer.beta2), "eps": training.optimizer.eps}
    if training.optimizer.kind == "cpu_adamw":
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        compiled: torch.optim.Optimizer = DeepSpeedCPUAdam(decaying, **numbers)
        return compiled
    return torch.optim.AdamW(decaying, **numbers, fused=True)


def be_deterministic() -> None:
    """Only kernels that give the same bits every time; an operation that has none raises. To be called before the first matrix product on a GPU."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def _tuples(module: nn.Module) -> nn.Module:
    """The scorer with a plain tuple as output: DeepSpeed's backward hooks find tensors in tuples, not in our values."""
    from torch import nn

    class Tuples(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, batch: Batch, correct: bool = False) -> tuple[torch.Tensor | None, ...]:
            scores: TokenScores = self.inner(batch, correct=correct)
            return tuple(scores)

    return Tuples()
