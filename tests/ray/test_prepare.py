"""Preparation on a cluster: the same bytes as in one process, what dies is done again, and a bad row is named by file and line."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from tiny_tokenizers import tiny_tokenizer

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.tasks import Cluster, cluster_tasks
from tunefleet.data.blocks import Sizes
from tunefleet.data.layout import ANSWERS
from tunefleet.data.prepare import Limits, prepare
from tunefleet.data.settings import Data

pytestmark = pytest.mark.ray
LIMITS = Limits(Sizes(least=500, mean=1000, most=3000), shard=8000, alone=0)


def files_of(store: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(store).iterdir() if path.suffix in (".arrow", ".jsonl")}


def test_a_cluster_prepares_the_same_bytes_as_one_process(ray_session, tmp_path):
    lines = [json.dumps({"prompt": f"What is {i} plus three?", "completion": f"It is {i + 3}."}) for i in range(200)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    tokenizer = tiny_tokenizer("bytes")

    def made(name: str, **how):
        data = Data(train=[{"path": str(tmp_path / "a.jsonl")}], store=str(tmp_path / name), holdout=0.2, max_length=200)
        return prepare(data, ANSWERS, tokenizer, limits=LIMITS, **how)

    spread, alone = made("spread", cluster=cluster_tasks), made("alone")
    assert spread.blocks == alone.blocks > 10
    assert spread.counts == alone.counts
    assert files_of(spread.store) == files_of(alone.store)
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, '{"prompt": 1, "completion": "One."}']))
    with pytest.raises(DataError, match=r"data\.quality\.invalid") as caught:
        made("spread", cluster=cluster_tasks)
    assert "a.jsonl:201" in caught.value.got


def die_once(folder: str, item: int) -> int:
    mark = Path(folder) / str(item)
    if item == 2 and not mark.exists():
        mark.touch()
        os._exit(1)
    return item * item


def fail(_: None, item: int) -> int:
    raise DataError(f"item {item} is bad", got="it")


def test_work_whose_process_dies_is_done_again_and_what_is_wrong_is_raised_as_it_is(ray_session, tmp_path):
    assert dict(Cluster().run(die_once, str(tmp_path), range(5))) == {number: number * number for number in range(5)}
    with pytest.raises(DataError, match="item 0 is bad") as caught:
        list(Cluster().run(fail, None, [0]))
    assert type(caught.value) is DataError
