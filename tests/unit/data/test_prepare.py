"""Preparing: the same rows are tokenised once, the sides of the split are fixed by content, and nothing is lost that is not counted."""

from __future__ import annotations

import json
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from shardtoys import edit_index
from tiny_tokenizers import tiny_tokenizer

from tunefleet.cluster.errors import DataError, Refusal, SettingsError, StorageError
from tunefleet.cluster.tasks import Here
from tunefleet.data import blocks as blocks_module
from tunefleet.data import rows as rows_module
from tunefleet.data.examples import Conversation, Message
from tunefleet.data.layout import ANSWERS, TEXT, Column, Encoded, Layout, sequences
from tunefleet.data.prepare import Advance, Limits, prepare, source_names
from tunefleet.data.preview import preview, runs
from tunefleet.data.settings import Data, Source
from tunefleet.data.store import Store
from tunefleet.data.tokens import Encoder
from tunefleet.tuning.counter import Counter


def write_pairs(path: Path, pairs) -> dict[str, str]:
    path.write_text("".join(json.dumps({"prompt": p, "completion": a}) + "\n" for p, a in pairs))
    return {"path": str(path)}


def many(start: int, stop: int) -> list[tuple[str, str]]:
    return [(f"What is {i} plus three?", f"It is {i + 3}.") for i in range(start, stop)]


@pytest.fixture
def data(tmp_path):
    def make(train=None, **settings) -> Data:
        sources = train if train is not None else [write_pairs(tmp_path / "train.jsonl", many(0, 60))]
        return Data(**({"train": sources, "store": str(tmp_path / "shards"), "holdout": 0.2, "max_length": 200} | settings))

    return make


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer("bytes")


def texts(prepared, split: str, tokenizer) -> list[str]:
    part = Store.open(prepared.store).split(split)
    return [tokenizer.decode(part.record(i).columns["ids"].tolist()) for i in range(part.rows)]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a", "a", "b", "a"], ["a", "a-2", "b", "a-3"]),
        (["a-2", "a"], ["a-2", "a"]),
        (["a", "a", "a-2"], ["a", "a-3", "a-2"]),
        (["a-2", "a", "a", "a-2"], ["a-2", "a", "a-3", "a-2-2"]),
        (["", "holdout"], ["holdout", "holdout-2"]),
    ],
)
def test_every_source_has_a_name_of_its_own_and_keeps_that_of_its_file_where_it_can(files, names):
    assert source_names([Source(path=f"{number}/{name}.jsonl") for number, name in enumerate(files)]) == names


def test_files_that_are_called_like_a_numbered_one_are_prepared(data, tokenizer, tmp_path):
    held = [write_pairs(tmp_path / f"{name}.jsonl", many(start, start + 3)) for name, start in (("test-2", 100), ("test", 200))]
    prepared = prepare(data(holdout=held), ANSWERS, tokenizer)
    assert Store.open(prepared.store).index.meta["sets"] == {"test-2": [0, 3], "test": [3, 6]}


def test_every_row_is_in_exactly_one_split_and_counted(data, tokenizer):
    prepared = prepare(data(), ANSWERS, tokenizer)
    train, held = texts(prepared, "train", tokenizer), texts(prepared, "holdout", tokenizer)
    assert sorted(train + held) == sorted(f"User:\n{p}\nAssistant:\n{a}</s>" for p, a in many(0, 60))
    counts = prepared.counts
    assert (counts["rows"], counts["kept"], counts["examples"]) == (60, 60, 60)
    assert (counts["train"], counts["holdout"]) == (len(train), len(held))
    assert counts["tokens"] == sum(Store.open(prepared.store).split(s).tokens for s in ("train", "holdout"))
    assert counts["supervised"] == sum(Store.open(prepared.store).split(s).supervised for s in ("train", "holdout"))


def test_a_store_that_stands_is_found_and_no_row_is_read(data, tokenizer, monkeypatch):
    first = prepare(data(), ANSWERS, tokenizer)
    monkeypatch.setattr(blocks_module, "read_block", None)
    monkeypatch.setattr(rows_module, "origin_at", None)
    again = prepare(data(), ANSWERS, tiny_tokenizer("bytes"))
    assert first.created
    assert not again.created
    assert (again.store, again.counts, again.decisions) == (first.store, first.counts, first.decisions)


