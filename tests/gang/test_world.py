"""Messages between ranks."""

import pytest
from gangs import gang

from tunefleet.cluster.world import World

pytestmark = pytest.mark.gang


def talk():
    world = World.join()
    world.barrier()
    return {
        "place": (world.rank, world.size, world.main, str(world.device), world.mesh["data"]),
        "sum": world.sum({"a": world.rank + 0.5, "b": 2.0**60}),
        "gather": world.gather({"rank": world.rank, "text": "ü" * world.rank}),
        "broadcast": world.broadcast({"from": world.rank}),
        "empty": world.gather(None),
    }


def disagree():
    world = World.join()
    world.sum({"a": 1.0} if world.main else {"b": 1.0})


def test_sums_gathers_and_broadcasts_are_the_same_on_every_rank():
    answers = gang(3, talk)
    assert [answer["place"] for answer in answers] == [(rank, 3, rank == 0, "cpu", 3) for rank in range(3)]
    for answer in answers:
        assert answer["sum"] == {"a": 4.5, "b": 3 * 2.0**60}
        assert answer["gather"] == [{"rank": rank, "text": "ü" * rank} for rank in range(3)]
        assert answer["broadcast"] == {"from": 0}
        assert answer["empty"] == [None, None, None]


def test_ranks_that_sum_different_things_are_told():
    with pytest.raises(ValueError, match="another rank sums something else"):
        gang(2, disagree)
