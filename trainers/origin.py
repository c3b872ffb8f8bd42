"""``model.init_from``: a run that begins with the weights of an earlier run, one of its checkpoints, or an export. Says what it means, and lays it ready.

A model folder is taken as it stands. What lies in a checkpoint is written as a folder below the run's own output (``init/``), verified by its logits,
so that workers read it like any other model and the earlier run may go. An adapter is copied there and trained on. ``init/lineage.json`` says what it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import RequestError, SettingsError
from tunefleet.cluster.storage import hash_file, open_storage
from tunefleet.data.staging import appearing
from tunefleet.trainers.exported import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_origin
from tunefleet.trainers.foreign import code_of
from tunefleet.trainers.manifest import MANIFEST, read_manifest
from tunefleet.trainers.output import weights_of
from tunefleet.trainers.recorded import recorded_run
from tunefleet.trainers.run import Lora, Model, RunFile
from tunefleet.trainers.stage import BASE, INIT, RUN_FILE

if TYPE_CHECKING:
    from torch import nn

    from tunefleet.cluster.storage import Storage
    from tunefleet.trainers.manifest import Manifest

LINEAGE = f"{INIT}/lineage.json"
_OTHER_LORA = ("use_rslora", "use_dora", "alora_invocation_tokens", "rank_pattern", "alpha_pattern")


@dataclass(frozen=True)
class Source:
    """What a name means: a checkpoint of ``run`` (``manifest`` in ``storage``), or a folder. ``said`` is it in words, its digest included."""

    said: str
    adapter: bool
    folder: Path
    run: RunFile | None = None
    storage: Storage | None = None
    manifest: Manifest | None = None


def begun(run: RunFile) -> tuple[RunFile, Model, list[RequestError]]:
    """The run with everything that ``model.init_from`` stands for written out, the model that can be looked at before it is laid ready, and problems.

    The run's paths are absolute. A run that goes on keeps what it began with, also when the earlier run is gone or has got further.
    """
    name = run.model.init_from
    if name is None:
        return run, run.model, []
    try:
        kept = _kept(run, name)
        if kept is not None:
            return kept, kept.model, []
        source = find_source(name, run)
    except RequestError as error:
        return run, run.model, [error]
    problems = list(_problems(run, source))
    if problems:
        return run, _known(source, run.model), problems
    return run.model_copy(update={"model": _written_out(run, source)}), _known(source, run.model), []


def find_source(name: str, run: RunFile) -> Source:
    """What a name means. Its run file may ask for no code that ``run`` does not ask for. Raises RequestError or CheckpointError."""
    folder = Path(name)
    if (folder / ADAPTER_CONFIG).is_file() or (folder / "config.json").is_file():
        adapter = (folder / ADAPTER_CONFIG).is_file()
        origin = read_origin(name) or {}
        digest = origin.get("checkpoint") or _folder_digest(folder)
        return Source(f"{name} ({'adapter' if adapter else 'model'} {digest})", adapter, folder)
    if (folder / MANIFEST).is_file():
        place = folder.resolve()
        storage = open_storage(place.parent.parent)
        manifest = read_manifest(storage, f"{place.parent.name}/{place.name}/{MANIFEST}")
    elif open_storage(name).exists(RUN_FILE):
        storage, manifest = weights_of(name)
    else:
        raise SettingsError(
            "model.init_from: nothing here to begin from",
            got=name,
            want=f"a run's output ({RUN_FILE}), a checkpoint ({MANIFEST}), or an export (config.json or {ADAPTER_CONFIG})",
            fix="check the path; a model of a hub is named by model.name_or_path",
        )
    earlier = recorded_run(storage, trusted=set(code_of(run.model_dump(mode="json"))))
    said = f"{storage.address}/{manifest.folder} (step {manifest.step}, checkpoint {manifest.digest})"
    return Source(said, isinstance(earlier.peft, Lora), folder, earlier, storage, manifest)


def lay_ready(run: RunFile, storage: Storage) -> Mapping[str, Any] | None:
    """Write what ``begun`` has promised, unless it is there; returns the lineage of a run that has one, once. Raises what an export raises."""
    name = run.model.init_from
    if name is None or storage.exists(LINEAGE):
        return None
    lineage = {"source": run.model.began_as_path, "began_as": run.model.began_as, "model": run.model.model_dump(mode="json")}
    source = find_source(str(run.model.began_as_path), run)
    if _adapter_goes_on(run, source):
        _copy_adapter(source, Path(name))
    elif run.model.name_or_path == _folder_for(run, "model"):
        _write_model(source, Path(run.model.name_or_path))
    storage.put(LINEAGE, (json.dumps(lineage, indent=1) + "\n").encode())
    return lineage


def fill_adapter(model: nn.Module, folder: Path) -> None:
    """Put a saved adapter into the trained parameters of a model; whole, or this rank's part under ZeRO-3. Raises SettingsError when it does not fit."""
    import torch
    from safetensors import safe_open

    from tunefleet.trainers.engine import full_shape
    from tunefleet.trainers.fragments import targets

    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - a file is no mapping
        wanted = {_saved_name(name): full_shape(p) for name, p in parameters.items()}
        wrong = sorted({*shapes.items()} ^ {*wanted.items()})
        if wrong:
            key = wrong[0][0]
            raise SettingsError(
                "model.init_from: this adapter does not fit peft and the model",
                got=f"{key}: {shapes.get(key, 'absent')}, one of {len(wrong)} that differ",
                want=f"{key}: {wanted.get(key, 'absent')}",
                fix="use the peft settings and the base model of the run that made it, or merge it first: tunefleet export RUN --merge",
            )
        with torch.no_grad():
            for name, start, target in targets(parameters):
                target.copy_(file.get_tensor(_saved_name(name)).view(-1)[start : start + target.numel()])


