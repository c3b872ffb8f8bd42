"""A world of one: its messages mean the same as among many."""

import pytest

from tunefleet.cluster.world import World


def test_a_single_world_keeps_its_own_values():
    world = World.single()
    assert (world.rank, world.size, world.main) == (0, 1, True)
    assert world.mesh == {"data": 1, "sequence": 1, "tensor": 1, "expert": 1}
    assert world.sum({"a": 1, "b": 2.5}) == {"a": 1.0, "b": 2.5}
    assert world.gather({"x": [1, (2, 3)]}) == [{"x": [1, [2, 3]]}]
    assert world.broadcast(None) is None
    world.barrier()


def test_what_is_no_json_is_refused_rather_than_pickled():
    with pytest.raises(TypeError):
        World.single().gather(object())
