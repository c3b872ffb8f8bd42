"""Models are made from what the run file says, the same every time, and what cannot work is refused with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import ARCHITECTURES, CONFIGS, tiny_model

from tunefleet.cluster.errors import RequestError, SettingsError
from tunefleet.cluster.world import World
from tunefleet.trainers.adapters import target_problems
from tunefleet.trainers.models import base_fingerprint, build, model_config, model_problems, skeleton
from tunefleet.trainers.run import Full, Lora, Model, RunFile


def run_file(*, peft: dict[str, Any] | None = None, training: dict[str, Any] | None = None, stage: int = 2, **model: Any) -> RunFile:
    return RunFile.model_validate(
        {
            "model": model or {"init": "random", "config": CONFIGS["llama"]},
            "data": {"train": [{"path": "rows.jsonl"}]},
            "peft": peft or {"kind": "full"},
            "training": {"max_steps": 1, **(training or {})},
            "zero": {"stage": stage},
            "output": "none",
        }
    )


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def random_model(architecture: str) -> Model:
    return Model(init="random", config=CONFIGS[architecture])


@pytest.mark.parametrize("peft", [{"kind": "full"}, {"kind": "lora"}], ids=["full", "lora"])
def test_random_weights_are_those_of_the_seed(peft: dict[str, Any]) -> None:
    first, again = (build(run_file(peft=peft), World.single()) for _ in range(2))
    other = build(run_file(peft=peft, training={"seed": 1}), World.single())
    torch.testing.assert_close(weights(first.model), weights(again.model), rtol=0, atol=0)
    assert first.base_fingerprint == again.base_fingerprint != other.base_fingerprint
    assert any(not torch.equal(a, b) for a, b in zip(first.model.parameters(), other.model.parameters(), strict=True))


def test_building_leaves_the_callers_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build(run_file(peft={"kind": "lora"}), World.single())
    assert torch.equal(torch.get_rng_state(), before)


def test_random_weights_in_bf16_are_those_of_fp32_rounded_and_rotary_frequencies_stay() -> None:
    exact = build(run_file(), World.single()).model
    rounded = build(run_file(training={"precision": "bf16"}), World.single()).model
    for name, tensor in weights(exact).items():
        assert torch.equal(tensor.bfloat16(), rounded.get_parameter(name))
    assert all(b.dtype is torch.float32 for b in rounded.buffers())


def test_a_fresh_adapter_changes_nothing_and_only_it_is_trained(tmp_path: Path) -> None:
    base = tiny_model("llama")
    base.save_pretrained(tmp_path)
    model = build(run_file(name_or_path=str(tmp_path), peft={"kind": "lora"}), World.single()).model.eval()
    ids = torch.arange(3, 13)[None]
    assert torch.equal(model(input_ids=ids).logits, base(input_ids=ids).logits)
    assert {name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}


def test_the_fingerprint_is_that_of_config_and_weights_and_of_nothing_else(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    run = run_file(name_or_path=str(tmp_path))
    before = base_fingerprint(run)
    (tmp_path / "README.md").write_text("other")
    assert base_fingerprint(run) == before
    tiny_model("llama", seed=1).save_pretrained(tmp_path)
    assert base_fingerprint(run) != before


def test_pickled_weights_are_never_opened(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(SettingsError, match="no weights"):
        build(run_file(name_or_path=str(tmp_path)), World.single())


def test_a_missing_model_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no model config here") as caught:
        model_config(Model(name_or_path=str(tmp_path / "absent")))
    assert "absent" in caught.value.got


def test_settings_that_contradict_each_other_are_all_named() -> None:
    model = {"init": "random", "config": CONFIGS["llama"]}
    run = run_file(**model, attn_implementation="flash_attention_2", dtype="bfloat16")
    assert [p.what.split(":")[0] for p in model_problems(run)] == ["model.attn_implementation", "model.dtype"]
    assert model_problems(run_file(**model, dtype="bfloat16", peft={"kind": "lora"}, stage=2)) == []
    assert model_problems(run_file(**model, dtype="bfloat16", peft={"kind": "lora"}, stage=3)) != []
    assert model_problems(run_file(**model, dtype="float32", training={"precision": "bf16"})) != []
    assert "hub" in model_problems(run_file(**model, attn_implementation="flash_attention_2"))[0].what


def test_soft_capped_attention_is_computed_eagerly_and_said() -> None:
    built = build(run_file(init="random", config=CONFIGS["gemma2"]), World.single())
    assert built.model.config._attn_implementation == "eager"
    assert any("eager" in decision for decision in built.decisions)


def test_a_skeleton_has_no_weights() -> None:
    assert all(p.is_meta for p in skeleton(random_model("qwen3_moe")).parameters())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_linear_fits_every_architecture(architecture: str) -> None:
    assert target_problems(random_model(architecture), Lora()) == []
    assert target_problems(random_model(architecture), Full()) == []


def test_experts_of_a_mixture_carry_adapters() -> None:
    built = build(run_file(init="random", config=CONFIGS["qwen3_moe"], peft={"kind": "lora"}), World.single())
    assert any("experts" in name for name, p in built.model.named_parameters() if p.requires_grad)
    assert target_problems(random_model("qwen3_moe"), Lora(target_modules=["gate_proj", "up_proj"])) == []


@pytest.mark.parametrize(
    ("targets", "what"),
    [
        (["query", "value"], "names no layer of this model"),
        (["q_proj", "v_prj"], "v_prj is no layer of this model"),
        (["lm_head"], "the output layer cannot carry an adapter"),
        ("q_.*", "names no layer of this model"),
    ],
)
def test_targets_that_match_nothing_are_refused_with_the_names_there_are(targets: list[str] | str, what: str) -> None:
    (problem,) = target_problems(random_model("llama"), Lora(target_modules=targets))
    assert what in problem.what
    assert "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj" in problem.want
    assert problem.exit_code == 2


def test_a_misspelt_target_names_the_nearest() -> None:
    (problem,) = target_problems(random_model("llama"), Lora(target_modules=["v_prj"]))
    assert problem.fix == "did you mean v_proj?"


def test_what_peft_itself_refuses_is_said_before_a_worker_starts() -> None:
    (problem,) = target_problems(random_model("qwen3_moe"), Lora(lora_dropout=0.1))
    assert "dropout" in problem.got


def test_modules_to_save_are_checked() -> None:
    assert target_problems(random_model("llama"), Lora(modules_to_save=["lm_head"])) == []
    (unknown,) = target_problems(random_model("llama"), Lora(modules_to_save=["lm_heads"]))
    assert unknown.fix == "did you mean lm_head?"
    (tied,) = target_problems(random_model("qwen3"), Lora(modules_to_save=["lm_head"]))
    assert "one tensor" in tied.what


def test_a_model_without_a_config_is_one_problem_not_a_crash(tmp_path: Path) -> None:
    problems = target_problems(Model(name_or_path=str(tmp_path)), Lora())
    assert len(problems) == 1
    assert isinstance(problems[0], RequestError)
