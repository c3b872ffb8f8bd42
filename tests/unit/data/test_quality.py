"""The quality gate: what is found is counted, exactly, and the policies do what they say and nothing else."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from tunefleet.cluster.errors import DataError, Refusal
from tunefleet.data.examples import Conversation, Message, Text
from tunefleet.data.keys import keys_of
from tunefleet.data.near import Shingles
from tunefleet.data.quality import Tally, judge
from tunefleet.data.settings import Quality, Source
from tunefleet.data.survey import Part, Reading, take_survey

QUIET = dict.fromkeys(("exact_duplicates", "near_duplicates", "contradictions", "leakage"), "warn")


def sentence(seed: int, words: int = 40) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefgh", k=5)) for _ in range(words))


def gate(folder, train, held=(), **policies):
    """The tally and the dropped rows of pairs of prompt and answer."""
    parts = []
    for name, pairs in (("train", train), ("held", held)):
        if pairs:
            path = folder / f"{name}.jsonl"
            path.write_text("".join(json.dumps({"prompt": p, "completion": a}) + "\n" for p, a in pairs))
            parts.append(Part(Source(path=str(path)), name, name == "held", (str(path),)))
    quality = Quality(**(QUIET | policies))
    tally = Tally(quality)
    survey = take_survey([Reading(part) for part in parts], near=quality.near_duplicates != "off")
    return tally, judge(survey, tally).tolist()


def test_rows_that_equal_an_earlier_one_are_counted_and_the_earliest_is_kept(tmp_path):
    rows = [("a", "1"), ("b", "2"), ("a", "1"), ("a", "1"), ("c", "3"), ("b", "2")]
    tally, dropped = gate(tmp_path, rows, exact_duplicates="drop")
    assert tally.counts["exact_duplicates"] == 3
    assert dropped == [False, False, True, True, False, True]
    assert tally.places["exact_duplicates"] == [f"{tmp_path}/train.jsonl:{line}" for line in (3, 4, 6)]
    assert tally.counts["contradictions"] == tally.counts["near_duplicates"] == 0


def test_one_prompt_with_several_answers_contradicts_itself(tmp_path):
    rows = [("a", "yes"), ("b", "2"), ("a", "no"), ("a", "no"), ("a", "perhaps")]
    tally, dropped = gate(tmp_path, rows, contradictions="drop")
    assert tally.counts["contradictions"] == 2
    assert tally.counts["exact_duplicates"] == 1
    assert dropped == [False, False, True, False, True]


def test_training_rows_with_a_held_out_prompt_leak(tmp_path):
    tally, dropped = gate(tmp_path, [("a", "1"), ("b", "2"), ("c", "3")], held=[("b", "other"), ("d", "4")], leakage="drop")
    assert tally.counts["leakage"] == 1
    assert dropped == [False, True, False, False, False]


def test_chats_that_only_begin_alike_do_not_leak(tmp_path):
    def talk(path, *contents):
        turns = [{"role": "assistant" if i % 2 else "user", "content": c} for i, c in enumerate(contents)]
        (tmp_path / path).write_text(json.dumps({"messages": turns}) + "\n")
        return Part(Source(path=str(tmp_path / path)), path, path == "held.jsonl", (str(tmp_path / path),))

    tally = Tally(Quality(**QUIET))
    training = [talk("a.jsonl", "Hi", "Ho", "One?", "1"), talk("b.jsonl", "Hi", "Hello", "Two?", "2")]
    judge(take_survey([Reading(part) for part in [*training, talk("held.jsonl", "Hi", "Ho", "One?", "one")]], near=False), tally)
    assert tally.counts["leakage"] == 1
    assert tally.places["leakage"] == [f"{tmp_path}/a.jsonl:1"]


def test_the_sides_are_not_duplicates_of_each_other(tmp_path):
    tally, dropped = gate(tmp_path, [("a", "1")], held=[("a", "1")], exact_duplicates="drop", near_duplicates="drop")
    assert tally.counts["exact_duplicates"] == tally.counts["near_duplicates"] == 0
    assert tally.counts["leakage"] == 1
    assert dropped == [False, False]


def test_a_policy_that_is_off_looks_for_nothing(tmp_path):
    off = dict.fromkeys(QUIET, "off")
    tally, dropped = gate(tmp_path, [("a", "1"), ("a", "1"), ("a", "2")], held=[("a", "1")], **off)
    assert not any(tally.counts.values())
    assert not any(dropped)
    assert tally.decisions() == []


def test_errors_are_reported_all_at_once_with_places(tmp_path):
    tally, _ = gate(tmp_path, [("a", "1"), ("a", "1"), ("a", "2")], exact_duplicates="error", contradictions="error")
    with pytest.raises(Refusal) as caught:
        tally.refuse(3)
    text = str(caught.value)
    assert "data.quality.exact_duplicates: 1 of 3 rows equal an earlier one" in text
    assert "train.jsonl:2" in text
    assert "data.quality.contradictions: 1 of 3" in text
    assert "train.jsonl:3" in text


def test_warnings_say_how_many_and_where(tmp_path):
    tally, _ = gate(tmp_path, [("a", "1")] * 6)
    tally.refuse(6)
    (line,) = tally.decisions()
    assert line.startswith("data.quality.exact_duplicates: 5 kept")
    assert line.count(".jsonl:") == 3
    assert "and 2 more" in line


def test_near_duplicates_are_found_at_their_threshold_and_the_earliest_is_kept(tmp_path):
    base = [sentence(i) for i in range(200)]
    near = [text + " and one more" for text in base[:50]]
    far = [" ".join(word if i % 6 else "changed" for i, word in enumerate(text.split())) for text in base[50:100]]
    rows = [(text, "x") for text in base + near + far]
    tally, dropped = gate(tmp_path, rows, near_duplicates="drop")
    assert not any(dropped[:200])
    assert not any(dropped[250:])
    assert tally.counts["near_duplicates"] == sum(dropped[200:250]) == 50


def test_a_near_duplicate_is_near_a_row_that_stays():
    shingles, draw = Shingles(), random.Random(1)
    words = [f"w{i}" for i in range(60)]
    texts = []
    for _ in range(80):  # a chain: each a little further from the first
        words[draw.randrange(60)] = f"x{draw.random()}"
        texts.append(list(words))
        shingles.add(words)
    found = shingles.near_duplicates(np.ones(80, bool), np.zeros(80, np.int64))

    def grams(text):
        return {tuple(text[i : i + 5]) for i in range(len(text) - 4)}

    stay = [grams(t) for t, gone in zip(texts, found, strict=True) if not gone]
    for text, gone in zip(texts, found, strict=True):
        if gone:
            assert max(len(grams(text) & other) / len(grams(text) | other) for other in stay) >= 0.8


def test_short_and_empty_texts_are_near_only_to_themselves():
    shingles = Shingles()
    for words in (["a"], [], ["a", "b"], ["b", "a"], ["a"], []):
        shingles.add(words)
    found = shingles.near_duplicates(np.ones(6, bool), np.zeros(6, np.int64))
    assert found.tolist() == [False, False, False, False, True, True]


def test_keys_tell_opening_context_and_whole_apart():
    def talk(*contents):
        return Conversation(tuple(Message("assistant" if i % 2 else "user", c) for i, c in enumerate(contents)))

    short, long, other = keys_of(talk("a", "b")), keys_of(talk("a", "b", "c", "d")), keys_of(talk("a", "x", "c", "d"))
    assert short.opening == long.opening == other.opening
    assert long.context != other.context
    assert short.context == short.opening
    assert len({short.whole, long.whole, other.whole}) == 3
    assert keys_of(talk("a")).context == 0
    assert keys_of(Conversation(talk("a", "b").messages, tools=({"name": "t"},))).opening != short.opening
    text = keys_of(Text("a"))
    assert text.opening == text.whole


def test_a_row_stays_on_its_side_for_ever():
    assert keys_of(Text("Once upon a time")).opening == 11829357061432719076
    assert keys_of(Conversation((Message("user", "What is two plus three?"), Message("assistant", "Five.")))).opening == 18045212830331937162


def test_a_source_without_rows_is_an_error(tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no rows"):
        take_survey([Reading(Part(Source(path=str(path)), "train", False, (str(path),)))], near=False)
