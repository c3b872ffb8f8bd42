"""A cluster that somebody started by hand, with a token: a run or study is submitted, goes on where it stood, is followed and stopped; no secret gets out."""

import json
import os
import sys
import tempfile
from pathlib import Path

import jobcluster
import pytest
import yaml
from livestudies import small_study, trial_events, trial_lines, trials, written
from processes import contents, until
from raymetadata import metadata
from runs import curve, events, lines, small_run, train_on_gang
from s3server import CANARY

from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.manifest import newest_step
from tunefleet.trainers.stage import DONE, RUN_FILE
from tunefleet.tuning.cli import main

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
SECRETS = {name: f"{CANARY}-{name}" for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "A_PASSWORD_OF_MINE")}
OBJECTIVE = """
from typing import Literal

from tunefleet.trainers.objectives.sft import Sft


class Mine(Sft):
    class Config(Sft.Config):
        kind: Literal["mylab.mine"] = "mylab.mine"
"""


@pytest.fixture(scope="module")
def head():
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # a socket's path must be short
        started = jobcluster.start(Path(folder), variables=SECRETS)
        yield started
        started.stop()


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """The folder of a user who has a package named data, a module of his own, and secrets lying about."""
    folder = tmp_path / "lab"
    for name, text in {"mylab/__init__.py": "", "mylab/mine.py": OBJECTIVE, "data/__init__.py": "raise RuntimeError('another data')"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name in (".env", "mylab/.env", "mylab/key.pem", "id_rsa", "notes.txt"):
        (folder / name).write_text(f"SECRET={CANARY}-{name}\n")
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
        del sys.modules[name]


@pytest.fixture
def tunefleet(head, lab, capsys, monkeypatch):
    """The command, as typed in the user's folder by somebody who knows the cluster and its token: exit code, stdout, stderr."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    headers = json.dumps({"X-Proxy-Authorization": f"{CANARY}-header"})
    for name, value in {**SECRETS, **head.variables(), "RAY_JOB_HEADERS": headers}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(lab)

    def type_in(*words):
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert CANARY not in out + err
        assert head.token not in out + err
        return code, out, err

    return type_in


@pytest.mark.parametrize("verb", [["submit", "run.yaml"], ["jobs"], ["logs", "x"], ["stop", "x"]], ids=lambda verb: verb[0])
def test_without_the_token_or_with_a_wrong_one_every_verb_says_so(tunefleet, lab, monkeypatch, verb):
    (lab / "run.yaml").write_text("{}")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere/token")
    code, out, err = tunefleet(*verb)
    assert (code, out) == (2, "")
    assert "the cluster's token is missing" in err
    monkeypatch.setenv("RAY_AUTH_TOKEN", f"{CANARY}-wrong")
    code, out, err = tunefleet(*verb)
    assert (code, out) == (2, "")
    assert "the cluster refuses the token" in err


def test_a_submitted_run_goes_on_where_it_stood_saves_when_it_is_stopped_and_lets_no_secret_out(tunefleet, head, lab, tmp_path):
    run = small_run(
        tmp_path,
        objective={"kind": "mylab.mine"},
        training={"max_steps": 100_000},
        data={"holdout": 0},
        checkpoint={"every_steps": None},
        export={"at_end": False},
        scaling={"num_workers": 1},
    )
    output = open_storage(run.output)
    train_on_gang(run.model_copy(update={"training": run.training.model_copy(update={"max_steps": 3})}))
    output.delete(DONE)
    output.put(RUN_FILE, yaml.safe_dump(run.model_dump(mode="json")).encode())
    began = curve(run)
    (lab / "run.yaml").write_text(yaml.safe_dump(run.model_dump(mode="json")))

    code, out, err = tunefleet("submit", "run.yaml")
    assert code == 0, err
    assert "shipped tunefleet, run.yaml, mylab; output" in err
    job = out.strip()
    until(lambda: len(lines(run)) > 5 or any(e["event"] == "stopped" for e in events(run)))
    assert curve(run)[:3] == began
    assert [e["step"] for e in events(run) if e["event"] == "resumed"] == [3]
    code, out, err = tunefleet("submit", "run.yaml")
    assert (code, out) == (2, "")
    assert job in err

    code, out, _ = tunefleet("stop", job)
    assert out.split() == [job, "STOPPED"]
    saved = newest_step(output)
    assert saved == lines(run)[-1]["step"] > 3
    assert [(e["step"], e["by"]) for e in events(run) if e["event"] == "stopping"] == [(saved, "SIGTERM to the driver")]
    code, out, _ = tunefleet("logs", job, "--follow")
    assert code == 143
    assert f"saved at step {saved}" in out
    assert json.loads(tunefleet("status", run.output, "--json")[1])["checkpoint_step"] == saved
    (listed,) = json.loads(tunefleet("jobs", "--json")[1])
    assert {"id": job, "status": "STOPPED", "kind": "run", "output": run.output}.items() <= listed.items()

    known = metadata(f"127.0.0.1:{head.port}", RAY_AUTH_TOKEN_PATH=str(head.folder / "token"))
    assert job in known
    files = contents(head.folder / "ray", run.output)
    shipped = {path.name for path in files if "working_dir_files" in str(path)}
    assert {"run.yaml", "mine.py", "start.sh"} <= shipped
    assert not shipped & {".env", "key.pem", "id_rsa", "notes.txt"}
    leaks = [str(path) for path, data in files.items() if any(secret.encode() in data for secret in (CANARY, head.token))]
    assert leaks == []
    assert CANARY not in known
    assert head.token not in known


@pytest.mark.slow
def test_a_submitted_study_follows_stops_and_goes_on_with_what_is_finished_kept(tunefleet, lab, tmp_path):
    study = small_study(
        tmp_path,
        [],
        run={
            "objective": {"kind": "mylab.mine"},
            "checkpoint": {"every_steps": None},
            "evaluation": {"every_steps": 4, "placement": "actors", "actors": 1, "samples": {"number": 0}},
            "export": {"at_end": False},
            "scaling": {"num_workers": 1},
        },
        space={"training.max_steps": {"choice": [4, 100_000]}},  # the second is surely not done when it is stopped
        budget={"concurrent_trials": 1},
    )
    written(study, lab)
    first, second = (open_storage(f"{study.output}/trials/{name}") for name in ("00000", "00001"))

    def reached(step):
        return any(line["step"] > step for line in trial_lines(study, "00001"))

    code, out, err = tunefleet("submit", "study.yaml")
    assert code == 0, err
    assert "shipped tunefleet, study.yaml, mylab; output" in err
    job = out.strip()
    until(lambda: reached(6), timeout_s=580)
    done = first.read("events.jsonl")
    assert first.exists("done.json")
    assert tunefleet("submit", "study.yaml")[0] == 2
    assert tunefleet("stop", job)[1].split() == [job, "STOPPED"]
    code, out, _ = tunefleet("logs", job, "--follow")
    assert code == 143
    assert "stopped on request" in out
    saved = newest_step(second)
    began = [line["step"] for line in trial_lines(study, "00001")]
    assert began == list(range(1, saved + 1))
    finished = trials(study)["00000"]
    assert (finished.status, finished.step) == ("finished", 4)
    assert finished.metrics["loss"] > 0
    assert json.loads(tunefleet("jobs", "--json")[1])[0]["kind"] == "study"
    told = json.loads(tunefleet("status", study.output, "--json")[1])
    assert told["trials"]["finished"] == 1

    code, out, err = tunefleet("submit", "study.yaml")
    assert code == 0, err
    again = out.strip()
    until(lambda: reached(saved + 2), timeout_s=580)
    assert tunefleet("stop", study.output)[0] == 0  # without the cluster: a note in the output
    code, out, _ = tunefleet("logs", again, "--follow")
    assert code == 143
    assert "tunefleet stop; its trials have saved" in out
    assert first.read("events.jsonl") == done
    assert [e["step"] for e in trial_events(study, "00001") if e["event"] == "resumed"] == [saved]
    assert [line["step"] for line in trial_lines(study, "00001")] == list(range(1, newest_step(second) + 1))
    assert newest_step(second) > saved
