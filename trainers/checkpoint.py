"""Checkpoints that know no world size and no ZeRO stage, and hold no pickle.

``checkpoints/step-00000050/`` holds ``weights/*.safetensors`` (in the training dtype), ``optimizer/*.safetensors`` (fp32 weights where the training
dtype is another, and the optimizer's state) and ``manifest.json``, which is written last and names every other file with its sha256. Every rank writes
the fragments that it owns, in a background thread, and leaves a receipt; rank 0 reads the receipts and commits. No rank ever gathers another's state,
and no collective runs in a background thread. Random state is not stored: it is a function of (seed, step).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import CheckpointError, TunefleetError
from tunefleet.trainers.fragment_files import Fragment, FragmentReader, encode, files_of
from tunefleet.trainers.fragments import SLOTS, held, owned, targets
from tunefleet.trainers.manifest import MANIFEST, VERSION, brief, folder_of, readable
from tunefleet.trainers.manifest import Manifest as Manifest
from tunefleet.trainers.manifest import drop_after as drop_after
from tunefleet.trainers.manifest import newest as newest
from tunefleet.trainers.manifest import read_manifest as read_manifest
from tunefleet.trainers.manifest import retain as retain

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tunefleet.cluster.storage import Storage
    from tunefleet.trainers.engine import Engine

COMMIT_TIMEOUT_S = 1800.0
"""How long rank 0 waits for the receipts of the others; a rank that died never leaves one."""


class Saving:
    """A save on its way. ``name`` is that of the manifest, which stands once rank 0's ``wait`` has returned."""

    def __init__(self, name: str, work: Callable[[], Manifest | None]) -> None:
        self.name = name
        self._work = work
        self._manifest: Manifest | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"save {name}", daemon=True)
        self._thread.start()

    def done(self) -> bool:
        """Whether ``wait`` would return at once."""
        return not self._thread.is_alive()

    def wait(self) -> Manifest | None:
        """Return when this rank's part is written; on rank 0, when the checkpoint is complete. Raises what went wrong: StorageError, CheckpointError."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._manifest

    def _run(self) -> None:
        try:
            self._manifest = self._work()
        except BaseException as error:  # noqa: BLE001 - it is raised by wait
            self._error = error


def save(
    storage: Storage,
    engine: Engine,
    meta: Mapping[str, Any],
    *,
    optimizer: bool,
    attempt: str,
    fence: int,
    after: Saving | None = None,
    before_commit: Callable[[], None] | None = None,
) -> Saving:
    """Copy this rank's fragments off the device, and write them in the background. Every rank calls it at the same step.

    Args:
        storage: the run's output.
        engine: between two steps.
        meta: JSON; ``meta["step"]`` is the number of finished optimizer steps, and names the checkpoint.
        optimizer: whether training can go on from it; without, it is a snapshot of the weights.
        attempt: one name for this start of the worker group, the same on all ranks and never used before; it is part of every file's name.
        fence: the number of the lease on the output.
        after: the save before, which is awaited first.
        before_commit: called in the background on rank 0, once its part is written: what must stand before the checkpoint counts.
    """
    if after is not None:
        after.wait()
    folder = folder_of(meta["step"])
    fragments = list(snapshot(engine, optimizer=optimizer))
    head = {
        "version": VERSION,
        "step": meta["step"],
        "fence": fence,
        "attempt": attempt,
        "precision": engine.run.training.precision,
        "optimizer": {"kind": engine.run.training.optimizer.kind, "updates": engine.updates(), "slots": _slots()} if optimizer else None,
        "meta": dict(meta),
    }
    rank, ranks = engine.world.rank, engine.world.size

    def work() -> Manifest | None:
        write_part(storage, folder, attempt, rank, fragments)
        if rank != 0:
            return None
        if before_commit is not None:
            before_commit()
        return commit(storage, folder, head, ranks)

    return Saving(f"{folder}/{MANIFEST}", work)


def snapshot(engine: Engine, *, optimizer: bool) -> Iterator[Fragment]:
    """Copies, on the host, of what this rank is to write."""
    import torch

    dtype = torch.bfloat16 if engine.run.training.precision == "bf16" else torch.float32
    for part in owned(engine):
        live = {"weight": (part.master, dtype)}
        if optimizer:
            live |= {"master": (part.master, torch.float32)} if dtype != torch.float32 else {}
            live |= {slot: (values, torch.float32) for slot, values in part.slots.items()}
        for slot, (values, kind) in live.items():
            yield Fragment(part.name, slot, part.shape, part.start, values.detach().to(device="cpu", dtype=kind, copy=True))


def load_weights(storage: Storage, manifest: Manifest, model: nn.Module) -> None:
    """Put the weights into the trained parameters of a model, before its engine is made; whole, or this rank's part under ZeRO-3.

    Every precision takes the fp32 weights where there are any. Raises CheckpointError when the checkpoint is of another model.
    """
    import torch

    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    reader = manifest.reader(storage, "weights", "optimizer")
    _check_names(manifest, reader, {name: _shape(p) for name, p in parameters.items()})
    slot = _weight_slot(reader)
    with torch.no_grad():
        for name, start, target in targets(parameters):
            reader.fill(slot, name, start, target)


def load_optimizer(storage: Storage, manifest: Manifest, engine: Engine) -> None:
    """Put fp32 weights and optimizer state into a fresh engine, of any stage and any number of ranks, whose model has had ``load_weights``.

    Raises CheckpointError when the checkpoint holds weights only, or is of another model.
    """
    import torch

    if manifest.updates is None:
        raise CheckpointError(f"{manifest.folder} holds weights only", want="a checkpoint with the optimizer's state", fix="resume from another checkpoint")
    assert engine.updates() == 0, "state is loaded into a fresh engine"
    reader = manifest.reader(storage, "weights", "optimizer")
    _check_names(manifest, reader, {name: _shape(p) for name, p in engine.parameters.items()})
    slot = _weight_slot(reader)
    if manifest.updates:
        engine.start_state(manifest.updates)
    with torch.no_grad():
        for part in held(engine):
            reader.fill(slot, part.name, part.start, part.master)
            for name, values in part.slots.items():
                reader.fill(name, part.name, part.start, values)


def load_plain(storage: Storage, manifest: Manifest) -> dict[str, torch.Tensor]:
    """Whole tensors by parameter name, on the host, in the training dtype: for evaluation and export. Needs no process group."""
    reader = manifest.reader(storage, "weights")
    return {name: reader.whole("weight", name) for name in reader.shapes}


def write_part(storage: Storage, folder: str, attempt: str, rank: int, fragments: Sequence[Fragment]) -> None:
    """Write one rank's files, then its receipt. A failure leaves a receipt that says so, as far as the storage lets it, and is raised."""
    receipt = _receipt(folder, attempt, rank)

    def write(file: tuple[str, Sequence[Fragment]]) -> dict[str, Any]:
        name, content = file
        stored = storage.put(f"{folder}/{name}", encode(content))
        return {"name": name, "bytes": stored.bytes, "sha256": stored.sha256}

    groups = {"weights": [f for f in fragments if f.slot == "weight"], "optimizer": [f for f in fragments if f.slot != "weight"]}
    named = [(f"{kind}/{attempt}-{rank:05d}-{i:05d}.safetensors", content) for kind, group in groups.items() for i, content in enumerate(files_of(group))]
    try:
        with ThreadPoolExecutor(1 if storage.appends else 2) as pool:  # on S3 one is made while another is sent
            files = list(pool.map(write, named))
    except BaseException as error:
        with suppress(TunefleetError):
            storage.put(receipt, json.dumps({"error": brief(error)}).encode())
        raise
    storage.put(receipt, json.dumps({"files": files}).encode())


