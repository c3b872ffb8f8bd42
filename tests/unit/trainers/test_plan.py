"""What a plan computes without a dry run: sizes, operations, the floor that train warns by, rows, machine types."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from runs import small_run
from tiny_models import CONFIGS

from tunefleet.trainers.models import equipped, skeleton
from tunefleet.trainers.plan.fit import PROCESS_BYTES, floor_bytes, free_host, memory_warnings, too_small
from tunefleet.trainers.plan.machines import MACHINES
from tunefleet.trainers.plan.rows import lines_of, prepared, rows_of
from tunefleet.trainers.plan.work import Sizes, flops_per_token, sizes_of
from tunefleet.trainers.run import Model, RunFile

BILLION = 10**9
SEVEN = Sizes(parameters=7 * BILLION, trained=7 * BILLION, active=7 * BILLION, active_trained=7 * BILLION, layers_width=32 * 4096)
GIB = 2**30


def run_of(**sections: Any) -> RunFile:
    return RunFile.model_validate(
        {"model": {"name_or_path": "none"}, "data": {"train": [{"path": "none"}]}, "training": {"max_steps": 1}, "output": "none", **sections}
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_input_embeddings_are_no_work_and_of_a_mixture_only_the_experts_in_use_are(name: str) -> None:
    model = skeleton(Model(init="random", config=CONFIGS[name]))
    sizes = sizes_of(model)
    assert sizes.parameters == sizes.trained == sum(p.numel() for p in model.parameters())
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    idle = 0 if tied else model.get_input_embeddings().weight.numel()
    experts = sum(p.numel() for parameter, p in model.named_parameters() if ".experts." in parameter)
    assert sizes.active == sizes.parameters - idle - experts // 2  # two of four experts are in use
    assert (experts > 0) == (name == "qwen3_moe")


def test_six_operations_a_parameter_four_for_frozen_ones_and_two_more_with_recomputation() -> None:
    full, frozen = SEVEN, Sizes(7 * BILLION, 1, 7 * BILLION, 0, 0)
    attention = 6 * full.layers_width * 1000
    assert flops_per_token(full, context=1000, recompute=False) == 6 * full.active + attention
    assert flops_per_token(full, context=1000, recompute=True) == pytest.approx((6 + 2) * full.active + attention * 4 / 3)
    assert flops_per_token(frozen, context=0, recompute=False) == 4 * frozen.active


def test_an_adapter_trains_little_and_all_is_held(tmp_path: Path) -> None:
    run = small_run(tmp_path, peft={"kind": "lora"})
    sizes = sizes_of(equipped(skeleton(run.model), run))
    assert 0 < sizes.trained < sizes.parameters / 3
    assert sizes.active_trained == sizes.trained


def gpu(stage: int, offload: str = "none", ranks: int = 8) -> RunFile:
    return run_of(training={"max_steps": 1, "precision": "bf16"}, zero={"stage": stage, "offload": offload}, scaling={"num_workers": ranks, "use_gpu": True})


def test_the_floor_is_that_of_the_zero_paper() -> None:
    """Rajbhandari et al. 2019, figure 1: 2 bytes a weight, 12 of optimizer state, partitioned by stage; our gradients are accumulated in fp32."""
    assert floor_bytes(gpu(1), SEVEN) == (7 * BILLION * 2 + 7 * BILLION * 12 // 8 + 7 * BILLION * 4, 0)
    assert floor_bytes(gpu(2), SEVEN) == (7 * BILLION * 2 + 7 * BILLION * 12 // 8, 0)
    assert floor_bytes(gpu(3), SEVEN) == (7 * BILLION * 14 // 8, 0)
    assert floor_bytes(gpu(1, "optimizer"), SEVEN) == (7 * BILLION * 2 + 7 * BILLION * 4, 7 * BILLION * 12 // 8)
    assert floor_bytes(gpu(2, "optimizer"), SEVEN) == (7 * BILLION * 2, 7 * BILLION * 12 // 8)
    assert floor_bytes(gpu(3, "parameters"), SEVEN) == (0, 7 * BILLION * 14 // 8)


def test_a_warning_names_what_is_needed_what_there_is_and_the_way_out() -> None:
    assert too_small(gpu(3), SEVEN, host=999 * GIB, device=80 * GIB) == []
    (device,) = too_small(gpu(3, ranks=1), SEVEN, host=999 * GIB, device=80 * GIB)
    assert re.search(r"at least 91\.\d GiB of GPU memory.* has 80\.0 GiB.*zero\.stage: 3.*tunefleet plan", device)
    (host,) = too_small(gpu(3, "parameters", ranks=1), SEVEN, host=64 * GIB, device=80 * GIB)
    assert "of host memory" in host
    assert too_small(gpu(3), SEVEN, host=None, device=None) == []


def test_runs_at_once_add_up() -> None:
    run, sizes = run_of(zero={"stage": 0}), Sizes(10, 10, 10, 10, 10)
    assert too_small(run, sizes, host=2 * PROCESS_BYTES, device=None) == []
    assert len(too_small(run, sizes, host=2 * PROCESS_BYTES, device=None, at_once=3)) == 1


def test_a_small_run_is_warned_of_nothing_here_and_a_huge_one_is(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    assert memory_warnings(run, run.model) == []
    assert free_host() is not None
    wide = run.model.model_copy(update={"config": {**CONFIGS["llama"], "hidden_size": 16384, "intermediate_size": 65536, "num_hidden_layers": 80}})
    assert "host memory" in memory_warnings(run, wide)[0]
    adapted = memory_warnings(small_run(tmp_path, peft={"kind": "lora"}), wide)
    assert "host memory" in adapted[0]
    assert "peft: lora" in adapted[0]


def test_without_a_store_every_row_is_taken_for_as_long_as_it_may_be_and_that_is_said(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    rows = rows_of(run, "bucket")
    assert rows.shape.lengths == (96, 96)
    assert (rows.shape.rounds, rows.steps, rows.epoch_rows) == (2, 8, 48)  # 7 rows a step, 2 at once on each of 2 ranks
    assert lines_of(run) == 60
    assert "data.max_length" in rows.assumed[0]
    assert rows.shards is None


def test_with_a_store_lengths_steps_and_shards_come_from_its_index(tmp_path: Path) -> None:
    from runs import make_stage

    from tunefleet.data.store import Store

    run = small_run(tmp_path, training={"max_steps": None, "num_train_epochs": 2})
    assert prepared(run) is None
    stage = make_stage(run)
    rows, split = rows_of(run, "pack"), Store.open(stage.store).split("train")
    assert rows.shape.lengths == tuple(sorted(split.lengths.tolist(), reverse=True)[:2])
    assert all(0 < some < whole for some, whole in zip(rows.shape.supervised, rows.shape.lengths, strict=True))
    assert rows.steps == stage.steps
    assert rows.tokens == pytest.approx(2 * split.lengths.sum())
    assert rows.shards == sum(path.stat().st_size for path in Path(stage.store).glob("**/*.arrow") if path.name.startswith(("train", "holdout")))
    other = run.model_copy(update={"data": run.data.model_copy(update={"max_length": 64})})
    assert prepared(other) is None


def test_every_figure_of_a_machine_type_is_dated_and_sourced() -> None:
    for machine in MACHINES:
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", machine.priced), machine.name
        assert len(machine.source) > 10, machine.name
        assert re.search(r"20\d\d-\d\d", machine.gpu.source), machine.name
        assert machine.price > 0
        assert machine.gpu.bf16 > machine.gpu.fp32
