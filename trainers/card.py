"""The model card beside an export: what it was made from, how, how good it is, and how to make it again. Pure text from plain values."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from tunefleet.cluster.masking import masked, masked_value, without_folders
from tunefleet.data.origin import is_hub
from tunefleet.trainers.provenance import Provenance
from tunefleet.trainers.run import Lora, RunFile

_COUNTED = ("rows", "kept", "train", "holdout", "tokens", "supervised")
_RELATION = {"adapter": "adapter", "merged": "finetune", "full": "finetune"}


@dataclass(frozen=True)
class About:
    """The weights of an export.

    Attributes:
        kind: adapter, full or merged.
        base: hub id or absolute address of the base model, or "" for a random one.
        step: optimizer steps behind these weights.
        fingerprint: hash of the base model's config and weights.
        evaluation: content of the evaluation file of this step, where there is one.
        history: where they come from.
    """

    kind: str
    base: str
    step: int
    fingerprint: str
    evaluation: Mapping[str, Any] | None = None
    history: Provenance = field(default_factory=Provenance)


def model_card(run: RunFile, about: About) -> str:
    """Markdown with the front matter that model hubs read. No secret is in it, and no folder of this machine."""
    front = yaml.safe_dump(front_matter(run, about), sort_keys=False, allow_unicode=True).strip()
    parts = [
        f"---\n{front}\n---",
        f"# {_cell(run.name)}",
        _summary(run, about),
        *([_evaluation(about.evaluation)] if about.evaluation else []),
        _section("Training", _training(run)),
        *_data(run, about.history.data),
        _lineage(about),
        _section("Made with", _made_with(about.history)),
        _run_file(run),
        f"## Use\n\n```python\n{_usage(about.kind)}\n```",
        "## Limits\n\nThe model has the limits of its base model and of the rows it was trained on. Numbers hold for the held-out rows only.",
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(run: RunFile, about: About) -> dict[str, Any]:
    """What hubs read: library, task, tags, the base model and data sets where they are ids of a hub, and the numbers of the evaluation."""
    front: dict[str, Any] = {"library_name": "peft" if about.kind == "adapter" else "transformers", "pipeline_tag": "text-generation"}
    front["tags"] = ["tunefleet", vars(run.objective)["kind"], *(["lora"] if isinstance(run.peft, Lora) else []), *_merged(about)]
    if _is_id(about.base):  # a local path would break the hub's links
        front |= {"base_model": about.base, "base_model_relation": _RELATION[about.kind]}
    if sets := list(dict.fromkeys(source.path for source in run.data.train if is_hub(source))):
        front["datasets"] = sets
    results = list(_results(about.evaluation or {}))
    return front | ({"model-index": [{"name": run.name, "results": results}]} if results else {})


def _merged(about: About) -> list[str]:
    return ["merged"] if about.kind == "merged" else []


def _results(evaluation: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One result a held-out set: the metrics of these weights that are finite."""
    for name, found in evaluation.get("sets", {}).items():
        metrics = [{"type": metric, "name": metric, "value": value["value"]} for metric, value in found["tuned"].items() if value["value"] is not None]
        if metrics:
            yield {"task": {"type": "text-generation"}, "dataset": {"name": name, "type": "held-out"}, "metrics": metrics}


def _summary(run: RunFile, about: About) -> str:
    made = {"adapter": "A LoRA adapter for", "merged": "A LoRA adapter merged into", "full": "All weights, trained from"}[about.kind]
    source = _model(about) if run.model.init == "pretrained" else "random weights"
    began = f"\n\nIt began from {_cell(without_folders(run.model.began_as))}." if run.model.began_as else ""
    return f"{made} {source}, after {about.step} optimizer steps.{began}\n\nBase model fingerprint: `{about.fingerprint}`"


def _model(about: About) -> str:
    """The base model in words: its id, or of one that lies in a folder the run that made it, or the folder's name."""
    if _is_id(about.base):
        return f"`{about.base}`"
    earlier = about.history.lineage[-2]["run"] if len(about.history.lineage) > 1 else None
    return f"the export of the run {_cell(earlier)}" if earlier else f"a model in a folder, `{PurePosixPath(about.base).name}`"


def _is_id(base: str) -> bool:
    return bool(base) and not Path(base).is_absolute() and "://" not in base


