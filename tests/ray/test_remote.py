"""A running cluster: the package travels there, and a missing or wrong token is said plainly."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from livestudies import small_study, written
from processes import until

from tunefleet.cluster.errors import PreflightError
from tunefleet.cluster.session import check_reachable
from tunefleet.cluster.storage import open_storage

pytestmark = pytest.mark.ray
SOURCE = Path(__file__).parents[2] / "src"
DRIVER = """
import json, sys
from tunefleet.cluster.errors import PreflightError
from tunefleet.cluster.session import connect
try:
    with connect(sys.argv[1]) as session:
        import ray
        @ray.remote
        def where():
            import tunefleet.cluster.errors
            return tunefleet.__file__
        print(json.dumps([session.owned, session.resources()["CPU"], ray.get(where.remote())]))
except PreflightError as error:
    print(json.dumps(error.what))
"""


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [made.getsockname()[1] for made in sockets]
    for made in sockets:
        made.close()
    return ports


def drive(address, home, **variables):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment = {**clean, "HOME": str(home), "PYTHONPATH": str(SOURCE), **variables}
    done = subprocess.run([sys.executable, "-c", DRIVER, address], env=environment, capture_output=True, text=True, timeout=200, check=False)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head of its own with 3 CPUs that wants a token: (address, file of the token)."""
    tmp_path = tmp_path_factory.mktemp("head")
    (tmp_path / "token").write_text("1f" * 16)
    port, *others = free_ports(6)
    names = ["metrics-export-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port", "node-manager-port"]
    options = [f"--{name}={number}" for name, number in zip(names, others, strict=True)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment = {**clean, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"), "RAY_USAGE_STATS_ENABLED": "0"}
    ray = str(Path(sys.executable).with_name("ray"))
    with tempfile.TemporaryDirectory(prefix="ray") as folder, (tmp_path / "out").open("w") as out:  # a socket's path must be short
        where = [f"--port={port}", f"--temp-dir={folder}", "--node-ip-address=127.0.0.1", "--include-dashboard=false", "--num-cpus=3"]
        command = [ray, "start", "--head", "--block", *where, *options]
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
        until(lambda: process.poll() is not None or "Ray runtime started" in (tmp_path / "out").read_text())
        assert process.poll() is None, (tmp_path / "out").read_text()
        yield f"127.0.0.1:{port}", str(tmp_path / "token")
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def test_a_driver_with_the_token_brings_the_package_and_one_without_is_told(head, tmp_path):
    address, token = head
    owned, cpus, place = drive(address, tmp_path, RAY_AUTH_TOKEN_PATH=token)
    assert (owned, cpus) == (False, 3.0)
    assert "py_modules_files" in place
    assert drive(address, tmp_path) == "the cluster refuses the token"
    assert drive(address, tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="00" * 16) == "the cluster refuses the token"
    assert drive(address, tmp_path, RAY_AUTH_MODE="token") == "the cluster's token is missing"


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "127.0.0.1", "127.0.0.1:word"])
def test_an_address_of_the_wrong_kind_is_refused(address):
    with pytest.raises(PreflightError):
        check_reachable(address)


def test_an_address_where_nothing_listens_is_refused():
    (port,) = free_ports(1)
    with pytest.raises(PreflightError, match="no Ray cluster answers"):
        check_reachable(f"127.0.0.1:{port}")


def test_a_study_with_more_workers_a_trial_than_the_cluster_has_is_told_at_once_with_the_numbers(head, tmp_path):
    address, token = head
    study = small_study(tmp_path, [1e-3, 3e-3], run={"scaling": {"num_workers": 4}}, budget={})
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment = {**clean, "HOME": str(tmp_path), "PYTHONPATH": str(SOURCE), "RAY_AUTH_TOKEN_PATH": token}
    words = [sys.executable, "-P", "-m", "tunefleet.tuning.cli", "tune", str(written(study, tmp_path)), "--address", address]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2, done.stderr
    assert "4 CPUs asked for: 1 trials at a time with 4 each" in done.stderr
    assert "at most 3 CPUs, all that the cluster has" in done.stderr
    left = {name.partition("/")[0] for name in open_storage(study.output).list()}
    assert left <= {"lease"}, "nothing was begun, so the mended request needs no --overwrite"
    assert not Path(tmp_path / "shards").exists()
