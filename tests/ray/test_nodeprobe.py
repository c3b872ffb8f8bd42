"""The nodes of a session answer for themselves; a session of one node has nobody to add up with."""

import pytest

from tunefleet.cluster.diagnosis import diagnose
from tunefleet.cluster.nodeprobe import ask_nodes, known_versions

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def test_a_node_tells_its_versions_clock_disk_storage_and_interface(tmp_path):
    (node,), total = ask_nodes(str(tmp_path))
    assert (node.versions, node.interface, node.storage, node.trouble) == (known_versions(), "lo", "", "")
    assert abs(node.clock_offset) <= node.clock_error
    assert 0 < node.disk_free < node.disk_total
    assert total is None
    assert list(tmp_path.iterdir()) == []
    assert {finding.subject for finding in diagnose([node], total)} == {"nodes", "versions", "clocks", "disks", "storage", "interfaces", "all-reduce"}