def test_rows_that_move_stay_prepared_and_rows_that_change_do_not(data, tokenizer, tmp_path):
    first = prepare(data(), ANSWERS, tokenizer)
    shutil.move(tmp_path / "train.jsonl", tmp_path / "moved.jsonl")
    assert not prepare(data([{"path": str(tmp_path / "moved.jsonl")}]), ANSWERS, tokenizer).created
    changed = prepare(data([write_pairs(tmp_path / "moved.jsonl", many(0, 61))]), ANSWERS, tokenizer)
    assert changed.created
    assert changed.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 199},
        {"holdout": 0.3},
        {"chat_template": "{% for m in messages %}{{ m['content'] }}</s>{% endfor %}"},
        {"quality": {"near_duplicates": "drop"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_decides_the_shards_is_in_the_fingerprint(data, tokenizer, change):
    assert prepare(data(), ANSWERS, tokenizer).fingerprint != prepare(data(**change), ANSWERS, tokenizer).fingerprint


def test_tokenizer_and_layout_are_in_the_fingerprint_and_batching_is_not(data, tokenizer):
    first = prepare(data(), ANSWERS, tokenizer)
    marks = {prepare(data(), ANSWERS, tiny_tokenizer("llama")).fingerprint, prepare(data(), TEXT, tokenizer).fingerprint}
    assert len(marks | {first.fingerprint}) == 3
    assert not prepare(data(batching="pad"), ANSWERS, tokenizer).created


def test_a_row_never_changes_side_when_data_grows(data, tokenizer, tmp_path):
    before = prepare(data([write_pairs(tmp_path / "a.jsonl", many(0, 60))]), ANSWERS, tokenizer)
    after = prepare(data([write_pairs(tmp_path / "b.jsonl", many(40, 200)), write_pairs(tmp_path / "c.jsonl", many(0, 40))]), ANSWERS, tokenizer)
    assert set(texts(before, "holdout", tokenizer)) == set(texts(after, "holdout", tokenizer)) & set(
        texts(before, "train", tokenizer) + texts(before, "holdout", tokenizer)
    )


def test_answers_to_one_prompt_stay_together(data, tokenizer, tmp_path):
    pairs = [(p, f"{a} {n}") for p, a in many(0, 40) for n in range(3)]
    prepared = prepare(data([write_pairs(tmp_path / "a.jsonl", pairs)]), ANSWERS, tokenizer)
    prompts = [{text.split("Assistant")[0] for text in texts(prepared, split, tokenizer)} for split in ("train", "holdout")]
    assert not prompts[0] & prompts[1]
    assert prepared.counts["contradictions"] == 80
    assert prepared.counts["leakage"] == 0


def test_held_out_sources_are_sets_by_name_with_their_words_beside(data, tokenizer, tmp_path):
    (tmp_path / "other").mkdir()
    held = [write_pairs(tmp_path / "easy.jsonl", many(100, 104)), write_pairs(tmp_path / "other" / "easy.jsonl", many(200, 203))]
    prepared = prepare(data(holdout=held), ANSWERS, tokenizer)
    store = Store.open(prepared.store)
    assert store.index.meta["sets"] == {"easy": [0, 4], "easy-2": [4, 7]}
    assert (prepared.counts["train"], prepared.counts["holdout"]) == (60, 7)
    words = [json.loads(line) for line in (Path(prepared.store) / "rows-holdout.jsonl").read_text().splitlines()]
    assert [(w["id"], w["source"], w["prompt"], w["answer"]) for w in words[3:5]] == [(3, "easy", *many(103, 104)[0]), (4, "easy-2", *many(200, 201)[0])]
    for word in words:
        assert word["answer"] in tokenizer.decode(store.split("holdout").record(word["id"]).columns["ids"].tolist())


def test_every_split_lists_its_sources_in_the_order_of_the_run_file(data, tokenizer, tmp_path):
    trained = [write_pairs(tmp_path / "b.jsonl", many(0, 40)), write_pairs(tmp_path / "a.jsonl", many(40, 41)), write_pairs(tmp_path / "c.jsonl", many(41, 90))]
    shared = Store.open(prepare(data(trained), ANSWERS, tokenizer).store)
    assert [[s.name for s in shared.split(side).sources] for side in ("train", "holdout")] == [["b", "a", "c"]] * 2
    assert sum(len(s.ids) for side in ("train", "holdout") for s in shared.split(side).sources if s.name == "a") == 1
    held = Store.open(prepare(data(trained, holdout=[write_pairs(tmp_path / "h.jsonl", many(100, 103))]), ANSWERS, tokenizer).store)
    assert [(s.name, len(s.ids)) for s in held.split("train").sources] == [("b", 40), ("a", 1), ("c", 49)]
    assert [(s.name, len(s.ids)) for s in held.split("holdout").sources] == [("h", 3)]


def test_raw_text_is_cut_and_its_pieces_are_drawn_one_by_one(data, tokenizer, tmp_path):
    text = " ".join(f"The fox jumps {i} times." for i in range(300))
    (tmp_path / "a.txt").write_text(text)
    prepared = prepare(data([{"path": str(tmp_path / "a.txt")}], max_length=32), TEXT, tokenizer)
    assert prepared.counts["rows"] == prepared.counts["kept"] == 1
    assert prepared.counts["supervised"] == len(tokenizer(text)["input_ids"]) - 1
    assert prepared.counts["train"] > prepared.counts["holdout"] > 0
    assert Store.open(prepared.store).split("train").record(0).columns["ids"].tolist() == tokenizer(text)["input_ids"][:32]


def test_no_holdout_is_no_split(data, tokenizer):
    prepared = prepare(data(holdout=0), ANSWERS, tokenizer)
    assert set(Store.open(prepared.store).index.splits) == {"train"}
    assert prepared.counts["holdout"] == 0


def test_an_empty_side_is_an_error_and_leaves_a_report_and_no_store(data, tokenizer, tmp_path):
    with pytest.raises(DataError, match="no row is held out"):
        prepare(data(holdout=1e-9), ANSWERS, tokenizer)
    with pytest.raises(DataError, match="no row is left to train on"):
        prepare(data(holdout=0.999999), ANSWERS, tokenizer)
    assert sorted(p.name for p in (tmp_path / "shards").iterdir()) == ["blocks", "refused", "scans"]


def test_rows_without_anything_to_learn_follow_their_policy(data, tokenizer, tmp_path):
    source = [write_pairs(tmp_path / "a.jsonl", [*many(0, 30), ("long " * 100, "cut off")])]
    with pytest.raises(DataError, match=r"data\.quality\.unsupervised: 1 of 31") as caught:
        prepare(data(source, max_length=60), ANSWERS, tokenizer)
    assert "a.jsonl:31" in caught.value.got
    dropped = prepare(data(source, max_length=60, quality={"unsupervised": "drop"}), ANSWERS, tokenizer)
    kept = prepare(data(source, max_length=60, quality={"unsupervised": "keep"}), ANSWERS, tokenizer)
    assert (dropped.counts["kept"], dropped.counts["unsupervised"], dropped.counts["truncated"]) == (30, 1, 1)
    assert (kept.counts["kept"], kept.counts["examples"]) == (31, 31)


def test_rows_that_are_too_long_follow_their_policy(data, tokenizer, tmp_path):
    source = [write_pairs(tmp_path / "a.jsonl", [*many(0, 30), ("One?", "long " * 100)])]
    assert prepare(data(source, max_length=60), ANSWERS, tokenizer).counts["kept"] == 31
    assert prepare(data(source, max_length=60, quality={"truncated": "drop"}), ANSWERS, tokenizer).counts["kept"] == 30
    with pytest.raises(DataError, match=r"data\.quality\.truncated: 1 of 31"):
        prepare(data(source, max_length=60, quality={"truncated": "error"}), ANSWERS, tokenizer)


def test_rows_that_cannot_be_read_follow_their_policy_wherever_it_shows(data, tokenizer, tmp_path):
    turns = [[{"role": "user", "content": f"Question {i}"}, {"role": "assistant", "content": "Yes."}] for i in range(30)]
    first = [{"role": "assistant", "content": "I begin."}]
    lines = [json.dumps({"messages": t}) for t in [*turns, first]] + ["torn {", json.dumps({"messages": "none"})]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    source = [{"path": str(tmp_path / "a.jsonl")}]
    with pytest.raises(DataError, match=r"data\.quality\.invalid: 3 of 33") as caught:
        prepare(data(source), ANSWERS, tokenizer)
    assert "a.jsonl:32: not JSON" in caught.value.got
    prepared = prepare(data(source, quality={"invalid": "drop"}), ANSWERS, tokenizer)
    assert (prepared.counts["rows"], prepared.counts["kept"], prepared.counts["invalid"]) == (33, 30, 3)


def test_all_that_is_wrong_with_the_rows_is_said_at_once(data, tokenizer, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a b"}\n{"text": "a b"}\ntorn\n')
    with pytest.raises(Refusal) as caught:
        prepare(data([{"path": str(tmp_path / "a.jsonl")}], quality={"exact_duplicates": "error"}), TEXT, tokenizer)
    assert len(caught.value.problems) == 2


def test_duplicates_that_are_dropped_are_not_written(data, tokenizer, tmp_path):
    prepared = prepare(data([write_pairs(tmp_path / "a.jsonl", many(0, 60) * 2)], quality={"exact_duplicates": "drop"}), ANSWERS, tokenizer)
    assert (prepared.counts["rows"], prepared.counts["kept"], prepared.counts["exact_duplicates"]) == (120, 60, 60)
    assert any("60 dropped" in decision for decision in prepared.decisions)


def test_progress_ends_when_all_rows_and_bytes_are_done(data, tokenizer, tmp_path):
    seen: list[Advance] = []
    prepare(data(), ANSWERS, tokenizer, on_progress=seen.append)
    size = (tmp_path / "train.jsonl").stat().st_size
    assert seen[-1] == Advance(60, size, size)


def test_decisions_are_said_also_when_the_store_stood_already(data, tokenizer):
    first, again = prepare(data(), ANSWERS, tokenizer), prepare(data(), ANSWERS, tokenizer)
    assert first.decisions == again.decisions
    assert any("read as prompt_completion" in d for d in first.decisions)
    assert any("plain default" in d for d in first.decisions)


@pytest.mark.fault
def test_a_tampered_store_is_refused(data, tokenizer):
    prepared = prepare(data(), ANSWERS, tokenizer)
    edit_index(Path(prepared.store), lambda index: index.update(fingerprint="0" * 64))
    with pytest.raises(StorageError, match="another preparation"):
        prepare(data(), ANSWERS, tokenizer)


def test_preparers_of_the_same_store_do_not_meet(data, tokenizer, tmp_path):
    results, settings = [], data()
    threads = [threading.Thread(target=lambda: results.append(prepare(settings, ANSWERS, tiny_tokenizer("bytes")))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len({(r.store, r.fingerprint, tuple(r.counts.items())) for r in results}) == 1
    assert sorted(p.name for p in (tmp_path / "shards").iterdir()) == sorted([Path(results[0].store).name, "blocks", "scans"])


def test_an_unwritable_store_says_so(data, tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        prepare(data(store=str(tmp_path / "file")), ANSWERS, tokenizer)


def test_a_layout_of_ones_own_is_written_as_it_encodes(data, tokenizer):
    def encode(example, encoder):
        one = encoder.supervised(example)
        yield Encoded({**one.columns, "weight": np.array([0.5], np.float32)}, one.length, one.supervised)

    layout = Layout("weighted", 1, (*ANSWERS.columns, Column("weight", "float32", per_token=False)), encode)
    prepared = prepare(data(), layout, tokenizer)
    assert float(Store.open(prepared.store).split("train").record(0).columns["weight"]) == 0.5


def test_a_preview_marks_what_is_learnt(data, tokenizer):
    plain = preview(data(), ANSWERS, tokenizer, 2, colour=False)
    assert plain[0].plain.endswith("User:\nWhat is 0 plus three?\nAssistant:\n[[It is 3.</s>]]")
    assert "train.jsonl:1: " in plain[0].plain
    coloured = preview(data(), ANSWERS, tokenizer, 1)[0]
    assert [coloured.plain[s.start : s.end] for s in coloured.spans if s.style == "bold green"] == ["It is 3.</s>"]


def test_a_preview_shows_why_a_row_cannot_be_used(data, tokenizer, tmp_path):
    (tmp_path / "a.jsonl").write_text('torn\n{"text": "a b"}\n')
    first, second = preview(data([{"path": str(tmp_path / "a.jsonl")}]), TEXT, tokenizer, 5, colour=False)
    assert "cannot be used: not JSON" in first.plain
    assert second.plain.endswith("[[ b]]")


def test_stretches_of_a_preview_join_to_the_whole_text(tokenizer):
    for kind in ("bytes", "llama"):
        used = tiny_tokenizer(kind)
        encoded = Encoder(used, None, 200).supervised(Conversation((Message("user", "日本 👍🏽?"), Message("assistant", "é, yes"))))
        assert "".join(text for _, text in runs(next(sequences(encoded.columns)), used)) == used.decode(encoded.columns["ids"].tolist())


def test_a_template_path_that_is_none_is_refused_before_rows_are_read(data, tokenizer):
    with pytest.raises(SettingsError, match="chat_template"):
        prepare(data(chat_template="missing.jinja"), ANSWERS, tokenizer)


def test_a_small_input_opens_no_cluster_and_a_large_one_does_once(data, tokenizer, tmp_path):
    opened = []

    @contextmanager
    def cluster():
        opened.append(1)
        yield Here()

    small = prepare(data(), ANSWERS, tokenizer, cluster=cluster)
    assert not opened
    large = prepare(data(store=str(tmp_path / "large")), ANSWERS, tokenizer, cluster=cluster, limits=Limits(alone=1000))
    assert opened == [1]
    assert small.counts == large.counts
    prepare(data(store=str(tmp_path / "large"), quality={"near_duplicates": "drop"}), ANSWERS, tokenizer, cluster=cluster, limits=Limits(alone=1000))
    assert opened == [1], "nothing is left to tokenise"


def test_progress_in_words_has_rows_a_second_and_the_time_that_is_left(capsys):
    """One block of two is done after a minute."""
    times = iter([0.0, 0.0, 60.0])
    with Counter("preparing", clock=lambda: next(times)) as counter:
        counter.show(60_000, 25, 50)
    assert capsys.readouterr().err == "preparing: 60,000 rows  1,000 rows/s  1m00s left\n"
