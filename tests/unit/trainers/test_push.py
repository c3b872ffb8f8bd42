"""An export to a hub, a real endpoint on this machine, by the command line: what arrives, what stays at home, and every refusal before anything is sent.

The hub's client reads its environment when it is imported, so the cases are done in a process of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from modelhub import READER, STRANGER, WRITER, model_hub

from tunefleet.trainers.push import of_a_model

SCRIPT = """
import contextlib, io, json, os, sys
from tunefleet.tuning.cli import main
for words, environment in json.loads(sys.argv[1]):
    os.environ.pop("HF_TOKEN", None)
    os.environ.update(environment)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def lora_run(folder: Path) -> Path:
    """The output of a run that trained an adapter on a model of this machine."""
    run = {
        "model": {"name_or_path": "/home/me/base"},
        "data": {"train": [{"path": "rows.jsonl"}]},
        "peft": "lora",
        "training": {"max_steps": 1},
        "output": str(folder),
    }
    folder.mkdir()
    (folder / "run.yaml").write_text(json.dumps(run))
    return folder


def export_folder(folder: Path, *, base: str | None = None) -> Path:
    """What an export looks like from outside, with some things in it that do not belong there."""
    folder.mkdir()
    origin = {"version": 1, "run": "shop", "base": {"address": "/home/me/base"}, "began_as": "/home/me/runs/a/checkpoints/step-4 (step 4)"}
    files = {
        "tunefleet.json": json.dumps(origin),
        "README.md": '---\ntags: []\n---\nfrom_pretrained("PATH")',
        "config.json": "{}",
        "model.safetensors": "weights",
    }
    if base is not None:
        files |= {"adapter_config.json": json.dumps({"base_model_name_or_path": base}), "adapter_model.safetensors": "adapter"}
    files |= {".env": "HF_TOKEN=canary", "notes.txt": "mine", "key.pem": "canary", ".secret.json": "canary", "model.bin": "pickle"}
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def served():
    with model_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def pushed(served, tmp_path_factory):
    """Every case in turn: {name: (exit code, stdout, stderr)}; and all that was printed."""
    folder = tmp_path_factory.mktemp("push")
    whole, adapter, hub_adapter = export_folder(folder / "whole"), export_folder(folder / "a", base="/home/me/base"), export_folder(folder / "b", base="org/x")
    writer, dead = {"HF_TOKEN": WRITER, "HF_ENDPOINT": served.endpoint}, "http://127.0.0.1:9"
    cases = {
        "none": (["export", str(whole), "--push", "org/shop"], {"HF_ENDPOINT": served.endpoint}),
        "reader": (["export", str(whole), "--push", "org/shop"], {**writer, "HF_TOKEN": READER}),
        "stranger": (["export", str(whole), "--push", "org/shop"], {**writer, "HF_TOKEN": STRANGER}),
        "wrong": (["export", str(whole), "--push", "org/shop"], {**writer, "HF_TOKEN": "hf_nobody_knows_this_canary"}),
        "network": (["export", str(whole), "--push", "org/shop"], {**writer, "HF_ENDPOINT": dead}),
        "name": (["export", str(whole), "--push", "shop"], writer),
        "adapter": (["export", str(adapter), "--push", "org/shop"], writer),
        "adapter run": (["export", str(lora_run(folder / "run")), "--push", "org/shop"], writer),
        "first": (["export", str(hub_adapter), "--push", "org/shop", "--json"], writer),
        "again": (["export", str(whole), "--push", "org/shop", "--json"], writer),
        "public": (["export", str(whole), "--push", "org/open", "--public"], writer),
        "private": (["export", str(whole), "--push", "org/open"], writer),
        "merge": (["export", str(whole), "--push", "org/shop", "--merge"], writer),
        "no run": (["export", str(folder), "--push", "org/shop"], writer),
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**kept, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    words = [sys.executable, "-P", "-c", SCRIPT, json.dumps(list(cases.values()))]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(cases, map(json.loads, done.stdout.splitlines()), strict=True)), done.stdout + done.stderr


def test_a_model_arrives_private_in_one_commit_and_nothing_else_does(pushed, served):
    found, _ = pushed
    code, out, err = found["first"]
    assert code == 0, err
    assert json.loads(out)["pushed"].startswith(f"{served.endpoint}/org/shop/commit/")
    assert "left at home, being no part of a model: .env, .secret.json, key.pem, model.bin, notes.txt" in err
    repository = served.repositories["org/shop"]
    assert repository.private
    assert len(repository.commits) == 2


def test_a_later_push_replaces_the_model_whole(pushed, served):
    files = served.repositories["org/shop"].files
    assert sorted(files) == ["README.md", "config.json", "model.safetensors", "tunefleet.json"]  # no adapter of the first
    assert files["model.safetensors"] == b"weights"
    assert b'from_pretrained("org/shop")' in files["README.md"]
    assert b"/home/me" not in files["tunefleet.json"]
    assert json.loads(files["tunefleet.json"])["began_as"] == "step-4 (step 4)"


@pytest.mark.parametrize(
    ("case", "code", "words"),
    [
        ("none", 2, ["no token", "export HF_TOKEN="]),
        ("reader", 2, ["may only read"]),
        ("stranger", 2, ["no right to write to org/shop"]),
        ("wrong", 2, ["does not know this token"]),
        ("network", 1, ["cannot be made", "look at the network"]),
        ("name", 2, ["ORG/NAME"]),
        ("adapter", 2, ["nobody else has", "--merge --push"]),
        ("adapter run", 2, ["nobody else has", "--merge --push"]),
        ("private", 2, ["is public", "--public"]),
        ("merge", 2, ["an export already"]),
        ("no run", 2, ["no run's output"]),
    ],
)
def test_refusals_say_what_to_do(pushed, case, code, words):
    found = pushed[0][case]
    assert found[0] == code
    for word in words:
        assert word in found[2]
    assert "Traceback" not in found[2]


def test_public_is_only_what_was_said_to_be(pushed, served):
    assert pushed[0]["public"][0] == 0
    assert not served.repositories["org/open"].private
    assert len(served.repositories["org/open"].commits) == 1


def test_no_token_is_ever_printed(pushed):
    assert "canary" not in pushed[1]


def test_files_are_chosen_by_what_a_model_is_made_of():
    assert [
        name for name in ("a.safetensors", "x/chat.jinja", "merges.txt", "a.txt", ".git/config.json", ".env", "id_rsa", "run.yaml") if of_a_model(name)
    ] == [
        "a.safetensors",
        "x/chat.jinja",
        "merges.txt",
    ]
