"""The model of a run: its config, its weights (read or random, partitioned while they are made at ZeRO stage 3), and its adapters."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import Refusal, RequestError, SettingsError
from tunefleet.cluster.storage import hash_file
from tunefleet.cluster.storages.folders import local_folder
from tunefleet.trainers.adapters import attach
from tunefleet.trainers.hostmemory import freed_at_once
from tunefleet.trainers.kernels import refuse_kernels
from tunefleet.trainers.origin import adapter_to_go_on, fill_adapter
from tunefleet.trainers.run import Lora, Model, RunFile
from tunefleet.trainers.zero import effective_stage, partitioned_loading

if TYPE_CHECKING:
    import torch

    from tunefleet.cluster.world import World

ATTENTION = ("auto", "eager", "sdpa", "flash_attention_2")
_UNREADABLE = (OSError, ValueError, KeyError, ImportError)  # what transformers raises for a folder, hub id or config that it cannot use


@dataclass(frozen=True)
class Built:
    """A model that is ready for the engine, in training mode; the identity of its base weights; and what was decided for the user."""

    model: Any
    base_fingerprint: str
    decisions: tuple[str, ...]


def build(run: RunFile, world: World) -> Built:
    """The run's model, on the CPU (at stage 3: partitioned over the ranks). Every rank calls this, and gets the same weights.

    Raises SettingsError or Refusal for a model that cannot be had or settings that contradict each other.
    """
    Refusal.raise_if(model_problems(run))
    config = model_config(run.model)
    kwargs, decisions = attention_settings(run.model, config)
    fingerprint = world.broadcast(base_fingerprint(run) if world.main else None)
    random = _random_weights(run, config, kwargs, world) if run.model.init == "random" else None
    with partitioned_loading(run, world) as partitioned, freed_at_once() if partitioned else nullcontext():
        if run.model.init == "pretrained":
            model = _read(run, kwargs)
        elif partitioned:
            model = _partitioned_random(run, config, kwargs, random)
        else:
            model = random
        model = equipped(model, run)
        if isinstance(run.peft, Lora):
            if (adapter := adapter_to_go_on(run)) is not None:
                fill_adapter(model, adapter)
            decisions += _untouched_experts(model)
    return Built(model.train(), fingerprint, tuple(decisions))


def equipped(model: Any, run: RunFile) -> Any:
    """The model with recomputation and new adapters, where the run wants them."""
    if run.training.gradient_checkpointing:
        _recompute(model)
    return attach(model, run.peft, run.training.seed) if isinstance(run.peft, Lora) else model


def model_config(model: Model) -> Any:
    """The transformers config of a model. Raises SettingsError when there is none."""
    from transformers import AutoConfig

    source = model.config if model.init == "random" and model.config else model.name_or_path
    try:
        if isinstance(source, Mapping):
            config = AutoConfig.for_model(**source)
        else:
            revision = model.revision if source is model.name_or_path else None
            config = AutoConfig.from_pretrained(local_folder(str(source), weights=False), revision=revision, trust_remote_code=model.trust_remote_code)
    except _UNREADABLE as error:
        key = "model.config" if source is not model.name_or_path else "model.name_or_path"
        raise SettingsError(
            f"{key}: no model config here", got=f"{source}: {_first_line(error)}", want="a model folder, a hub id, or a config with model_type", fix="check it"
        ) from error
    refuse_kernels(config, str(source) if isinstance(source, str) else "model.config")
    return config


def skeleton(model: Model) -> Any:
    """The model without weights (on the meta device), to look at its layers. Raises SettingsError when its config cannot be had."""
    import torch
    from transformers import AutoModelForCausalLM

    config = model_config(model)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    except _UNREADABLE as error:
        raise SettingsError(
            "model: is no causal language model", got=_first_line(error), want="a model for text generation", fix="take another model"
        ) from error


def model_problems(run: RunFile) -> list[RequestError]:
    """What contradicts itself in the model's settings; nothing is read."""
    problems: list[RequestError] = []
    chosen = run.model.attn_implementation
    if chosen not in ATTENTION:
        problems.append(SettingsError("model.attn_implementation: not known", got=chosen, want=f"one of {', '.join(ATTENTION)}", fix="set it to auto"))
    if chosen == "flash_attention_2" and find_spec("flash_attn") is None:
        problems.append(
            SettingsError(
                "model.attn_implementation: flash-attn is not installed, and its code is never fetched from a hub",
                got=chosen,
                want="the package flash-attn on every worker",
                fix="install flash-attn, or set model.attn_implementation to auto",
            )
        )
    computed = "bfloat16" if run.training.precision == "bf16" else "float32"
    # in bf16 everything is cast to bf16, and at stage 3 DeepSpeed makes all weights in one dtype; else a frozen base may be smaller than what is trained
    frozen = isinstance(run.peft, Lora) and computed == "float32" and effective_stage(run) < 3
    if run.model.dtype not in ("auto", computed) and not frozen:
        problems.append(
            SettingsError(
                "model.dtype: these weights are computed in the training's precision",
                got=f"{run.model.dtype} with precision: {run.training.precision}, peft: {run.peft.kind}, zero.stage: {run.zero.stage}",
                want=f"auto or {computed}",
                fix="set model.dtype to auto",
            )
        )
    return problems


