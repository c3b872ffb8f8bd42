"""One run goes on from another's checkpoint, weights and optimizer, with its own settings: what population based training does to a trial.

What travels is a pointer: the output, the manifest and its digest. The files are copied from storage to storage when the run that takes over starts, so that
its output stands on its own: the earlier run may go on, remove old checkpoints, or be removed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from tunefleet.cluster.errors import CheckpointError
from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.trainers.evaluation.files import drop_after as drop_evaluations
from tunefleet.trainers.ledger import Events
from tunefleet.trainers.manifest import MANIFEST, Manifest, drop_after, folder_of, nearest, newest, read_manifest, verify

PINNED = "pinned.json"  # the checkpoints that the last pointers name: they stay until others are pointed at
PINS = 2  # whoever was given a pointer may take as long to start as this run takes to its next one
ADOPTED = "adopted.json"  # the pointer that this output last went on from


@dataclass(frozen=True)
class Pointer:
    """A checkpoint of a run. ``mark`` tells apart two pointers at one checkpoint."""

    output: str
    manifest: str
    digest: str
    step: int
    mark: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def point(storage: Storage, mark: str, step: int) -> Pointer | None:
    """Point at the checkpoint of a step, or the nearest to it, and have it stay until others are pointed at; None where there is none.

    The run goes on meanwhile: its newest one may be of its end, with no step left for whoever takes it over, and was not what the run was judged by.
    Whoever follows the pointer checks the files: here all that is at work would wait for that.
    """
    for _ in range(3):  # a checkpoint that is removed in this very moment has a younger one
        found = nearest(storage, step)
        if found is None:
            return None
        names = [found.name, *(name for name in _pins(storage) if name != found.name)][:PINS]
        storage.put(PINNED, json.dumps({"manifests": names}).encode())
        if storage.exists(found.name):
            return Pointer(storage.address, found.name, found.digest, found.step, mark)
    return None


def pinned(storage: Storage) -> set[str]:
    """The manifests that pointers name, which must not be removed."""
    return set(_pins(storage))


def _pins(storage: Storage) -> list[str]:
    """The youngest first."""
    return list(json.loads(storage.read(PINNED))["manifests"]) if storage.exists(PINNED) else []


def adopt(storage: Storage, pointer: Pointer, fence: int) -> bool:
    """Make the checkpoint that a pointer names the only one of an output; False where that was done before.

    ``fence``: that of the lease which is held on the output. Where the checkpoint itself is gone, the nearest to its step is taken, and the event says so.
    Raises CheckpointError when the other run has none that is whole.
    """
    if storage.exists(ADOPTED) and json.loads(storage.read(ADOPTED))["mark"] == pointer.mark:
        return False
    there = open_storage(pointer.output)
    manifest = _found(there, pointer)
    copied = _copy(there, manifest, storage, fence)
    for folder in {name.rpartition("/")[0] for name in storage.list("checkpoints/") if name.endswith(f"/{MANIFEST}")} - {copied.folder}:
        storage.delete(f"{folder}/{MANIFEST}")
        storage.delete_tree(folder)
    drop_after(storage, copied.step)
    drop_evaluations(storage, copied.step - 1)  # what this run scored at that step were other weights
    storage.put(ADOPTED, json.dumps(pointer.to_json()).encode())
    exact = manifest.digest == pointer.digest
    Events(storage).add("adopted", source=pointer.output, step=manifest.step, checkpoint=manifest.name, digest=manifest.digest, exact=exact)
    return True


def _found(there: Storage, pointer: Pointer) -> Manifest:
    try:
        manifest = read_manifest(there, pointer.manifest)
        if manifest.digest == pointer.digest:
            verify(there, manifest)
            return manifest
    except CheckpointError:
        pass  # the run has gone on, and let go of it
    manifest_now = newest(there, near=pointer.step)
    if manifest_now is None:
        raise CheckpointError(f"{pointer.output} holds no whole checkpoint to go on from", got=pointer.manifest, want="a complete one", fix="train it first")
    return manifest_now


def _copy(there: Storage, manifest: Manifest, storage: Storage, fence: int) -> Manifest:
    """The files first, the manifest last, under the fence of the run that takes over: that is what makes it the newest here."""
    folder = folder_of(manifest.step)
    storage.delete(f"{folder}/{MANIFEST}")
    storage.delete_tree(folder)
    for file in manifest.files:
        storage.put_file(file.name, there.local(file.name, sha256=file.sha256, size=file.bytes))
    content = json.loads(there.read(manifest.name))
    storage.put(manifest.name, (json.dumps({**content, "fence": fence}, indent=1) + "\n").encode())
    return replace(read_manifest(storage, manifest.name), files=manifest.files)
