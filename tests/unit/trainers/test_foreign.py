"""Somebody else's folder runs no code here: not by its run file, not by its study, not by its model's config; unless the command line repeats it."""

import json
import sys
from typing import Any, get_args, get_origin

import pytest
import torch
import yaml
from pydantic import BaseModel
from tiny_models import CONFIGS

from tunefleet.cluster.errors import SettingsError
from tunefleet.cluster.plugins import Plugin
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.checkpoint import commit, write_part
from tunefleet.trainers.exported import load_exported
from tunefleet.trainers.foreign import code_of, dotted_kinds, is_left_behind
from tunefleet.trainers.fragment_files import Fragment
from tunefleet.trainers.models import model_config
from tunefleet.trainers.run import Model, RunFile
from tunefleet.trainers.stage import DONE, EVENTS, METRICS
from tunefleet.tuning.cli import main
from tunefleet.tuning.study import StudyFile

PLAIN: dict[str, Any] = {"model": {"name_or_path": "./m"}, "data": {"train": [{"path": "x"}]}, "training": {"max_steps": 1}, "output": "o"}


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A folder left by somebody else's run, whose modules leave a trace when they are imported."""
    folder, package = tmp_path / "theirs", tmp_path / "path" / "stranger"
    package.mkdir(parents=True)
    folder.mkdir()
    for name in ("__init__", "thing"):
        (package / f"{name}.py").write_text(f"open({str(tmp_path / 'sentinel')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    (folder / EVENTS).write_text("{}\n")
    yield folder
    assert not [name for name in sys.modules if name.startswith("stranger")]
    assert not (tmp_path / "sentinel").exists()


def places(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], bool]]:
    """Every place of a settings file where a plug-in may stand: its keys, and whether it is an item of a list."""
    found = []
    for name, field in model.model_fields.items():
        if any(isinstance(item, Plugin) for item in field.metadata):
            found.append(((*prefix, name), False))
        found += _inside(field.annotation, (*prefix, name))
    return found


