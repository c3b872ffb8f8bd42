"""From a checkpoint to a folder that others load: an adapter, a whole model, or an adapter merged into its base; verified by logits.

The folder appears whole or not at all. Beside the weights stand tokenizer, chat template, generation config, model card, and how it was made.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunefleet.cluster import heartbeat
from tunefleet.cluster.errors import CheckpointError, SettingsError
from tunefleet.cluster.storage import is_remote, open_storage
from tunefleet.cluster.storages.folders import sent_up
from tunefleet.data.layout import ANSWERS
from tunefleet.data.templates import resolve_template
from tunefleet.trainers.card import About, model_card
from tunefleet.trainers.exported import ORIGIN, load_exported
from tunefleet.trainers.models import weights_dtype
from tunefleet.trainers.objective import make_objective
from tunefleet.trainers.provenance import provenance
from tunefleet.trainers.run import Full, Lora, RunFile
from tunefleet.trainers.stage import BASE
from tunefleet.trainers.vocabulary import load_tokenizer

if TYPE_CHECKING:
    import torch

    from tunefleet.cluster.storage import Storage
    from tunefleet.trainers.checkpoint import Manifest

SHARD_SIZE = "1GB"  # of a file; one that holds a single larger tensor is larger
PROBE_ROWS, PROBE_TOKENS = 2, 16


@dataclass(frozen=True)
class Exported:
    """The folder or address, and what its logits were compared with: kind, max_difference, allowed, largest_logit."""

    path: str
    checks: Mapping[str, Any]


def export(run: RunFile, storage: Storage, manifest: Manifest, output: str, *, merge: bool) -> Exported:
    """Write the weights of a checkpoint as a Hugging Face folder; one process, no distributed state. A folder that is there is replaced.

    Args:
        run: the run that made the checkpoint, its paths absolute.
        storage: the run's output.
        manifest: the checkpoint.
        output: the folder to write, or an address on S3.
        merge: merge an adapter into the base model's weights.

    Raises SettingsError for a merge of nothing, CheckpointError when what was written gives other logits than the checkpoint.
    """
    import torch

    from tunefleet.trainers.evaluation.plain import PlainModel

    kind = _kind(run, merge=merge)
    plain = PlainModel.base(run, torch.device("cpu"))
    plain.load(storage, manifest.name)
    model, fingerprint = plain.model, plain.fingerprint
    base = _base_address(run, storage)
    tokens = _probe(model)
    attention, expected = model.config._attn_implementation, _logits(model, tokens)
    heartbeat.beat()
    with _replacing(output) as folder:
        _write_weights(model, kind, folder, base)
        del plain, model  # the copy that was written is read beside nothing else
        heartbeat.beat()
        reloaded = load_exported(str(folder), dtype=weights_dtype(run), attention=attention)
        checks = {"kind": kind, **_compare(expected, _logits(reloaded, tokens), weights_dtype(run))}
        layout = make_objective(run.objective, 0).layout.name
        history = provenance(run, storage, manifest, base)
        _write_tokenizer(run, folder, answers=layout == ANSWERS.name)
        origin = {
            "version": 1,
            "run": run.name,
            "step": manifest.step,
            "checkpoint": manifest.digest,
            "layout": layout,
            "base": {"address": base, "revision": run.model.revision, "fingerprint": fingerprint},
            "began_as": run.model.began_as,
            "checks": checks,
            **history.to_json(),
        }
        (folder / ORIGIN).write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
        about = About(kind, base, manifest.step, fingerprint, _evaluation_of(storage, manifest), history)
        card = model_card(run, about)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return Exported(output, checks)


def merge_folder(adapter: Path, output: Path) -> None:
    """An adapter's folder merged into the base that it names, as a whole model folder with the adapter's tokenizer, or the base's."""
    from tunefleet.trainers.generation import tokenizer_beside_adapter

    model = load_exported(str(adapter))
    with _replacing(str(output)) as folder:
        _write_weights(model, "merged", folder, "")
        tokenizer_beside_adapter(str(adapter)).save_pretrained(folder)


def _kind(run: RunFile, *, merge: bool) -> str:
    if not isinstance(run.peft, Lora):
        if merge:
            raise SettingsError("there is nothing to merge", got=f"peft: {run.peft.kind}", want="a run with an adapter", fix="export without merging")
        return "full"
    return "merged" if merge else "adapter"