def adapter_to_go_on(run: RunFile) -> Path | None:
    """The adapter that this run begins with; None for a run that makes a new one, or none."""
    name = run.model.init_from
    return Path(name) if name is not None and isinstance(run.peft, Lora) and name.endswith(f"/{INIT}/adapter") else None


def _kept(run: RunFile, name: str) -> RunFile | None:
    """The run as it began, where its output says how. Raises SettingsError when it began otherwise."""
    storage = open_storage(run.output)
    if not storage.exists(LINEAGE):
        return None
    lineage = json.loads(storage.read(LINEAGE))
    if lineage["source"] != name and lineage["model"]["init_from"] != name:
        want = f"{lineage['source']}, as the run started"
        raise SettingsError("model.init_from: may not change on resume", got=name, want=want, fix="put it back, or start a new run with another output")
    kept = Model.model_validate(lineage["model"])
    same = {key: vars(kept)[key] for key in ("name_or_path", "revision", "tokenizer", "init_from", "began_as", "began_as_path")}
    return run.model_copy(update={"model": run.model.model_copy(update=same)})


def _problems(run: RunFile, source: Source) -> Iterator[RequestError]:
    """Why this run cannot begin from that."""
    given, base = run.model.name_or_path, _base_of(source)
    if given is not None and given not in (base, str(source.folder)):
        fix = "remove model.name_or_path: init_from brings the model"
        yield SettingsError("model.name_or_path: contradicts model.init_from", got=given, want=f"{base or 'nothing'}, or none", fix=fix)
    if run.output == str(source.folder) or (source.storage is not None and source.storage.address == str(Path(run.output).resolve())):
        yield SettingsError("model.init_from: a run cannot begin from itself", got=run.output, want="another run", fix="name another output, or --resume")
    lays = source.run is not None or source.adapter
    if lays and "://" in run.output:
        fix = "export it to a folder that every node sees (tunefleet export RUN --merge --output DIR), and name that"
        yield SettingsError("model.init_from: is laid ready in the output, which must be a folder for it", got=run.output, want="a folder", fix=fix)
    if source.adapter and isinstance(run.peft, Lora):
        yield from _adapter_problems(run.peft, source)
        if base is None:
            fix = f"write it with `tunefleet export {source.folder}`, or merge it: `tunefleet export {source.folder} --merge --output DIR`"
            yield SettingsError("model.init_from: the random weights under this adapter lie nowhere", got=source.said, want="a base folder", fix=fix)


