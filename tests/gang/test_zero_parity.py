"""Promise 4: the loss curve does not depend on the ZeRO stage, the number of ranks, or the split into micro-batches."""

import pytest
from gangs import gang
from toys import make_engine, tiny_run, train_step

from tunefleet.cluster.world import World

pytestmark = pytest.mark.gang


def curve(stage, precision, micro, steps, training):
    """(loss, gradient norm) of every step."""
    world = World.join()
    engine = make_engine(tiny_run(stage=stage, precision=precision, **training), world)
    found = []
    for step in range(steps):
        loss, stepped = train_step(engine, world, step, micro=micro)
        assert stepped.applied
        found.append((loss, stepped.grad_norm))
    return found


def same_on_all(ranks):
    assert all(rank == ranks[0] for rank in ranks)
    return ranks[0]


@pytest.fixture(scope="module")
def plain():
    """One rank, no ZeRO, the whole step in one micro-batch."""
    return same_on_all(gang(1, curve, 0, "fp32", 7, 100, {}))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize(("ranks", "micro"), [(1, 3), (2, 2), (3, 1)])
def test_the_curve_is_the_same_at_every_stage_and_split(plain, stage, ranks, micro):
    found = same_on_all(gang(ranks, curve, stage, "fp32", micro, 100, {}))
    assert found[0] == pytest.approx(plain[0], rel=1e-6)
    for here, there in zip(found, plain, strict=True):
        assert here == pytest.approx(there, rel=1e-5)
