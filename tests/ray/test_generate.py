"""A file of prompts spread over actors: the answers of one process, through the death of an actor."""

import json
import os
import signal

import pytest
import ray
from talkers import QUESTIONS, talker

from tunefleet.cluster import actors
from tunefleet.trainers import promptfile
from tunefleet.trainers.decoding import Drawing
from tunefleet.trainers.promptfile import Request, Where, answer_file

pytestmark = pytest.mark.ray


def test_actors_answer_as_one_process_does_and_a_death_costs_a_block_only(ray_session, tmp_path, monkeypatch):
    folder = talker(tmp_path / "model")
    rows = [{"prompt": f"{QUESTIONS[i % 3]} {i}", "id": i} for i in range(96)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = []
    monkeypatch.setattr(actors, "create_actors", lambda *args, real=actors.create_actors, **how: made.append(real(*args, **how)) or made[-1])
    said = []

    def kill_one(done, total):
        if done == 16:
            os.kill(ray.get(made[0].handles[1].__ray_call__.remote(lambda actor: os.getpid())), signal.SIGKILL)  # dead before another block is handed out

    request = Request(folder, str(tmp_path / "in.jsonl"), str(tmp_path / "spread.jsonl"), Drawing(4), batch=2)
    answer_file(request, Where(actors=2), progress=kill_one, say=said.append)
    alone = Request(folder, str(tmp_path / "in.jsonl"), str(tmp_path / "alone.jsonl"), Drawing(4), batch=2)
    answer_file(alone, Where(actors=0), say=said.append)
    assert (tmp_path / "spread.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert "2 actors, 2 CPU each" in said
    assert promptfile.blocks_of(96, 2)[-1].stop == 96
