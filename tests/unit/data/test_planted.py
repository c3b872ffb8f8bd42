"""Rows that were planted are counted: exactly, and near duplicates within a stated recall and precision; each fault of rows has an explicit policy."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from tiny_tokenizers import tiny_tokenizer

from tunefleet.cluster.errors import DataError
from tunefleet.data.layout import ANSWERS, CLASSIFICATION, PREFERENCE, TEXT
from tunefleet.data.prepare import prepare
from tunefleet.data.resemblance import near_earlier, near_others
from tunefleet.data.settings import Data
from tunefleet.data.sketches import likeness, sketches

SOUGHT = "exact_duplicates near_duplicates near_leakage contradictions leakage duplicate_ids roles_out_of_order empty_turns label_spellings"
WARN = dict.fromkeys(SOUGHT.split(" "), "warn") | {"unsupervised": "drop", "invalid": "drop"}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer("bytes")


def words(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdefghij", k=6)) for _ in range(count)]


def sentence(seed: int, count: int = 30) -> str:
    return " ".join(words(seed, count))


def written(path, rows) -> dict[str, str]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(path)}


def prepared_of(tmp_path, tokenizer, train, *, held=0.0, layout=ANSWERS, max_length=1000, **policies):
    data = Data(train=train, holdout=held, store=str(tmp_path / "shards"), max_length=max_length, quality=WARN | policies)
    return prepare(data, layout, tokenizer)


def reported(prepared) -> dict:
    return json.loads(Path(prepared.report).with_suffix(".json").read_text())


def test_every_planted_row_is_counted_once_and_in_its_source(tmp_path, tokenizer):
    good = [{"prompt": sentence(i), "completion": sentence(1000 + i)} for i in range(100)]
    asks = [
        *good,
        *good[:5],
        *({**row, "completion": row["completion"] + " indeed"} for row in good[5:9]),
        *({**row, "completion": sentence(2000 + i)} for i, row in enumerate(good[9:12])),
        *({"prompt": sentence(3000 + i), "completion": " "} for i in range(2)),
        *({"prompt": sentence(4000 + i), "completion": sentence(4100 + i, 200)} for i in range(4)),
        *({"prompt": sentence(5000 + i, 200), "completion": "yes"} for i in range(3)),
        *({"prompt": sentence(6000 + i), "completion": sentence(6100 + i), "id": 7} for i in range(3)),
        {"prompt": 3, "completion": "x"},
    ]
    held = [{"prompt": good[20]["prompt"], "completion": "anything"}, {"prompt": good[21]["prompt"] + " now", "completion": good[21]["completion"]}]
    user, says = {"role": "user", "content": "hello there"}, {"role": "assistant", "content": "hi"}
    turns = [[user, says], [user, says, says], [user, user, says], [user, says, {"role": "system", "content": "late"}, user, says]]
    chats = [{"messages": [{**turn, "content": f"{turn['content']} {sentence(i, 8)}"} for turn in one]} for i, one in enumerate(turns)]
    labels = [
        {"prompt": sentence(7000 + i, 12), "completion": name} for i, name in enumerate(["positive", "negative"] * 20 + ["Positive", "positive ", "Negative"])
    ]
    sources = [written(tmp_path / "asks.jsonl", asks), written(tmp_path / "chats.jsonl", chats), written(tmp_path / "labels.jsonl", labels)]
    prepared = prepared_of(tmp_path, tokenizer, sources, held=[written(tmp_path / "held.jsonl", held)])
    planted = {
        "exact_duplicates": [5, 0, 0, 0],
        "near_duplicates": [4, 0, 0, 0],
        "contradictions": [4 + 3, 0, 0, 0],  # a near duplicate answers the same prompt otherwise, too
        "empty_turns": [2, 0, 0, 0],
        "truncated": [4 + 3, 0, 0, 0],  # where the prompt alone fills the context, too
        "unsupervised": [3, 0, 0, 0],
        "duplicate_ids": [2, 0, 0, 0],
        "invalid": [1, 0, 0, 0],
        "leakage": [1, 0, 0, 0],
        "near_leakage": [1, 0, 0, 0],
        "roles_out_of_order": [0, 3, 0, 0],
        "label_spellings": [0, 0, 3, 0],
    }
    report = reported(prepared)
    assert {finding["kind"]: finding["by_source"] for finding in report["findings"]} == planted
    assert {kind: prepared.counts[kind] for kind in planted} == {kind: sum(counts) for kind, counts in planted.items()}
    assert prepared.counts["supervised_lost"] > 0
    assert [(label["name"], label["rows"]) for label in report["sources"][2]["labels"]] == [("positive", 22), ("negative", 21)]


def planted_pairs(grams: int, changed: int, pairs: int) -> tuple[list[str], list[str], float]:
    """Texts of so many 5-grams and each with its last words changed; the Jaccard index of every pair."""
    first = [words(i, grams + 4) for i in range(pairs)]
    second = [one[: len(one) - changed] + words(10_000 + i, changed) for i, one in enumerate(first)]
    return [" ".join(one) for one in first], [" ".join(one) for one in second], (grams - changed) / (grams + changed)


@pytest.mark.parametrize(("grams", "changed", "least", "most"), [(20, 1, 0.97, 1), (200, 10, 0.99, 1), (200, 16, 0.88, 1), (200, 38, 0, 0.03), (200, 60, 0, 0)])
def test_near_duplicates_are_found_with_the_stated_recall(grams, changed, least, most):
    first, second, jaccard = planted_pairs(grams, changed, 300)
    made = sketches(first + second)
    estimated = likeness(made[:300], made[300:])
    assert abs(float(estimated.mean()) - jaccard) < 0.012
    found = near_earlier(made, np.ones(600, bool))
    assert set(found[300:].tolist()) <= {-1, *range(300)}
    assert (found[:300] == -1).all()
    share = float((found[300:] == np.arange(300)).mean())
    assert least <= share <= most
    across = near_others(made, np.arange(300), np.arange(300, 600))
    assert float((across == np.arange(300, 600)).mean()) == share


def test_a_template_that_very_many_rows_share_is_found_and_its_earliest_row_kept():
    filled = [f"{sentence(1, 60)} number {i}" for i in range(3000)]
    found = near_earlier(sketches(filled), np.ones(3000, bool))
    assert found[0] == -1
    assert (found[1:] == 0).mean() > 0.99


def test_case_punctuation_and_white_space_make_no_other_text():
    made = sketches(
        ["The quick brown fox, jumped over the lazy dog.", "the quick  brown fox jumped\nover the lazy dog", "\u4f60\u597d\u4e16\u754c\u6211\u4eec\u6765\u4e86"]
    )
    assert (made[0] == made[1]).all()
    assert not (made[0] == made[2]).any()
    near = sketches(
        [
            "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u6211\u4eec\u4e00\u8d77\u53bb\u516c\u56ed\u6563\u6b65\u5427" * 2,
            "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u6211\u4eec\u4e00\u8d77\u53bb\u516c\u56ed\u6563\u6b65\u5427" * 2 + "\u554a",
        ]
    )
    assert likeness(near[:1], near[1:])[0] > 0.8


@pytest.mark.fault
def test_bytes_that_are_no_text_are_counted_and_their_policy_is_asked(tmp_path, tokenizer):
    good = [json.dumps({"prompt": sentence(i), "completion": "yes " + sentence(50 + i, 3)}).encode() for i in range(20)]
    bad = [
        b'{"prompt": "a\xff", "completion": "b"}',
        b'{"prompt": "a\\u0000", "completion": "b"}',
        b'{"prompt": "a\\ud800", "completion": "b"}',
        b'{"prompt": "a"',
    ]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([*good, *bad]) + b"\n")
    with pytest.raises(DataError, match=r"data\.quality\.invalid: 4 of 24"):
        prepared_of(tmp_path, tokenizer, [{"path": str(path)}], invalid="error")
    prepared = prepared_of(tmp_path, tokenizer, [{"path": str(path)}], invalid="drop")
    assert (prepared.counts["invalid"], prepared.counts["kept"]) == (4, 20)


@pytest.mark.fault
def test_one_id_for_two_rows_is_counted_and_follows_its_policy(tmp_path, tokenizer):
    rows = [{"id": i % 18, "prompt": sentence(i), "completion": "yes"} for i in range(20)]
    source = [written(tmp_path / "rows.jsonl", [*rows, rows[0]])]  # the last one is an exact duplicate, and no other row of the same name
    assert prepared_of(tmp_path, tokenizer, source).counts["duplicate_ids"] == 2
    assert prepared_of(tmp_path, tokenizer, source, duplicate_ids="drop", exact_duplicates="drop").counts["kept"] == 18
    with pytest.raises(DataError, match=r"data\.quality\.duplicate_ids: 2 of 21"):
        prepared_of(tmp_path, tokenizer, source, duplicate_ids="error")


@pytest.mark.fault
def test_a_line_of_four_megabytes_is_cut_or_dropped_and_counted(tmp_path, tokenizer):
    rows = [{"prompt": sentence(i), "completion": "yes"} for i in range(10)] + [{"prompt": "Go on.", "completion": "hello there, " * 320_000}]
    source = [written(tmp_path / "rows.jsonl", rows)]
    kept = prepared_of(tmp_path, tokenizer, source, truncated="keep").counts
    dropped = prepared_of(tmp_path, tokenizer, source, truncated="drop").counts
    assert [(counts["truncated"], counts["kept"]) for counts in (kept, dropped)] == [(1, 11), (1, 10)]
    assert kept["supervised_lost"] > 500_000
    assert dropped["supervised_lost"] == 0


@pytest.mark.fault
def test_a_prompt_that_fills_the_context_leaves_nothing_to_learn_and_is_counted(tmp_path, tokenizer):
    rows = [{"prompt": sentence(i), "completion": "yes"} for i in range(10)] + [{"prompt": sentence(99, 400), "completion": "yes"}]
    source = [written(tmp_path / "rows.jsonl", rows)]
    with pytest.raises(DataError, match=r"data\.quality\.unsupervised: 1 of 11"):
        prepared_of(tmp_path, tokenizer, source, unsupervised="error")
    counts = prepared_of(tmp_path, tokenizer, source, unsupervised="drop").counts
    assert (counts["unsupervised"], counts["kept"]) == (1, 10)


def test_labels_preferences_and_documents_are_judged_by_what_they_say(tmp_path, tokenizer):
    texts = [{"text": sentence(i), "label": ["good", "bad"][i % 2]} for i in range(20)]
    odd = [{"text": texts[0]["text"], "label": "bad"}, {"text": sentence(90), "label": "Good"}]
    counts = prepared_of(tmp_path, tokenizer, [written(tmp_path / "labels.jsonl", texts + odd)], layout=CLASSIFICATION).counts
    assert (counts["contradictions"], counts["label_spellings"]) == (1, 1)
    pairs = [{"prompt": sentence(i), "chosen": sentence(100 + i), "rejected": sentence(200 + i)} for i in range(20)]
    swapped = {"prompt": pairs[0]["prompt"], "chosen": pairs[0]["rejected"], "rejected": pairs[0]["chosen"]}
    more = {**pairs[1], "chosen": sentence(300)}  # another answer to the same prompt contradicts nothing
    counts = prepared_of(tmp_path, tokenizer, [written(tmp_path / "pairs.jsonl", [*pairs, swapped, more])], layout=PREFERENCE).counts
    assert (counts["contradictions"], counts["exact_duplicates"]) == (1, 0)
    (tmp_path / "text.txt").write_text("<|endoftext|>".join([sentence(i, 60) for i in range(10)] + [sentence(3, 60), sentence(4, 60) + " end"]))
    counts = prepared_of(tmp_path, tokenizer, [{"path": str(tmp_path / "text.txt")}], layout=TEXT).counts
    assert (counts["exact_duplicates"], counts["near_duplicates"], counts["contradictions"]) == (1, 1, 0)
