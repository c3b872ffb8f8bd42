"""What the dry run says a rank will hold is what it holds when it trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plans import MODELS, job, measured, planned_run
from runs import small_run

from tunefleet.trainers.models import skeleton
from tunefleet.trainers.plan.dry import dry_runs
from tunefleet.trainers.plan.work import sizes_of
from tunefleet.tuning.cli import main

pytestmark = [pytest.mark.gang, pytest.mark.timeout(600)]

CASES = {
    "llama-0": planned_run(MODELS["llama"], stage=0, ranks=2),
    "gpt2-1-bf16": planned_run(MODELS["gpt2"], stage=1, ranks=2, precision="bf16"),
    "qwen3-2-lora": planned_run(MODELS["qwen3"], stage=2, ranks=2, peft="lora"),
    "llama-3-recompute": planned_run(MODELS["llama"], stage=3, ranks=2, recompute=True),
    "llama-1-offload": planned_run(MODELS["llama"], stage=1, ranks=2, precision="bf16", offload="optimizer"),
    "moe-3": planned_run(MODELS["qwen3_moe"], stage=3, ranks=1),
}


def test_the_dry_run_is_within_a_tenth_of_what_a_rank_holds() -> None:
    told = dry_runs([job(run) for run in CASES.values()], at_once=2)
    for (name, run), plan in zip(CASES.items(), told, strict=True):
        assert plan.why == "", name
        for real in measured(run):
            assert plan.device == pytest.approx(real.device, rel=0.1), f"{name}: planned {plan}, measured {real}"
            assert plan.resting == pytest.approx(real.resting, rel=0.1), f"{name}: between steps"
    whole = sizes_of(skeleton(CASES["llama-1-offload"].model)).trained * 4
    assert told[list(CASES).index("llama-1-offload")].parts["gradients"] >= whole, "gradients are accumulated in fp32, and not partitioned"


def test_the_verb_tells_every_stage_and_marks_the_chosen_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small_run(tmp_path, zero={"stage": 3})
    file = tmp_path / "run.yaml"
    file.write_text(run.model_dump_json())
    assert main(["plan", str(file), "--json", "--tokens-per-second", "100"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [(choice["stage"], choice["offload"], choice["chosen"]) for choice in plan["choices"]] == [(stage, "none", stage == 3) for stage in range(4)]
    assert all(choice["memory"]["why"] == "" for choice in plan["choices"])
    assert plan["own_hours"] == pytest.approx(plan["rows"]["tokens"] / 100 / 3600)
    assert plan["flops"] == pytest.approx(plan["flops_per_token"] * plan["rows"]["tokens"])
    assert main(["plan", str(file), "--json", "--own"]) == 0
    assert json.loads(capsys.readouterr().out)["choices"] == [plan["choices"][3]]
    assert not Path(run.output).exists()
    assert not Path(run.data.store).exists()


def test_everything_that_is_wrong_is_said_at_once_before_anything_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(small_run(tmp_path).model_dump_json())
    assert main(["plan", str(file), "data.max_length=4096", "zero.stage=1", "zero.offload=parameters", "training.lerning_rate=1"]) == 2
    said = capsys.readouterr().err
    assert all(key in said for key in ("data.max_length", "zero.offload", "training.lerning_rate"))
    assert main(["plan", str(file), "--price", "free"]) == 2
    assert "--price: not understood" in capsys.readouterr().err
