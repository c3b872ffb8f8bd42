"""Which checkpoints a run's output holds: their manifests, the newest that is whole, and which may go."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import CheckpointError, OutputError, StorageError, TunefleetError
from tunefleet.cluster.storage import Stored
from tunefleet.trainers.fragment_files import FragmentReader

if TYPE_CHECKING:
    from tunefleet.cluster.storage import Storage

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
VERSION = 1


def folder_of(step: int) -> str:
    """Where the checkpoint of a step lies; names sort as steps do."""
    return f"{FOLDER}/step-{step:08d}"


@dataclass(frozen=True)
class Manifest:
    """A complete checkpoint. ``name`` is its address within the run's output, ``digest`` the sha256 of the manifest itself: one name for those weights.

    ``updates`` counts optimizer updates (None: weights only). ``fence`` and ``attempt`` say who wrote it.
    """

    name: str
    digest: str
    step: int
    fence: int
    attempt: str
    updates: int | None
    files: tuple[Stored, ...]
    meta: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """Where its files lie."""
        return self.name.rpartition("/")[0]

    def check_base(self, fingerprint: str) -> None:
        """Raises CheckpointError when the base model's files have changed since the training: an adapter on another base is another model."""
        trained = self.meta.get("base", {}).get("fingerprint", fingerprint)
        if trained != fingerprint:
            raise CheckpointError(
                f"{self.folder} stands on another base model",
                got=f"base fingerprint {fingerprint}",
                want=trained,
                fix="restore the base model's files as they were trained on",
            )

    def reader(self, storage: Storage, *kinds: str) -> FragmentReader:
        """A reader of its files of some kinds, ``weights`` or ``optimizer``."""
        return FragmentReader(storage, [file for file in self.files if file.name.removeprefix(f"{self.folder}/").partition("/")[0] in kinds])


def newest(storage: Storage, on_skip: Callable[[str, CheckpointError], None] | None = None, *, near: int | None = None) -> Manifest | None:
    """The newest checkpoint that training can go on from, every file checked against its sha256; None when there is none.

    One that is torn or altered is skipped, and said: ``on_skip(name, why)``, by default a warning in the log. A writer with a lower fence than another
    one is a ghost of an earlier run; its checkpoints count less than any of the later one. ``near``: of the others that of this step or the nearest to it
    counts most.
    """
    skip = on_skip or _warn
    found: list[Manifest] = []
    for name in _manifest_names(storage):
        try:
            found.append(read_manifest(storage, name))
        except CheckpointError as error:
            skip(name, error)
    order = _age if near is None else _nearness(near)
    for manifest in sorted((m for m in found if m.updates is not None), key=order, reverse=True):
        try:
            verify(storage, manifest)
        except CheckpointError as error:
            skip(manifest.name, error)
        else:
            return manifest
    return None


def nearest(storage: Storage, step: int) -> Manifest | None:
    """What ``newest`` finds ``near`` a step, by the manifests alone: whoever takes it over checks the files."""
    manifests = [m for name in _manifest_names(storage) if (m := readable(storage, name))]
    return max((m for m in manifests if m.updates is not None), key=_nearness(step), default=None)


def _nearness(step: int) -> Callable[[Manifest], tuple[int, int]]:
    return lambda m: (m.fence, -abs(m.step - step))


def newest_step(storage: Storage) -> int:
    """The step of the newest checkpoint that training can go on from, by its manifest alone; 0 where there is none. A cheap measure of progress."""
    manifests = [m for name in _manifest_names(storage) if (m := readable(storage, name))]
    return max((m.step for m in manifests if m.updates is not None), default=0)


