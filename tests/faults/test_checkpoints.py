"""Checkpoints whose writer dies, whose disk is full or read-only, or which hold what they should not: the one before stands, and nothing runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hosts import needs_hosts

from tunefleet.cluster.errors import CheckpointError, StorageError
from tunefleet.cluster.storage import Storage, file_events, open_storage
from tunefleet.trainers.checkpoint import commit, load_plain, newest, retain, write_part
from tunefleet.trainers.fragment_files import Fragment
from tunefleet.trainers.manifest import Manifest

pytestmark = pytest.mark.fault
KILLED = 9


def save(storage: Storage, step: int, *, attempt: str = "a", elements: int = 8) -> Manifest:
    """What a single rank does for a checkpoint; then older ones go."""
    folder = f"checkpoints/step-{step:08d}"
    write_part(storage, folder, attempt, 0, [Fragment("w", slot, (elements,), 0, torch.full((elements,), float(step))) for slot in ("weight", "exp_avg")])
    head = {"version": 1, "step": step, "fence": 1, "attempt": attempt, "optimizer": {"kind": "adamw", "updates": step, "slots": []}, "meta": {"step": step}}
    manifest = commit(storage, folder, head, 1)
    retain(storage, 1, set())
    return manifest


def killed_at(number: int, act: Callable[[], Any]) -> bool:
    """Whether a process that does this, and ends without any clean-up at its n-th file event, came so far."""
    pid = os.fork()
    if pid == 0:
        countdown = iter(range(number, -1, -1))
        file_events.append(lambda *_: os._exit(KILLED) if next(countdown) == 0 else None)
        act()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == KILLED


def test_a_save_that_is_killed_at_any_file_event_leaves_the_one_before_or_the_new_one(tmp_path: Path) -> None:
    save(open_storage(tmp_path / "before"), 5)
    number, found = 0, []
    while True:
        storage = open_storage(shutil.copytree(tmp_path / "before", tmp_path / str(number)))
        if not killed_at(number, lambda storage=storage: save(storage, 10)):  # type: ignore[misc]
            break
        manifest = newest(storage)
        assert manifest is not None
        found.append(manifest.step)
        assert torch.equal(load_plain(storage, manifest)["w"], torch.full((8,), float(manifest.step)))
        again = save(storage, 10, attempt="b")
        assert newest(storage) == again
        assert set(storage.list("checkpoints/")) == {again.name, *(file.name for file in again.files)}, "nothing of the dead one is left"
        number += 1
    assert found == sorted(found)
    assert set(found) == {5, 10}


@needs_hosts
def test_a_disk_that_takes_no_more_keeps_the_checkpoint_before_and_is_told_with_path_and_bytes(tmp_path: Path) -> None:
    """On a real file system of 16 MB, which only the processes in its namespace see: full, and then read-only."""
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests), str(tests.parent / "src")])
    command = ["unshare", "--mount", sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    for told, said in zip(json.loads(done.stdout), ("No space left on device", "Read-only file system"), strict=True):
        assert told["newest"] == 5
        assert said in told["error"]
        assert f"{tmp_path}/checkpoints/step-00000010/" in told["error"]
        assert "bytes to write" in told["error"]


def fill_small_disk(folder: Path) -> None:
    """Save on a disk with room for one checkpoint, then once more, also when nothing can be written at all; tell what became of it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)], check=True)
    storage, elements = open_storage(folder), 9 << 17  # a weight and its state are 9 MB
    save(storage, 5, elements=elements)
    told = []
    for options in ("remount", "remount,ro"):
        subprocess.run(["mount", "-o", options, str(folder)], check=True)
        try:
            save(storage, 10, elements=elements)
        except StorageError as error:
            kept = newest(storage)
            told.append({"error": str(error), "newest": kept.step if kept else None})
    sys.stdout.write(json.dumps(told))


class Harm:
    """Leaves a trace when it is unpickled."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.sentinel,)


@pytest.mark.parametrize("name", ["weights/a-00000-00000.safetensors", "weights/pytorch_model.pt", "optimizer/zero_pp_rank_0_mp_rank_00_optim_states.pt"])
def test_a_pickle_in_a_checkpoint_is_refused_and_does_not_run(tmp_path: Path, name: str) -> None:
    storage, sentinel = open_storage(tmp_path / "out"), tmp_path / "sentinel"
    good = save(storage, 5)
    torch.save({"w": Harm(sentinel)}, tmp_path / "harm")
    folder = "checkpoints/step-00000010"
    stored = storage.put(f"{folder}/{name}", (tmp_path / "harm").read_bytes())
    head = json.loads(storage.read(good.name))
    files = [{"name": stored.name, "bytes": stored.bytes, "sha256": stored.sha256}]
    storage.put(f"{folder}/manifest.json", json.dumps({**head, "step": 10, "files": files}).encode())
    manifest = newest(storage, lambda *_: None)
    if manifest is not None and manifest.step == 10:  # its checksums are right
        with pytest.raises(CheckpointError, match="no file of fragments"):
            manifest.reader(storage, "weights", "optimizer")
    assert not sentinel.exists()
    torch.load(tmp_path / "harm", weights_only=False)
    assert sentinel.exists(), "it would have run"


if __name__ == "__main__":
    fill_small_disk(Path(sys.argv[1]))
