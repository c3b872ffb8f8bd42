"""The quality gate: what is found is counted, exactly, and the policies do what they say and nothing else."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from tunefleet.cluster.errors import Refusal
from tunefleet.data.examples import Conversation, Message, Text
from tunefleet.data.facts import Facts, facts_of, needs_sketches
from tunefleet.data.gate import judge
from tunefleet.data.keys import keys_of
from tunefleet.data.layout import Encoded
from tunefleet.data.resemblance import near_earlier
from tunefleet.data.settings import Quality, Source
from tunefleet.data.sketches import sketches
from tunefleet.data.survey import Part, Reading

QUIET = dict.fromkeys(("exact_duplicates", "near_duplicates", "near_leakage", "contradictions", "leakage"), "warn")


def sentence(seed: int, words: int = 40) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefgh", k=5)) for _ in range(words))


def part_of(path, rows, *, held=False, name=""):
    """A source of these rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Part(Source(path=str(path)), name or path.stem, held, (str(path),))


def judged(parts, share=0.0, size=7, **policies):
    """The verdict on parts, their facts made in blocks of ``size`` rows."""
    quality = Quality(**(QUIET | policies))
    blocks = []
    for number, part in enumerate(parts):
        rows = list(Reading(part).parsed())
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            blocks.append(facts_of(block, [[Encoded({}, 3, 1)]] * len(block), near=needs_sketches(quality)).at(number, 0))
    return judge(Facts.joined(blocks), parts, quality, share)


def gate(folder, train, held=(), **policies):
    """The verdict and the dropped rows of pairs of prompt and answer."""
    sides = (("train", train), ("held", held))
    parts = [part_of(folder / f"{name}.jsonl", [{"prompt": p, "completion": a} for p, a in pairs], held=name == "held") for name, pairs in sides if pairs]
    verdict = judged(parts, **policies)
    return verdict, (~verdict.keep).tolist()


def places(verdict, kind):
    finding = next(f for f in verdict.findings if f.kind == kind)
    return [verdict.places[row] for row in finding.rows]


def test_rows_that_equal_an_earlier_one_are_counted_and_the_earliest_is_kept(tmp_path):
    rows = [("a", "1"), ("b", "2"), ("a", "1"), ("a", "1"), ("c", "3"), ("b", "2")]
    verdict, dropped = gate(tmp_path, rows, exact_duplicates="drop")
    assert verdict.counts["exact_duplicates"] == 3
    assert dropped == [False, False, True, True, False, True]
    assert places(verdict, "exact_duplicates") == [f"{tmp_path}/train.jsonl:{line}" for line in (3, 4, 6)]
    assert verdict.counts["contradictions"] == verdict.counts["near_duplicates"] == 0


def test_one_prompt_with_several_answers_contradicts_itself(tmp_path):
    rows = [("a", "yes"), ("b", "2"), ("a", "no"), ("a", "no"), ("a", "perhaps")]
    verdict, dropped = gate(tmp_path, rows, contradictions="drop")
    assert verdict.counts["contradictions"] == 2
    assert verdict.counts["exact_duplicates"] == 1
    assert dropped == [False, False, True, False, True]


def test_training_rows_with_a_held_out_prompt_leak(tmp_path):
    verdict, dropped = gate(tmp_path, [("a", "1"), ("b", "2"), ("c", "3")], held=[("b", "other"), ("d", "4")], leakage="drop")
    assert verdict.counts["leakage"] == 1
    assert dropped == [False, True, False, False, False]


def test_chats_that_only_begin_alike_do_not_leak(tmp_path):
    def talk(path, *contents):
        turns = [{"role": "assistant" if i % 2 else "user", "content": c} for i, c in enumerate(contents)]
        return part_of(tmp_path / path, [{"messages": turns}], held=path == "held.jsonl")

    training = [talk("a.jsonl", "Hi", "Ho", "One?", "1"), talk("b.jsonl", "Hi", "Hello", "Two?", "2")]
    verdict = judged([*training, talk("held.jsonl", "Hi", "Ho", "One?", "one")])
    assert verdict.counts["leakage"] == 1
    assert places(verdict, "leakage") == [f"{tmp_path}/a.jsonl:1"]