def _adapter_problems(peft: Lora, source: Source) -> Iterator[RequestError]:
    """An adapter goes on in its own shape only."""
    if source.run is not None:
        free = {"lora_dropout"}
        before, after = (p.model_dump(exclude=free) for p in (source.run.peft, peft))
    else:
        saved = json.loads((source.folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        before, after = {"r": saved.get("r"), "lora_alpha": saved.get("lora_alpha")}, {"r": peft.r, "lora_alpha": peft.lora_alpha}
        odd = [name for name in _OTHER_LORA if saved.get(name)]
        if odd or saved.get("peft_type") != "LORA":
            fix = "merge it into its base first"
            yield SettingsError("model.init_from: an adapter of another kind", got=", ".join(odd) or str(saved.get("peft_type")), want="plain LoRA", fix=fix)
    differ = [key for key in before if before[key] != after.get(key)]
    if differ:
        got, want = (", ".join(f"{key}: {side.get(key)}" for key in differ) for side in (after, before))
        fix = "take the earlier run's peft settings; or set peft: full to train its merged weights; or export it with --merge, and begin from that folder"
        yield SettingsError("peft: the adapter of model.init_from has another shape", got=got, want=want, fix=fix)


def _written_out(run: RunFile, source: Source) -> Model:
    """The model section with what the source stands for."""
    assert run.model.init_from is not None
    same: dict[str, Any] = {"began_as": source.said, "began_as_path": run.model.init_from}
    if _adapter_goes_on(run, source):
        folder = _folder_for(run, "adapter")
        model = source.run.model if source.run is not None else run.model
        same |= {"init_from": folder, "name_or_path": str(_base_of(source)), "revision": model.revision}
    else:
        lays = source.run is not None or source.adapter
        folder = _folder_for(run, "model") if lays else str(source.folder)
        same |= {"name_or_path": folder, "revision": None}
    own = run.model.tokenizer
    tokens = source.run is not None or not source.adapter or (source.folder / "tokenizer.json").is_file()
    tokenizer = own if own.name_or_path or not tokens else own.model_copy(update={"name_or_path": folder, "train_vocab_size": None})
    return run.model.model_copy(update={**same, "tokenizer": tokenizer})


def _adapter_goes_on(run: RunFile, source: Source) -> bool:
    return source.adapter and isinstance(run.peft, Lora)


def _known(source: Source, model: Model) -> Model:
    """A model of the same config that can be looked at now."""
    if source.run is not None:
        return source.run.model
    name = _base_of(source) if source.adapter else str(source.folder)
    return model.model_copy(update={"name_or_path": name, "init_from": None})


def _base_of(source: Source) -> str | None:
    """Address of the model under an adapter, or that a full run began with; None for random weights that lie in no folder."""
    if source.run is None:
        return str(json.loads((source.folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]) if source.adapter else None
    if source.run.model.init == "pretrained":
        return source.run.model.name_or_path
    assert source.storage is not None
    folder = Path(source.storage.address) / BASE
    return str(folder) if folder.is_dir() else None


def _folder_for(run: RunFile, kind: str) -> str:
    return f"{run.output}/{INIT}/{kind}"


def _copy_adapter(source: Source, folder: Path) -> None:
    if source.run is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with appearing(folder) as temporary:
            shutil.copytree(source.folder, temporary, dirs_exist_ok=True)
        return
    from tunefleet.trainers.export import export

    assert source.storage is not None
    assert source.manifest is not None
    export(source.run, source.storage, source.manifest, str(folder), merge=False)


def _write_model(source: Source, folder: Path) -> None:
    """A whole model folder: of a checkpoint, its adapter merged, or of an adapter's folder merged into the base that it names."""
    from tunefleet.trainers.export import export, merge_folder

    if source.run is None:
        merge_folder(source.folder, folder)
        return
    assert source.storage is not None
    assert source.manifest is not None
    export(source.run, source.storage, source.manifest, str(folder), merge=source.adapter)


def _saved_name(name: str) -> str:
    """The name that PEFT saves a trained parameter under."""
    return name.replace(".modules_to_save.default", "").replace(".default", "")


def _folder_digest(folder: Path) -> str:
    """The sha256 of the weights of a folder that is no export of ours: of its one file, or of all their checksums."""
    import hashlib

    found = [hash_file(path)[0] for path in sorted(folder.glob("*.safetensors"))]
    return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()
