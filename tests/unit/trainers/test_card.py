"""The model card says what was trained from what, and how good it is."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from tunefleet.data.settings import Source
from tunefleet.trainers.card import About, model_card
from tunefleet.trainers.provenance import Provenance
from tunefleet.trainers.run import RunFile

EVALUATION: dict[str, Any] = {
    "sets": {
        "holdout": {
            "rows": 90,
            "tuned": {"loss": {"value": 1.25, "low": 1.2, "high": 1.3}},
            "base": {"loss": {"value": 5.5, "low": 5.4, "high": 5.6}},
            "difference": {"loss": {"value": -4.25, "low": -4.3, "high": -4.2}},
        }
    }
}


EARLIER = {"run": "first", "run_id": "aaa111", "step": 7, "checkpoint": "c" * 64, "from": "org/base", "data_version": "d1"}
HISTORY = Provenance(
    run_id="bbb222",
    commit="0123456789ab+",
    versions={"torch": "2.13.0"},
    data={
        "version": "85a7570c7b43",
        "fingerprint": "f" * 64,
        "counts": {"rows": 704, "kept": 700, "train": 640, "holdout": 60, "near_duplicates": 4, "leakage": 0},
        "sources": [{"name": "shop", "held": False, "rows": 704}],
    },
    lineage=(EARLIER, {**EARLIER, "run": "shop", "run_id": "bbb222", "from": "first"}),
)


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
    card = model_card(run_file(peft), About(kind, "org/base", 2, "abc", EVALUATION, HISTORY))
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "org/base"
    assert front["library_name"] == ("peft" if kind == "adapter" else "transformers")
    assert front["pipeline_tag"] == "text-generation"


def test_numbers_stand_with_their_intervals_and_local_paths_do_not() -> None:
    card = model_card(run_file("lora"), About("adapter", "/data/base", 2, "abc", EVALUATION))
    assert "| holdout (90) | loss | 5.5 (5.4 to 5.6) | 1.25 (1.2 to 1.3) | -4.25 (-4.3 to -4.2) |" in card
    assert "base_model" not in card
    assert "/secret/place" not in card


def test_without_an_evaluation_nothing_is_claimed() -> None:
    assert "Evaluation" not in model_card(run_file("full"), About("full", "org/base", 2, "abc"))


def test_a_model_that_diverged_has_a_card_too() -> None:
    nothing = {"value": None, "low": None, "high": None}
    sets = {"holdout": {"rows": 9, "tuned": {"perplexity": nothing}, "base": {"perplexity": {"value": 2.0, "low": 1.0, "high": None}}}}
    card = model_card(run_file("full"), About("full", "org/base", 2, "abc", {"sets": sets}))
    assert "| holdout (9) | perplexity | 2 (1 to -) | - (- to -) |  |" in card
    assert "model-index" not in ModelCard(card).data.to_dict()


def test_what_an_address_carries_behind_its_path_stays_out_of_the_card() -> None:
    run = run_file("full")
    run = run.model_copy(update={"data": run.data.model_copy(update={"train": [Source(path="https://host/rows.jsonl?token=canary")]})})
    card = model_card(run, About("full", "org/base", 2, "abc"))
    assert "rows.jsonl" in card
    assert "canary" not in card


def test_the_front_matter_is_what_hubs_read(tmp_path) -> None:
    (tmp_path / "README.md").write_text(model_card(run_file("lora"), About("adapter", "org/base", 2, "abc", EVALUATION, HISTORY)))
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.base_model, data["base_model_relation"], data.library_name) == ("org/base", "adapter", "peft")
    (result,) = data.eval_results
    assert (data.model_name, result.metric_type, result.metric_value, result.dataset_name) == ("shop", "loss", 1.25, "holdout")


def test_data_lineage_versions_and_run_stand_in_it() -> None:
    card = model_card(run_file("full"), About("full", "/home/me/runs/first/export", 2, "abc", EVALUATION, HISTORY))
    for part in (
        "Data version `85a7570c7b43`",
        "| shop | training | 704 |",
        "| near duplicates | 4 |",
        "| first | aaa111 | org/base | 7 | d1 |",
        "| shop | bbb222 | first | 7 | d1 |",
        "trained from the export of the run first",
        "| torch | 2.13.0 |",
        "| tunefleet's commit | 0123456789ab+ |",
        "| run id | bbb222 |",
    ):
        assert part in card
    assert "leakage | 0" not in card
    assert "/home/me" not in card


def test_the_run_file_stands_in_it_without_secrets_and_folders() -> None:
    run = run_file("full")
    sources = [Source(path="s3://me:canary-one@bucket/rows.jsonl"), Source(path="/home/me/rows.jsonl")]
    trackers = {"chat_template": "{{ ``` }} {% for m in messages %}</details>{% endfor %}", "train": sources}
    run = run.model_copy(update={"data": run.data.model_copy(update=trackers), "output": "/home/me/runs/shop"})
    card = model_card(run, About("full", "org/base", 2, "abc"))
    fence = "````"
    folded = card.partition(f"{fence}yaml\n")[2].partition(f"\n{fence}\n")[0]
    told = yaml.safe_load(folded)
    assert told["training"]["max_steps"] == 2
    assert [source["path"] for source in told["data"]["train"]] == ["s3://***@bucket/rows.jsonl", "rows.jsonl"]
    assert told["output"] == "shop"
    assert "canary" not in card
    assert "/home/me" not in card


def test_names_are_text_and_never_markup() -> None:
    history = Provenance(data={**HISTORY.data, "sources": [{"name": "<img src=x>|a`b", "held": False, "rows": 1}]})
    card = model_card(run_file("full").model_copy(update={"name": "<script>x</script>"}), About("full", "org/base", 2, "abc", None, history))
    assert "<img" not in card.partition("## Run file")[0]
    assert "# &lt;script&gt;" in card
    assert "&lt;img src=x&gt;\\|a\\`b" in card
