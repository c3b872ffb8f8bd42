"""Sessions: loopback only, used again by whoever comes second."""

import sys
from pathlib import Path

import pytest
from processes import marked

from tunefleet.cluster.session import connect, owns_cluster, page_address

pytestmark = pytest.mark.ray


def test_a_second_connect_uses_the_session_and_leaves_it_open(ray_session):
    with connect(cpus_needed=99) as second:
        assert not second.owned
        assert second.resources()["CPU"] == ray_session.resources()["CPU"] == 4
    assert owns_cluster()
    assert ray_session.resources()["CPU"] == 4


def test_the_dashboards_address_can_be_opened():
    assert [page_address(found) for found in ("127.0.0.1:8265", "https://ray.me/x", "", None)] == ["http://127.0.0.1:8265", "https://ray.me/x", "", ""]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_of_a_local_session_listens_beyond_this_machine(ray_session, ray_mark):
    sockets = {inode for pid in marked(f"TUNEFLEET_TEST_SESSION={ray_mark}") for inode in socket_inodes(pid)}
    found = [address for inode, address in listening() if inode in sockets]
    assert len(found) > 3
    assert [address for address in found if not loopback(address)] == []


def socket_inodes(pid):
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]


def listening():
    """(inode, address in hexadecimal) of every TCP socket that listens."""
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                yield fields[9], fields[1].partition(":")[0]


def loopback(address):
    mapped = "0000000000000000FFFF0000"  # an IPv4 address in IPv6
    return address.removeprefix(mapped) == "0100007F" or address == "00000000000000000000000001000000"
