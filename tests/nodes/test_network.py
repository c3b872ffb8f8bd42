"""Ranks on several hosts find each other by the right interface, whatever the hosts are called, and listen on nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hosts import INTERFACE, hosts

from tunefleet.cluster.network import NAMES

MEETING = Path(__file__).parents[1] / "meeting.py"


@pytest.fixture
def environment():
    tests = MEETING.parent
    kept = {name: value for name, value in os.environ.items() if name not in NAMES}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent / "src")]), "OMP_NUM_THREADS": "1"}


def test_ranks_on_two_hosts_meet_by_the_interface_between_them_and_listen_nowhere_else(tmp_path, environment):
    with hosts("a", "b", environment=environment) as made:
        addresses = [host.address for host in made]
        command = [sys.executable, str(MEETING)]
        ranks = [
            host.start([*command, str(rank), str(tmp_path), host.address, *addresses], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for rank, host in enumerate(made)
        ]
        said = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    answers = [json.loads(out) for out, _ in said]
    assert [answer["total"] for answer in answers] == [[3.0] * 3] * 2
    assert [answer["way"] for answer in answers] == [[INTERFACE, address] for address in addresses]
    assert [answer["chosen"] for answer in answers] == [[INTERFACE, f"={INTERFACE}"]] * 2
    assert [answer["listening"] for answer in answers] == [[address] for address in addresses]


def test_a_node_out_of_reach_is_named_before_anybody_waits_for_it(environment):
    look = "from tunefleet.cluster.network import way_to; way_to('10.77.0.1', ['10.77.0.1', '192.0.2.9'])"
    with hosts("a", environment=environment) as (host,):
        tried = host.run([sys.executable, "-c", look])
    assert tried.returncode == 1
    assert "WorkerError: no way leads from a to 192.0.2.9" in tried.stderr
