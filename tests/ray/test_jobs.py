"""A cluster that somebody started by hand, with a token: a run is submitted to it, goes on where it stood, is followed and stopped; no secret gets out."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jobcluster
import pytest
import yaml
from processes import until
from raymetadata import metadata
from runs import curve, events, lines, small_run, train_on_gang
from s3server import CANARY

from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.manifest import newest_step
from tunefleet.trainers.stage import DONE, RUN_FILE

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
SOURCE = Path(__file__).parents[2] / "src"
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


def tunefleet(folder, head, *words, **variables):
    """The command, as typed in a folder of the user's by somebody who knows the cluster and its token."""
    headers = json.dumps({"X-Proxy-Authorization": f"{CANARY}-header"})
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**clean, **SECRETS, **head.variables(), "RAY_JOB_HEADERS": headers, "PYTHONPATH": os.pathsep.join([str(SOURCE), str(folder)]), **variables}
    command = [sys.executable, "-P", "-m", "tunefleet.tuning.cli", *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert CANARY not in done.stdout + done.stderr
    assert head.token not in done.stdout + done.stderr
    return done


@pytest.mark.parametrize("verb", [["submit", "run.yaml"], ["jobs"], ["logs", "x"], ["stop", "x"]], ids=lambda verb: verb[0])
def test_without_the_token_or_with_a_wrong_one_every_verb_says_so(head, lab, verb):
    (lab / "run.yaml").write_text("{}")
    missing = tunefleet(lab, head, *verb, RAY_AUTH_TOKEN_PATH="/nowhere/token")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "the cluster's token is missing" in missing.stderr
    wrong = tunefleet(lab, head, *verb, RAY_AUTH_TOKEN=f"{CANARY}-wrong")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "the cluster refuses the token" in wrong.stderr


def test_a_submitted_run_goes_on_where_it_stood_saves_when_it_is_stopped_and_lets_no_secret_out(head, lab, tmp_path):
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

    submitted = tunefleet(lab, head, "submit", "run.yaml")
    assert submitted.returncode == 0, submitted.stderr
    assert "shipped tunefleet, run.yaml, mylab; output" in submitted.stderr
    job = submitted.stdout.strip()
    until(lambda: len(lines(run)) > 5 or any(e["event"] == "stopped" for e in events(run)))
    assert curve(run)[:3] == began
    assert [e["step"] for e in events(run) if e["event"] == "resumed"] == [3]
    again = tunefleet(lab, head, "submit", "run.yaml")
    assert (again.returncode, again.stdout) == (2, "")
    assert job in again.stderr

    stopped = tunefleet(lab, head, "stop", job)
    assert stopped.stdout.split() == [job, "STOPPED"]
    saved = newest_step(output)
    assert saved == lines(run)[-1]["step"] > 3
    assert [(e["step"], e["by"]) for e in events(run) if e["event"] == "stopping"] == [(saved, "SIGTERM to the driver")]
    followed = tunefleet(lab, head, "logs", job, "--follow")
    assert followed.returncode == 143
    assert f"saved at step {saved}" in followed.stdout
    assert json.loads(tunefleet(lab, head, "status", run.output, "--json").stdout)["checkpoint_step"] == saved
    (listed,) = json.loads(tunefleet(lab, head, "jobs", "--json").stdout)
    assert {"id": job, "status": "STOPPED", "kind": "run", "output": run.output}.items() <= listed.items()

    known = metadata(f"127.0.0.1:{head.port}", RAY_AUTH_TOKEN_PATH=str(head.folder / "token"))
    assert job in known
    files = [path for place in (head.folder / "ray", Path(run.output)) for path in place.rglob("*") if path.is_file()]
    shipped = {path.name for path in files if "working_dir_files" in str(path)}
    assert {"run.yaml", "mine.py", "start.sh"} <= shipped
    assert not shipped & {".env", "key.pem", "id_rsa", "notes.txt"}
    leaks = [str(path) for path in files if any(secret.encode() in path.read_bytes() for secret in (CANARY, head.token))]
    assert leaks == []
    assert CANARY not in known
    assert head.token not in known
