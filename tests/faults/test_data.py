"""Data that is damaged, missing, foreign or hostile: named before a row of it is used, and nothing that stands in it runs."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from gangs import gang
from remotes import Remote
from rich.console import Console
from runs import lines, make_stage, small_run, work
from shardtoys import edit_index, ids_read, make_feed, make_store

from tunefleet.cluster.errors import CheckpointError, DataError, Refusal, StorageError
from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.cluster.storages.folders import local_folder
from tunefleet.data.packing import Limits
from tunefleet.data.rows import read_rows
from tunefleet.data.settings import Cache, Source
from tunefleet.data.shards import INDEX
from tunefleet.data.store import Store
from tunefleet.data.stream import Stream
from tunefleet.trainers.console import RunConsole
from tunefleet.trainers.launch import prepared
from tunefleet.trainers.manifest import newest
from tunefleet.trainers.output import Claim

pytestmark = pytest.mark.fault
ROWS, STEP = 40, 4
HARMS: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda data: data[:-8],
    "flipped": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
    "empty": lambda data: b"",
    "longer": lambda data: data + b"\0",
    "missing": lambda data: None,
}


def harm(path: Path, kind: str) -> None:
    """Do it to a file."""
    data = HARMS[kind](path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)


def stores(folder: Path) -> dict[str, Storage]:
    """The same store as a folder, and from afar."""
    make_store(folder / "store", [10] * ROWS, shard_bytes=100)
    return {"folder": open_storage(folder / "store"), "far": Remote(folder / "store", folder / "log")}


@pytest.mark.parametrize("kind", HARMS)
@pytest.mark.parametrize("place", ["folder", "far"])
def test_a_shard_that_is_not_what_was_written_is_named_and_no_row_of_it_is_ever_handed_over(tmp_path, kind, place):
    store = Store.at(stores(tmp_path)[place], Cache(folder=str(tmp_path / "cache")))
    split, bad = store.split("train"), 13
    harm(tmp_path / "store" / f"train-{bad:05d}.arrow", kind)
    own = set(range(sum(split.shard_rows[:bad]), sum(split.shard_rows[: bad + 1])))
    stream = Stream(make_feed(store, STEP), kind="bucket", limits=Limits(rows=2), rank=0, ranks=1)
    failed = 0
    for step in range(stream.steps_per_epoch):
        if own & set(stream.ids(step).tolist()):
            for _ in range(2):  # also when it is asked for again
                with pytest.raises(StorageError, match=f"train-{bad:05d}") as caught:
                    ids_read(stream.take(step))
            assert "prepare" in caught.value.fix or (place, kind) == ("far", "missing")
            failed += 1
        else:
            assert sorted(ids_read(stream.take(step))) == sorted(stream.ids(step).tolist())
    assert 0 < failed < stream.steps_per_epoch  # it was met in the middle


@pytest.mark.parametrize("kind", HARMS)
def test_lengths_that_are_not_what_was_written_are_named(tmp_path, kind):
    for storage in stores(tmp_path).values():
        path = tmp_path / "store" / "lengths-train.arrow"
        good = path.read_bytes()
        harm(path, kind)
        with pytest.raises(StorageError, match=r"lengths-train\.arrow"):
            _ = Store.at(storage, Cache(folder=str(tmp_path / "cache"))).split("train").lengths
        path.write_bytes(good)


def test_a_file_that_the_index_does_not_name_is_never_opened(tmp_path):
    stores(tmp_path)
    far = Remote(tmp_path / "store", tmp_path / "log")
    (tmp_path / "store" / "train-00099.arrow").write_bytes((tmp_path / "store" / "train-00000.arrow").read_bytes())
    store = Store.at(far, Cache(folder=str(tmp_path / "cache")))
    store.split("train").verify()
    assert store.split("train").rows == ROWS
    assert far.reads()["train-00099.arrow"] == 0


def forget_shard(index: dict[str, Any]) -> None:
    """Take a shard out of the index, and make every sum agree."""
    split = index["splits"]["train"]
    gone = split["shards"].pop(3)
    for part in (split, split["sources"][0]):
        part.update(rows=part["rows"] - gone["rows"], tokens=part["tokens"] - gone["tokens"])
    split["sources"][0]["shards"] -= 1


EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "window": lambda index: index.update(window=3),
    "fingerprint": lambda index: index.update(fingerprint="0" * 64),
    "a count": lambda index: index["counts"].update(rows=1),
    "a column": lambda index: index["layout"]["columns"][1].update(name="weights"),
    "another template": lambda index: index["meta"].update(chat_template="other"),
    "shards in another order": lambda index: index["splits"]["train"]["shards"].reverse(),
    "a shard less": forget_shard,
    "a name": lambda index: index["splits"]["train"]["shards"][0].update(name="train-00001.arrow"),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("place", ["folder", "far"])
def test_an_index_that_was_edited_is_refused(tmp_path, edit, place):
    storage = stores(tmp_path)[place]
    edit_index(tmp_path / "store", EDITS[edit], seal=False)
    with pytest.raises(StorageError, match=INDEX):
        Store.at(storage)


def test_an_index_that_names_a_shard_less_does_not_fit_its_lengths(tmp_path):
    storage = stores(tmp_path)["folder"]
    edit_index(tmp_path / "store", forget_shard)
    with pytest.raises(StorageError, match=r"lengths-train\.arrow: not opened"):
        Store.at(storage).split("train").verify()


@pytest.mark.gang
def test_nothing_is_trained_on_a_shard_with_one_bit_flipped(tmp_path):
    run = small_run(tmp_path, scaling={"num_workers": 1}, data={"holdout": 0}, export={"at_end": False})
    stage = make_stage(run)
    (shard,) = Path(stage.store).glob("train-*.arrow")
    harm(shard, "flipped")
    with pytest.raises(StorageError, match=shard.name):
        gang(1, work, stage.to_json(), 1)
    assert not lines(run)
    assert not open_storage(run.output).list("checkpoints/")


# Arrow files of a source


@pytest.fixture
def trap(tmp_path):
    """An extension type whose opening leaves a sentinel, as a library would register it that unpickles."""
    sentinel = tmp_path / "sentinel"

    class Running(pa.ExtensionType):
        def __init__(self) -> None:
            super().__init__(pa.int64(), "tests.running")

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Running:
            sentinel.touch()
            return cls()

    pa.register_extension_type(Running())
    plain = pa.table({"prompt": ["a"], "completion": ["b"]})
    sentinel.unlink(missing_ok=True)
    yield plain.append_column("odd", pa.ExtensionArray.from_storage(Running(), pa.array([1]))), sentinel
    pa.unregister_extension_type("tests.running")


def write_stream(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


def write_file(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    "stream.arrow": write_stream,
    "file.arrow": write_file,
    "rows.feather": lambda table, path: pa.feather.write_feather(table, str(path)),
    "rows.parquet": pa.parquet.write_table,
}


@pytest.mark.parametrize("name", WRITERS)
def test_rows_with_an_extension_type_are_refused_and_its_code_does_not_run(tmp_path, trap, name):
    table, sentinel = trap
    WRITERS[name](table, tmp_path / name)
    sentinel.unlink(missing_ok=True)
    with pytest.raises(DataError, match="extension type") as caught:
        list(read_rows(Source(path=str(tmp_path / name))))
    assert name in str(caught.value)
    assert not sentinel.exists()


# Too few rows


def ready(run: Any, said: io.StringIO | None = None) -> Any:
    """What the driver does before it asks for a worker."""
    return prepared(Claim(run, open_storage(run.output), 1, ()), run.model, RunConsole(Console(file=said or io.StringIO())))


@pytest.mark.parametrize("content", ["", "\n\n", "[]"], ids=["nothing", "blank lines", "an empty list"])
def test_a_source_without_rows_is_an_error_before_a_worker_is_held(tmp_path, content):
    (tmp_path / "rows.jsonl").write_text(content)
    tokenizer = small_run(tmp_path / "other")
    with pytest.raises((DataError, Refusal), match=r"no row|rows\.jsonl"):
        ready(small_run(tmp_path, model=tokenizer.model.model_dump()))
    assert not list((tmp_path / "shards").rglob(INDEX))


@pytest.mark.parametrize(
    ("training", "key"), [({"train_batch_size": 61}, "train_batch_size"), ({"train_batch_size": None, "train_batch_tokens": 10**6}, "train_batch_tokens")]
)
def test_fewer_rows_than_one_step_are_an_error_before_a_worker_is_held(tmp_path, training, key):
    with pytest.raises(DataError, match=f"training.{key}: an epoch has less than one step") as caught:
        ready(small_run(tmp_path, training=training, data={"holdout": 0}))
    assert f"lower training.{key} to" in caught.value.fix


def test_as_many_rows_as_one_step_are_enough(tmp_path):
    assert ready(small_run(tmp_path, training={"train_batch_size": 60}, data={"holdout": 0})).steps_per_epoch == 1


# Rows that are no text, and rows that do not fit


def write_hostile_rows(path: Path, *more: dict[str, Any]) -> None:
    """40 good rows, one that has the id of another, and four that are no text."""
    rows: list[dict[str, Any]] = [{"id": i, "prompt": f"What is {i} and {i * 7 % 11}?", "completion": f"It is {i * 3}."} for i in range(40)]
    rows.append({"id": 7, "prompt": "What has the name of another?", "completion": "This."})
    broken = [
        b'{"prompt": "not \xff utf-8", "completion": "a"}',
        b'{"prompt": "a \\u0000 in it", "completion": "a"}',
        b'{"prompt": "half of a pair: \\ud83d", "completion": "a"}',
        b'{"prompt": "torn',
    ]
    path.write_bytes(b"".join(line + b"\n" for line in [*(json.dumps(row).encode() for row in rows), *broken, *(json.dumps(row).encode() for row in more)]))


def test_rows_that_are_no_text_are_named_and_counted_and_dropped_only_by_policy(tmp_path):
    write_hostile_rows(tmp_path / "rows.jsonl")
    with pytest.raises((DataError, Refusal), match=r"data\.quality\.invalid: 4 of 45") as caught:
        ready(small_run(tmp_path, data={"holdout": 0}))
    assert "rows.jsonl:42" in str(caught.value)
    write_hostile_rows(
        tmp_path / "rows.jsonl", {"id": 99, "prompt": "Go on.", "completion": "hello there, " * 330}
    )  # one of 4 MB: tests/unit/data/test_planted.py
    said = io.StringIO()
    policies = {"invalid": "drop", "truncated": "drop", "duplicate_ids": "drop"}
    counts = ready(small_run(tmp_path, data={"holdout": 0, "quality": policies}), said).prepared.counts
    assert [counts[kind] for kind in ("rows", *policies, "kept")] == [46, 4, 1, 1, 40]
    assert all(f"data.quality.{kind}: " in said.getvalue() for kind in policies)


@pytest.mark.parametrize(("policy", "kept"), [("drop", 20), ("keep", 21)])
def test_a_prompt_that_is_longer_than_the_context_is_dropped_or_cut_and_counted(tmp_path, policy, kept):
    rows = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(20)]
    rows += [{"prompt": "What is long? " * 100, "completion": "This."}, {"prompt": "What is long?", "completion": "This is. " * 100}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises((DataError, Refusal), match=r"data\.quality\.unsupervised: 1 of 22") as caught:
        ready(small_run(tmp_path, data={"holdout": 0}))
    assert "rows.jsonl:21" in str(caught.value)
    quality = {"unsupervised": "drop", "truncated": policy}
    made = ready(small_run(tmp_path, data={"holdout": 0, "quality": quality})).prepared
    assert [made.counts[kind] for kind in ("truncated", "unsupervised", "kept")] == [2, 1, kept]
    split = Store.open(made.store).split("train")
    assert split.rows == kept
    assert (split.lengths.max() == 96) == (policy == "keep")
    assert all(record.columns["supervised"].any() for record in split.records(range(kept)))


# A store that other settings made


def test_other_settings_of_the_tokens_make_a_store_of_their_own(tmp_path):
    """A store is named by all that its tokens come from, so one that was made with something else is never found."""
    changed = [{}, {"chat_template": "{% for m in messages %}{{ m['content'] }} {% endfor %}"}, {"max_length": 64}]
    made = [ready(small_run(tmp_path, data={"holdout": 0, **data})).prepared for data in changed]
    assert len({prepared.store for prepared in made}) == 3
    assert all(prepared.created for prepared in made)
    assert not ready(small_run(tmp_path, data={"holdout": 0})).prepared.created
    other = small_run(tmp_path, data={"holdout": 0}, model={"tokenizer": {"train_vocab_size": 280}}, output=str(tmp_path / "other"))
    assert ready(other).prepared.created


def test_a_store_that_lies_under_the_name_of_another_is_refused(tmp_path):
    one = ready(small_run(tmp_path, data={"holdout": 0})).prepared
    two = ready(small_run(tmp_path, data={"holdout": 0, "max_length": 64})).prepared
    shutil.rmtree(one.store)
    shutil.copytree(two.store, one.store)
    with pytest.raises(StorageError, match="another preparation"):
        ready(small_run(tmp_path, data={"holdout": 0}))


# Names that lead out


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd", "..", "a/../../secret.arrow", "link.arrow", "linked/secret.arrow"])
@pytest.mark.parametrize("place", ["folder", "far"])
def test_a_name_in_an_index_that_leads_out_of_the_store_is_refused(tmp_path, name, place):
    storage = stores(tmp_path)[place]
    (tmp_path / "secret.arrow").write_bytes((tmp_path / "store" / "train-00000.arrow").read_bytes())
    (tmp_path / "store" / "link.arrow").symlink_to(tmp_path / "secret.arrow")
    (tmp_path / "store" / "linked").symlink_to(tmp_path)
    edit_index(tmp_path / "store", lambda index: index["splits"]["train"]["shards"][0].update(name=name))
    with pytest.raises(StorageError, match="leads out"):
        Store.at(storage, Cache(folder=str(tmp_path / "cache"))).split("train").record(0)


@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd"])
def test_a_name_in_a_checkpoint_that_leads_out_of_it_is_refused(tmp_path, name):
    run = small_run(tmp_path, data={"holdout": 0})
    storage = open_storage(run.output)
    file = {"name": name, "bytes": 6, "sha256": "0" * 64}
    head = {"version": 1, "step": 4, "fence": 1, "attempt": "a", "optimizer": {"updates": 4}, "files": [file], "meta": {}}
    storage.put("checkpoints/step-00000004/manifest.json", json.dumps(head).encode())
    (tmp_path / "secret").write_bytes(b"secret")
    said: list[CheckpointError] = []
    assert newest(storage, lambda _, error: said.append(error)) is None
    assert "step-00000004" in said[0].what


def test_a_saved_data_set_that_names_files_outside_of_itself_is_refused(tmp_path):
    write_stream(pa.table({"prompt": ["a"], "completion": ["b"]}), tmp_path / "secret.arrow")
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "dataset_info.json").write_text("{}")
    for name in ("../secret.arrow", str(tmp_path / "secret.arrow")):
        (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
        with pytest.raises(DataError, match="outside of its folder"):
            list(read_rows(Source(path=str(saved))))


def test_a_link_in_a_folder_of_rows_that_leads_out_of_it_is_refused(tmp_path):
    (tmp_path / "secret.txt").write_text("a key")
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "a.txt").write_text("a story")
    (rows / "same.txt").symlink_to("a.txt")
    assert len(list(read_rows(Source(path=str(rows))))) == 2
    (rows / "b.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(DataError, match="leads out of the folder"):
        list(read_rows(Source(path=str(rows))))
    assert [row.values["text"] for row in read_rows(Source(path=str(rows / "b.txt")))] == ["a key"]  # it was named: that is the user's word


@pytest.mark.s3
def test_a_folder_of_a_bucket_with_an_object_whose_name_leads_out_is_refused(s3_address):
    import s3fs

    system = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    open_storage(s3_address).put("model/config.json", b"{}")
    for name in ("../../evil", "a/../../b"):
        system.pipe(f"{s3_address}/model/{name}", b"evil")
        with pytest.raises(StorageError, match="leads out"):
            local_folder(f"{s3_address}/model")
        system.rm_file(f"{s3_address}/model/{name}")
    assert Path(local_folder(f"{s3_address}/model"), "config.json").read_bytes() == b"{}"
