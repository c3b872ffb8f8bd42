"""Runs whose output lies on S3, without Ray: what the network does to them moves no number, steps do not wait for uploads, and one of two writers wins."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from gangs import gang
from processes import until
from runs import curve, events, lines, make_stage, small_run, train_on_gang, work, write_rows
from s3proxy import Proxy

from tunefleet.cluster.errors import OutputError, StorageError, TunefleetError
from tunefleet.cluster.lease import Lease
from tunefleet.cluster.metrics import Lines, read_lines
from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.trainers.checkpoint import commit, write_part
from tunefleet.trainers.manifest import newest_step
from tunefleet.trainers.output import LEASE, claim, join_logs
from tunefleet.trainers.run import RunFile

pytestmark = [pytest.mark.s3, pytest.mark.fault]
SETTINGS: dict[str, Any] = {
    "training": {"max_steps": 12},
    "checkpoint": {"every_steps": 4},
    "evaluation": {"every_steps": 12, "samples": {"number": 0}},
    "export": {"at_end": False},
}
ZOMBIE = Path(__file__).with_name("zombie.py")


def on_s3(folder: Path, address: str) -> RunFile:
    """The run with rows, store and output below an address."""
    open_storage(address).put("rows.jsonl", write_rows(folder / "rows.jsonl").read_bytes())
    return small_run(folder, data={"train": [{"path": f"{address}/rows.jsonl"}], "store": f"{address}/shards"}, output=f"{address}/out", **SETTINGS)


@pytest.mark.gang
def test_ill_networks_move_no_number_and_steps_go_on_while_a_checkpoint_is_uploaded(s3_proxy: Proxy, s3_address: str, tmp_path: Path) -> None:
    """Rows 9, 11 and 12 of the fault matrix: errors and short bodies are outlasted, a refusal ends the run at once, and the next start goes on."""
    whole = small_run(tmp_path / "whole", **SETTINGS)
    train_on_gang(whole)
    run = on_s3(tmp_path, s3_address)
    stage = make_stage(run).to_json()
    rules = [s3_proxy.fault(kind, times=2, after=2, method=method) for kind, method in (("503", "PUT"), ("500", "GET"), ("short", "GET"), ("reset", "PUT"))]
    denied = s3_proxy.fault("403", method="PUT", path="checkpoints/step-00000012")
    held = s3_proxy.fault("pause", method="PUT", path="checkpoints/step-00000004")
    failure: list[BaseException] = []

    def train() -> None:
        try:
            gang(2, work, stage, 1)
        except TunefleetError as error:
            failure.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    until(lambda: any(line["step"] == 8 for line in lines(run)))
    assert newest_step(open_storage(run.output)) == 0
    s3_proxy.release.set()
    thread.join()
    assert [rule.hits for rule in rules] == [2, 2, 2, 2]
    assert held.hits
    assert denied.hits
    assert f"{run.output}/checkpoints/step-00000012/" in str(failure[0])
    assert "access denied" in str(failure[0])
    assert isinstance(failure[0], StorageError)

    happened = {(event["event"], event["step"]): event["time"] for event in events(run) if "step" in event}
    while_uploading = [line["step"] for line in lines(run) if happened["checkpoint_ended", 4] < line["time"] < happened["checkpoint_complete", 4]]
    assert while_uploading == [5, 6, 7, 8]

    s3_proxy.clear()
    gang(2, work, stage, 2)
    join_logs(open_storage(run.output))
    assert curve(run) == curve(whole)
    assert [event["step"] for event in events(run) if event["event"] == "resumed"] == [8]


def stop_for_good(storage: Storage, fence: int) -> None:
    """One rank's part of a checkpoint, and its manifest."""
    head = {"version": 1, "step": 5, "fence": fence, "attempt": f"fence-{fence}", "precision": "fp32", "optimizer": None, "meta": {"step": 5}}
    write_part(storage, "checkpoints/step-00000005", f"fence-{fence}", 0, [])
    commit(storage, "checkpoints/step-00000005", head, 1)


def test_a_writer_that_wakes_up_with_a_wrong_clock_is_fenced(s3_address: str) -> None:
    """Row 28: it holds the lease, is stopped until that has aged, and finds a later writer when it goes on. Its clock is 30 years ahead."""
    storage = open_storage(s3_address)
    with subprocess.Popen([sys.executable, str(ZOMBIE), s3_address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as zombie:
        assert zombie.stdout is not None
        assert zombie.stdout.readline() == "holds 1\n"
        with pytest.raises(OutputError, match="the zombie"):
            Lease.acquire(storage, LEASE, "too early", ttl_s=1000)
        zombie.send_signal(19)
        lease = until(lambda: taken_over(storage))
        assert lease.fence == 2
        later = Lines(storage, "metrics.jsonl")
        later.add({"step": 2})
        later.close()
        stop_for_good(storage, lease.fence)
        before = {name: storage.read(name) for name in storage.list("checkpoints/")}
        zombie.send_signal(18)
        said, _ = zombie.communicate("go on\n", timeout=120)
    assert said.splitlines() == ["fence: OutputError", "metrics: OutputError", "checkpoint: CheckpointError"]
    assert [line["step"] for line in read_lines(storage, "metrics.jsonl")] == [1, 2]
    assert {name: storage.read(name) for name in before} == before
    assert not lease.lost
    lease.release()


def taken_over(storage: Storage) -> Lease | None:
    """The lease, as soon as the one before has aged."""
    try:
        return Lease.acquire(storage, LEASE, "the later one", ttl_s=1)
    except OutputError:
        return None


def test_the_second_of_two_runs_on_one_output_is_refused_and_told_of_the_first(s3_address: str, tmp_path: Path) -> None:
    """Row 27."""
    run = on_s3(tmp_path, s3_address).model_copy(update={"name": "the-first"})
    with claim(run, resume=False, overwrite=False) as held:
        before = held.storage.list()
        for overwrite in (False, True):
            with pytest.raises(OutputError, match="in use by another run") as caught, claim(run, resume=False, overwrite=overwrite):
                pass
            assert "the-first on " in caught.value.got
        assert held.storage.list() == before
