"""The command line: verbs found by name, settings told from options, errors of four lines, exit codes 0, 1, 2."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tunefleet.cluster.errors import SettingsError
from tunefleet.tuning import cli
from tunefleet.tuning.arguments import Option, Verb, split, whole_number
from tunefleet.tuning.commands.train import resume_mode

VERB = Verb(subject="run.yaml", keys=True, options=(Option("--resume", "", "auto", bare="yes"), Option("--overwrite", ""), Option("--address", "", "ADDR")))
CONFIG = {"model_type": "llama", "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
WRONG = """
version: 1
name: no
model: {name_or_path: model}
data:
  train: [{path: nowhere.jsonl}]
  max_length: 4096
objective: {kind: stf}
peft: {kind: lora, target_modules: [query, value]}
training:
  max_steps: 10
  learning_rate: 1e-4
  lerning_rate: 1e-3
  seed: 0
  seed: 1
zero: {stage: 5}
scaling: {num_workers: 64, use_gpu: true}
output: out
"""


def keys() -> list[str]:
    return ["name", "output", "training"]


def run_cli(capsys, *words: str) -> tuple[int, str, str]:
    code = cli.main(words)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("words", "rest", "settings"),
    [
        (["run.yaml", "a.b=1", "c=x=y"], ["run.yaml"], {"a.b": "1", "c": "x=y"}),
        (["run.yaml", "--training.max_steps", "5", "--output=x"], ["run.yaml"], {"training.max_steps": "5", "output": "x"}),
        (["--training.max_steps", "-5", "run.yaml"], ["run.yaml"], {"training.max_steps": "-5"}),
        (["run.yaml", "--training.max-steps", "5"], ["run.yaml"], {"training.max_steps": "5"}),
        (["--resume", "run.yaml"], ["--resume=yes", "run.yaml"], {}),
        (["--resume=auto", "run.yaml", "--overwrite"], ["--resume=auto", "run.yaml", "--overwrite"], {}),
        (["run.yaml", "--address", "a=b:1"], ["run.yaml", "--address=a=b:1"], {}),
        (["./odd=name.yaml"], ["./odd=name.yaml"], {}),
        (["run.yaml", "a=1", "a=2"], ["run.yaml"], {"a": "2"}),
        (["run.yaml", "a="], ["run.yaml"], {"a": ""}),
    ],
)
def test_settings_and_options_are_told_apart(words, rest, settings):
    assert split(words, VERB, keys) == (rest, settings)


def test_a_misspelt_option_is_no_setting():
    with pytest.raises(SettingsError) as refused:
        split(["run.yaml", "--overwrte"], VERB, keys)
    assert refused.value.fix == "did you mean --overwrite?"


@pytest.mark.parametrize("words", [["--training.max_steps"], ["--training.max_steps", "--overwrite"]])
def test_a_key_without_a_value_is_an_error(words):
    with pytest.raises(SettingsError, match="its value is missing"):
        split(words, VERB, keys)


def test_values_of_options_are_never_taken_for_settings():
    verb = Verb(subject="SRC", options=(Option("--prompt", "", "TEXT", many=True), Option("--n", "", "N", type=whole_number(1))))
    assert split(["src", "--prompt", "a=b", "--prompt", "--x"], verb, keys) == (["src", "--prompt=a=b", "--prompt=--x"], {})


def test_resume_is_a_switch_or_auto():
    assert [resume_mode(given) for given in (None, "yes", "auto")] == [False, True, "auto"]
    with pytest.raises(SettingsError):
        resume_mode("later")


def test_help_lists_every_verb(capsys):
    code, out, _ = run_cli(capsys, "--help")
    assert code == 0
    for name, about in cli.verbs().items():
        assert f"{name} " in out
        assert about in out


def test_help_imports_nothing_heavy():
    heavy = "{'torch', 'ray', 'transformers', 'deepspeed', 'pydantic', 'numpy', 'rich', 'yaml'}"
    code = f"import sys; from tunefleet.tuning.cli import main; main(['--help']); print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout.endswith("[]\n")


@pytest.mark.parametrize("verb", sorted(cli.verbs()))
def test_every_verb_explains_itself(verb, capsys):
    code, out, _ = run_cli(capsys, verb, "-h")
    assert code == 0
    assert out.startswith(f"usage: tunefleet {verb}")
    assert "--debug" in out


def test_the_help_of_train_lists_every_key_of_the_run_file(capsys):
    from tunefleet.cluster.settings import describe
    from tunefleet.trainers.run import RunFile

    _, out, _ = run_cli(capsys, "train", "-h")
    for key, default, _ in describe(RunFile):
        assert f"  {key} [{default}]" in out


def test_an_unknown_verb_names_the_nearest(capsys):
    code, out, err = run_cli(capsys, "trian", "run.yaml")
    assert (code, out) == (2, "")
    assert err.startswith("SettingsError: trian: no such verb\n")
    assert "fix:  did you mean train?" in err


@pytest.mark.parametrize("words", [["train"], ["train", "a.yaml", "b.yaml"], ["generate", "x", "--max-new-tokens", "0", "--prompt", "a"], []])
def test_wrong_arguments_end_with_2(words, capsys):
    assert run_cli(capsys, *words)[0] == 2


def test_our_errors_have_no_traceback_unless_asked_for(capsys, tmp_path):
    code, out, err = run_cli(capsys, "train", str(tmp_path / "none.yaml"))
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert err.startswith("SettingsError: the file is missing")
    assert "Traceback" in run_cli(capsys, "train", str(tmp_path / "none.yaml"), "--debug")[2]


def test_ctrl_c_ends_with_130_and_a_word(capsys, monkeypatch):
    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupted)
    assert run_cli(capsys, "train", "x") == (130, "", "stopped\n")


def test_the_schema_is_json_schema_alone_on_stdout(capsys):
    code, out, err = run_cli(capsys, "schema")
    schema = json.loads(out)
    assert (code, err) == (0, "")
    assert {"model", "data", "training", "output"} <= set(schema["required"])
    assert schema["additionalProperties"] is False


def test_doctor_says_what_to_do_about_each_problem(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA", "1")
    code, out, _ = run_cli(capsys, "doctor", "--json", "--output", str(tmp_path))
    findings = json.loads(out)
    assert code == 2
    assert [(f["subject"], f["fix"]) for f in findings if f["state"] == "problem"] == [("environment", "unset it")]


def test_one_message_names_everything_that_is_wrong_with_a_run_file(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    Path("model/config.json").write_text(json.dumps(CONFIG))
    Path("run.yaml").write_text(WRONG)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("tunefleet.cluster.session.connect", lambda *args, **kwargs: pytest.fail("a session was started"))
    code, out, err = run_cli(capsys, "train", "run.yaml", "evaluation.metrics=[los]")
    assert (code, out) == (2, "")
    for what, fix in {
        "objective: unknown kind in objectives (run.yaml:8)": "did you mean sft?",
        "training.lerning_rate: unknown key (run.yaml:13)": "did you mean learning_rate?",
        "training.seed: the key stands twice": "remove one of them",
        "zero.stage: not allowed (run.yaml:16)": "set zero.stage to 0, 1, 2 or 3",
        "nowhere.jsonl: no such file": "correct the path",
        "data.max_length: longer than the model's context": "set data.max_length to 128 or less",
        "peft.target_modules: names no layer of this model": "set peft.target_modules to all-linear",
        "evaluation.metrics.0: unknown kind in metrics": "did you mean loss?",
        "scaling: GPUs that can never be had": "set scaling.use_gpu to false",
    }.items():
        assert what in err
        assert fix in err
    assert "9 problems, nothing was started" in err  # 1e-4 is a number here, and no is a word
    assert sorted(tmp_path.rglob("*")) == before


def test_what_libraries_print_does_not_stand_between_the_results(capsys):
    from tunefleet.tuning.printing import print_json, results_alone

    with results_alone():
        sys.stdout.write("a library talks\n")
        print_json({"a": float("nan"), "b": (1, 2.5)})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"a": None, "b": [1, 2.5]}
    assert err == "a library talks\n"
