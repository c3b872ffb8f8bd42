"""A gang is one function call: answers in order, errors with their cause, deaths by name."""

import os
import signal

import pytest
from gangs import GangDiedError, RankTracebackError, gang

from tunefleet.cluster.errors import CheckpointError

pytestmark = pytest.mark.gang


def add_ranks(scale):
    import torch
    import torch.distributed as dist

    total = torch.tensor([scale * dist.get_rank()])
    dist.all_reduce(total)
    return dist.get_rank(), total.item()


def fail_on_one():
    import torch.distributed as dist

    if dist.get_rank() == 1:
        raise CheckpointError("torn", got="half", want="whole", fix="save again")
    dist.barrier()


def die_on_one():
    import torch.distributed as dist

    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def known():
    return os.environ.get("GANGS_KNOW"), os.environ["RANK"]


def test_a_rank_has_the_environment_of_the_test_and_not_of_an_earlier_one(monkeypatch):
    assert gang(1, known) == [(None, "0")]
    monkeypatch.setenv("GANGS_KNOW", "this")
    assert gang(1, known) == [("this", "0")]
    monkeypatch.undo()
    assert gang(1, known) == [(None, "0")]


def test_ranks_answer_in_order():
    assert gang(3, add_ranks, 2.0) == [(0, 6.0), (1, 6.0), (2, 6.0)]


def test_an_error_of_a_rank_is_raised_with_its_traceback():
    with pytest.raises(CheckpointError, match="torn") as caught:
        gang(2, fail_on_one)
    assert isinstance(caught.value.__cause__, RankTracebackError)
    assert "fail_on_one" in str(caught.value.__cause__)


def test_a_killed_rank_is_named():
    with pytest.raises(GangDiedError) as caught:
        gang(2, die_on_one)
    assert (caught.value.rank, caught.value.exit_code) == (1, -signal.SIGKILL)