def _training(run: RunFile) -> str:
    training, size = run.training, run.training.step_size()
    rows: dict[str, Any] = {
        "objective": vars(run.objective)["kind"],
        "an optimizer step": f"{size.examples} examples" if size.examples else f"about {size.tokens} tokens",
        "longest example": f"{run.data.max_length} tokens",
        "learning rate": f"{run.learning_rate():g}, {training.lr_scheduler_type}",
        "precision": training.precision,
        "seed": training.seed,
    }
    if isinstance(run.peft, Lora):
        targets = run.peft.target_modules
        rows["LoRA"] = f"r {run.peft.r}, alpha {run.peft.lora_alpha:g}, on {targets if isinstance(targets, str) else ', '.join(targets)}"
    return _table(("", ""), rows.items())


def _data(run: RunFile, data: Mapping[str, Any]) -> list[str]:
    """Sources with their rows, what was made of them, and the version that names them."""
    if not data:
        names = ", ".join(Path(source.path.partition("?")[0]).name for source in run.data.train)
        return [f"## Data\n\n{_cell(names)}"]
    version = f"Data version `{data['version']}`, prepared as `{data['fingerprint'][:16]}`."
    sources = [(source["name"], "held out" if source["held"] else "training", f"{source['rows']:,}") for source in data["sources"]]
    counts = [(name.replace("_", " "), f"{value:,}") for name, value in data["counts"].items() if name in _COUNTED or value]
    return ["\n\n".join(["## Data", version, *([_table(("source", "side", "rows"), sources)] if sources else []), _table(("of these", "number"), counts)])]


def _lineage(about: About) -> str:
    """Every run that these weights have come through, oldest first."""
    rows = [
        (one["run"], one["run_id"], without_folders(str(one["from"])), one["step"], one["data_version"], str(one["checkpoint"])[:16])
        for one in about.history.lineage
    ]
    return _section("Lineage", _table(("run", "run id", "from", "steps", "data version", "checkpoint"), rows) if rows else _model(about))


def _made_with(history: Provenance) -> str:
    code = [("tunefleet's commit", history.commit)] if history.commit else []
    return _table(("", ""), [*history.versions.items(), *code, *([("run id", history.run_id)] if history.run_id else [])])


def _run_file(run: RunFile) -> str:
    """The run file, every default written out, folded; secrets masked, and of places on the machine the names only."""
    plain = _places_shortened(masked_value(run.model_dump(mode="json")))
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120).strip()
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"## Run file\n\n<details>\n<summary>run.yaml, every default written out</summary>\n\n{fence}yaml\n{text}\n{fence}\n\n</details>"


def _places_shortened(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _places_shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_places_shortened(item) for item in value]
    return without_folders(value) if isinstance(value, str) and "\n" not in value else value


def _evaluation(content: Mapping[str, Any]) -> str:
    """Every metric of every set, tuned against base, with 95% intervals; that of the difference is paired."""
    rows = [
        (f"{name} ({found['rows']})", metric, *(_interval(found.get(side, {}).get(metric)) for side in ("base", "tuned", "difference")))
        for name, found in content["sets"].items()
        for metric in found["tuned"]
    ]
    return _section(
        "Evaluation", _table(("held-out rows", "metric", "base model", "this model", "difference"), rows) + "\n\n95% intervals by bootstrap over rows."
    )


def _interval(value: Mapping[str, float | None] | None) -> str:
    """A value with its interval; what is not finite stands as null in an evaluation."""
    if value is None:
        return ""
    shown = ["-" if value[name] is None else f"{value[name]:.4g}" for name in ("value", "low", "high")]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    """A text that is nothing but text in Markdown: no markup of a row's or a file's name takes effect."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(" ".join(masked(str(value)).split()), quote=False))


def _usage(kind: str) -> str:
    package, loader = ("peft", "AutoPeftModelForCausalLM") if kind == "adapter" else ("transformers", "AutoModelForCausalLM")
    imports = [f"from {package} import {loader}", "from transformers import AutoTokenizer"]
    lines = [*sorted(imports), "", f'model = {loader}.from_pretrained("PATH")', 'tokenizer = AutoTokenizer.from_pretrained("PATH")']
    return "\n".join(lines)
