"""The head loses its memory in the middle of a run (fault 6): with Redis the run does not notice; without it the run ends clearly, and ``--resume`` goes on."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = [
    pytest.mark.slow,
    pytest.mark.fault,
    pytest.mark.ray,
    pytest.mark.skipif(sys.platform != "linux" or shutil.which("redis-server") is None, reason="redis-server is not installed"),
]
TESTS = Path(__file__).parents[1]
STEPS, LOST_AT = 60, 15


def write_run(folder):
    """A small run on two workers, with checkpoints before and after the loss; its file."""
    llama = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    run = {
        "version": 1,
        "model": {"init": "random", "config": llama, "tokenizer": {"train_vocab_size": 300}},
        "data": {"train": [{"path": str(TESTS.parent / "examples" / "rows" / "quickstart.jsonl")}], "holdout": 0.1, "max_length": 64},
        "training": {"max_steps": STEPS, "train_batch_size": 8, "micro_batch_size": 4, "learning_rate": 1e-3},
        "scaling": {"num_workers": 2},
        "checkpoint": {"every_steps": 10},
        "evaluation": {"placement": "inline", "samples": {"number": 0}},
        "export": {"at_end": False},
        "output": str(folder / "run"),
    }
    run["data"]["store"] = str(folder / "shards")
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


def start(words, folder, **variables):
    """Run a program to its end: its exit code and what it said."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "RAY_gcs_rpc_server_reconnect_timeout_s": "20", **variables}
    with (folder / "said").open("w") as said:
        code = subprocess.run([sys.executable, "-P", *words], env=environment, stdout=said, stderr=said, timeout=500, check=False, cwd=folder).returncode
    return code, (folder / "said").read_text()


def losses(folder):
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def events(folder, kind):
    return [event for event in map(json.loads, (folder / "run" / "events.jsonl").read_text().splitlines()) if event["event"] == kind]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the run says when nothing happens to it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code, said = start(["-m", "tunefleet.tuning.cli", "train", str(write_run(folder))], folder)
    assert code == 0, said
    return losses(folder)


@pytest.fixture
def redis(tmp_path):
    """The address of a Redis that keeps nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert any("eady to accept connections" in line for line in server.stdout)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def test_with_redis_the_run_goes_on_as_if_nothing_had_been(tmp_path, redis, undisturbed):
    code, said = start([str(TESTS / "headdriver.py"), str(write_run(tmp_path)), str(LOST_AT)], tmp_path, RAY_REDIS_ADDRESS=redis)
    assert code == 0, said
    assert losses(tmp_path) == undisturbed
    assert len(events(tmp_path, "group_started")) == 1
    assert not events(tmp_path, "group_failed")


def test_without_redis_it_ends_clearly_and_resumes(tmp_path, undisturbed):
    run = write_run(tmp_path)
    code, said = start([str(TESTS / "headdriver.py"), str(run), str(LOST_AT)], tmp_path)
    assert code != 0
    assert "GCS" in said
    code, said = start(["-m", "tunefleet.tuning.cli", "train", str(run), "--resume"], tmp_path)
    assert code == 0, said
    assert losses(tmp_path) == undisturbed