def commit(storage: Storage, folder: str, head: Mapping[str, Any], ranks: int) -> Manifest:
    """Wait for every rank's receipt, then write the manifest, and remove what an earlier attempt left in the folder.

    Args:
        storage: the run's output.
        folder: of the checkpoint.
        head: what the manifest says beside its files.
        ranks: how many receipts to wait for.

    Raises CheckpointError when a rank could not write, when its receipt does not come, or when a writer with a higher fence was here.
    """
    files = []
    deadline = time.monotonic() + COMMIT_TIMEOUT_S
    for rank in range(ranks):
        receipt = _await(storage, _receipt(folder, head["attempt"], rank), deadline)
        if "error" in receipt:
            raise CheckpointError(f"rank {rank} could not write its part of {folder}", got=receipt["error"], fix="see the error of that rank")
        files += receipt["files"]
    name = f"{folder}/{MANIFEST}"
    data = (json.dumps({**head, "files": files}, indent=1) + "\n").encode()
    if not storage.create(name, data):
        before = readable(storage, name)
        if before is not None and (before.fence, before.attempt) > (head["fence"], head["attempt"]):  # names of attempts begin with fence and number
            raise CheckpointError(
                f"another run, or a later attempt of this one, has written {folder}",
                got=f"fence {before.fence}, attempt {before.attempt}",
                want=f"at most fence {head['fence']}, attempt {head['attempt']}",
                fix="stop one of the two writers",
            )
        storage.put(name, data)
    manifest = read_manifest(storage, name)
    stays = {name, *(file.name for file in manifest.files)}
    for other in storage.list(f"{folder}/"):
        if other not in stays:
            storage.delete(other)
    return manifest


def _await(storage: Storage, name: str, deadline: float) -> dict[str, Any]:
    """The content of a receipt, as soon as it is there."""
    pause_s = 0.005
    while not storage.exists(name):
        if time.monotonic() > deadline:
            raise CheckpointError(f"{name} did not come", got=f"nothing in {COMMIT_TIMEOUT_S:.0f} s", want="a receipt of every rank", fix="see that rank's log")
        threading.Event().wait(pause_s)
        pause_s = min(0.5, 2 * pause_s)
    receipt: dict[str, Any] = json.loads(storage.read(name))
    return receipt


def _receipt(folder: str, attempt: str, rank: int) -> str:
    return f"{folder}/receipts/{attempt}-{rank:05d}.json"


def _slots() -> list[dict[str, str]]:
    return [{"name": slot, "dtype": "float32", "layout": "elementwise"} for slot in SLOTS] + [{"name": "step", "dtype": "float32", "layout": "replicated"}]


def _weight_slot(reader: FragmentReader) -> str:
    """Where the most exact weights stand: in fp32 the weights are the master weights, and are stored once."""
    return "master" if "master" in reader.slots() else "weight"


def _shape(parameter: torch.Tensor) -> tuple[int, ...]:
    from tunefleet.trainers.engine import full_shape

    return full_shape(parameter)


def _check_names(manifest: Manifest, reader: FragmentReader, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises CheckpointError unless the checkpoint holds exactly the trained parameters of the model, in their shapes."""
    wrong = sorted({*reader.shapes.items()} ^ {*shapes.items()})
    if wrong:
        name = wrong[0][0]
        raise CheckpointError(
            f"{manifest.folder} is of another model",
            got=f"{name}: {list(reader.shapes[name]) if name in reader.shapes else 'absent'}",
            want=f"{name}: {list(shapes[name]) if name in shapes else 'absent'}; {len(wrong)} differ in all",
            fix="resume with the model and peft settings of the run that wrote it",
        )
