"""The run file: every setting of one run, each defined once, by the component that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from tunefleet.cluster.errors import Refusal, SettingsError
from tunefleet.cluster.plugins import Plugin
from tunefleet.cluster.settings import Checked, Settings, check, refusal
from tunefleet.cluster.yamlfile import Document, read
from tunefleet.data.packing import Limits
from tunefleet.data.settings import Data
from tunefleet.data.steps import StepSize
from tunefleet.trainers.foreign import refuse_code

OBJECTIVES = "tunefleet.trainers.objectives"
METRICS = "tunefleet.trainers.evaluation.metrics"
TRACKERS = "tunefleet.trainers.trackers"


class Tokenizer(Settings):
    """The tokenizer, where it is not simply the model's."""

    name_or_path: str | None = Field(default=None, description="tokenizer folder or hub id; null takes the model's")
    train_vocab_size: PositiveInt | None = Field(default=None, description="train a byte-level BPE of this size on the training rows instead")
    pad_token: str | None = Field(
        default=None, description="token for padding; null takes the tokenizer's, else its end-of-text token (padding never carries loss)"
    )


class Model(Settings):
    """The model to start from."""

    name_or_path: str | None = Field(
        default=None, description="folder, hub id, or another run file (*.yaml): that run is done first, in the same session, and its export is the model"
    )
    revision: str | None = Field(default=None, description="revision on the hub")
    init_from: str | None = Field(
        default=None, description="a run's output, a checkpoint or an export to begin from, instead of name_or_path: LoRA goes on from LoRA, full from all"
    )
    began_as: str | None = Field(default=None, description="written by the run itself: what init_from meant, with its digest")
    began_as_path: str | None = Field(default=None, description="written by the run itself: init_from as it was given")
    trust_remote_code: bool = Field(default=False, description="run code that the model's repository ships; off unless you have read it")
    init: Literal["pretrained", "random"] = Field(default="pretrained", description="pretrained weights, or random ones made from config")
    config: dict[str, Any] | str | None = Field(
        default=None, description="for init: random: a config ({model_type: llama, ...}), or the path of one; null takes name_or_path's"
    )
    attn_implementation: str = Field(default="auto", description="auto, eager, sdpa, or flash_attention_2 (only with flash-attn installed)")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(default="auto", description="dtype of the frozen weights; auto follows training.precision")
    quantization: Literal["none"] = Field(default="none", description="quantised base weights; not built yet")
    tokenizer: Tokenizer = Field(default=Tokenizer(), description="the tokenizer, where it is not the model's")

    @model_validator(mode="after")
    def _has_a_model(self) -> Model:
        if self.init == "random" and self.init_from:
            fix = "remove init, which brings random weights, or init_from"
            raise refusal(SettingsError("two beginnings are given", got="init: random, and init_from", want="one of them", fix=fix))
        if self.init == "pretrained" and not (self.name_or_path or self.init_from):
            want = "name_or_path: a folder, a hub id or a run file"
            raise refusal(
                SettingsError("name_or_path is missing", got="init: pretrained", want=want, fix="set model.name_or_path, or init: random with a config")
            )
        if self.init == "random" and not self.config and not self.name_or_path:
            want = "config, or name_or_path to take the config from"
            raise refusal(SettingsError("config is missing", got="init: random", want=want, fix="set model.config: {model_type: llama, ...}"))
        return self


def _named(value: Any) -> Any:
    """``lora`` stands for ``{kind: lora}``."""
    return {"kind": value} if isinstance(value, str) else value


class Full(Settings):
    """Train every weight."""

    kind: Literal["full"] = "full"


class Lora(Settings):
    """Low-rank adaptation. Source: Hu et al. 2021, arXiv:2106.09685."""

    kind: Literal["lora"] = "lora"
    r: PositiveInt = Field(default=8, description="rank")
    lora_alpha: PositiveFloat = Field(default=16, description="scale: the update is multiplied by lora_alpha / r")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout on the adapter's input")
    target_modules: str | list[str] = Field(default="all-linear", description="all-linear, or names of layers")
    modules_to_save: list[str] = Field(default_factory=list, description="further modules that are trained in full and saved with the adapter")


class Adamw(Settings):
    """AdamW. Source: Loshchilov and Hutter 2017, arXiv:1711.05101."""

    kind: Literal["adamw"] = "adamw"
    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the first moment")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="decay of the second moment")
    eps: PositiveFloat = Field(default=1e-8, description="added to the denominator")


