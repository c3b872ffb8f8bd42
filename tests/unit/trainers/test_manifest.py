"""A checkpoint counts only when it is whole; the newest of the latest writer wins, and retention never takes what is needed."""

import errno
import json

import pytest
import torch

from tunefleet.cluster import storage as storage_module
from tunefleet.cluster.errors import CheckpointError, OutputError, StorageError
from tunefleet.cluster.storage import open_storage
from tunefleet.cluster.storages.folder import Folder
from tunefleet.trainers.checkpoint import Saving, commit, drop_after, load_plain, newest, read_manifest, retain, write_part
from tunefleet.trainers.fragment_files import Fragment


def part(rank, ranks=2):
    values = torch.arange(8.0).chunk(ranks)[rank]
    return [Fragment("w", slot, (8,), rank * values.numel(), values.clone()) for slot in ("weight", "exp_avg")]


def head(step, fence=1, attempt="a", full=True):
    optimizer = {"kind": "adamw", "updates": step, "slots": []} if full else None
    return {"version": 1, "step": step, "fence": fence, "attempt": attempt, "optimizer": optimizer, "meta": {"step": step}}


def put(storage, step, *, fence=1, attempt="a", full=True, ranks=2):
    folder = f"checkpoints/step-{step:08d}"
    for rank in range(ranks):
        write_part(storage, folder, attempt, rank, part(rank, ranks))
    return commit(storage, folder, head(step, fence, attempt, full), ranks)


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path)


def test_the_newest_complete_one_is_found_and_read(storage):
    put(storage, 5)
    manifest = put(storage, 10)
    assert newest(storage) == manifest
    assert torch.equal(load_plain(storage, manifest)["w"], torch.arange(8.0))


def test_there_is_none_in_an_empty_folder(storage):
    assert newest(storage) is None


@pytest.mark.parametrize("harm", ["altered", "cut", "missing", "manifest", "no manifest"])
def test_what_is_torn_is_skipped_and_said(storage, tmp_path, harm):
    good, bad = put(storage, 5), put(storage, 10)
    path = tmp_path / (bad.name if "manifest" in harm else bad.files[-1].name)
    data = path.read_bytes()
    if harm == "altered":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif harm in ("cut", "manifest"):
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()
    said = []
    assert newest(storage, lambda name, error: said.append((name, error))) == good
    assert [name for name, _ in said] == ([] if harm == "no manifest" else [bad.name])
    assert all(isinstance(error, CheckpointError) for _, error in said)


class IllFolder(Folder):
    """A folder whose disk fails while it is read."""

    def local(self, name, *, sha256=None, size=None):
        raise StorageError(f"{name}: I/O error") from OSError(errno.EIO, "I/O error")


def test_a_storage_that_cannot_be_read_is_no_torn_checkpoint(storage, tmp_path):
    put(storage, 5)
    with pytest.raises(StorageError, match="I/O error"):
        newest(IllFolder(tmp_path))


def test_a_checkpoint_of_another_version_is_refused_not_skipped(storage):
    name = put(storage, 5).name
    storage.put(name, json.dumps({**json.loads(storage.read(name)), "version": 2}).encode())
    with pytest.raises(OutputError, match="another version"):
        newest(storage)


def test_a_ghost_with_a_lower_fence_does_not_count(storage):
    put(storage, 5, fence=2, attempt="b")
    put(storage, 90, fence=1, attempt="a")
    assert newest(storage).step == 5


def test_a_ghost_cannot_replace_what_a_later_writer_wrote(storage):
    kept = put(storage, 5, fence=2, attempt="b")
    with pytest.raises(CheckpointError, match="another run"):
        put(storage, 5, fence=1, attempt="a")
    assert read_manifest(storage, kept.name) == kept


def test_an_attempt_that_was_cut_off_cannot_replace_what_the_next_one_wrote(storage):
    kept = put(storage, 5, attempt="000001-002-aa")
    with pytest.raises(CheckpointError, match="a later attempt"):
        put(storage, 5, attempt="000001-001-bb")
    assert read_manifest(storage, kept.name) == kept


def test_saving_a_step_again_replaces_it_and_leaves_nothing_behind(storage):
    before, after = put(storage, 5, attempt="a", ranks=2), put(storage, 5, attempt="b", ranks=1)
    assert newest(storage) == after
    assert before.digest != after.digest
    assert set(storage.list("checkpoints/")) == {after.name, *(file.name for file in after.files)}


def test_a_part_that_could_not_be_written_stops_the_commit(storage):
    def full_disk(event, path):
        if event == "write" and "weights" in path:
            raise OSError(errno.ENOSPC, "no space left on device")

    folder = "checkpoints/step-00000005"
    write_part(storage, folder, "a", 0, part(0))
    storage_module.file_events.append(full_disk)
    try:
        saving = Saving("x", lambda: write_part(storage, folder, "a", 1, part(1)))
        with pytest.raises(StorageError):
            saving.wait()
    finally:
        storage_module.file_events.remove(full_disk)
    with pytest.raises(CheckpointError, match="rank 1"):
        commit(storage, folder, head(5), 2)
    assert newest(storage) is None


def test_retention_keeps_the_newest_the_protected_and_a_snapshot_on_its_way(storage):
    names = {step: put(storage, step).name for step in (5, 10, 15, 20)}
    snapshots = {step: put(storage, step, full=False).name for step in (12, 22)}
    storage.put("checkpoints/step-00000003/weights/a-00000-00000.safetensors", b"torn")
    removed = retain(storage, 2, {names[5]})
    assert set(removed) == {names[10], snapshots[12]}
    left = {name.split("/")[1] for name in storage.list("checkpoints/")}
    assert left == {f"step-{step:08d}" for step in (5, 15, 20, 22)}


def test_a_branch_that_was_given_up_can_be_dropped(storage):
    for step in (5, 10, 15):
        put(storage, step)
    storage.delete("checkpoints/step-00000015/manifest.json")
    assert drop_after(storage, 5) == ["checkpoints/step-00000010", "checkpoints/step-00000015"]
    assert newest(storage).step == 5


def test_the_manifest_is_json_without_a_world_size_or_a_stage(storage):
    value = json.loads(storage.read(put(storage, 5).name))
    assert not {"world_size", "ranks", "stage", "zero"} & set(value)
