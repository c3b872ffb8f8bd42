"""What is exported is what was trained: folders load in transformers and PEFT with the logits of the checkpoint, and text comes out of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gangs import gang
from tiny_models import CONFIGS, tiny_model

from tunefleet.cluster.errors import CheckpointError, SettingsError
from tunefleet.cluster.storage import open_storage
from tunefleet.cluster.world import World
from tunefleet.trainers.run import RunFile

pytestmark = pytest.mark.gang
VOCABULARY = 300
KINDS = ("full", "lora")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pretrained folders of some architectures, each with a tokenizer that has no chat template."""
    from tunefleet.trainers.vocabulary import train_tokenizer

    folder = tmp_path_factory.mktemp("bases")
    tokenizer = train_tokenizer(["one two three four", "five six seven"] * 20, VOCABULARY)
    for architecture in ("llama", "gpt2", "gemma2", "qwen3_moe"):
        tiny_model(architecture, vocab_size=VOCABULARY).save_pretrained(folder / architecture)
        tokenizer.save_pretrained(folder / architecture)
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def runs(bases: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFile]:
    """One trained run of every architecture and kind, and a random one."""
    folder = tmp_path_factory.mktemp("runs")
    made = {
        f"{a}-{kind}": run_file(folder / f"{a}-{kind}", kind, name_or_path=str(bases / a)) for a in ("llama", "gpt2", "gemma2", "qwen3_moe") for kind in KINDS
    }
    made["bf16-lora"] = run_file(folder / "bf16-lora", "lora", precision="bf16", name_or_path=str(bases / "llama"))
    random = {"init": "random", "config": {**CONFIGS["llama"], "vocab_size": VOCABULARY}, "tokenizer": {"name_or_path": str(bases / "tokenizer")}}
    made["random-lora"] = run_file(folder / "random-lora", "lora", **random)
    gang(1, train_all, [run.model_dump_json() for run in made.values()])
    return made


def run_file(output: Path, kind: str, *, precision: str = "fp32", objective: str = "sft", **model: Any) -> RunFile:
    return RunFile.model_validate(
        {
            "name": output.name,
            "model": model,
            "data": {"train": [{"path": "rows.jsonl"}]},
            "objective": {"kind": objective},
            "peft": {"kind": "lora", "r": 4} if kind == "lora" else {"kind": "full"},
            "training": {"max_steps": 2, "precision": precision},
            "output": str(output),
        }
    )


def train_all(runs: list[str]) -> None:
    """Two large steps of every run, and a checkpoint."""
    import yaml

    from tunefleet.trainers.checkpoint import save
    from tunefleet.trainers.engine import Engine
    from tunefleet.trainers.models import build
    from tunefleet.trainers.scoring import TokenScorer

    world = World.join()
    for text in runs:
        run = RunFile.model_validate_json(text)
        storage = open_storage(run.output)
        storage.put("run.yaml", yaml.safe_dump(json.loads(text)).encode())
        engine = Engine(TokenScorer(build(run, world).model), run, world)
        ids = torch.arange(40).reshape(2, 20) + 5
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "position_ids": torch.arange(20).expand(2, 20), "labels": ids.roll(-1, 1)}
        for _ in range(2):
            engine.backward(-engine.scorer.token_scores(batch).logp_BT.mean(), last=True)
            engine.step(0.05)
        save(storage, engine, {"step": 2}, optimizer=True, attempt="1", fence=1).wait()
        engine.close()


def exported(run: RunFile, output: Path, *, merge: bool = False) -> Any:
    from tunefleet.trainers.checkpoint import newest
    from tunefleet.trainers.export import export

    storage = open_storage(run.output)
    manifest = newest(storage)
    assert manifest is not None
    return export(run, storage, manifest, str(output), merge=merge)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(30).reshape(2, 15) + 7).logits.float()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "qwen3_moe"])
