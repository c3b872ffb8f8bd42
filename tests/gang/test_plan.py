"""What the dry run says a rank will hold is what it holds when it trains."""

from __future__ import annotations

import pytest
from plans import MODELS, job, measured, planned_run

from tunefleet.trainers.plan.dry import dry_runs

pytestmark = pytest.mark.gang

CASES = {
    "llama-0": planned_run(MODELS["llama"], stage=0, ranks=2),
    "gpt2-1-bf16": planned_run(MODELS["gpt2"], stage=1, ranks=2, precision="bf16"),
    "qwen3-2-lora": planned_run(MODELS["qwen3"], stage=2, ranks=2, peft="lora"),
    "llama-3-recompute": planned_run(MODELS["llama"], stage=3, ranks=2, recompute=True),
    "moe-3-bf16": planned_run(MODELS["qwen3_moe"], stage=3, ranks=1, precision="bf16"),
}


def test_the_dry_run_is_within_a_tenth_of_what_a_rank_holds() -> None:
    told = dry_runs([job(run) for run in CASES.values()], at_once=2)
    for (name, run), plan in zip(CASES.items(), told, strict=True):
        assert plan.why == "", name
        for real in measured(run):
            assert plan.device == pytest.approx(real.device, rel=0.1), f"{name}: planned {plan}, measured {real}"
            assert plan.resting == pytest.approx(real.resting, rel=0.1), f"{name}: between steps"
