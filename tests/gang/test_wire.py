"""What ranks send each other is numbers and JSON: gloo and NCCL ask nobody for a token, so a rank that unpickled what came would run a stranger's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gangs import gang
from runs import lines, make_stage, small_run, work


def work_without_objects(stage: dict[str, Any]) -> None:
    """Do the run where torch cannot turn bytes of another rank into an object."""
    from torch.distributed import distributed_c10d

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("an object crossed between ranks as a pickle")

    assert callable(distributed_c10d._tensor_to_object)
    distributed_c10d._tensor_to_object = distributed_c10d._object_to_tensor = refused  # type: ignore[assignment]
    work(stage, 1)


@pytest.mark.gang
@pytest.mark.parametrize("stage", [2, 3])
def test_a_whole_run_sends_no_pickle_between_its_ranks(tmp_path: Path, stage: int) -> None:
    run = small_run(tmp_path, training={"max_steps": 2}, zero={"stage": stage}, checkpoint={"every_steps": 1}, evaluation={"every_steps": 1})
    gang(2, work_without_objects, make_stage(run).to_json())
    assert [line["step"] for line in lines(run)] == [1, 2]