def _inside(annotation: Any, keys: tuple[str, ...], many: bool = False) -> list[tuple[tuple[str, ...], bool]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [((*keys[:-1], f"{keys[-1]}[]", *deeper[len(keys) :]) if many else deeper, one) for deeper, one in places(annotation, keys)]
    parts = get_args(annotation)
    found = [(keys, many)] if any(isinstance(part, Plugin) for part in parts) else []
    for part in parts:
        found += _inside(part, keys, many or get_origin(annotation) is list)
    return found


def planted(keys: tuple[str, ...], many: bool, kind: Any) -> dict[str, Any]:
    value: Any = [kind] if many else kind
    for key in reversed(keys):
        value = {key.removesuffix("[]"): [value] if key.endswith("[]") else value}
    return dict(value)


@pytest.mark.parametrize("place", [*places(RunFile), *places(StudyFile)], ids=lambda place: ".".join(place[0]))
@pytest.mark.parametrize("kind", ["stranger.thing", {"kind": "stranger.thing", "x": 1}], ids=["bare", "section"])
def test_a_dotted_kind_is_seen_wherever_the_settings_take_a_plugin(place, kind):
    (found,) = dotted_kinds(planted(*place, kind))
    assert found[1] == "stranger.thing"
    assert found[0].endswith(".kind")


def test_the_places_are_those_that_we_know_of():
    assert {".".join(keys) for keys, _ in places(RunFile)} >= {"objective", "evaluation.metrics", "logging.trackers"}
    assert {".".join(keys) for keys, _ in places(StudyFile)} == {"searcher", "stopper"}


@pytest.mark.parametrize("text", ["model.safetensors is here.", "runs/a.b", "1.5", "x.", "s3://a.b/c"])
def test_texts_with_dots_are_no_modules(text):
    assert list(code_of({**PLAIN, "name": text, "output": text, "data": {"train": [{"path": text}], "store": text}})) == []


@pytest.mark.parametrize(
    ("sections", "repeated"),
    [
        ({"objective": {"kind": "stranger.thing"}}, "objective.kind=sft"),
        ({"evaluation": {"metrics": ["stranger.thing"]}}, "evaluation.metrics=[loss]"),
        ({"data": {"train": [{"path": "x", "kind": "stranger.thing"}]}}, "data.train=[{path: y}]"),
        ({"model": {"name_or_path": "./m", "trust_remote_code": True}}, "model.trust_remote_code=false"),
        ({"model": {"name_or_path": "./m", "attn_implementation": "stranger/kernel"}}, "model.attn_implementation=sdpa"),
    ],
    ids=["objective", "metric", "source", "remote code", "hub kernel"],
)
@pytest.mark.parametrize("verb", ["train", "prepare", "submit"])
def test_what_a_run_has_left_is_refused_with_its_code_until_the_command_line_says_it(stranger, capsys, monkeypatch, sections, repeated, verb):
    monkeypatch.chdir(stranger)
    file = stranger / "run.yaml"
    file.write_text(yaml.safe_dump({**PLAIN, **sections}))
    if verb == "submit":
        from tunefleet.tuning.submission import parcel_of

        with pytest.raises(SettingsError, match="asks for code to be run"):
            parcel_of(str(file), {}, here=True, shared=())
        return
    assert main([verb, str(file)]) == 2
    said = capsys.readouterr().err
    assert "asks for code to be run" in said
    assert "--trust-code" in said
    assert main([verb, str(file), repeated]) == 2  # for other reasons: nothing else of the file is there
    assert "asks for code to be run" not in capsys.readouterr().err


VERBS = {
    "evaluate": ["evaluate", "{run}"],
    "generate": ["generate", "{run}", "--prompt", "Hello"],
    "export": ["export", "{run}"],
    "plan": ["plan", "{run}/run.yaml"],
    "resume": ["train", "{run}/run.yaml", "--resume"],
    "report": ["report", "{run}"],
    "status": ["status", "{run}"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_runs_the_code_of_a_run_that_somebody_left(stranger, tmp_path, capsys, verb):
    """Its model's own code, and its modules; what only reads does so, and what would have to run them refuses."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "modeling_stranger.py").write_text(f"open({str(tmp_path / 'sentinel')!r}, 'w')\n")
    code = {name: f"modeling_stranger.{name}" for name in ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")}
    (model / "config.json").write_text(json.dumps({**CONFIGS["llama"], "model_type": "stranger", "auto_map": code}))
    asks = {"model": {"name_or_path": str(model), "trust_remote_code": True}, "objective": "stranger.thing", "evaluation": {"metrics": ["stranger.thing"]}}
    (stranger / "run.yaml").write_text(yaml.safe_dump({**PLAIN, **asks, "output": str(stranger)}))
    storage, folder = open_storage(stranger), "checkpoints/step-00000001"
    write_part(storage, folder, "a", 0, [Fragment("w", slot, (2,), 0, torch.zeros(2)) for slot in ("weight", "exp_avg")])
    commit(storage, folder, {"version": 1, "step": 1, "fence": 1, "attempt": "a", "optimizer": {"kind": "adamw", "updates": 1, "slots": []}, "meta": {}}, 1)
    exit_code = main([word.format(run=stranger) for word in VERBS[verb]])
    said = capsys.readouterr()
    assert exit_code == (0 if verb in ("report", "status") else 2), said.err
    assert verb in ("report", "status") or "asks for code to be run" in said.err


def test_a_base_that_somebody_left_is_refused_too(stranger, tmp_path, capsys):
    (stranger / "run.yaml").write_text(yaml.safe_dump({**PLAIN, "objective": "stranger.thing"}))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**PLAIN, "model": {"name_or_path": str(stranger / "run.yaml")}}))
    assert main(["train", str(tmp_path / "mine.yaml")]) == 2
    assert "asks for code to be run" in capsys.readouterr().err


def test_a_study_that_somebody_left_is_refused_too(stranger):
    from tunefleet.tuning.study import read_study

    study = {"run": PLAIN, "space": {"training.learning_rate": {"choice": [1e-3]}}, "searcher": "stranger.thing", "output": "o"}
    (stranger / "study.yaml").write_text(yaml.safe_dump(study))
    (problem,) = read_study(stranger / "study.yaml").problems
    assert "searcher.kind: stranger.thing" in problem.got


STUDY: dict[str, Any] = {"run": PLAIN, "space": {"training.learning_rate": {"choice": [1e-3]}}, "output": "o"}
PLACES: dict[str, dict[str, Any]] = {
    "searcher": {"searcher": {"kind": "stranger.thing"}},
    "stopper": {"stopper": {"kind": "stranger.thing"}},
    "run": {"run": {**PLAIN, "objective": {"kind": "stranger.thing"}}},
    "choice": {"space": {"objective": {"choice": ["sft", "stranger.thing"]}}},
    "kind": {"space": {"objective.kind": {"choice": ["stranger.thing"]}}},
    "metric": {"space": {"evaluation.metrics.0": {"choice": ["stranger.thing"]}}},
    "section": {"space": {"evaluation": {"choice": [{"metrics": ["stranger.thing"]}]}}},
    "remote code": {"space": {"model.trust_remote_code": {"choice": [True]}}},
}


@pytest.mark.parametrize("place", PLACES)
def test_a_study_that_somebody_left_is_shown_and_none_of_its_code_runs(stranger, capsys, place):
    from tunefleet.tuning.study import read_study

    study = {**STUDY, "searcher": {"kind": "random"}, "stopper": {"kind": "none"}, **PLACES[place]}
    (stranger / "study.yaml").write_text(yaml.safe_dump(study))
    (stranger / EVENTS).write_text("")
    (stranger / "trials.jsonl").write_text(json.dumps({"id": "00000", "number": 0, "parameters": {}, "status": "failed", "why": "?token=abcdefgh"}) + "\n")
    assert "asks for code to be run" in read_study(stranger / "study.yaml").problems[0].what
    for verb in ("report", "status"):
        assert main([verb, str(stranger)]) == 0, capsys.readouterr().err
    page = (stranger / "report.html").read_text()
    assert "Trial 00000 failed" in page
    assert "abcdefgh" not in page
    assert place not in ("searcher", "stopper") or "stranger.thing" in page


def test_ones_own_run_file_says_what_it_wants(tmp_path):
    (tmp_path / "run.yaml").write_text("{}")
    (tmp_path / "checkpoints").mkdir()
    assert not is_left_behind(tmp_path / "run.yaml")
    for name in (EVENTS, METRICS, DONE):
        (tmp_path / name).write_text("")
        assert is_left_behind(tmp_path / "run.yaml")
        (tmp_path / name).unlink()


@pytest.mark.parametrize("key", ["attn_implementation", "experts_implementation"])
@pytest.mark.parametrize("name", ["stranger/kernel", "stranger/kernel@main:flash", "flash_attention_3"])
def test_a_models_folder_has_no_kernel_fetched(tmp_path, key, name):
    (tmp_path / "config.json").write_text(json.dumps({**CONFIGS["llama"], key: name}))
    for read in (lambda: model_config(Model(name_or_path=str(tmp_path))), lambda: load_exported(str(tmp_path))):
        with pytest.raises(SettingsError, match="none is fetched from a hub") as refused:
            read()
        assert name in refused.value.got


def test_nor_has_a_config_in_the_run_file():
    with pytest.raises(SettingsError, match="none is fetched from a hub"):
        model_config(Model(init="random", config={**CONFIGS["llama"], "attn_implementation": "stranger/kernel"}))
