"""A file of prompts becomes a file of answers: whole or not at all, in order, gone on with after a stop."""

import json

import pytest
from talkers import QUESTIONS, talker

from tunefleet.cluster.errors import DataError, OutputError
from tunefleet.trainers import promptfile
from tunefleet.trainers.decoding import Drawing
from tunefleet.trainers.generation import Generator
from tunefleet.trainers.promptfile import Request, Where, answer_file, blocks_of, shares

HERE = Where(actors=0)
ROWS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return talker(tmp_path_factory.mktemp("model"))


@pytest.fixture
def request_of(folder, tmp_path):
    rows = [{"prompt": QUESTIONS[i % 3] + f" {i}", "id": i} for i in range(ROWS)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(**changes):
        values = {"source": folder, "input": str(tmp_path / "in.jsonl"), "output": str(tmp_path / "out.jsonl"), "drawing": Drawing(4), "batch": 2}
        return Request(**{**values, **changes})

    return make


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def answer(request, **how):
    return answer_file(request, HERE, say=how.pop("say", lambda text: None), **how)


def test_answers_stand_in_the_order_of_the_rows_and_are_those_of_each_alone(request_of, folder, tmp_path):
    done = answer(request_of())
    found = lines(tmp_path / "out.jsonl")
    assert [row["id"] for row in found] == list(range(ROWS))
    generator = Generator(folder)
    assert [row["generated"] for row in found] == [generator.generate([row["prompt"]], 4)[0] for row in found]
    assert {row["finish"] for row in found} <= {"stop", "length"}
    assert (done.rows, done.found, done.cut) == (ROWS, 0, sum(row["finish"] == "length" for row in found))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_request_that_was_stopped_goes_on_and_gives_the_same(request_of, tmp_path, temperature):
    drawing = Drawing(4, temperature, seed=3)
    answer(request_of(drawing=drawing, output=str(tmp_path / "whole.jsonl")))

    def stop(done, rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer(request_of(drawing=drawing), progress=stop)
    assert not (tmp_path / "out.jsonl").exists()
    said, counts = [], []
    done = answer(request_of(drawing=drawing), progress=lambda rows, of: counts.append((rows, of)), say=said.append)
    assert done.found == 16
    assert "1 of 3 blocks" in said[0]
    assert counts == [(16, 24), (24, 24)]
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_parts_of_another_request_are_not_mixed_in(request_of, tmp_path):
    def stop(done, rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer(request_of(), progress=stop)
    with pytest.raises(OutputError, match="another request"):
        answer(request_of(drawing=Drawing(5)))
    assert answer(request_of(drawing=Drawing(5), overwrite=True)).found == 0


def test_an_output_that_exists_stays(request_of, tmp_path):
    (tmp_path / "out.jsonl").write_text("mine\n")
    with pytest.raises(OutputError, match="exists already"):
        answer(request_of())
    assert (tmp_path / "out.jsonl").read_text() == "mine\n"
    answer(request_of(overwrite=True))
    assert len(lines(tmp_path / "out.jsonl")) == ROWS


def test_rows_that_cannot_be_asked_are_refused_together_before_a_model_is_loaded(request_of, tmp_path, monkeypatch):
    monkeypatch.setattr(promptfile, "Generator", lambda *args, **kwargs: pytest.fail("a model was loaded"))
    rows = [{"prompt": "good"}, {"prompt": "long " * 200}, {"prompt": "x", "generated": "y"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError) as caught:
        answer(request_of())
    assert caught.value.what == "2 of 3 rows cannot be answered"
    assert "in.jsonl:2: too long" in caught.value.got
    assert "in.jsonl:3: has a column generated" in caught.value.got
    with pytest.raises(OutputError, match=r"lines of JSON"):
        answer(request_of(output=str(tmp_path / "out.parquet")))


def test_blocks_cover_every_row_once_and_a_machine_is_shared_out():
    for rows in (1, 15, 16, 17, 100_001):
        blocks = blocks_of(rows, 2)
        assert [row for block in blocks for row in block] == list(range(rows))
        assert len(blocks) <= 2000
    assert shares(None, 9, {"CPU": 2.0}) == (1, 2.0, 0.0)
    assert shares(None, 9, {"CPU": 16.0}) == (8, 2.0, 0.0)
    assert shares(None, 9, {"CPU": 16.0, "GPU": 4.0}) == (4, 4.0, 1.0)
    assert shares(8, 3, {"CPU": 4.0}) == (3, 1.0, 0.0)