class CpuAdamw(Settings):
    """The same AdamW, computed by DeepSpeed's vector code on the host, with zero.offload; a compiler builds it once a node, in about a minute."""

    kind: Literal["cpu_adamw"] = "cpu_adamw"
    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the first moment")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="decay of the second moment")
    eps: PositiveFloat = Field(default=1e-8, description="added to the denominator")


class Training(Settings):
    """How long, how fast, how precisely."""

    max_steps: PositiveInt | None = Field(default=None, description="optimizer steps; exactly one of max_steps and num_train_epochs")
    num_train_epochs: PositiveFloat | None = Field(default=None, description="passes over the training rows; exactly one of max_steps and num_train_epochs")
    train_batch_size: PositiveInt | None = Field(
        default=None, description="examples per optimizer step, over all ranks; need not divide by anything; 64 where train_batch_tokens is null too"
    )
    train_batch_tokens: PositiveInt | None = Field(
        default=None, description="tokens per optimizer step, over all ranks, to within the longest example, instead of train_batch_size"
    )
    micro_batch_size: PositiveInt | None = Field(
        default=None, description="most examples per rank per forward: the memory knob; 8 where micro_batch_tokens is null too"
    )
    micro_batch_tokens: PositiveInt | None = Field(
        default=None, description="most tokens per rank per forward, instead of micro_batch_size; with padding, unless batching is pack"
    )
    learning_rate: PositiveFloat | None = Field(default=None, description="peak learning rate; null takes 1e-5 for full and 1e-4 for LoRA")
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = Field(default="cosine", description="shape after the warm-up")
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1, description="share of the steps that warm up linearly")
    warmup_steps: NonNegativeInt | None = Field(default=None, description="steps that warm up, instead of warmup_ratio")
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1, description="learning rate at the end, as a share of the peak")
    weight_decay: NonNegativeFloat = Field(default=0.0, description="decoupled weight decay; biases and norms are spared")
    max_grad_norm: PositiveFloat | None = Field(default=1.0, description="gradients are scaled down to this global norm; null never")
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="fp32, or bf16 with fp32 master weights, accumulation and reduction")
    gradient_checkpointing: bool = Field(default=False, description="recompute activations in the backward pass: less memory, about a third more time")
    optimizer: Annotated[Adamw | CpuAdamw, Field(discriminator="kind"), BeforeValidator(_named)] = Field(default=Adamw(), description="the optimizer")
    deterministic: bool = Field(default=False, description="deterministic kernels on GPU, so that a resumed curve is bit-equal; CPU always is")
    seed: NonNegativeInt = Field(default=0, description="seeds order, dropout and new weights")
    skip_nonfinite_steps: NonNegativeInt = Field(default=3, description="steps in a row with a NaN or Inf gradient that are skipped before the run stops")

    @model_validator(mode="after")
    def _one_length_one_micro(self) -> Training:
        if (self.max_steps is None) == (self.num_train_epochs is None):
            got = "neither" if self.max_steps is None else f"max_steps: {self.max_steps} and num_train_epochs: {self.num_train_epochs}"
            raise refusal(SettingsError("one length is wanted", got=got, want="exactly one of max_steps and num_train_epochs", fix="set one, remove the other"))
        if self.micro_batch_size is not None and self.micro_batch_tokens is not None:
            got = f"micro_batch_size: {self.micro_batch_size} and micro_batch_tokens: {self.micro_batch_tokens}"
            raise refusal(SettingsError("two bounds of a forward", got=got, want="at most one of micro_batch_size and micro_batch_tokens", fix="remove one"))
        if self.train_batch_size is not None and self.train_batch_tokens is not None:
            got = f"train_batch_size: {self.train_batch_size} and train_batch_tokens: {self.train_batch_tokens}"
            raise refusal(SettingsError("two sizes of a step", got=got, want="at most one of train_batch_size and train_batch_tokens", fix="remove one"))
        return self

    def step_size(self) -> StepSize:
        """What an optimizer step has, over all ranks."""
        return StepSize(self.train_batch_size or (None if self.train_batch_tokens else 64), self.train_batch_tokens)

    def limits(self) -> Limits:
        """The most that a rank computes at once: examples, or tokens where micro_batch_tokens is the bound."""
        return Limits(self.micro_batch_size or (None if self.micro_batch_tokens else 8), self.micro_batch_tokens)


class Zero(Settings):
    """DeepSpeed ZeRO. Source: Rajbhandari et al. 2019, arXiv:1910.02054."""

    stage: Literal[0, 1, 2, 3] = Field(default=2, description="what is partitioned over ranks: 0 nothing, 1 optimizer, 2 gradients too, 3 weights too")
    offload: Literal["none", "optimizer", "parameters"] = Field(
        default="none", description="held in host memory: optimizer (fp32 weights and moments; stages 1-3), or parameters (weights too; stage 3 only)"
    )
    extra: dict[str, Any] = Field(default_factory=dict, description="DeepSpeed keys that are not ours to set")