def weights_dtype(run: RunFile) -> torch.dtype:
    """The dtype in which the base weights are held."""
    import torch

    name = run.model.dtype
    if name == "auto":
        name = "bfloat16" if run.training.precision == "bf16" else "float32"
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def base_fingerprint(run: RunFile) -> str:
    """A hash of the base model: of its config and weights files, or of config and seed when it is random. Reads all weights once."""
    digest = hashlib.sha256()
    if run.model.init == "random":
        config = {key: value for key, value in model_config(run.model).to_diff_dict().items() if key != "transformers_version"}
        digest.update(json.dumps({"random": 1, "config": config, "seed": run.training.seed}, sort_keys=True, default=str).encode())
        return digest.hexdigest()
    folder = model_folder(run.model)
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        found = path.stat()
        digest.update(f"{path.name} {_hashed(path, found.st_size, found.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@cache
def _hashed(path: Path, size: int, mtime_ns: int) -> str:
    return hash_file(path)[0]


def model_folder(model: Model) -> Path:
    """The local folder of a pretrained model's files; those of a hub id are fetched. Raises SettingsError when there are none."""
    assert model.name_or_path is not None
    path = Path(local_folder(model.name_or_path))
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model.name_or_path, revision=model.revision, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model"]))
    except (*_UNREADABLE, RuntimeError) as error:
        raise _no_weights(model, error) from error


def _read(run: RunFile, kwargs: dict[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM

    model = run.model
    try:
        return AutoModelForCausalLM.from_pretrained(
            local_folder(str(model.name_or_path)),
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            dtype=weights_dtype(run),
            use_safetensors=True,  # nothing is unpickled
            **kwargs,
        )
    except _UNREADABLE as error:
        raise _no_weights(model, error) from error


def _random_weights(run: RunFile, config: Any, kwargs: dict[str, Any], world: World) -> Any:
    """A seeded random model, made in fp32 whatever the precision. At stage 3 only rank 0 holds it whole, for the others to be filled from."""
    import torch
    from transformers import AutoModelForCausalLM

    if effective_stage(run) == 3 and not world.main:
        return None
    with torch.random.fork_rng():
        torch.manual_seed(run.training.seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=run.model.trust_remote_code, **kwargs)
    for parameter in model.parameters():  # parameters only: rotary frequencies stay in fp32
        parameter.data = parameter.data.to(weights_dtype(run))
    return model


def _partitioned_random(run: RunFile, config: Any, kwargs: dict[str, Any], source: Any) -> Any:
    """The same weights as at any other stage, partitioned: rank 0 hands them out one parameter at a time."""
    import deepspeed
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config, dtype=weights_dtype(run), trust_remote_code=run.model.trust_remote_code, **kwargs)
    values = dict(source.named_parameters()) if source is not None else {}
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
            if values:
                parameter.copy_(values.pop(name))
    return model


def _recompute(model: Any) -> None:
    """Recompute activations in the backward pass. Not re-entrant: a frozen base needs no gradient on its inputs, and a gradient hook fires once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)  # the name that 5.20 knows too
        model.gradient_checkpointing_enable({"use_reentrant": False})


def attention_settings(model: Model, config: Any) -> tuple[dict[str, Any], list[str]]:
    """What is passed to transformers (nothing: its own choice), and what was decided."""
    if model.attn_implementation != "auto":
        return {"attn_implementation": model.attn_implementation}, []
    if config.get_text_config().to_dict().get("attn_logit_softcapping"):
        return {"attn_implementation": "eager"}, ["model.attn_implementation: eager, since sdpa would leave out this model's attention soft-capping"]
    return {}, []


def _untouched_experts(model: Any) -> list[str]:
    """A decision to say when fused experts carry no adapter, which PEFT arranges for the families that it knows."""
    names = [name for name, _ in model.named_parameters()]
    fused = sorted({name.rpartition(".")[2] for name, p in model.named_parameters() if p.dim() == 3 and not p.requires_grad})
    adapted = any("experts" in name and "lora_" in name for name in names)
    return [f"peft: the fused experts ({', '.join(fused)}) carry no adapter: PEFT does not know how for this family"] if fused and not adapted else []


def _no_weights(model: Model, error: Exception) -> SettingsError:
    return SettingsError(
        "model.name_or_path: no weights can be read here",
        got=f"{model.name_or_path}: {_first_line(error)}",
        want="a folder or hub id with config.json and *.safetensors (pickled weights are never opened)",
        fix="check the path, the name or the network; convert old weights to safetensors",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