def test_the_sides_are_not_duplicates_of_each_other(tmp_path):
    verdict, dropped = gate(tmp_path, [("a", "1")], held=[("a", "1")], exact_duplicates="drop", near_duplicates="drop")
    assert verdict.counts["exact_duplicates"] == verdict.counts["near_duplicates"] == 0
    assert verdict.counts["leakage"] == 1
    assert dropped == [False, False]


def test_a_policy_that_is_off_looks_for_nothing(tmp_path):
    off = dict.fromkeys(QUIET, "off")
    verdict, dropped = gate(tmp_path, [("a", "1"), ("a", "1"), ("a", "2")], held=[("a", "1")], **off)
    assert not any(verdict.counts.values())
    assert not any(dropped)
    assert verdict.decisions() == []


def test_errors_are_reported_all_at_once_with_places(tmp_path):
    verdict, _ = gate(tmp_path, [("a", "1"), ("a", "1"), ("a", "2")], exact_duplicates="error", contradictions="error")
    with pytest.raises(Refusal) as caught:
        verdict.refuse()
    text = str(caught.value)
    assert "data.quality.exact_duplicates: 1 of 3 rows equal an earlier one" in text
    assert "train.jsonl:2" in text
    assert "data.quality.contradictions: 1 of 3" in text
    assert "train.jsonl:3" in text


def test_warnings_say_how_many_and_where(tmp_path):
    verdict, _ = gate(tmp_path, [("a", "1")] * 6)
    verdict.refuse()
    (line,) = verdict.decisions()
    assert line.startswith("data.quality.exact_duplicates: 5 kept")
    assert line.count(".jsonl:") == 3
    assert "and 2 more" in line


def test_near_duplicates_are_found_at_their_threshold_and_the_earliest_is_kept(tmp_path):
    base = [sentence(i) for i in range(200)]
    near = [text + " and one more" for text in base[:50]]
    far = [" ".join(word if i % 6 else "changed" for i, word in enumerate(text.split())) for text in base[50:100]]
    rows = [(text, "x") for text in base + near + far]
    verdict, dropped = gate(tmp_path, rows, near_duplicates="drop")
    assert not any(dropped[:200])
    assert not any(dropped[250:])
    assert verdict.counts["near_duplicates"] == sum(dropped[200:250]) == 50


def test_a_near_duplicate_is_near_a_row_that_stays():
    draw = random.Random(1)
    words = [f"w{i}" for i in range(60)]
    texts = []
    for _ in range(80):  # a chain: each a little further from the first
        words[draw.randrange(60)] = f"x{draw.random()}"
        texts.append(list(words))
    found = near_earlier(sketches([" ".join(text) for text in texts]), np.ones(80, bool)) >= 0

    def grams(text):
        return {tuple(text[i : i + 5]) for i in range(len(text) - 4)}

    stay = [grams(t) for t, gone in zip(texts, found, strict=True) if not gone]
    for text, gone in zip(texts, found, strict=True):
        if gone:
            assert max(len(grams(text) & other) / len(grams(text) | other) for other in stay) >= 0.65  # 0.8 is estimated, to 0.035


def test_short_and_empty_texts_are_near_only_to_themselves():
    made = sketches(["a", "", "a b", "b a", "a", "", "?", "!"])
    assert near_earlier(made, np.ones(8, bool)).tolist() == [-1, -1, -1, -1, 0, -1, -1, -1]


def test_many_short_texts_are_not_near_each_other():
    made = sketches([f"w{i} is short" for i in range(3000)])
    assert (near_earlier(made, np.ones(3000, bool)) == -1).all()


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


def test_facts_are_the_same_in_whatever_blocks_they_are_made(tmp_path):
    rows = [{"prompt": sentence(i % 17), "completion": str(i % 5), "id": i % 11} for i in range(60)] + [{"prompt": 3}]
    part = part_of(tmp_path / "a.jsonl", rows)
    parsed = list(Reading(part).parsed())
    encoded = [[Encoded({}, 3, 1)]] * 61

    def made(size):
        blocks = [facts_of(parsed[i : i + size], encoded[i : i + size], near=True) for i in range(0, 61, size)]
        return Facts.joined([Facts.from_bytes(block.to_bytes()) for block in blocks])

    one, other = made(61), made(8)
    for name, column in one.columns.items():
        assert np.array_equal(column, other.columns[name])
        assert column.dtype == other.columns[name].dtype
    assert np.array_equal(one.sketch, other.sketch)
    assert (one.problems, one.names) == (other.problems, other.names)
    assert list(one.problems) == [60]
