"""What a look at a cluster means: every fault is a finding that names the node and says what to do; a healthy cluster has none."""

import sys
from dataclasses import replace

import pytest

from tunefleet.cluster.diagnosis import diagnose
from tunefleet.cluster.network import NAMES
from tunefleet.cluster.nodeprobe import Node, Probe, Sum, known_versions

VERSIONS = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0", "tunefleet": "code 0123456789ab"}
HEAD = Node("head", "10.0.0.1", versions=VERSIONS, interface="eth0", storage="", disk_free=400 << 30, disk_total=500 << 30)
NODE = replace(HEAD, host="gpu-1", address="10.0.0.2")
FAST = Sum(2, 64 << 20, 0.05)


def told(*nodes, total=FAST):
    return {(f.subject, f.state): f for f in diagnose(nodes, total) if f.state != "ok"}


def test_a_healthy_cluster_has_no_finding_but_good_ones():
    assert told(HEAD, NODE) == {}
    assert [f.subject for f in diagnose([HEAD, NODE], FAST)] == ["nodes", "versions", "clocks", "disks", "storage", "interfaces", "all-reduce"]


@pytest.mark.parametrize(
    ("change", "subject", "state", "words"),
    [
        ({"versions": {**VERSIONS, "torch": "2.12.0"}}, "versions", "problem", "gpu-1 (10.0.0.2) has torch 2.12.0, head (10.0.0.1) has 2.13.0"),
        ({"versions": {k: v for k, v in VERSIONS.items() if k != "ray"}}, "versions", "problem", "ray not at all"),
        ({"versions": None, "silence": "timed out"}, "nodes", "problem", "10.0.0.2 does not answer: timed out"),
        ({"clock_offset": -90.0, "clock_error": 0.01}, "clocks", "problem", "-90.000 s"),
        ({"clock_offset": 3.0, "clock_error": 0.01}, "clocks", "note", "+3.000 s"),
        ({"disk_free": 10 << 30}, "disks", "problem", "gpu-1 (10.0.0.2) has 10.0 GiB free, 2%"),
        ({"disk_free": 10 << 30, "disk_total": 20 << 30}, "disks", "note", "10.0 GiB free, 50%"),
        ({"storage": "does not see it"}, "storage", "problem", "does not see it"),
        ({"interface": "", "trouble": "no way leads there"}, "interfaces", "problem", "no way leads there"),
    ],
)
def test_a_fault_of_a_node_is_named_with_the_node_and_what_to_do(change, subject, state, words):
    found = told(HEAD, replace(NODE, **change))
    assert list(found) == [(subject, state)]
    assert words in found[subject, state].found
    assert found[subject, state].fix


@pytest.mark.parametrize(
    ("total", "state"), [(Sum(2, 1 << 20, 0.05), "note"), (Sum(2, 1 << 20, 1.0), "problem"), (Sum(2, trouble="no answer within 60 s"), "problem")]
)
def test_a_network_that_is_slow_or_shut_is_found(total, state):
    assert list(told(HEAD, NODE, total=total)) == [("all-reduce", state)]


def test_a_rate_is_said_in_plain_figures_however_slow_or_fast():
    said = [told(HEAD, NODE, total=Sum(2, 1 << 20, 2.193))["all-reduce", "problem"].found]
    said += [f.found for f in diagnose([HEAD, NODE], Sum(2, 64 << 20, 0.02)) if f.subject == "all-reduce"]
    assert [text.partition(" over")[0] for text in said] == ["0.5 MB/s", "3355.4 MB/s"]


def test_a_clock_that_cannot_be_read_more_closely_is_not_blamed():
    assert told(HEAD, replace(NODE, clock_offset=3.0, clock_error=2.5)) == {}


def test_the_rate_of_a_ring_does_not_depend_on_its_size():
    assert Sum(2, 100, 1.0).rate() == 100
    assert Sum(4, 100, 1.5).rate() == 100


def test_the_versions_of_this_process_are_known_and_the_code_is_one_of_them():
    found = known_versions()
    assert {"python", "ray", "torch", "deepspeed", "transformers", "tunefleet"} == set(found)
    assert found["tunefleet"].startswith("code ")


@pytest.mark.skipif(sys.platform != "linux", reason="the loopback interface has another name")
def test_what_is_tried_is_the_network_that_a_run_would_take(monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "")
    assert Probe().facts("127.0.0.1", ["127.0.0.1"], {})["interface"] == "lo"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    assert Probe().facts("127.0.0.1", ["127.0.0.1"], {"GLOO_SOCKET_IFNAME": "ib0"})["interface"] == "ib0"
