"""The model card beside an export: what it was made from, how, and how good it is. Pure text from plain values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tunefleet.trainers.run import Lora, RunFile


def model_card(run: RunFile, *, kind: str, base: str, step: int, fingerprint: str, evaluation: Mapping[str, Any] | None) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        run: the run as it was trained.
        kind: adapter, full or merged.
        base: hub id or absolute address of the base model, or "" for a random one.
        step: optimizer steps behind these weights.
        fingerprint: hash of the base model's config and weights.
        evaluation: content of the evaluation file of this step, where there is one.
    """
    front: dict[str, Any] = {"library_name": "peft" if kind == "adapter" else "transformers", "pipeline_tag": "text-generation", "tags": _tags(run, kind)}
    if base and not Path(base).is_absolute():  # a hub id; a local path would break the hub's links
        front["base_model"] = base
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False).strip()}\n---",
        f"# {run.name}",
        _origin(run, kind, base, step, fingerprint),
        _training(run),
        *([_evaluation(evaluation)] if evaluation else []),
        f"## Use\n\n```python\n{_usage(kind)}\n```",
        "## Limits\n\nThe model has the limits of its base model and of the rows it was trained on. The numbers above hold for the held-out rows only.",
    ]
    return "\n\n".join(parts) + "\n"


def _tags(run: RunFile, kind: str) -> list[str]:
    objective: str = vars(run.objective)["kind"]
    return ["tunefleet", objective, *(["lora"] if isinstance(run.peft, Lora) else []), *(["merged"] if kind == "merged" else [])]


def _origin(run: RunFile, kind: str, base: str, step: int, fingerprint: str) -> str:
    made = {"adapter": "A LoRA adapter for", "merged": "A LoRA adapter merged into", "full": "All weights, trained from"}[kind]
    source = f"`{base}`" if run.model.init == "pretrained" else "random weights"
    began = f"\n\nIt began from `{run.model.began_as}`." if run.model.began_as else ""
    return f"{made} {source}, after {step} optimizer steps.{began}\n\nBase model fingerprint: `{fingerprint}`"


def _training(run: RunFile) -> str:
    training, size = run.training, run.training.step_size()
    rows: dict[str, Any] = {
        "objective": vars(run.objective)["kind"],
        "rows": ", ".join(Path(source.path.partition("?")[0]).name for source in run.data.train),
        "an optimizer step": f"{size.examples} examples" if size.examples else f"about {size.tokens} tokens",
        "longest example": f"{run.data.max_length} tokens",
        "learning rate": f"{run.learning_rate():g}, {training.lr_scheduler_type}",
        "precision": training.precision,
        "seed": training.seed,
    }
    if isinstance(run.peft, Lora):
        targets = run.peft.target_modules
        rows["LoRA"] = f"r {run.peft.r}, alpha {run.peft.lora_alpha:g}, on {targets if isinstance(targets, str) else ', '.join(targets)}"
    return "## Training\n\n| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _evaluation(content: Mapping[str, Any]) -> str:
    """Every metric of every set, tuned against base, with 95% intervals."""
    lines = ["## Evaluation", "", "| held-out rows | metric | base model | this model |", "|---|---|---|---|"]
    for name, found in content["sets"].items():
        for metric, tuned in found["tuned"].items():
            lines.append(f"| {name} ({found['rows']}) | {metric} | {_interval(found['base'].get(metric))} | {_interval(tuned)} |")
    return "\n".join(lines)


def _interval(value: Mapping[str, float | None] | None) -> str:
    """A value with its interval; what is not finite stands as null in an evaluation."""
    if value is None:
        return ""
    shown = ["-" if value[name] is None else f"{value[name]:.4g}" for name in ("value", "low", "high")]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def _usage(kind: str) -> str:
    if kind == "adapter":
        return 'from peft import AutoPeftModelForCausalLM\n\nmodel = AutoPeftModelForCausalLM.from_pretrained("PATH")'
    return 'from transformers import AutoModelForCausalLM\n\nmodel = AutoModelForCausalLM.from_pretrained("PATH")'
