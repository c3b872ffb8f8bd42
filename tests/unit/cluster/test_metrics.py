"""Lines of JSON: none is lost or torn, and they can be followed."""

import json
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunefleet.cluster.errors import StorageError
from tunefleet.cluster.metrics import Lines, Tail, read_lines
from tunefleet.cluster.storage import open_storage


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path)


def test_lines_are_read_in_order(storage):
    lines = Lines(storage, "m.jsonl")
    for step in range(5):
        lines.add({"step": step, "loss": 0.5})
    assert read_lines(storage, "m.jsonl") == [{"step": step, "loss": 0.5} for step in range(5)]
    assert read_lines(storage, "none.jsonl") == []


def test_lines_of_later_steps_are_cut_and_others_stay(storage):
    lines = Lines(storage, "m.jsonl")
    for record in ({"event": "start"}, {"step": 1}, {"step": 2}, {"step": 3}, {"event": "end"}):
        lines.add(record)
    assert lines.truncate_after(1) == 2
    assert read_lines(storage, "m.jsonl") == [{"event": "start"}, {"step": 1}, {"event": "end"}]
    assert lines.truncate_after(1) == 0


def test_a_line_torn_by_a_kill_is_left_out_and_the_next_writer_starts_afresh(storage):
    storage.append("m.jsonl", b'{"step": 1}\n{"step": 2, "lo')
    assert read_lines(storage, "m.jsonl") == [{"step": 1}]
    Lines(storage, "m.jsonl").add({"step": 2})
    assert read_lines(storage, "m.jsonl") == [{"step": 1}, {"step": 2}]


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(storage):
    storage.append("m.jsonl", b'{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(StorageError, match=r"m\.jsonl:2"):
        read_lines(storage, "m.jsonl")


def test_numbers_that_are_not_finite_become_null_so_that_every_line_is_json(storage):
    Lines(storage, "m.jsonl").add({"loss": math.nan, "parts": {"a": [math.inf, 1.0]}})

    def refuse(word):
        raise AssertionError(word)

    assert json.loads(storage.read("m.jsonl"), parse_constant=refuse) == {"loss": None, "parts": {"a": [None, 1.0]}}


@given(st.lists(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.booleans(), st.none())), max_size=8))
def test_any_record_survives(tmp_path_factory, records):
    storage = open_storage(tmp_path_factory.mktemp("lines"))
    lines = Lines(storage, "m.jsonl")
    for record in records:
        lines.add(record)
    assert read_lines(storage, "m.jsonl") == records


def test_the_tail_hands_over_what_came_after_it_and_nothing_twice(storage):
    storage.append("m.jsonl", b'{"step": 0}\n')
    seen = []
    tail = Tail(storage, lambda name, record: seen.append((name, record["step"])), names=("m.jsonl",))
    storage.append("m.jsonl", b'{"step": 1}\n{"st')
    tail.poll()
    tail.poll()
    storage.append("m.jsonl", b'ep": 2}\n')
    tail.poll()
    assert seen == [("m.jsonl", 1), ("m.jsonl", 2)]


def test_the_tail_goes_on_after_the_file_was_cut_back(storage):
    lines = Lines(storage, "m.jsonl")
    seen = []
    tail = Tail(storage, lambda _, record: seen.append(record["step"]), names=("m.jsonl",))
    for step in (1, 2, 3):
        lines.add({"step": step})
    tail.poll()
    lines.truncate_after(1)
    tail.poll()
    lines.add({"step": 2})
    tail.poll()
    assert seen == [1, 2, 3, 2]


def test_the_end_of_a_tail_reads_what_is_left(storage):
    seen, first = [], threading.Event()

    def take(_, record):
        seen.append(record["step"])
        first.set()

    with Tail(storage, take, names=("m.jsonl",)):
        storage.append("m.jsonl", b'{"step": 1}\n')
        assert first.wait(30)
        storage.append("m.jsonl", b'{"step": 2}\n')
    assert seen == [1, 2]