class Parallel(Settings):
    """Further axes of the mesh; above 1 is refused until it is built."""

    sequence: Literal[1] = Field(default=1, description="ranks that share one sequence; only 1 is built")
    tensor: Literal[1] = Field(default=1, description="ranks that share one layer; only 1 is built")
    expert: Literal[1] = Field(default=1, description="ranks that share the experts; only 1 is built")


class Scaling(Settings):
    """How many workers, and what each holds."""

    num_workers: PositiveInt = Field(default=1, description="ranks, one process each")
    use_gpu: bool = Field(default=False, description="one GPU a worker")
    cpus_per_worker: PositiveInt = Field(default=1, description="CPU cores a worker")


class Checkpoint(Settings):
    """When to save, and how many to keep."""

    every_steps: PositiveInt | None = Field(default=50, description="steps between checkpoints; null saves only at the end")
    keep: PositiveInt = Field(default=2, description="newest complete checkpoints that stay, beside the best and those in use")


class Resources(Settings):
    """What one evaluation actor holds."""

    cpu: PositiveFloat = Field(default=1.0, description="logical CPUs")
    gpu: NonNegativeFloat = Field(default=0.0, description="GPUs, also a share of one")


class Samples(Settings):
    """Prompts that are answered at every evaluation, by the base model once and by the weights in training."""

    number: NonNegativeInt = Field(default=4, description="prompts taken from held-out rows; 0 for none")
    prompts: list[str] = Field(default_factory=list, description="prompts of your own, instead of held-out rows")
    max_new_tokens: PositiveInt = Field(default=64, description="most tokens of an answer, which is greedy")


class Answers(Settings):
    """Greedy answers to held-out rows, where a metric reads them."""

    rows: PositiveInt | None = Field(default=200, description="rows of each held-out set that are answered, from all over it; null for all")
    max_new_tokens: PositiveInt = Field(default=256, description="most tokens of an answer")
    batch_size: PositiveInt | None = Field(default=None, description="rows that are answered at once; null takes evaluation.batch_size; 1 times a user alone")


class Evaluation(Settings):
    """Held-out evaluation against the base model."""

    every_steps: PositiveInt | None = Field(default=50, description="steps between evaluations; null only at the end")
    metrics: list[Annotated[Settings, Plugin(METRICS)]] = Field(
        default=[{"kind": "loss"}], validate_default=True, description="metrics on the held-out rows, of tokens or of answers: loss, rouge, exact_match, ..."
    )
    answers: Answers = Field(default=Answers(), description="what is generated for metrics of answers")
    placement: Literal["auto", "actors", "inline"] = Field(
        default="auto", description="actors beside the training, or inline between steps; auto takes actors where there is room"
    )
    behind: Literal["drop", "wait"] = Field(
        default="drop",
        description="where actors fall behind the training: drop the older of two evaluations that wait, or have the training wait; trials of a study wait, "
        "for they are compared at equal steps",
    )
    actors: PositiveInt = Field(default=1, description="evaluation actors")
    batch_size: PositiveInt = Field(default=16, description="rows a forward")
    resources: Resources = Field(default=Resources(), description="what one actor holds")
    samples: Samples = Field(default=Samples(), description="text that is generated at every evaluation")
    gap_rows: NonNegativeInt = Field(
        default=200, description="training rows, drawn by the seed, that `tunefleet evaluate` scores beside the held-out ones for the overfitting gap"
    )
    suite: str | dict[str, Any] | None = Field(
        default=None,
        description="a suite file, or what would stand in one, that the finished run is scored on beside its base, into evaluation/suite.json; "
        "trials of a study leave it out",
    )
    bootstrap: PositiveInt = Field(default=1000, description="resamples behind the 95% intervals")
    early_stopping_patience: PositiveInt | None = Field(default=None, description="evaluations without a better value before the run stops")
    early_stopping_metric: str = Field(default="loss", description="the metric that early stopping and the best checkpoint go by")
    early_stopping_mode: Literal["min", "max"] = Field(default="min", description="whether smaller or larger is better")


class Logging(Settings):
    """What is said, how often."""

    every_steps: PositiveInt = Field(default=1, description="steps between lines of metrics.jsonl")
    trackers: list[Annotated[Settings, Plugin(TRACKERS)]] = Field(
        default_factory=list, description="who else is told the numbers: tensorboard; mlflow and wandb by their extras"
    )


