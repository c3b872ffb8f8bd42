"""A real pretrained model scores real text as measured with plain transformers, and tells a story. Skipped where neither is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tunefleet.data.layout import Record
from tunefleet.trainers.batches import token_batch
from tunefleet.trainers.generation import Generator
from tunefleet.trainers.scoring import TokenScorer, verify

SHARED = Path("/work/shared")
MODEL, STORIES = SHARED / "models/stories260K", SHARED / "data/text/tinystories_1728.txt"
pytestmark = pytest.mark.skipif(not (MODEL.is_dir() and STORIES.is_file()), reason="needs the shared model and stories")


def test_the_loss_of_a_real_model_is_the_one_measured_and_its_text_is_a_story() -> None:
    generator = Generator(str(MODEL))
    scorer = TokenScorer(generator.model)
    stories = [text.strip() for text in STORIES.read_text(encoding="utf-8").split("<|endoftext|>") if text.strip()][-300:]
    nats, tokens = 0.0, 0
    with torch.no_grad():
        for start in range(0, 300, 20):
            ids = [np.array(generator.asker.tokenizer(text)["input_ids"][:512], np.int32) for text in stories[start : start + 20]]
            batch = token_batch([Record(i, {"ids": row, "supervised": np.ones(len(row), np.uint8)}) for i, row in enumerate(ids)], pad_id=0)
            nats -= float(scorer.token_scores(batch).logp_BT.sum())
            tokens += int((batch["labels"] >= 0).sum())
    assert nats / tokens == pytest.approx(1.322, abs=5e-4)
    assert verify(scorer, batch) < 1e-4
    assert generator.generate([""], 12)[0].startswith("Once upon a time, there was a little girl")
