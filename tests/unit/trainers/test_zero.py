"""What DeepSpeed is told, and what a run file may add to it."""

import pytest
import torch
from toys import tiny_run

from tunefleet.cluster.errors import Refusal, SettingsError
from tunefleet.cluster.world import World
from tunefleet.trainers.zero import deepspeed_config, effective_stage, extra_problems, offload_problems, prepare_optimizer, zero_decisions

WORLD = World.single(torch.device("cpu"))


def with_extra(extra, stage=2):
    run = tiny_run(stage=stage)
    return run.model_copy(update={"zero": run.zero.model_copy(update={"extra": extra})})


def test_gradients_are_accumulated_and_reduced_in_fp32_in_every_precision():
    for precision in ("fp32", "bf16"):
        config = deepspeed_config(tiny_run(stage=2, precision=precision), WORLD)
        assert config["data_types"] == {"grad_accum_dtype": "fp32"}
        assert config["communication_data_type"] == "fp32"
        assert config["gradient_accumulation_steps"] == 1


def test_stage_0_in_bf16_runs_as_stage_1_and_says_so():
    run = tiny_run(stage=0, precision="bf16")
    assert effective_stage(run) == 1
    assert deepspeed_config(run, WORLD)["zero_optimization"]["stage"] == 1
    assert len(zero_decisions(run)) == 1
    assert zero_decisions(tiny_run(stage=0)) == []


def test_keys_that_are_the_users_are_taken():
    config = deepspeed_config(with_extra({"zero_optimization": {"overlap_comm": True}, "memory_breakdown": True}), WORLD)
    assert config["zero_optimization"] == {"stage": 2, "overlap_comm": True}
    assert config["memory_breakdown"] is True


def test_keys_that_are_ours_are_refused_by_name():
    problems = extra_problems(with_extra({"gradient_clipping": 1.0, "zero_optimization": {"stage": 3}}))
    assert ["training.max_grad_norm" in problems[0].fix, "zero.stage" in problems[1].fix] == [True, True]
    with pytest.raises(Refusal):
        deepspeed_config(with_extra({"gradient_clipping": 1.0, "bf16": {}}), WORLD)


def test_a_misspelt_key_gets_the_nearest_and_one_that_writes_files_is_refused():
    (problem,) = extra_problems(with_extra({"zero_optimization": {"overlap_com": True}}))
    assert "overlap_comm" in problem.fix
    with pytest.raises(SettingsError):
        deepspeed_config(with_extra({"tensorboard": {"enabled": True, "output_path": "/"}}), WORLD)


@pytest.mark.parametrize(
    ("stage", "offload", "fix"), [(0, "optimizer", "zero.stage to 1"), (0, "parameters", "zero.stage to 3"), (2, "parameters", "to optimizer")]
)
def test_what_no_stage_can_offload_is_refused_with_the_stage_that_can(stage, offload, fix):
    (problem,) = offload_problems(tiny_run(stage=stage, offload=offload))
    assert problem.what.startswith("zero.offload")
    assert fix in problem.fix
    with pytest.raises(SettingsError):
        deepspeed_config(tiny_run(stage=stage, offload=offload), WORLD)


def test_the_hosts_optimizer_wants_something_there_to_optimize():
    (problem,) = offload_problems(tiny_run(stage=2, optimizer="cpu_adamw"))
    assert problem.what.startswith("training.optimizer")
    assert offload_problems(tiny_run(stage=2, offload="optimizer", optimizer="cpu_adamw")) == []


def test_nothing_is_compiled_unless_asked_for_and_then_it_is_said_first(tmp_path, monkeypatch):
    said = []
    prepare_optimizer(tiny_run(stage=2, offload="optimizer"), said.append)
    assert said == []
    monkeypatch.setenv("PATH", str(tmp_path))  # no compiler
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    with pytest.raises(SettingsError, match="cannot be compiled here") as caught:
        prepare_optimizer(tiny_run(stage=2, offload="optimizer", optimizer="cpu_adamw"), said.append)
    assert "compiles its CPU Adam" in said[0]
    assert "adamw, which needs no compiler" in caught.value.fix
