"""The choice of an interface: by the routes of this machine, unless the user has chosen."""

import os
import sys

import pytest

from tunefleet.cluster.errors import WorkerError
from tunefleet.cluster.network import NAMES, interfaces, network_used, use_interface, way_to, wishes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the loopback interface has another name")


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "")


def test_ranks_of_one_machine_talk_over_loopback():
    assert interfaces()["127.0.0.1"] == "lo"
    assert way_to("127.0.0.1", ["127.0.0.1", "127.0.0.1"]).interface == "lo"
    use_interface("127.0.0.1", ["127.0.0.1"], {})
    assert [os.environ[name] for name in NAMES] == ["lo", "=lo"]


def test_what_the_user_has_set_stays_and_what_the_driver_says_holds_for_every_worker(monkeypatch):
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    use_interface("127.0.0.1", ["127.0.0.1"], wishes({"GLOO_SOCKET_IFNAME": "eth7", "NCCL_SOCKET_IFNAME": "", "PATH": "/bin"}))
    assert [os.environ[name] for name in NAMES] == ["eth7", "ib0"]


def test_an_address_that_no_interface_has_is_an_error_that_lists_those_there_are():
    with pytest.raises(WorkerError, match="no interface of") as caught:
        way_to("192.0.2.7", ["192.0.2.7"])
    assert "lo 127.0.0.1" in caught.value.got
    assert "--node-ip-address" in caught.value.fix


def test_the_network_is_said_in_one_line_and_not_at_all_on_one_machine():
    assert network_used([{"host": "a", "interface": "lo"}, {"host": "a", "interface": "lo"}]) == ""
    assert network_used([{"host": "a", "interface": "eth0"}, {"host": "b", "interface": "eth0"}]) == "the ranks talk over eth0"
    assert network_used([{"host": "b", "interface": "ib0"}, {"host": "a", "interface": "eth0"}]) == "the ranks talk over eth0 on a, ib0 on b"
