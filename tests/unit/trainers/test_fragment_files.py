"""Fragments come back whole whoever cut them, and a file that is not as it was written is never read."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunefleet.cluster.errors import CheckpointError, StorageError
from tunefleet.cluster.storage import open_storage
from tunefleet.data.shards import SHARD_BYTES
from tunefleet.trainers.export import SHARD_SIZE
from tunefleet.trainers.fragment_files import FILE_BYTES, Fragment, FragmentReader, encode, files_of


def fragment(name, values, start=0, shape=None, slot="weight"):
    return Fragment(name, slot, shape or (values.numel(),), start, values)


def written(folder, groups):
    storage = open_storage(folder)
    return storage, [storage.put(f"weights/{i}.safetensors", encode(group)) for i, group in enumerate(groups)]


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=6), limit=st.integers(4, 90))
def test_files_keep_every_element_and_their_limit(sizes, limit):
    whole = [torch.randn(size) for size in sizes]
    groups = list(files_of([fragment(str(i), values) for i, values in enumerate(whole)], limit))
    assert all(0 < sum(f.values.numel() * 4 for f in group) <= limit for group in groups)
    for i, values in enumerate(whole):
        parts = [f for group in groups for f in group if f.name == str(i)]
        assert [f.start for f in parts] == [sum(g.values.numel() for g in parts[:n]) for n in range(len(parts))]
        assert torch.equal(torch.cat([f.values for f in parts]), values)


def test_no_object_of_ours_is_larger_than_a_gigabyte():
    header = len(encode([fragment("a.long.name.of.a.layer.weight", torch.zeros(1), shape=(1, 1))]))
    assert FILE_BYTES + 10_000 * header <= 1_000_000_000, "with the table of ten thousand parameters"
    assert SHARD_BYTES <= 1_000_000_000
    assert SHARD_SIZE == "1GB"


@given(cuts=st.sets(st.integers(1, 39), max_size=5), start=st.integers(0, 39), stop=st.integers(1, 40), files=st.integers(1, 3))
def test_any_range_is_read_out_of_any_cut(tmp_path_factory, cuts, start, stop, files):
    start, stop = min(start, stop - 1), max(start + 1, stop)
    values, edges = torch.arange(40.0), [0, *sorted(cuts), 40]
    parts = [fragment("w", values[a:b], a, (5, 8)) for a, b in itertools.pairwise(edges)]
    storage, stored = written(tmp_path_factory.mktemp("parts"), [parts[n::files] for n in range(files) if parts[n::files]])
    reader, target = FragmentReader(storage, stored), torch.empty(stop - start)
    reader.fill("weight", "w", start, target)
    assert torch.equal(target, values[start:stop])
    assert torch.equal(reader.whole("weight", "w"), values.view(5, 8))


def test_a_hole_is_an_error(tmp_path):
    storage, stored = written(tmp_path, [[fragment("w", torch.zeros(4), 0, (10,)), fragment("w", torch.zeros(4), 6, (10,))]])
    with pytest.raises(CheckpointError, match="does not hold all of w"):
        FragmentReader(storage, stored).whole("weight", "w")


def test_an_altered_number_is_an_error_before_it_is_read(tmp_path):
    storage, stored = written(tmp_path, [[fragment("w", torch.zeros(4))]])
    path = tmp_path / stored[0].name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError):
        FragmentReader(storage, stored).whole("weight", "w")


def test_a_pickle_is_no_file_of_fragments(tmp_path):
    storage = open_storage(tmp_path)
    torch.save({"w": torch.zeros(4)}, tmp_path / "w.safetensors")
    stored = storage.put("w.safetensors", (tmp_path / "w.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="no file of fragments"):
        FragmentReader(storage, [stored])


def test_dtypes_are_kept_and_cast_on_the_way_out(tmp_path):
    storage, stored = written(tmp_path, [[fragment("w", torch.full((3,), 1.5, dtype=torch.bfloat16))]])
    reader, target = FragmentReader(storage, stored), torch.empty(3)
    assert reader.whole("weight", "w").dtype == torch.bfloat16
    reader.fill("weight", "w", 0, target)
    assert torch.equal(target, torch.full((3,), 1.5))