class Failures(Settings):
    """How much may go wrong before the run gives up."""

    max_failures: NonNegativeInt = Field(default=3, description="restarts of the worker group without a new checkpoint in between")
    start_timeout_s: PositiveFloat = Field(default=300.0, description="seconds in which all workers must have started")
    stop_timeout_s: PositiveFloat = Field(
        default=120.0, description="seconds that the workers have to save and end when the run is asked to stop; then they are ended as they are"
    )
    rendezvous_timeout_s: PositiveFloat = Field(default=300.0, description="seconds in which workers that have started must have found each other")
    collective_timeout_s: PositiveFloat | None = Field(
        default=None, description="seconds that a collective waits for the other ranks, longer than hang_timeout_s; null is a minute longer"
    )
    hang_timeout_s: PositiveFloat = Field(
        default=1800.0, description="seconds without progress after which the workers count as hung; a node that is lost Ray notices within 65"
    )

    @model_validator(mode="after")
    def _stacks_before_the_end(self) -> Failures:
        if self.collective_timeout_s is not None and self.collective_timeout_s <= self.hang_timeout_s:
            raise refusal(
                SettingsError(
                    "collective_timeout_s: a collective would give up before the watchdogs keep the stacks of the ranks",
                    got=f"{self.collective_timeout_s:g}, with hang_timeout_s: {self.hang_timeout_s:g}",
                    want=f"more than {self.hang_timeout_s:g}, or null",
                    fix="lower hang_timeout_s to notice a hang earlier",
                )
            )
        return self


class Export(Settings):
    """What is written for others to load."""

    at_end: bool = Field(default=True, description="export when the run is done")
    merge: bool = Field(default=False, description="merge the adapter into the base model's weights")


class RunFile(Settings):
    """One run: rows in, a better model out."""

    version: Literal[1] = Field(default=1, description="version of this format")
    name: str = Field(default="run", description="a name for people")
    model: Model = Field(description="the model to start from")
    data: Data = Field(description="what the run eats")
    objective: Annotated[Settings, Plugin(OBJECTIVES)] = Field(default={"kind": "sft"}, validate_default=True, description="what is optimised")
    peft: Annotated[Full | Lora, Field(discriminator="kind"), BeforeValidator(_named)] = Field(default=Full(), description="which weights are trained")
    training: Training = Field(description="how long, how fast, how precisely")
    zero: Zero = Field(default=Zero(), description="DeepSpeed ZeRO")
    parallel: Parallel = Field(default=Parallel(), description="further axes of the mesh")
    scaling: Scaling = Field(default=Scaling(), description="workers")
    checkpoint: Checkpoint = Field(default=Checkpoint(), description="checkpoints")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="held-out evaluation")
    logging: Logging = Field(default=Logging(), description="what is said")
    failures: Failures = Field(default=Failures(), description="failure budgets")
    export: Export = Field(default=Export(), description="what is written for others to load")
    output: str = Field(description="folder of everything that the run writes")

    def learning_rate(self) -> float:
        """The peak learning rate, with the default of the kind of training."""
        return self.training.learning_rate or (1e-4 if self.peft.kind == "lora" else 1e-5)


STAND_IN = {"model": {"name_or_path": "unknown"}, "data": {"train": [{"path": "unknown"}]}, "training": {"max_steps": 1}, "output": "unknown"}
"""What is required of a run file: takes the place of what is wrong, so that the rest can still be checked."""


def read_run(run: RunFile | str | Path, overrides: Mapping[str, str] | None = None, *, trust_code: bool = False) -> Checked[RunFile]:
    """Read a run file, or take one that was made in Python, with ``dotted.key=value`` overrides; collect everything that is wrong with its text.

    A file that lies in a run's output is refused, and nothing of it imported, when it asks for code that neither ``overrides`` nor ``trust_code`` allow.
    """
    if isinstance(run, RunFile) and not overrides:
        return Checked(run, [])
    try:
        document = Document(run.model_dump(mode="json"), run.name) if isinstance(run, RunFile) else read(run)
    except SettingsError as error:
        return Checked(None, [error])
    if not isinstance(run, RunFile) and not trust_code and (refused := refuse_code(run, document, overrides or {})):
        return Checked(None, [refused])
    for key, text in (overrides or {}).items():
        document = document.with_override(key, text)
    return check(RunFile, document, STAND_IN)


def load_run(path: str | Path, overrides: Mapping[str, str] | None = None, *, trust_code: bool = False) -> RunFile:
    """A valid run file. Raises SettingsError or Refusal with every problem of its text."""
    checked = read_run(path, overrides, trust_code=trust_code)
    Refusal.raise_if(checked.problems)
    assert checked.value is not None
    return checked.value
