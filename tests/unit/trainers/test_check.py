"""A wrong run is refused before a worker starts, with everything that is wrong at once."""

import json

import pytest

from tunefleet.cluster.errors import RequestError
from tunefleet.trainers.check import CHECKS, ROW_CHECKS, check_run, context_length
from tunefleet.trainers.run import Model, RunFile, read_run

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with rows and a model's config; no weights, which no check may need."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "models" / "small").mkdir(parents=True)
    (tmp_path / "models" / "small" / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def a_run(**sections) -> RunFile:
    base = {
        "model": {"name_or_path": "models/small"},
        "data": {"train": [{"path": "rows.jsonl"}], "max_length": 64},
        "training": {"max_steps": 10},
        "output": "runs/x",
    }
    return RunFile.model_validate(
        {key: {**base.get(key, {}), **sections.get(key, {})} if isinstance(base.get(key, {}), dict) else base[key] for key in {*base, *sections}}
    )


def whats(run: RunFile) -> list[str]:
    problems = check_run(run)
    assert all(isinstance(problem, RequestError) and problem.fix for problem in problems)
    return [problem.what for problem in problems]


def test_a_good_run_has_no_problem_and_leaves_no_trace(place):
    before = sorted(place.rglob("*"))
    assert whats(a_run()) == []
    assert sorted(place.rglob("*")) == before


def test_missing_rows_and_an_unknown_format_name_the_nearest(place):
    first, second = check_run(a_run(data={"train": [{"path": "row.jsonl"}, {"path": "rows.jsonl", "format": "alpacca"}]}))
    assert first.what == "data.train.0.path: row.jsonl: no such file"
    assert first.fix == "did you mean rows.jsonl?"
    assert second.what.startswith("data.train.1.format: ")
    assert second.fix == "did you mean alpaca?"


def test_a_missing_model_is_said_once_and_what_follows_from_it_is_not(place):
    run = a_run(model={"name_or_path": "models/smal"}, peft={"kind": "lora", "target_modules": ["query"]})
    (problem,) = check_run(run)
    assert problem.what == "model.name_or_path: no such folder or file"
    assert problem.fix == "did you mean models/small?"


def test_a_context_longer_than_the_models_is_refused(place):
    (problem,) = check_run(a_run(data={"max_length": 4096}))
    assert problem.what == "data.max_length: longer than the model's context"
    assert (problem.got, problem.want) == ("4096 tokens", "at most 128")


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"model_type": "gpt2", "n_positions": 77}, 77),
        ({"model_type": "gemma3", "text_config": {"max_position_embeddings": 55}}, 55),
        ({"model_type": "llama"}, 2048),  # the architecture's own default, which the config leaves out
    ],
)
def test_the_context_is_found_under_the_names_that_families_use(config, length):
    assert context_length(Model(init="random", config=config)) == length


def test_lora_on_layers_that_the_model_has_not_lists_those_it_has(place):
    (problem,) = check_run(a_run(peft={"kind": "lora", "target_modules": ["query", "value"]}))
    assert problem.what == "peft.target_modules: names no layer of this model"
    assert "q_proj" in problem.want
    assert whats(a_run(peft={"kind": "lora", "target_modules": ["q_proj"]})) == []


def test_a_model_from_a_config_needs_a_tokenizer(place):
    random = {"init": "random", "config": CONFIG, "name_or_path": None}
    assert whats(a_run(model=random)) == ["model.tokenizer: a model made from a config has none"]
    assert whats(a_run(model={**random, "tokenizer": {"train_vocab_size": 300}})) == []


def test_flash_attention_that_is_not_installed_is_refused(place):
    (what,) = whats(a_run(model={"attn_implementation": "flash_attention_2"}))
    assert what.startswith("model.attn_implementation: flash-attn is not installed")


@pytest.mark.parametrize("template", ["nowhere.jinja", "{% for x in y %}", "{{ a"])
def test_a_template_that_is_none_is_refused(place, template):
    (what,) = whats(a_run(data={"chat_template": template}))
    assert what.startswith("data.chat_template: ")


def test_a_template_with_generation_markers_is_one(place):
    assert whats(a_run(data={"chat_template": "{% for m in messages %}{% generation %}{{ m }}{% endgeneration %}{% break %}{% endfor %}"})) == []


@pytest.mark.parametrize(
    ("evaluation", "what"),
    [
        ({"metrics": ["loss", "loss"]}, "evaluation.metrics: a name stands twice"),
        ({"metrics": ["perplexity"]}, "evaluation.early_stopping_metric: is not computed"),
        ({"metrics": ["loss"], "early_stopping_mode": "max"}, "evaluation.early_stopping_mode: loss is better the other way"),
    ],
)
def test_metrics_and_what_goes_by_them_must_fit(place, evaluation, what):
    assert whats(a_run(evaluation=evaluation)) == [what]


def test_early_stopping_needs_held_out_rows(place):
    assert whats(a_run(evaluation={"early_stopping_patience": 2}, data={"holdout": 0})) == ["evaluation.early_stopping_patience: there is nothing to stop by"]


def test_a_warm_up_longer_than_the_run_is_refused(place):
    assert whats(a_run(training={"warmup_steps": 10})) == ["training.warmup_steps: the warm-up takes the whole run"]


