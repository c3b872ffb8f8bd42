"""The model card says what was trained from what, and how good it is."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tunefleet.data.settings import Source
from tunefleet.trainers.card import model_card
from tunefleet.trainers.run import RunFile

EVALUATION: dict[str, Any] = {
    "sets": {
        "holdout": {
            "rows": 90,
            "tuned": {"loss": {"value": 1.25, "low": 1.2, "high": 1.3}},
            "base": {"loss": {"value": 5.5, "low": 5.4, "high": 5.6}},
        }
    }
}


def run_file(kind: str) -> RunFile:
    return RunFile.model_validate(
        {
            "name": "shop",
            "model": {"name_or_path": "org/base"},
            "data": {"train": [{"path": "/secret/place/rows.jsonl"}]},
            "peft": {"kind": kind},
            "training": {"max_steps": 2},
            "output": "out",
        }
    )


@pytest.mark.parametrize(("kind", "peft"), [("adapter", "lora"), ("merged", "lora"), ("full", "full")])
def test_front_matter_names_base_library_and_task(kind: str, peft: str) -> None:
    card = model_card(run_file(peft), kind=kind, base="org/base", step=2, fingerprint="abc", evaluation=EVALUATION)
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "org/base"
    assert front["library_name"] == ("peft" if kind == "adapter" else "transformers")
    assert front["pipeline_tag"] == "text-generation"


def test_numbers_stand_with_their_intervals_and_local_paths_do_not() -> None:
    card = model_card(run_file("lora"), kind="adapter", base="/data/base", step=2, fingerprint="abc", evaluation=EVALUATION)
    assert "| holdout (90) | loss | 5.5 (5.4 to 5.6) | 1.25 (1.2 to 1.3) |" in card
    assert "base_model" not in card
    assert "/secret/place" not in card


def test_without_an_evaluation_nothing_is_claimed() -> None:
    assert "Evaluation" not in model_card(run_file("full"), kind="full", base="org/base", step=2, fingerprint="abc", evaluation=None)


def test_a_model_that_diverged_has_a_card_too() -> None:
    nothing = {"value": None, "low": None, "high": None}
    sets = {"holdout": {"rows": 9, "tuned": {"perplexity": nothing}, "base": {"perplexity": {"value": 2.0, "low": 1.0, "high": None}}}}
    card = model_card(run_file("full"), kind="full", base="org/base", step=2, fingerprint="abc", evaluation={"sets": sets})
    assert "| holdout (9) | perplexity | 2 (1 to -) | - (- to -) |" in card


def test_what_an_address_carries_behind_its_path_stays_out_of_the_card() -> None:
    run = run_file("full")
    run = run.model_copy(update={"data": run.data.model_copy(update={"train": [Source(path="https://host/rows.jsonl?token=canary")]})})
    card = model_card(run, kind="full", base="org/base", step=2, fingerprint="abc", evaluation=None)
    assert "rows.jsonl" in card
    assert "canary" not in card
