"""Metrics of answers, against their reference libraries where there are any, and else against values worked out by hand."""

import random
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import LCSseq
from sacrebleu.metrics import BLEU, CHRF

from tunefleet.cluster.errors import Refusal, SettingsError
from tunefleet.cluster.plugins import plugin
from tunefleet.trainers.evaluation.compare import compare
from tunefleet.trainers.evaluation.metric import make_metrics
from tunefleet.trainers.evaluation.rows import RowScores
from tunefleet.trainers.evaluation.words import common
from tunefleet.trainers.run import METRICS

WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree,", "quickly.", "Then", "7"]
NESTED = {"$defs": {"list": {"type": "array", "items": {"$ref": "#/$defs/list"}}}, "$ref": "#/$defs/list"}


def rows_of(*pairs):
    ids, ones = np.arange(len(pairs)), np.ones(len(pairs))
    return RowScores(ids, {"nll": ones, "tokens": ones}, {"answer": [a for a, _ in pairs], "reference": [r for _, r in pairs]})


def measured(kind, *pairs, **settings):
    kind = plugin(METRICS, kind)
    metric = kind(kind.Config(**settings))
    return float(metric.value(metric.statistics(rows_of(*pairs)).sum(0)[None])[0])


def texts(number, seed):
    draw = random.Random(seed)
    said = [" ".join(draw.choices(WORDS, k=draw.randint(1, 14))) for _ in range(number)]
    return [(" ".join(w for w in text.split() if draw.random() < 0.8) or "cat", text) for text in said]


@pytest.mark.parametrize("seed", range(3))
def test_bleu_and_chrf_of_a_corpus_are_sacrebleus(seed):
    pairs = texts(30, seed)
    answers, references = [a for a, _ in pairs], [[r for _, r in pairs]]
    assert measured("bleu", *pairs) == pytest.approx(BLEU().corpus_score(answers, references).score)
    assert measured("chrf", *pairs) == pytest.approx(CHRF().corpus_score(answers, references).score)
    assert measured("chrf", *pairs, words=2) == pytest.approx(CHRF(word_order=2).corpus_score(answers, references).score)


@pytest.mark.parametrize(
    ("kind", "settings", "pairs", "value"),
    [
        ("exact_match", {}, [("Oakham ", " Oakham"), ("oakham.", "Oakham")], 0.5),
        ("exact_match", {"case": False, "punctuation": False}, [("oakham.", "Oakham"), ("Oak ham", "Oakham")], 0.5),
        ("answer_check", {}, [("So it is 1,200.", "2 * 600 = 1200\n#### 1200"), ("about 7.50", "#### 7.5"), ("seven", "#### 7")], 2 / 3),
        ("answer_check", {"pattern": r"Answer: (\w+)"}, [("Answer: B", "Answer: A or Answer: B"), ("B", "Answer: B"), ("x", "no result")], 0.5),
        (
            "answer_check",
            {"pattern": r"Answer: (\S+)"},
            [("Answer: NaN", "Answer: NaN"), ("Answer: sNaN", "Answer: 1"), ("Answer: inf", "Answer: Infinity")],
            1 / 3,
        ),
        ("answer_check", {"pattern": r"Answer: (\S+)"}, [("Answer: 1e1", "Answer: 10"), ("Answer: 5", "Answer: sNaN")], 1 / 2),
        ("token_f1", {}, [("the red fox", "a red dog ran"), ("Yes!", "yes")], (2 / 7 + 1) / 2),
        ("token_f1", {"part": "precision"}, [("the red fox", "a red dog ran")], 1 / 3),
        ("token_f1", {"part": "recall"}, [("the red fox", "a red dog ran")], 1 / 4),
        # Lin 2004, section 3: of "police killed the gunman", "police kill the gunman" shares 3 of 4 in order, "the gunman kill police" 2
        ("rouge", {}, [("police kill the gunman", "police killed the gunman"), ("the gunman kill police", "police killed the gunman")], (3 / 4 + 2 / 4) / 2),
        ("rouge", {"variant": "1"}, [("the gunman kill police", "police killed the gunman")], 3 / 4),
        ("rouge", {"variant": "2"}, [("the gunman kill police", "police killed the gunman")], 1 / 3),
        # as rouge_score: where a side has nothing to share the score is 0, also of equal texts
        ("rouge", {"variant": "2"}, [("yes", "no"), ("positive", "negative"), ("yes", "yes"), ("yes please", "yes please")], 1 / 4),
        ("rouge", {"variant": "2"}, [("yes", "yes please"), ("", "")], 0.0),
        ("rouge", {"variant": "1"}, [("...", "$"), ("", ""), ("yes", ""), ("Yes!", "yes")], 1 / 4),
        ("rouge", {}, [("...", "$"), ("", ""), ("yes", ""), ("Yes!", "yes")], 1 / 4),
        # as SQuAD 2.0: "no answer" is met by no answer; here also what has no word, by the same text alone
        ("token_f1", {}, [("...", "$"), ("", " "), ("yes", ""), ("...", "...")], 2 / 4),
        ("token_f1", {"part": "recall"}, [("...", "$"), ("yes", ""), ("", "yes")], 0.0),
        ("edit_distance", {}, [("kitten", "sitting"), ("abc", "abc")], 3 / 10),
        ("edit_distance", {"unit": "word"}, [("a b c", "a c"), ("", "x y")], 3 / 4),
        ("matches", {"pattern": r"#### \d+"}, [("#### 12", ""), ("12", "")], 0.5),
        ("matches", {}, [("x", ""), ("  ", "")], 0.5),
        ("json_schema", {}, [('{"a": 1}', ""), ("{a: 1}", ""), ("[1]", "")], 2 / 3),
        ("json_schema", {}, [("NaN", ""), ('{"a": Infinity}', ""), ("[-Infinity]", ""), ("1e3", "")], 1 / 4),  # RFC 8259 has none of the three
        ("json_schema", {}, [("[" * 100_000, ""), ("[" * 100_000 + "]" * 100_000, ""), ("[]", "")], 1 / 3),
        ("json_schema", {"rules": NESTED}, [("[" * 300 + "]" * 300, ""), ("[[]]", ""), ("[1]", "")], 1 / 3),
        ("json_schema", {"rules": {"type": "object", "required": ["a"]}}, [('{"a": 1}', ""), ('{"b": 1}', ""), ("[1]", "")], 1 / 3),
    ],
)
def test_a_value_worked_out_by_hand(kind, settings, pairs, value):
    assert measured(kind, *pairs, **settings) == pytest.approx(value)


