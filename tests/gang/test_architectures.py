"""Every architecture goes the whole way at stages 2 and 3, in full and with LoRA: train, save, resume, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gangs import gang
from runs import LLAMA, curve, make_stage, small_run, work
from tiny_models import CONFIGS

from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.run import RunFile
from tunefleet.trainers.stage import DONE, METRICS, read_done

pytestmark = pytest.mark.gang


def work_all(stages: list[dict[str, Any]]) -> None:
    """Several runs one after the other in the same processes: a start costs more than these runs do."""
    for stage in stages:
        work(stage, 1)


def forget_the_last_step(run: RunFile) -> None:
    """Bring a finished run back to where a kill in its second step would have left it."""
    storage = open_storage(run.output)
    storage.delete(DONE)
    storage.delete("checkpoints/step-00000002/manifest.json")


@pytest.mark.parametrize("architecture", CONFIGS)
def test_an_architecture_trains_resumes_and_exports_at_stages_2_and_3_full_and_lora(architecture: str, tmp_path: Path) -> None:
    config = {**CONFIGS[architecture], "vocab_size": LLAMA["vocab_size"], "n_positions": 128, "max_position_embeddings": 128}
    runs = {
        (stage, kind): small_run(
            tmp_path / f"{kind}-{stage}",
            model={"config": config},
            training={"max_steps": 2, "train_batch_size": 4},
            checkpoint={"every_steps": 1, "keep": 3},
            evaluation={"every_steps": None},
            zero={"stage": stage},
            peft={"kind": kind},
        )
        for stage in (2, 3)
        for kind in ("full", "lora")
    }
    stages = [make_stage(run).to_json() for run in runs.values()]
    gang(2, work_all, stages, timeout=240)
    before = {case: curve(run) for case, run in runs.items()}
    for run in runs.values():
        forget_the_last_step(run)
    gang(2, work_all, stages, timeout=240)
    for (stage, kind), run in runs.items():
        assert curve(run) == before[stage, kind], f"resumed at stage {stage}, {kind}"
        export = Path(read_done(open_storage(run.output))["exported"])
        assert (export / ("adapter_model.safetensors" if kind == "lora" else "model.safetensors")).stat().st_size > 1000
    for kind in ("full", "lora"):
        for two, three in zip(before[2, kind], before[3, kind], strict=True):
            assert two[3] == pytest.approx(three[3], rel=1e-4), f"loss at stages 2 and 3, {kind}"


def test_the_export_of_every_run_was_verified_by_logits(tmp_path: Path) -> None:
    run = small_run(tmp_path, training={"max_steps": 1}, peft={"kind": "lora"}, zero={"stage": 3}, export={"merge": True})
    gang(2, work, make_stage(run).to_json(), 1)
    lines = [json.loads(line) for line in Path(run.output, "events.jsonl").read_text().splitlines()]
    (exported,) = [line for line in lines if line["event"] == "exported"]
    assert exported["checks"]["max_difference"] <= exported["checks"]["allowed"]
    assert open_storage(run.output).exists(METRICS)
