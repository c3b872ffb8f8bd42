"""Lines where no object can grow: numbered parts that none loses, doubles or writes after it was overtaken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from remotes import Objects

from tunefleet.cluster import parts
from tunefleet.cluster.errors import OutputError, StorageError
from tunefleet.cluster.metrics import Lines, SharedLines, Tail, delete_lines, has_lines, join_lines, read_lines

NAME = "m.jsonl"


@pytest.fixture
def storage(tmp_path: Path) -> Objects:
    return Objects(tmp_path)


def write(lines: Lines, *steps: int) -> None:
    for step in steps:
        lines.add({"step": step})
        lines.flush()


def steps(storage: Objects) -> list[int]:
    return [record["step"] for record in read_lines(storage, NAME)]


def test_attempts_follow_each_other_and_closing_makes_one_file(storage: Objects) -> None:
    assert not has_lines(storage, NAME)
    for first in (1, 3):
        lines = Lines(storage, NAME)
        write(lines, first, first + 1)
        lines.close()
    assert steps(storage) == [1, 2, 3, 4]
    assert not storage.exists(NAME)
    join_lines(storage, NAME)
    assert [json.loads(line)["step"] for line in storage.read(NAME).splitlines()] == steps(storage) == [1, 2, 3, 4]
    assert all(storage.size(name) == 0 for name in storage.list("m/"))
    lines = Lines(storage, NAME)
    write(lines, 5)
    assert steps(storage) == [1, 2, 3, 4, 5]
    join_lines(storage, NAME)
    join_lines(storage, NAME)
    assert steps(storage) == [1, 2, 3, 4, 5]


def test_who_was_overtaken_writes_no_line_more(storage: Objects) -> None:
    ghost = Lines(storage, NAME)
    write(ghost, 1)
    later = Lines(storage, NAME)
    write(later, 2)
    ghost.add({"step": 99})
    with pytest.raises(OutputError, match="taken over by another run"):
        ghost.flush()
    with pytest.raises(OutputError):
        ghost.add({"step": 100})
    join_lines(storage, NAME)
    with pytest.raises(OutputError):
        write(later, 3)
    assert steps(storage) == [1, 2]


def test_steps_that_a_resume_takes_back_are_cut_in_every_part(storage: Objects) -> None:
    write(Lines(storage, NAME), 1, 2, 3)
    join_lines(storage, NAME)
    write(Lines(storage, NAME), 4, 5)
    lines = Lines(storage, NAME)
    assert lines.truncate_after(2) == 3
    write(lines, 3)
    assert steps(storage) == [1, 2, 3]


@pytest.mark.fault
def test_a_join_that_is_cut_short_anywhere_loses_and_doubles_nothing(tmp_path: Path) -> None:
    for allowed in range(8):
        storage = Objects(tmp_path / str(allowed))
        write(Lines(storage, NAME), 1, 2)
        write(Lines(storage, NAME), 3)
        storage.writes_left = allowed
        try:
            join_lines(storage, NAME)
        except StorageError:
            assert steps(storage) == [1, 2, 3]
        storage.writes_left = None
        join_lines(storage, NAME)
        assert steps(storage) == [1, 2, 3]
        write(Lines(storage, NAME), 4)
        assert steps(storage) == [1, 2, 3, 4]


def test_several_writers_share_a_sequence(storage: Objects) -> None:
    one, other = SharedLines(storage, NAME, background=True), SharedLines(storage, NAME)
    for step in range(4):
        (one, other)[step % 2].add({"step": step, "time": -step})
    one.close()
    assert sorted(steps(storage)) == [0, 1, 2, 3]
    join_lines(storage, NAME, order=lambda record: float(record["time"]))
    assert steps(storage) == [3, 2, 1, 0]
    delete_lines(storage, NAME)
    assert storage.list() == []


def test_the_tail_hands_over_each_new_line_once(storage: Objects) -> None:
    write(Lines(storage, NAME), 1)
    seen: list[int] = []
    with Tail(storage, lambda _, record: seen.append(record["step"]), names=(NAME,)) as tail:
        lines = Lines(storage, NAME)
        write(lines, 2, 3)
        tail.poll()
        write(lines, 4)
    assert sorted(seen) == [2, 3, 4]


def test_lines_that_cannot_be_stored_are_told_by_the_next_one(storage: Objects) -> None:
    lines = Lines(storage, NAME)
    storage.writes_left = 0
    lines.add({"step": 1})
    with pytest.raises(StorageError, match="no more writes"):
        lines.flush()
    with pytest.raises(StorageError, match="no more writes"):
        lines.close()


def test_a_long_run_gathers_longer() -> None:
    assert [parts.gathering_s(age) for age in (0.0, 50.0, 1000.0, 1e6)] == [1.0, 1.0, 10.0, 60.0]