def test_rows_that_were_not_asked_count_nothing_and_differences_are_paired():
    kind = plugin(METRICS, "exact_match")
    metrics = make_metrics([kind.Config()])
    tuned, base = rows_of(("yes", "yes"), (None, None), ("yes", "yes")), rows_of(("yes", "yes"), (None, None), ("no", "yes"))
    found = compare(tuned, base, metrics, resamples=50)
    assert (found["tuned"]["exact_match"], found["base"]["exact_match"]) == (1.0, 0.5)
    assert found["difference"]["exact_match"]["value"] == 0.5


def test_what_is_no_pattern_or_schema_is_refused():
    for kind in ("matches", "answer_check"):
        with pytest.raises((SettingsError, Refusal, ValueError), match="no regular expression"):
            plugin(METRICS, kind).Config(pattern="(")
    with pytest.raises(SettingsError, match="no JSON schema"):
        measured("json_schema", ("1", ""), rules={"type": "thing"})


@pytest.mark.parametrize("where", ["", "properties", "$defs", "definitions"])
def test_a_schema_fetches_nothing_and_says_so_before_anything_is_scored(where, tmp_path):
    asked = []

    class Asked(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    lying = tmp_path / "any.json"
    lying.write_text("{}")
    with HTTPServer(("127.0.0.1", 0), Asked) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        for ref in (f"http://127.0.0.1:{server.server_port}/any.json", lying.as_uri(), "any.json", "#/$defs/missing", "#missing", "#/type"):
            held = {"$ref": ref}
            inner = {"": held, "properties": {"properties": {"a": held}}}.get(where, {where: {"a": held}, "$ref": f"#/{where}/a"})
            with pytest.raises(SettingsError, match=r"a \$ref that leads nowhere"):
                measured("json_schema", ('{"a": 1}', ""), rules={"type": "object", **inner})
        server.shutdown()
    assert asked == []


def test_a_schema_may_refer_to_its_own_parts_and_to_what_json_schema_brings_along():
    parts = {"$id": "https://example.org/whole", "$defs": {"number": {"$id": "part", "type": "number"}}, "items": {"$ref": "part"}}
    assert measured("json_schema", ("[1]", ""), ('["a"]', ""), rules=parts) == 0.5
    old = {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": {"type": "string"}}, "items": {"$ref": "#/definitions/a"}}
    assert measured("json_schema", ("[1]", ""), ('["a"]', ""), rules=old) == 0.5
    meta = {"$ref": "https://json-schema.org/draft/2020-12/schema"}
    assert measured("json_schema", ('{"type": "object"}', ""), ('{"type": "thing"}', ""), rules=meta) == 0.5
    named = {"properties": {"$ref": {"type": "string"}}, "not": {"const": {"$ref": "https://example.org/is/no/reference"}}}
    assert measured("json_schema", ('{"$ref": "a"}', ""), ('{"$ref": 1}', ""), rules=named) == 0.5


def test_a_schema_that_leads_to_itself_for_ever_is_refused():
    with pytest.raises(SettingsError, match="without end"):
        measured("json_schema", ("1", ""), rules={"$ref": "#"})


@given(st.lists(st.sampled_from("abcd"), max_size=90), st.lists(st.sampled_from("abcd"), max_size=90))
def test_the_longest_common_subsequence_is_rapidfuzzs(left, right):
    assert common(left, right) == LCSseq.similarity(left, right)
