"""LoRA adapters: attached to a model, and checked against its layers before anything is loaded."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import RequestError, SettingsError, nearest
from tunefleet.trainers.run import Full, Lora, Model

if TYPE_CHECKING:
    from torch import nn

ALL_LINEAR = "all-linear"


def attach(model: Any, peft: Lora, seed: int) -> Any:
    """The model wrapped by PEFT: its own weights frozen, new adapters seeded, so that all ranks and every restart make the same ones.

    Adapters start as the identity: until they are trained, the model is the base model. Raises SettingsError when PEFT refuses.
    """
    import torch
    from peft import get_peft_model

    config = lora_config(peft)
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(fan_in_fan_out|pattern keys did not match)")
            torch.manual_seed(seed)
            return get_peft_model(model, config)
    except ValueError as error:
        raise SettingsError(
            "peft: PEFT refuses this for this model", got=str(error), want="settings that fit the model's layers", fix="see the line above"
        ) from error


def lora_config(peft: Lora) -> Any:
    """PEFT's own settings. A single name is a layer's name, never a pattern."""
    from peft import LoraConfig, TaskType

    targets = peft.target_modules
    return LoraConfig(
        r=peft.r,
        lora_alpha=peft.lora_alpha,
        lora_dropout=peft.lora_dropout,
        target_modules=[targets] if isinstance(targets, str) and targets != ALL_LINEAR else targets,
        modules_to_save=peft.modules_to_save or None,
        task_type=TaskType.CAUSAL_LM,
    )


def target_problems(model: Model, peft: Full | Lora) -> list[RequestError]:
    """What is wrong with the targets of LoRA, found on a model without weights; empty for full training."""
    from tunefleet.trainers.models import skeleton

    if not isinstance(peft, Lora):
        return []
    try:
        bare = skeleton(model)
    except RequestError as error:
        return [error]
    problems = [*_unknown_targets(bare, peft), *_saved_problems(bare, peft)]
    if not problems:
        try:
            attach(bare, peft, seed=0)
        except SettingsError as error:
            problems.append(error)
    return problems


def linear_names(model: nn.Module) -> list[str]:
    """The last part of the names of linear layers, the output layer's aside, in the order of the model."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    linear = [name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    return [name for name in dict.fromkeys(linear) if name != _output_name(model)]


def _unknown_targets(model: Any, peft: Lora) -> list[RequestError]:
    if peft.target_modules == ALL_LINEAR:
        return []
    targets = [peft.target_modules] if isinstance(peft.target_modules, str) else list(peft.target_modules)
    names = linear_names(model)
    want = f"names out of {', '.join(names)}, or all-linear"
    if _output_name(model) in targets:
        return [
            SettingsError(
                "peft.target_modules: the output layer cannot carry an adapter",
                got=str(targets),
                want=want,
                fix=f"name {_output_name(model)} in peft.modules_to_save, where it is trained in full",
            )
        ]
    unknown = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name, _ in model.named_modules()) and not _is_fused(model, t)]
    if not unknown:
        return []
    close = nearest(unknown[0], names)
    what = "names no layer of this model" if len(unknown) == len(targets) else f"{', '.join(unknown)} is no layer of this model"
    fix = f"did you mean {close}?" if close else "set peft.target_modules to all-linear"
    return [SettingsError(f"peft.target_modules: {what}", got=f"{targets} for {type(model).__name__}", want=want, fix=fix)]


def _is_fused(model: Any, target: str) -> bool:
    """Whether the target names a projection of experts that the model holds fused in one tensor; PEFT knows the names they had before."""
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    fused = [name for name, parameter in model.named_parameters() if parameter.dim() == 3]
    if not fused:
        return False
    config = lora_config(Lora(target_modules=[*{target, "gate_proj", "up_proj"}]))
    convert_peft_config_for_transformers(config, model=model, conversions=get_checkpoint_conversion_mapping(model.config.model_type))
    return target not in (config.target_modules or ())


def _saved_problems(model: Any, peft: Lora) -> list[RequestError]:
    names = dict.fromkeys(name.rpartition(".")[2] for name, _ in model.named_modules() if name)
    unknown = [name for name in peft.modules_to_save if name not in names]
    if unknown:
        close = nearest(unknown[0], names)
        fix = f"did you mean {close}?" if close else "remove it"
        return [SettingsError("peft.modules_to_save: names no layer of this model", got=str(unknown), want="names of layers", fix=fix)]
    embedding = next(name.rpartition(".")[2] for name, module in model.named_modules() if module is model.get_input_embeddings())
    tied = {embedding, _output_name(model)} & set(peft.modules_to_save)
    if tied and model.config.get_text_config().tie_word_embeddings:
        return [
            SettingsError(
                "peft.modules_to_save: this model's input and output embeddings are one tensor",
                got=str(sorted(tied)),
                want="layers that share no weights with others",
                fix="leave them out, or train everything (peft: {kind: full})",
            )
        ]
    return []


def _output_name(model: Any) -> str:
    head = model.get_output_embeddings()
    return next((name.rpartition(".")[2] for name, module in model.named_modules() if module is head), "")