def test_gpus_that_this_machine_has_not_are_refused_only_for_a_run_here(place):
    import torch

    run = a_run(scaling={"num_workers": torch.cuda.device_count() + 1, "use_gpu": True})
    assert whats(run) == ["scaling: GPUs that can never be had"]
    assert check_run(run, local=False) == []


def test_an_output_inside_a_file_is_refused(place):
    run = a_run().model_copy(update={"output": "rows.jsonl/run"})
    assert whats(run) == ["output: nothing can be written there"]


def test_deepspeed_keys_that_are_ours_are_refused(place):
    (what,) = whats(a_run(zero={"extra": {"gradient_clipping": 1.0}}))
    assert what.startswith("zero.extra.gradient_clipping")


@pytest.mark.fault
def test_an_environment_in_which_data_runs_code_is_refused(place, monkeypatch):
    monkeypatch.setenv("RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA", "1")
    assert whats(a_run()) == ["RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA is on"]


def test_the_checks_of_rows_ask_nothing_of_the_machine(place):
    run = a_run(scaling={"use_gpu": True, "num_workers": 64}, evaluation={"metrics": ["perplexity"]}, data={"train": [{"path": "none.jsonl"}]})
    assert [p.what for p in check_run(run, checks=ROW_CHECKS)] == ["data.train.0.path: none.jsonl: no such file"]
    assert set(ROW_CHECKS) < set(CHECKS)


def test_values_that_were_wrong_in_the_text_are_not_complained_about_again(place):
    (place / "run.yaml").write_text(
        "model: {name_or_path: models/none, revision: 5}\n"
        "data: {train: [{pth: rows.jsonl}], max_length: lots}\n"
        "training: {max_stepss: 5}\nzero: {stage: 5}\nscaling: {num_workers: 2}\n"
    )
    text = read_run(place / "run.yaml")
    assert sorted(problem.what.split(":")[0] for problem in text.problems) == [
        "data.max_length",
        "data.train.0.pth",
        "model.revision",
        "output",
        "training.max_stepss",
        "zero.stage",
    ]
    assert [p.what.split(":")[0] for p in check_run(text.value, text=text)] == ["model.name_or_path"]  # that folder is missing, whatever the revision


def test_a_word_that_is_none_of_a_keys_hides_nothing_else_of_its_section(place):
    (place / "run.yaml").write_text(
        "model: {name_or_path: models/small, init: no}\ndata: {train: [{path: rows.jsonl}], max_length: 500, max_lenght: 3}\n"
        "peft: {kind: lora, target_modules: [query]}\ntraining: {max_steps: 5}\noutput: out\n"
    )
    text = read_run(place / "run.yaml")
    found = [problem.what.split(":")[0] for problem in (*text.problems, *check_run(text.value, text=text))]
    assert sorted(found) == ["data.max_lenght", "data.max_length", "model.init", "peft.target_modules"]


def test_what_can_be_known_before_the_base_run_is_asked_of_the_base(place):
    run = a_run(model={"name_or_path": "runs/base/export"}, data={"max_length": 500}, peft={"kind": "lora", "target_modules": ["query"]})
    known = Model(init="random", config=CONFIG)
    found = check_run(run.model_copy(update={"model": run.model.model_copy(update={"tokenizer": run.model.tokenizer})}), known=known.model_copy())
    assert {p.what.split(":")[0] for p in found} == {"data.max_length", "peft.target_modules", "model.tokenizer"}


def test_a_store_to_replay_that_is_none_and_a_step_smaller_than_an_example_are_refused(place):
    wrong = a_run(data={"replay": {"store": "nowhere", "ratio": 0.1}}, training={"train_batch_tokens": 5})
    assert sorted(what.partition(":")[0] for what in whats(wrong)) == ["data.replay.store", "training.train_batch_tokens"]


@pytest.mark.parametrize("family", [{"model_type": "mamba"}, {"model_type": "lfm2", "layer_types": ["conv", "full_attention"]}, {"model_type": "qwen3_next"}])
def test_rows_are_not_packed_for_a_model_that_carries_a_state_along(place, family):
    config = {**family, "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
    wrong = a_run(model={"init": "random", "config": config, "tokenizer": {"name_or_path": "models/small"}}, data={"batching": "pack"})
    assert "data.batching: this model's rows cannot be packed" in whats(wrong)
    assert whats(a_run(data={"batching": "pack"})) == []


SECRETS = """
version: 1
model: {name_or_path: models/small}
data:
  train: [{path: "s3://key:canary-rows@bucket/rows.jsonl", storage_options: {key: k, secret: canary-option}, headers: {Authorization: Bearer canary-header}}]
  store: s3://bucket/x?X-Amz-Signature=canary-signature
training: {max_steps: 10}
output: s3://me:canary-output@bucket/out
"""


def test_a_secret_in_an_address_or_an_option_is_refused_and_neither_said_nor_kept(place, capfd):
    from tunefleet.tuning.cli import main

    file = place / "run.yaml"
    file.write_text(SECRETS)
    before = sorted(place.rglob("*"))
    assert main(["train", str(file), "--data.store", "s3://me:canary-argument@bucket/x", "data.replay.store=s3://bucket/y?token=canary-replay"]) == 2
    out, err = capfd.readouterr()
    assert "canary" not in out + err
    for key in ("output", "data.store", "data.train.0.path"):
        assert f"{key}: an address must hold no secret" in err
    for key in ("storage_options", "headers"):
        assert f"data.train.0.{key}: unknown key" in err
    assert sorted(place.rglob("*")) == before
