"""Real rows with a real tokenizer, where they are at hand: masks cover exactly the assistant's turns, and losses are the known ones."""

from __future__ import annotations

import json
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import pytest

from tunefleet.data.choice import choose_format
from tunefleet.data.rows import read_rows
from tunefleet.data.settings import Source
from tunefleet.data.tokens import Encoder

SHARED = Path("/work/shared")
MODEL = SHARED / "models" / "stories260K"
pytestmark = pytest.mark.skipif(not MODEL.is_dir(), reason="the shared rows and model are not here")


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


def examples(name: str):
    source = Source(path=str(SHARED / "data" / name))
    rows = read_rows(source)
    first = next(rows)
    chosen, _, _ = choose_format(source, first)
    yield chosen.read(first.values)
    for row in rows:
        assert not row.problem
        yield chosen.read(row.values)


def said(message) -> str:
    calls = [f"<tool_call>{json.dumps(call['function'], ensure_ascii=False)}</tool_call>" for call in (message.extra or {}).get("tool_calls", ())]
    return "\n".join(part for part in (message.content.strip(), *calls) if part) + "</s>"


@pytest.mark.parametrize("name", ["chat/glaive_toolcall_en_demo.json", "sft/gsm8k_test.jsonl", "sft/medquad_1200.jsonl"])
def test_masks_cover_exactly_what_the_assistant_says(tokenizer, name):
    encoder = Encoder(tokenizer, None, 100_000)
    for example in islice(examples(name), 300):
        encoded = encoder.supervised(example)
        pairs = zip(encoded.columns["ids"].tolist(), encoded.columns["supervised"].tolist(), strict=True)
        learnt = [tokenizer.decode([token for token, _ in run]) for bit, run in groupby(pairs, key=lambda pair: pair[1]) if bit]
        assert [text.strip() for text in learnt] == [
            tokenizer.decode(tokenizer(said(m))["input_ids"][1:]).strip() for m in example.messages if m.role == "assistant"
        ]


def test_the_base_loss_on_shakespeare_is_the_known_one(tokenizer):
    import torch
    from transformers import AutoModelForCausalLM

    from tunefleet.data.examples import Text

    text = (SHARED / "data" / "text" / "tinyshakespeare.txt").read_text()
    pieces = list(islice(Encoder(tokenizer, None, 128).pieces(Text(text[int(0.95 * len(text)) :].strip())), 100))
    ids = torch.from_numpy(np.stack([piece.columns["ids"] for piece in pieces])).long()
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(MODEL).eval()(ids).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert loss.item() == pytest.approx(5.478, abs=2e-3)
