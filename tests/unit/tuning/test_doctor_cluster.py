"""`doctor --cluster` wants a cluster."""

from tunefleet.tuning.cli import main


def test_a_look_at_no_cluster_is_a_wrong_request(capsys):
    assert main(["doctor", "--cluster"]) == 2
    assert "--address" in capsys.readouterr().err