def read_manifest(storage: Storage, name: str) -> Manifest:
    """A manifest by its name; its files are not looked at.

    Raises CheckpointError when it is absent or is none, OutputError when another version of tunefleet wrote it, StorageError when it cannot be read.
    """
    try:
        data = storage.read(name)
        value = json.loads(data)
        files = tuple(Stored(f"{name.rpartition('/')[0]}/{f['name']}", f["bytes"], f["sha256"]) for f in value["files"])
        updates = value["optimizer"]["updates"] if value["optimizer"] else None
        manifest = Manifest(name, hashlib.sha256(data).hexdigest(), value["step"], value["fence"], value["attempt"], updates, files, value["meta"])
        version = value["version"]
    except (StorageError, ValueError, KeyError, TypeError) as error:
        _raise_if_ill(error)
        raise CheckpointError(f"{name} is no manifest", got=brief(error), want="what a save wrote last", fix="resume from another checkpoint") from error
    if version != VERSION:
        raise OutputError(f"{name} has another version", got=str(version), want=str(VERSION), fix="use the tunefleet that wrote it")
    return manifest


def verify(storage: Storage, manifest: Manifest) -> None:
    """Raises CheckpointError unless every file of the checkpoint is as it was written, StorageError when that cannot be told."""

    def check(file: Stored) -> None:
        storage.local(file.name, sha256=file.sha256, size=file.bytes)

    try:
        with ThreadPoolExecutor(8) as pool:  # hashing lets the interpreter go
            list(pool.map(check, manifest.files))
    except StorageError as error:
        _raise_if_ill(error)
        raise CheckpointError(
            f"{manifest.folder} is torn", got=brief(error), want="every file as its manifest says", fix="resume from another checkpoint"
        ) from error


def retain(storage: Storage, keep: int, protected: Collection[str]) -> list[str]:
    """Remove all but the ``keep`` newest checkpoints that training can go on from, those ``protected`` by name, and the newest of all.

    Returns the manifests removed. Folders without a manifest go too where a later checkpoint is complete. A manifest goes first, so that a removal cut
    short leaves an incomplete checkpoint, not a torn one. To be called when no save is on its way.
    """
    complete = sorted((m for name in _manifest_names(storage) if (m := readable(storage, name))), key=_age, reverse=True)
    full = [m for m in complete if m.updates is not None]
    stays = {m.name for m in (*full[:keep], *complete[:1])} | set(protected)
    removed = [m.name for m in complete if m.name not in stays]
    known = {m.folder for m in complete}
    newest_step = max((m.step for m in complete), default=0)
    torn = [folder for folder, step in _folders(storage) if folder not in known and step < newest_step]
    for name in removed:
        storage.delete(name)
    for folder in (*(name.rpartition("/")[0] for name in removed), *torn):
        storage.delete_tree(folder)
    return removed


def drop_after(storage: Storage, step: int) -> list[str]:
    """Remove what stands beyond a step: a branch that a resume gave up (torn, or of a ghost). Returns the folders removed."""
    gone = [folder for folder, at in _folders(storage) if at > step]
    for folder in gone:
        storage.delete(f"{folder}/{MANIFEST}")
        storage.delete_tree(folder)
    return gone


def _raise_if_ill(error: Exception) -> None:
    """A storage that cannot be read (no permission, an I/O error) says nothing about the checkpoint, which must not be given up for it."""
    if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
        raise error


def brief(error: BaseException) -> str:
    """An error in one line."""
    return error.headline() if isinstance(error, TunefleetError) else f"{type(error).__name__}: {error}"


def _manifest_names(storage: Storage) -> list[str]:
    return [name for name in storage.list(f"{FOLDER}/") if name.endswith(f"/{MANIFEST}")]


def _folders(storage: Storage) -> list[tuple[str, int]]:
    """Folders of checkpoints, complete or not, with their steps."""
    heads = sorted({"/".join(name.split("/")[:2]) for name in storage.list(f"{FOLDER}/step-")})
    return [(head, int(head.rpartition("-")[2])) for head in heads if head.rpartition("-")[2].isdigit()]


def readable(storage: Storage, name: str) -> Manifest | None:
    """A manifest by its name, None when it is absent or broken."""
    try:
        return read_manifest(storage, name)
    except CheckpointError:
        return None


def _age(manifest: Manifest) -> tuple[int, int]:
    return manifest.fence, manifest.step


def _warn(name: str, error: CheckpointError) -> None:
    logging.getLogger(__name__).warning("skipping %s: %s", name, error)
