"""Sums of rows do not depend on who scores them, nor on which rows they meet."""

import json
import math

import numpy as np
import pytest
import torch
from heldout import random_rows, score_rows
from hypothesis import given
from hypothesis import strategies as st

from tunefleet.trainers.evaluation.rows import RowScores, merge, score_share, shares
from tunefleet.trainers.objectives.sft import Sft
from tunefleet.trainers.scoring import TokenScorer


@pytest.fixture(scope="module")
def scorer():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64)
    return TokenScorer(LlamaForCausalLM(config).eval())


@pytest.fixture(scope="module")
def split():
    return random_rows(11, vocabulary=32)


OBJECTIVE = Sft(Sft.Config(), pad_id=0)


def test_the_sums_of_a_row_are_those_of_the_models_own_logits(scorer, split):
    found = score_rows(scorer, split, OBJECTIVE, batch_size=4, needs=["correct"])
    for i, record in enumerate(split.all):
        ids, supervised = (torch.from_numpy(record.columns[name].astype(np.int64)) for name in ("ids", "supervised"))
        with torch.no_grad():
            logp = scorer.model(ids[None]).logits[0, :-1].log_softmax(-1)
        mask = supervised[1:].bool()
        assert found.sums["nll"][i] == pytest.approx(-float(logp.gather(1, ids[1:, None])[:, 0][mask].sum()), rel=1e-5)
        assert found.sums["tokens"][i] == int(mask.sum())
        assert found.sums["correct"][i] == int((logp.argmax(-1) == ids[1:])[mask].sum())


@pytest.mark.parametrize("batch_size", [1, 3, 11, 50])
def test_the_batch_size_changes_no_sum(scorer, split, batch_size):
    found, wanted = (score_rows(scorer, split, OBJECTIVE, batch_size=b) for b in (batch_size, 4))
    np.testing.assert_allclose(found.sums["nll"], wanted.sums["nll"], rtol=1e-5)
    np.testing.assert_array_equal(found.ids, np.arange(11))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_number_of_scorers_changes_not_one_bit(scorer, split, count):
    parts = [score_share(scorer, split, share, OBJECTIVE, needs=["correct"]) for share in shares(split.lengths, 2, count)]
    found, wanted = merge(parts), score_rows(scorer, split, OBJECTIVE, batch_size=2, needs=["correct"])
    for name in ("nll", "tokens", "correct"):
        np.testing.assert_array_equal(found.sums[name], wanted.sums[name])


@given(st.lists(st.integers(1, 90), min_size=1, max_size=60), st.integers(1, 9), st.integers(1, 8))
def test_every_row_is_scored_once_and_every_scorer_runs_equally_many_forwards(lengths, batch_size, count):
    divided = shares(np.array(lengths, np.int32), batch_size, count)
    assert sorted(np.concatenate([share.ids() for share in divided]).tolist()) == list(range(len(lengths)))
    assert len({len(share.batches) for share in divided}) == 1
    assert all(0 < len(ids) <= batch_size for share in divided for ids in share.batches)
    assert len(divided[0].batches) == math.ceil(math.ceil(len(lengths) / batch_size) / count)


def test_scores_survive_json_exactly_and_what_is_not_finite_becomes_nan():
    rows = RowScores(np.array([3, 5]), {"nll": np.array([0.1 + 0.2, math.inf]), "tokens": np.array([1.0, 2.0])})
    back = RowScores.from_json(json.loads(json.dumps(rows.to_json(), allow_nan=False)))
    np.testing.assert_array_equal(back.ids, rows.ids)
    assert back.sums["nll"][0] == 0.1 + 0.2
    assert math.isnan(back.sums["nll"][1])


def test_a_row_that_two_scorers_have_is_a_fault_of_ours():
    rows = RowScores(np.array([1]), {"nll": np.zeros(1), "tokens": np.ones(1)})
    with pytest.raises(AssertionError, match="twice"):
        merge([rows, rows])
    with pytest.raises(AssertionError, match="not scored"):
        rows.select(np.array([2]))
