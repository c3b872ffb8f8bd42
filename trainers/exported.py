"""Models in folders as anybody would load them: a whole model, or an adapter over the base that it names. Safetensors only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import SettingsError, nearest
from tunefleet.cluster.storages.folders import local_folder
from tunefleet.trainers.kernels import refuse_kernels

if TYPE_CHECKING:
    import torch

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ORIGIN = "tunefleet.json"
"""Beside an export: how it was made, what its weights were checked against, and whether it answers or continues text."""


def load_exported(source: str, *, dtype: torch.dtype | None = None, attention: str | None = None) -> Any:
    """A causal model in evaluation mode on the CPU, from a folder or hub id; ``dtype`` None takes that of the files.

    Raises SettingsError when there is none, or none in safetensors.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(local_folder(source))
    adapter = folder / ADAPTER_CONFIG
    name, revision = str(folder) if folder.is_dir() else source, None
    if adapter.is_file():
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise SettingsError("this adapter has no safetensors", got=source, want=f"{ADAPTER_WEIGHTS} (pickled weights are never opened)", fix="convert it")
        named = json.loads(adapter.read_text(encoding="utf-8"))
        name, revision = local_folder(named["base_model_name_or_path"]), named.get("revision")
    kwargs = {"attn_implementation": attention} if attention else {}
    try:
        refuse_kernels(AutoConfig.from_pretrained(name, revision=revision), name)
        model = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=dtype or "auto", use_safetensors=True, **kwargs)
    except (OSError, ValueError, KeyError) as error:
        raise SettingsError(
            "no model can be loaded here",
            got=f"{name}: {(str(error).strip().splitlines() or [''])[0]}",
            want="a run's output, a checkpoint, or a model folder or hub id with safetensors",
            fix="check the path" + (f": it is the base that {adapter} names" if adapter.is_file() else ""),
        ) from error
    if adapter.is_file():
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(folder))
    return model.eval()


def read_origin(source: str) -> Mapping[str, Any] | None:
    """How an export was made; None for a model that is no export of ours."""
    path = Path(local_folder(source, weights=False)) / ORIGIN
    if not path.is_file():
        return None
    origin: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return origin


def refuse_missing(source: str) -> None:
    """Raise SettingsError for what can only mean a folder here, and is none: a hub would be asked for it in vain, and for long."""
    path = Path(source).expanduser()
    first, _, rest = source.partition("/")
    local = source.startswith((".", "/", "~")) or "/" in rest or (rest and Path(first).is_dir())
    if not local or "://" in source or path.is_dir():
        return
    beside = sorted(p.name for p in path.parent.iterdir() if p.is_dir()) if path.parent.is_dir() else []
    close = nearest(path.name, beside)
    raise SettingsError(
        f"{source}: no such folder",
        got=f"{path.parent} holds {', '.join(beside[:8]) or 'no folder'}" if path.parent.is_dir() else f"{path.parent} is no folder",
        want="a run's output, a checkpoint, an export, a model folder or a hub id",
        fix=f"did you mean {path.parent / close}?" if close else "check the path; it is taken from where you are",
    )
