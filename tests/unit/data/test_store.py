"""What is written is what is read, nothing else is, and opening a store runs nothing that stands in it."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shardtoys import edit_index, encoded, make_store, tokens_of

from tunefleet.cluster.errors import DataError, StorageError
from tunefleet.data.layout import ANSWERS, Column, Encoded, Layout
from tunefleet.data.shards import INDEX, Columns, Index, ShardWriter, write_index
from tunefleet.data.store import Store

PAIRS = Layout(
    "pairs", 1, (Column("chosen", "int32"), Column("rejected", "int32"), Column("mask", "uint8"), Column("margin", "float32", per_token=False)), None
)  # type: ignore[arg-type]


def index_of(folder: Path) -> dict:
    return json.loads((folder / INDEX).read_text())


def rewrite(folder: Path, name: str, data: bytes) -> None:
    """Replace a file, and make the index agree with it: someone who owns the folder did this."""
    (folder / name).write_bytes(data)

    def change(index: dict) -> None:
        for split in index["splits"].values():
            for file in (*split["shards"], split["lengths"]):
                if file["name"] == name:
                    file.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    edit_index(folder, change)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40), shard_bytes=st.integers(1, 2000))
def test_what_is_written_is_read_back_whatever_the_shards(tmp_path_factory, lengths, shard_bytes):
    split = make_store(tmp_path_factory.mktemp("store"), lengths, shard_bytes=shard_bytes).split("train")
    assert split.lengths.tolist() == lengths
    assert (split.rows, split.tokens, sum(split.shard_rows)) == (len(lengths), sum(lengths), len(lengths))
    assert split.supervised == sum(length - length // 2 for length in lengths)
    records = split.records(reversed(range(len(lengths))))
    assert [r.id for r in records] == list(reversed(range(len(lengths))))
    for record in records:
        assert record.columns["ids"].tolist() == tokens_of(record.id, lengths[record.id]).tolist()
        assert int(record.columns["supervised"].sum()) == lengths[record.id] - lengths[record.id] // 2


def test_a_group_may_have_columns_of_several_lengths_and_single_values(tmp_path):
    writer = ShardWriter(tmp_path, "train", PAIRS, shard_bytes=60)
    for row in range(9):
        columns = {"chosen": tokens_of(row, 3 + row), "rejected": tokens_of(row, 12 - row), "mask": np.ones(3 + row, np.uint8), "margin": np.float32(row / 2)}
        writer.add(Encoded(columns, 15, 15))
    write_index(tmp_path, Index(fingerprint="f", layout=Columns.of(PAIRS), splits={"train": writer.close()}))
    for record in Store.open(tmp_path).split("train").records(range(9)):
        assert record.columns["chosen"].tolist() == tokens_of(record.id, 3 + record.id).tolist()
        assert record.columns["rejected"].tolist() == tokens_of(record.id, 12 - record.id).tolist()
        assert record.columns["margin"] == record.id / 2


def test_records_are_read_only_views_and_no_copies(tmp_path):
    split = make_store(tmp_path, [10] * 4).split("train")
    first, again = split.record(2).columns["ids"], split.record(2).columns["ids"]
    assert np.shares_memory(first, again)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_the_same_rows_give_the_same_bytes(tmp_path):
    shards = [make_store(tmp_path / name, [5, 9, 30], shard_bytes=60).index.splits["train"] for name in ("a", "b")]
    assert shards[0] == shards[1]


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=6), shard_bytes=st.integers(1, 300))
def test_sources_stand_one_behind_the_other_and_share_no_shard(tmp_path_factory, counts, shard_bytes):
    folder = tmp_path_factory.mktemp("store")
    writer = ShardWriter(folder, "train", ANSWERS, shard_bytes=shard_bytes)
    for number, count in enumerate(counts):
        writer.source(f"source-{number}")
        for row in range(count):
            writer.add(encoded(row, 3 + number))
    index = writer.close()
    write_index(folder, Index(fingerprint="f", layout=Columns.of(ANSWERS), splits={"train": index}))
    split = Store.open(folder).split("train")
    assert [(s.name, len(s.ids)) for s in split.sources] == [(f"source-{number}", count) for number, count in enumerate(counts)]
    assert [i for s in split.sources for i in s.ids] == list(range(sum(counts)))
    assert [n for s in split.sources for n in s.shards] == list(range(len(index.shards)))
    for number, source in enumerate(split.sources):
        assert set(split.lengths[list(source.ids)].tolist()) <= {3 + number}
        assert sum(split.shard_rows[n] for n in source.shards) == len(source.ids)


@pytest.mark.parametrize("change", [{"rows": 3}, {"shards": 2}, {"tokens": 1}])
def test_sources_that_do_not_add_up_are_refused(tmp_path, change):
    make_store(tmp_path, [5, 6])
    index = index_of(tmp_path)
    index["splits"]["train"]["sources"][0].update(change)
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(StorageError, match="cannot be read"):
        Store.open(tmp_path)


def test_an_empty_split_can_be_written_and_read(tmp_path):
    split = make_store(tmp_path, []).split("train")
    assert (split.rows, split.lengths.tolist(), split.shard_rows) == (0, [], [])


@pytest.mark.parametrize(
    "columns",
    [
        {"ids": np.arange(3, dtype=np.int64), "supervised": np.ones(3, np.uint8)},
        {"ids": np.arange(3, dtype=np.int32)},
        {"ids": np.arange(3, dtype=np.int32), "supervised": np.ones(3, np.uint8), "more": np.ones(3, np.uint8)},
        {"ids": np.ones((3, 2), np.int32), "supervised": np.ones(3, np.uint8)},
    ],
)
def test_a_layout_that_writes_other_columns_than_it_declares_is_refused(tmp_path, columns):
    with pytest.raises(DataError, match="other columns than it declares"):
        ShardWriter(tmp_path, "train", ANSWERS).add(Encoded(columns, 3, 3))


def test_a_folder_without_an_index_is_no_store(tmp_path):
    writer = ShardWriter(tmp_path, "train", ANSWERS)
    writer.add(encoded(0, 5))
    writer.close()
    with pytest.raises(StorageError, match="no store of shards"):
        Store.open(tmp_path)


def test_an_index_of_another_version_and_one_that_does_not_add_up_are_refused(tmp_path):
    make_store(tmp_path, [5, 6])
    index = index_of(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps({**index, "version": 1}))
    with pytest.raises(StorageError, match="version 2"):
        Store.open(tmp_path)
    index["splits"]["train"]["rows"] = 3
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(StorageError, match="not those of the shards"):
        Store.open(tmp_path)
    (tmp_path / INDEX).write_text("{")
    with pytest.raises(StorageError, match="cannot be read"):
        Store.open(tmp_path)


def test_an_unknown_split_names_the_nearest(tmp_path):
    with pytest.raises(DataError, match="did you mean train"):
        make_store(tmp_path, [5]).split("trian")


@pytest.mark.fault
def test_a_shard_that_was_altered_or_cut_off_is_named_before_a_row_of_it_is_used(tmp_path):
    make_store(tmp_path, [30] * 6, shard_bytes=200)
    path = tmp_path / "train-00001.arrow"
    good = path.read_bytes()
    altered = bytearray(good)
    altered[len(good) // 2] ^= 1
    for wrong in (bytes(altered), good[:-8]):
        path.write_bytes(wrong)
        split = Store.open(tmp_path).split("train")
        assert split.record(0).id == 0
        with pytest.raises(StorageError, match=r"train-00001\.arrow"):
            split.records(range(6))
        with pytest.raises(StorageError, match=r"train-00001\.arrow"):
            split.verify()
    path.unlink()
    with pytest.raises(StorageError, match=r"train-00001\.arrow"):
        Store.open(tmp_path).split("train").verify()


def test_a_shard_is_hashed_once_a_process_and_again_when_it_was_written_to(tmp_path):
    make_store(tmp_path, [30] * 2)
    Store.open(tmp_path).split("train").verify()
    path = tmp_path / "train-00000.arrow"
    altered = bytearray(path.read_bytes())
    altered[-100] ^= 1
    path.write_bytes(altered)
    with pytest.raises(StorageError, match="sha256"):
        Store.open(tmp_path).split("train").verify()


@pytest.mark.fault
def test_a_name_in_the_index_cannot_lead_out_of_the_store(tmp_path):
    make_store(tmp_path / "store", [5])
    (tmp_path / "secret.arrow").write_bytes((tmp_path / "store" / "train-00000.arrow").read_bytes())
    edit_index(tmp_path / "store", lambda index: index["splits"]["train"]["shards"][0].update(name="../secret.arrow"))
    with pytest.raises(StorageError, match="leads out"):
        Store.open(tmp_path / "store").split("train").record(0)


ran: list[bytes] = []


class Trap(pa.ExtensionType):
    """An extension type as a library registers it: opening a file that names it runs its code on bytes of the file."""

    def __init__(self, item: pa.DataType) -> None:
        super().__init__(item, "tests.trap")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"payload"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "Trap":
        ran.append(serialized)
        return cls(storage_type)


@pytest.fixture
def trap():
    pa.register_extension_type(Trap(pa.list_(pa.int32())))
    ran.clear()
    yield Trap
    pa.unregister_extension_type("tests.trap")


def file_of(columns: dict[str, pa.Array], metadata: dict[str, str] | None = None) -> bytes:
    schema = pa.schema([pa.field(name, array.type, nullable=False) for name, array in columns.items()], metadata=metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(list(columns.values()), schema=schema))
    return sink.getvalue().to_pybytes()


def item_list(rows: list[list[int]], kind: pa.DataType) -> pa.Array:
    return pa.array(rows, pa.list_(pa.field("item", kind, nullable=False)))


@pytest.mark.fault
def test_an_extension_type_is_refused_before_its_code_runs(tmp_path, trap):
    make_store(tmp_path, [2])
    storage = item_list([[1, 2]], pa.int32())
    crafted = file_of({"ids": pa.ExtensionArray.from_storage(trap(storage.type), storage), "supervised": item_list([[0, 1]], pa.uint8())})
    rewrite(tmp_path, "train-00000.arrow", crafted)
    ran.clear()
    with pytest.raises(StorageError, match="extension type") as caught:
        Store.open(tmp_path).split("train").record(0)
    assert "train-00000.arrow" in str(caught.value)
    assert ran == []
    pa.ipc.open_file(pa.BufferReader(crafted))  # the trap is real: this is what opening it the usual way does
    assert ran


@pytest.mark.fault
def test_a_footer_with_an_extension_type_is_never_looked_at(tmp_path, trap):
    """An Arrow file holds its schema twice; the usual way to open one reads the second."""
    make_store(tmp_path, [2])
    storage = item_list([[1, 2]], pa.int32())
    crafted = file_of({"ids": pa.ExtensionArray.from_storage(trap(storage.type), storage), "supervised": item_list([[0, 1]], pa.uint8())})
    size = int.from_bytes(crafted[-10:-6], "little") + 10
    honest = (tmp_path / "train-00000.arrow").read_bytes()
    own = int.from_bytes(honest[-10:-6], "little") + 10
    rewrite(tmp_path, "train-00000.arrow", honest[:-own] + crafted[-size:])
    ran.clear()
    assert Store.open(tmp_path).split("train").record(0).columns["ids"].tolist() == tokens_of(0, 2).tolist()
    assert ran == []
    pa.ipc.open_file(tmp_path / "train-00000.arrow")
    assert ran


@pytest.mark.parametrize(
    "columns",
    [
        {"ids": item_list([[1, 2]], pa.int32()), "supervised": item_list([[0, 1]], pa.uint8()), "more": pa.array([1])},
        {"ids": item_list([[1, 2]], pa.int64()), "supervised": item_list([[0, 1]], pa.uint8())},
        {"ids": item_list([[1, 2]], pa.int32()), "supervised": pa.array(["text"])},
        {"supervised": item_list([[0, 1]], pa.uint8()), "ids": item_list([[1, 2]], pa.int32())},
        {"ids": pa.array([[1, 2]], pa.list_(pa.int32())), "supervised": item_list([[0, 1]], pa.uint8())},
        {"ids": item_list([[1, 2], [3]], pa.int32()), "supervised": item_list([[0, 1], [1]], pa.uint8())},
    ],
    ids=["unknown column", "wider tokens", "text", "other order", "nullable", "more rows"],
)
def test_a_file_with_other_columns_than_the_index_says_is_refused(tmp_path, columns):
    make_store(tmp_path, [2])
    rewrite(tmp_path, "train-00000.arrow", file_of(columns))
    with pytest.raises(StorageError, match=r"train-00000\.arrow: not opened"):
        Store.open(tmp_path).split("train").record(0)


def test_metadata_in_the_schema_is_refused(tmp_path):
    make_store(tmp_path, [2])
    columns = {"ids": item_list([[1, 2]], pa.int32()), "supervised": item_list([[0, 1]], pa.uint8())}
    rewrite(tmp_path, "train-00000.arrow", file_of(columns, metadata={"pandas": "{}"}))
    with pytest.raises(StorageError, match="not opened"):
        Store.open(tmp_path).split("train").record(0)


@pytest.mark.fault
def test_offsets_that_point_outside_of_the_file_and_bytes_that_are_no_arrow_file_are_refused(tmp_path):
    make_store(tmp_path, [2])
    good = (tmp_path / "train-00000.arrow").read_bytes()
    place = good.rindex(np.asarray([0, 2], np.int32).tobytes())
    for wrong in (good[:place] + np.asarray([0, 1 << 30], np.int32).tobytes() + good[place + 8 :], b"not arrow at all", b"", good[:40]):
        rewrite(tmp_path, "train-00000.arrow", wrong)
        with pytest.raises(StorageError, match=r"train-00000\.arrow: not opened"):
            Store.open(tmp_path).split("train").record(0)