def test_adapter_and_merged_folder_give_the_logits_of_the_checkpoint(runs: dict[str, RunFile], bases: Path, tmp_path: Path, architecture: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = runs[f"{architecture}-lora"]
    adapter, merged = exported(run, tmp_path / "adapter"), exported(run, tmp_path / "merged", merge=True)
    assert adapter.checks["max_difference"] == 0.0
    assert merged.checks["max_difference"] <= 1e-4 * max(1.0, merged.checks["largest_logit"])
    base = AutoModelForCausalLM.from_pretrained(bases / architecture)
    untouched = logits(base)
    tuned = logits(PeftModel.from_pretrained(base, tmp_path / "adapter"))
    assert float((tuned - untouched).abs().max()) > 1e-2  # the training did something
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), tuned, atol=1e-3, rtol=1e-3)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "qwen3_moe"])
def test_a_full_export_is_the_checkpoint(runs: dict[str, RunFile], tmp_path: Path, architecture: str) -> None:
    result = exported(runs[f"{architecture}-full"], tmp_path / "full")
    assert result.checks["kind"] == "full"
    assert result.checks["max_difference"] == 0.0
    assert list((tmp_path / "full").glob("*.bin")) == []


def test_bf16_is_merged_with_one_rounding(runs: dict[str, RunFile], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    assert exported(runs["bf16-lora"], tmp_path / "adapter").checks["max_difference"] == 0.0
    assert exported(runs["bf16-lora"], tmp_path / "merged", merge=True).checks["max_difference"] > 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").dtype is torch.bfloat16


def test_an_adapter_on_random_weights_names_a_base_that_was_saved_once(runs: dict[str, RunFile], tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    run = runs["random-lora"]
    exported(run, tmp_path / "adapter")
    written = (Path(run.output) / "base" / "model.safetensors").stat().st_mtime_ns
    exported(run, tmp_path / "adapter")  # replaces the one before
    assert (Path(run.output) / "base" / "model.safetensors").stat().st_mtime_ns == written
    AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")


def test_tokenizer_template_card_and_origin_stand_beside(runs: dict[str, RunFile], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    exported(runs["llama-lora"], tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "two"}], tokenize=False, add_generation_prompt=True).endswith("Assistant:\n")
    assert json.loads((tmp_path / "adapter" / "tunefleet.json").read_text())["checks"]["max_difference"] == 0.0
    assert "after 2 optimizer steps" in (tmp_path / "adapter" / "README.md").read_text()
    assert (tmp_path / "adapter" / "generation_config.json").is_file()


def test_a_merge_of_nothing_is_refused(runs: dict[str, RunFile], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing to merge"):
        exported(runs["llama-full"], tmp_path / "merged", merge=True)


def test_an_export_that_is_off_is_refused_and_leaves_nothing(runs: dict[str, RunFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is put between writing and reading: an adapter whose file holds other numbers."""
    from safetensors.torch import load_file, save_file

    from tunefleet.trainers import export as module

    real = module.load_exported

    def altered(source: str, **kwargs: Any) -> Any:
        file = Path(source) / "adapter_model.safetensors"
        save_file({name: tensor * 1.1 for name, tensor in load_file(file).items()}, file)
        return real(source, **kwargs)

    monkeypatch.setattr(module, "load_exported", altered)
    with pytest.raises(CheckpointError, match="not what was trained"):
        exported(runs["llama-lora"], tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_text_is_the_same_from_run_checkpoint_adapter_and_merged_folder(runs: dict[str, RunFile], tmp_path: Path) -> None:
    from tunefleet.trainers.generation import Generator

    run = runs["llama-lora"]
    exported(run, tmp_path / "adapter")
    exported(run, tmp_path / "merged", merge=True)
    sources = [run.output, f"{run.output}/checkpoints/step-00000002", str(tmp_path / "adapter"), str(tmp_path / "merged")]
    texts = [Generator(source).generate(["one two", "three four five six"], 8) for source in sources]
    assert all(text == texts[0] for text in texts)
    assert len(texts[0]) == 2


def test_greedy_text_does_not_depend_on_what_else_is_asked(runs: dict[str, RunFile], bases: Path) -> None:
    from tunefleet.trainers.generation import Generator

    generator = Generator(str(bases / "gpt2"))
    assert generator.asker.encoder is None  # a model without a template continues text
    alone = [generator.generate([prompt], 6)[0] for prompt in ("one", "two three four five", "")]
    assert generator.generate(["one", "two three four five", ""], 6) == alone
    assert generator.generate(["one"], 6, temperature=1.0, seed=3) == generator.generate(["one"], 6, temperature=1.0, seed=3)


def test_a_source_that_is_no_model_is_refused(tmp_path: Path) -> None:
    from tunefleet.trainers.generation import Generator

    with pytest.raises(SettingsError):
        Generator(str(tmp_path))
