"""Data sets of a hub, from a real endpoint on this machine through ``datasets``: fetched once, known by commit, offline from the cache, never code.

What the hub's client reads of its environment it reads when it is imported, so each scenario is a process of its own; it runs many cases.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hubserver import Hub, Repository, hub

ROWS = [{"prompt": f"p{i}", "completion": f"c{i}"} for i in range(5)]
SCRIPT = """
import json, sys
import pyarrow as pa
from tunefleet.cluster.errors import TunefleetError
from tunefleet.data.rows import read_rows, source_files
from tunefleet.data.settings import Source

class Running(pa.ExtensionType):
    def __init__(self): super().__init__(pa.int64(), "tests.running")
    def __arrow_ext_serialize__(self): return b""
    @classmethod
    def __arrow_ext_deserialize__(cls, storage, serialized):
        print("CODE RAN", file=sys.stderr)
        return cls()
pa.register_extension_type(Running())

for case in json.loads(sys.argv[1]):
    source = Source(**case)
    try:
        files = source_files(source)
        rows = list(read_rows(source))
        print(json.dumps({"files": files, "rows": [dict(row.values) for row in rows], "where": [row.where for row in rows]}))
    except TunefleetError as error:
        print(json.dumps({"error": str(error), "what": error.what, "fix": error.fix}))
"""


class Running(pa.ExtensionType):
    """The type that the processes above would run."""

    def __init__(self) -> None:
        super().__init__(pa.int64(), "tests.running")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type, serialized):
        return cls()


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


CONFIGS = b"---\nconfigs:\n- config_name: easy\n  data_files: easy.jsonl\n- config_name: hard\n  data_files: hard.jsonl\n---\n"
LOCAL = Path(__file__).parents[3] / "constraints.txt"
OUTSIDE = f"---\nconfigs:\n- config_name: default\n  data_files: {LOCAL}\n---\n".encode()
TRAP = pa.table({"text": ["a"], "odd": pa.ExtensionArray.from_storage(Running(), pa.array([1]))})
PLAIN = Repository({"train.jsonl": lines(ROWS), "test.jsonl": lines(ROWS[:1]), "README.md": b"rows\n"})
REPOSITORIES = {
    "org/plain": PLAIN,
    "org/gated": Repository({"data/train-00000-of-00001.parquet": parquet(pa.Table.from_pylist(ROWS))}, token="canary-secret"),
    "org/configs": Repository({"README.md": CONFIGS, "easy.jsonl": lines(ROWS[:2]), "hard.jsonl": lines(ROWS[2:])}),
    "org/script": Repository({"script.py": b"print('CODE RAN')", "train.jsonl": lines(ROWS)}),
    "org/outside": Repository({"README.md": OUTSIDE, "a.txt": b"x"}),
    "org/trap": Repository({"train.parquet": parquet(TRAP)}),
    "org/pictures": Repository({"train/a.png": b"\x89PNG", "train/b.png": b"\x89PNG"}),
}


def run(home: Path, endpoint: str, cases: list[dict], **environment: str) -> tuple[list[dict], str]:
    """What each case gave, and everything that was printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**kept, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
    done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(cases)], env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")], done.stdout + done.stderr


@pytest.fixture(scope="module")
def served():
    with hub(REPOSITORIES) as found:
        yield found


@pytest.fixture(scope="module")
def first(served: Hub, tmp_path_factory) -> tuple[Path, list[dict], str]:
    """The first visit, with an empty cache and no token."""
    home = tmp_path_factory.mktemp("hub")
    cases = [
        {"path": "org/plain"},
        {"path": "org/plain", "split": "test"},
        {"path": "org/plain", "split": "train[1:3]"},
        {"path": "org/plain", "split": "tset"},
        {"path": "org/plain", "revision": PLAIN.commit},
        {"path": "org/plain", "revision": "nowhere"},
        {"path": "org/configs", "config": "hard"},
        {"path": "org/configs", "config": "hrad"},
        {"path": "org/configs"},
        {"path": "org/gated"},
        {"path": "org/nothing"},
        {"path": "org/script"},
        {"path": "org/outside"},
        {"path": "org/trap"},
        {"path": "org/pictures"},
    ]
    found, printed = run(home, served.endpoint, cases)
    return home, found, printed


def test_rows_of_a_hub_come_with_the_commit_and_their_number(first):
    _, (plain, test, part, *_), _ = first
    mark = PLAIN.commit[:12]
    assert plain["rows"] == ROWS
    assert plain["files"] == [f"hub://org/plain@{mark}/default/train"]
    assert plain["where"][4] == f"hub://org/plain@{mark}/default/train:5"
    assert (test["rows"], part["rows"]) == (ROWS[:1], ROWS[1:3])


def test_splits_revisions_and_configurations_are_looked_up(first):
    _, found, _ = first
    odd_split, commit, odd_revision, hard, odd_config, no_config = found[3:9]
    assert odd_split["fix"] == "did you mean test?"
    assert commit["rows"] == ROWS
    assert "correct revision" in odd_revision["fix"]
    assert hard["rows"] == ROWS[2:]
    for case in (odd_config, no_config):
        assert "easy" in case["error"]
        assert "hard" in case["error"]
        assert case["fix"] == "set config of this source"


def test_what_may_not_be_read_says_what_to_do(first):
    _, found, _ = first
    gated, nothing = found[9:11]
    assert gated["what"] == "org/gated: this data set is gated"
    assert "HF_TOKEN" in gated["fix"]
    assert "neither a file here nor a data set" in nothing["what"]


def test_nothing_of_a_hub_runs_and_nothing_outside_of_its_repository_is_read(first):
    _, found, printed = first
    script, outside, trap, pictures = found[11:15]
    assert "no code is run" in script["fix"]
    assert "belong to" in outside["error"]
    assert LOCAL.read_text().splitlines()[0] not in outside["error"]
    assert "extension type" in trap["error"]
    assert "no rows of text" in pictures["what"]
    assert "CODE RAN" not in printed


def test_a_token_of_the_environment_opens_what_is_gated_and_is_never_printed(first, served):
    home, _, _ = first
    (gated,), printed = run(home, served.endpoint, [{"path": "org/gated"}], HF_TOKEN="canary-secret")
    assert gated["rows"] == ROWS
    assert "canary" not in printed
    assert any(token == "canary-secret" for _, path, token in served.requests if "org/gated" in path)


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_the_cache_is_read_and_no_request_made(first, served, variable):
    home, online, _ = first
    served.requests.clear()
    cases = [{"path": "org/plain"}, {"path": "org/plain", "revision": PLAIN.commit[:12]}, {"path": "org/plain", "revision": "main"}, {"path": "org/nothing"}]
    (plain, commit, branch, nothing), _ = run(home, served.endpoint, cases, **{variable: "1"})
    assert plain == commit == online[0]
    assert "the cache has another revision" in branch["what"]
    assert "environment says offline" in nothing["what"]
    assert served.requests == []


def test_without_a_network_a_cached_copy_is_offered_and_never_taken_silently(first):
    home, _, _ = first
    (plain, nothing), _ = run(home, "http://127.0.0.1:9", [{"path": "org/plain"}, {"path": "org/nothing"}])
    for case in (plain, nothing):
        assert "the hub cannot be reached" in case["what"]
        assert "HF_HUB_OFFLINE=1" in case["fix"]
