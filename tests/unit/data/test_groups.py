"""Rows of every kind become groups in shards: whole, with exact masks, on one side of the split, and a bad one is named by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from chat_templates import CHATML
from tiny_tokenizers import tiny_tokenizer

from tunefleet.cluster.errors import DataError
from tunefleet.data.choice import make_format
from tunefleet.data.feed import feed_of
from tunefleet.data.keys import keys_of
from tunefleet.data.layout import ANSWERS, CLASSIFICATION, JUDGED, LAYOUTS, PAIRS, PREFERENCE, TEXT, TRIPLETS, sequences
from tunefleet.data.packing import Limits
from tunefleet.data.prepare import prepare
from tunefleet.data.preview import preview
from tunefleet.data.settings import Data
from tunefleet.data.steps import StepSize
from tunefleet.data.store import Store
from tunefleet.data.stream import Stream

ROWS = {
    "preference": (PREFERENCE, {"prompt": "What is {}?", "chosen": "It is {}.", "rejected": "Never {}."}, {"chosen": None}),
    "completion_label": (JUDGED, {"prompt": "What is {}?", "completion": "It is {}.", "label": True}, {"label": "perhaps"}),
    "text_label": (CLASSIFICATION, {"text": "The fox {} jumps", "label": "good"}, {"label": None}),
    "scored_pair": (PAIRS, {"sentence1": "the fox {}", "sentence2": "the dog {}", "score": 3.5}, {"score": "high"}),
    "triplet": (TRIPLETS, {"query": "what is {}", "positive": "it is {}", "negatives": ["not {}", "no"]}, {"positive": None}),
    "prompt_completion": (ANSWERS, {"prompt": "What is {}?", "completion": "It is {}."}, {"completion": None}),
    "messages": (ANSWERS, {"messages": [{"role": "user", "content": "What {}?"}, {"role": "assistant", "content": "{}."}]}, {"messages": "none"}),
    "sharegpt": (ANSWERS, {"conversations": [{"from": "human", "value": "What {}?"}, {"from": "gpt", "value": "{}."}]}, {"conversations": []}),
    "alpaca": (ANSWERS, {"instruction": "Say {}", "output": "{}"}, {"output": None}),
    "text": (TEXT, {"text": "the fox {} jumps"}, {"text": None}),
}
KINDS = list(ROWS)


def filled(value, number: int):
    """The row of a kind with its number in every place."""
    return json.loads(json.dumps(value).replace("{}", str(number)))


def written(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def data_of(tmp_path: Path, *paths: Path, **more) -> Data:
    settings = {"store": str(tmp_path / "shards"), "holdout": 0.0, "max_length": 200, "chat_template": CHATML, **more}
    return Data.model_validate({"train": [{"path": str(path)} for path in paths], **settings})


def made(data: Data, layout):
    prepared = prepare(data, layout, tiny_tokenizer())
    return prepared, Store.open(prepared.store)


def rows_of(kind: str, count: int) -> list[dict]:
    return [filled(ROWS[kind][1], number) for number in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_read_streamed_and_shown(tmp_path, kind):
    layout, _, _ = ROWS[kind]
    data = data_of(tmp_path, written(tmp_path / "rows.jsonl", rows_of(kind, 30)), holdout=0.3)
    prepared, store = made(data, layout)
    train, held = store.split("train"), store.split("holdout")
    assert train.rows + held.rows == 30 == prepared.counts["kept"]
    assert held.rows > 0
    for split in (train, held):
        for record in split.records(range(split.rows)):
            assert split.lengths[record.id] == sum(len(part.ids) for part in sequences(record.columns))
    stream = Stream(feed_of(store, data, StepSize(8, None), 0), kind="pack", limits=Limits(rows=4), rank=0, ranks=1)
    seen = sorted(record.id for step in range(stream.steps_per_epoch) for part in stream.take(step) for record in part.records)
    assert seen == list(range(train.rows))
    assert len(preview(data, layout, tiny_tokenizer(), 3, colour=False)) == 3
    words = [json.loads(line) for line in Path(prepared.store, "rows-holdout.jsonl").read_text().splitlines()]
    assert len(words) == held.rows
    assert all(row["answer"] for row in words)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_row_of_every_format_is_named_by_file_and_line(tmp_path, kind):
    layout, _good, wrong = ROWS[kind]
    rows = rows_of(kind, 4)
    rows[2] = {**rows[2], **wrong}
    path = written(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=r"quality\.invalid: 1 of 4 rows") as caught:
        made(data_of(tmp_path, path), layout)
    assert f"{path}:3: " in str(caught.value)
    prepared, _ = made(data_of(tmp_path, path, quality={"invalid": "drop"}), layout)
    assert prepared.counts["invalid"] == 1
    assert prepared.counts["kept"] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_an_objective_cannot_learn_from_are_refused_by_file_and_line(tmp_path, kind):
    path = written(tmp_path / "rows.jsonl", rows_of(kind, 3))
    takes = type(make_format(kind).read(rows_of(kind, 1)[0]))
    others = [layout for layout in LAYOUTS if takes not in layout.takes]
    assert others
    for layout in others:
        with pytest.raises(DataError, match="learns nothing from such rows") as caught:
            made(data_of(tmp_path, path), layout)
        assert f"{path}:1: " in caught.value.what


def test_a_pair_holds_both_answers_with_the_prompt_before_each(tmp_path):
    tokenizer = tiny_tokenizer()
    _, store = made(data_of(tmp_path, written(tmp_path / "rows.jsonl", rows_of("preference", 2))), PREFERENCE)
    chosen, rejected = sequences(store.split("train").record(1).columns)
    for part, name, answer in ((chosen, "chosen", "It is 1."), (rejected, "rejected", "Never 1.")):
        assert part.name == name
        assert tokenizer.decode(part.ids.tolist()) == f"<|im_start|>user\nWhat is 1?<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
        assert tokenizer.decode(part.ids[part.supervised == 1].tolist()) == f"{answer}<|im_end|>"


def test_a_pair_whose_answer_is_cut_off_whole_cannot_be_learnt(tmp_path):
    rows = [*rows_of("preference", 2), {"prompt": "long " * 60, "chosen": "a", "rejected": "b"}]
    data = data_of(tmp_path, written(tmp_path / "rows.jsonl", rows), max_length=40, quality={"unsupervised": "drop"})
    prepared, _ = made(data, PREFERENCE)
    assert (prepared.counts["truncated"], prepared.counts["unsupervised"], prepared.counts["kept"]) == (1, 1, 2)


def test_labels_are_numbered_by_their_order_whatever_the_order_of_the_rows(tmp_path):
    labels = ["10", "9", "-1", "pos", "neg", "9"]
    rows = [{"text": f"row {i}", "label": label} for i, label in enumerate(labels)]
    for name, given in (("a.jsonl", rows), ("b.jsonl", rows[::-1])):
        _prepared, store = made(data_of(tmp_path, written(tmp_path / name, given)), CLASSIFICATION)
        assert store.index.meta["labels"] == ["-1", "9", "10", "neg", "pos"]
        read = {tiny_tokenizer().decode(r.columns["ids"].tolist()): r.columns["labels"].tolist() for r in store.split("train").records(range(6))}
        assert read == {f"row {i}": [["-1", "9", "10", "neg", "pos"].index(label)] for i, label in enumerate(labels)}


def test_several_labels_stand_in_one_row(tmp_path):
    rows = [{"text": "a", "labels": ["y", "x"]}, {"text": "b", "labels": []}, {"text": "c", "labels": ["z"]}]
    _, store = made(data_of(tmp_path, written(tmp_path / "rows.jsonl", rows)), CLASSIFICATION)
    assert [record.columns["labels"].tolist() for record in store.split("train").records(range(3))] == [[0, 1], [], [2]]


def test_two_texts_with_a_label_are_one_sequence_in_two_segments(tmp_path):
    rows = [{"premise": "the fox", "hypothesis": "a dog", "label": "no"}]
    _, store = made(data_of(tmp_path, written(tmp_path / "rows.jsonl", rows)), CLASSIFICATION)
    columns, tokenizer = store.split("train").record(0).columns, tiny_tokenizer()
    decoded = [tokenizer.decode(columns["ids"][columns["segments"] == segment].tolist()) for segment in (0, 1)]
    assert decoded == ["the fox", "a dog"]


def test_negatives_of_a_query_stay_apart(tmp_path):
    rows = [{"query": "what", "positive": "the fox", "negatives": ["a dog", "the cow is"]}, {"query": "who", "positive": "me"}]
    _, store = made(data_of(tmp_path, written(tmp_path / "rows.jsonl", rows)), TRIPLETS)
    split, tokenizer = store.split("train"), tiny_tokenizer()
    parts = [[(part.name, tokenizer.decode(part.ids.tolist())) for part in sequences(record.columns)] for record in split.records(range(2))]
    assert parts[0] == [("query", "what"), ("positive", "the fox"), ("negative 1", "a dog"), ("negative 2", "the cow is")]
    assert parts[1] == [("query", "who"), ("positive", "me")]


def test_a_text_that_is_too_long_keeps_the_tokens_that_frame_it(tmp_path):
    tokenizer = tiny_tokenizer("llama")
    data = data_of(tmp_path, written(tmp_path / "rows.jsonl", [{"text": "the fox " * 40, "label": 1}]), max_length=16)
    prepared = prepare(data, CLASSIFICATION, tokenizer)
    ids = Store.open(prepared.store).split("train").record(0).columns["ids"]
    assert len(ids) == 16
    assert ids[0] == tokenizer.bos_token_id
    assert prepared.counts["truncated"] == 1


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("preference", [{"prompt": f"p{i % 20}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(100)]),
        ("completion_label", [{"prompt": f"p{i % 20}", "completion": f"a{i}", "label": i % 2} for i in range(100)]),
        ("text_label", [{"text": f"p{i % 20}", "label": i} for i in range(100)]),
        ("scored_pair", [{"sentence1": f"p{i % 20}", "sentence2": f"a{i}", "score": 1} for i in range(100)]),
        ("triplet", [{"query": f"p{i % 20}", "positive": f"a{i}"} for i in range(100)]),
    ],
)
def test_rows_with_one_prompt_stay_on_one_side_and_never_change_it(tmp_path, kind, rows):
    layout = ROWS[kind][0]
    off = {"contradictions": "off"}

    def sides(given: list[dict]) -> dict[str, set[str]]:
        prepared, store = made(data_of(tmp_path, written(tmp_path / "rows.jsonl", given), holdout=0.3, quality=off), layout)
        words = [json.loads(line)["prompt"] for line in Path(prepared.store, "rows-holdout.jsonl").read_text().splitlines()]
        assert len(words) == store.split("holdout").rows
        assert all(words.count(prompt) == sum(prompt in row.values() for row in given) for prompt in words)
        return set(words)

    assert sides(rows[:60]) == sides(rows)


def test_sources_of_several_formats_meet_in_one_run(tmp_path):
    plain = written(tmp_path / "plain.jsonl", rows_of("preference", 3))
    chats = [{"messages": [{"role": "user", "content": f"q{i}"}], "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(2)]
    dialogues = [{"chosen": f"\n\nHuman: h{i}\n\nAssistant: yes", "rejected": f"\n\nHuman: h{i}\n\nAssistant: no"} for i in range(4)]
    others = written(tmp_path / "chats.jsonl", chats), written(tmp_path / "dialogues.jsonl", dialogues)
    prepared, store = made(data_of(tmp_path, plain, *others), PREFERENCE)
    assert store.split("train").rows == 9
    mixed = [written(tmp_path / f"{kind}.jsonl", rows_of(kind, 2)) for kind in ("alpaca", "messages", "sharegpt", "prompt_completion")]
    prepared, store = made(data_of(tmp_path, *mixed), ANSWERS)
    assert store.split("train").rows == 8
    assert sum("rows are read as" in decision for decision in prepared.decisions) == 4


CLAIMS = [
    ("preference", {"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "p", "chosen": "b", "rejected": "a"}, True),
    ("preference", {"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "p", "chosen": "a", "rejected": "c"}, False),
    ("completion_label", {"prompt": "p", "completion": "a", "label": 1}, {"prompt": "p", "completion": "a", "label": 0}, True),
    ("completion_label", {"prompt": "p", "completion": "a", "label": 1}, {"prompt": "p", "completion": "b", "label": 0}, False),
    ("text_label", {"text": "p", "label": 1}, {"text": "p", "label": 0}, True),
    ("scored_pair", {"sentence1": "p", "sentence2": "q", "score": 1}, {"sentence1": "q", "sentence2": "p", "score": 0}, True),
    ("triplet", {"query": "p", "positive": "a"}, {"query": "p", "positive": "b"}, False),
    ("prompt_completion", {"prompt": "p", "completion": "a"}, {"prompt": "p", "completion": "b"}, True),
]


@pytest.mark.parametrize(("kind", "one", "other", "contradict"), CLAIMS)
def test_rows_contradict_each_other_when_they_say_two_things_of_one(kind, one, other, contradict):
    first, second = (keys_of(make_format(kind).read(row)) for row in (one, other))
    assert first.whole != second.whole
    assert (first.claim != 0 and first.claim == second.claim) == contradict


def test_a_score_is_stored_as_it_was_given(tmp_path):
    _, store = made(data_of(tmp_path, written(tmp_path / "rows.jsonl", rows_of("scored_pair", 1))), PAIRS)
    assert store.split("train").record(0).columns["score"] == np.float32(3.5)
