"""A model, prompts and answers on S3: the file that a folder gets, also after a stop, and nothing is left beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from talkers import QUESTIONS, talker

from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.decoding import Drawing
from tunefleet.trainers.promptfile import Request, Where, answer_file

pytestmark = pytest.mark.s3


def test_answers_on_s3_are_those_in_a_folder_and_a_stopped_request_goes_on(s3_address: str, tmp_path: Path) -> None:
    there, model = open_storage(s3_address), Path(talker(tmp_path / "model"))
    for path in model.iterdir():
        there.put(f"model/{path.name}", path.read_bytes())
    rows = "".join(json.dumps({"prompt": f"{QUESTIONS[i % 3]} {i}"}) + "\n" for i in range(30))
    there.put("in.jsonl", rows.encode())
    (tmp_path / "in.jsonl").write_text(rows)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    def answer(source: str, place: str, **how) -> int:
        request = Request(source, f"{place}/in.jsonl", f"{place}/out.jsonl", Drawing(4), batch=2)
        return answer_file(request, Where(actors=0), say=lambda text: None, **how).found

    with pytest.raises(KeyboardInterrupt):
        answer(f"{s3_address}/model", s3_address, progress=stop)
    assert not there.exists("out.jsonl")
    assert answer(f"{s3_address}/model", s3_address) == 16
    answer(str(model), str(tmp_path))
    assert there.read("out.jsonl") == (tmp_path / "out.jsonl").read_bytes()
    assert [name for name in there.list() if not name.startswith("model/")] == ["in.jsonl", "out.jsonl"]