def _write_weights(model: Any, kind: str, folder: Path, base: str) -> None:
    """Save the model; a merge is done in fp32, so that the sum is rounded once."""
    if kind == "adapter":
        settings = model.peft_config[model.active_adapter]
        settings.base_model_name_or_path = base
        model.save_pretrained(folder, save_embedding_layers=False)
        model.get_base_model().generation_config.save_pretrained(folder)
        return
    if kind == "merged":
        dtype = next(model.get_base_model().parameters()).dtype
        _cast(model, None)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings")
            model = model.merge_and_unload(safe_merge=True)
        _cast(model, dtype)
    model.save_pretrained(folder, max_shard_size=SHARD_SIZE)


def _cast(model: Any, dtype: torch.dtype | None) -> None:
    """Cast the parameters, to fp32 by default; buffers, such as rotary frequencies, stay as they are."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype) if dtype is not None else parameter.data.float()


def _write_tokenizer(run: RunFile, folder: Path, *, answers: bool) -> None:
    """The tokenizer with the template of the training, also where that was the default: serving must render what was trained."""
    tokenizer = load_tokenizer(run.model, run.data.chat_template)
    if answers:
        tokenizer.chat_template = resolve_template(tokenizer, run.data.chat_template).text
    tokenizer.save_pretrained(folder)


def _base_address(run: RunFile, storage: Storage) -> str:
    """Hub id or absolute folder of the base; a random one that an adapter stands on is written into the run's output, once."""
    if run.model.init == "pretrained":
        assert run.model.name_or_path is not None
        path = Path(run.model.name_or_path).expanduser()
        return str(path.absolute()) if path.is_dir() else run.model.name_or_path  # a hub id, or an address on S3
    if not isinstance(run.peft, Lora):
        return ""
    import torch

    from tunefleet.trainers.evaluation.plain import PlainModel

    base = f"{storage.address}/{BASE}"
    if not storage.exists(f"{BASE}/config.json"):
        with _replacing(base) as temporary:
            PlainModel.base(run.model_copy(update={"peft": Full()}), torch.device("cpu")).model.save_pretrained(temporary, max_shard_size=SHARD_SIZE)
    return base


def _evaluation_of(storage: Storage, manifest: Manifest) -> Mapping[str, Any] | None:
    from tunefleet.trainers.evaluation.files import result_name

    name = result_name(manifest.step)
    return json.loads(storage.read(name)) if storage.exists(name) else None


def _probe(model: Any) -> torch.Tensor:
    """A few random token ids, (2, 16), the same for every model of a vocabulary."""
    import torch

    size = model.config.get_text_config().vocab_size
    return torch.randint(size, (PROBE_ROWS, PROBE_TOKENS), generator=torch.Generator().manual_seed(0))


def _logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits.float()
    return logits


def _compare(expected: torch.Tensor, found: torch.Tensor, dtype: torch.dtype) -> dict[str, float]:
    """Raises CheckpointError when logits differ by more than rounding: 1e-4 of the largest in fp32, 5e-2 in bf16."""
    import torch

    difference, largest = float((expected - found).abs().max()), float(expected.abs().max())
    allowed = (1e-4 if dtype is torch.float32 else 5e-2) * max(1.0, largest)
    if not difference <= allowed:
        raise CheckpointError(
            "what was exported is not what was trained",
            got=f"logits differ by up to {difference:.3g}",
            want=f"at most {allowed:.3g}",
            fix="keep the checkpoint, export without merging, and report this with the model's architecture",
        )
    return {"max_difference": difference, "allowed": allowed, "largest_logit": largest}


@contextmanager
def _replacing(place: str) -> Iterator[Path]:
    """A temporary folder that takes the place of ``place`` when all went well, and is gone otherwise. On S3 its config comes last."""
    if is_remote(place):
        above, _, name = place.rstrip("/").rpartition("/")
        with sent_up(open_storage(above), name, last="config.json") as folder:
            yield folder
        return
    output = Path(place)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (output.with_name(f".{output.name}.{word}-{os.getpid()}") for word in ("new", "old"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if output.exists():
            output.rename(old)
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
