"""Somebody else's run file runs no code: neither a model's nor a module's, unless the user says so himself."""

import pytest
import yaml

from tunefleet.cluster.errors import OutputError, SettingsError
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.evaluation.standalone import find_subject
from tunefleet.trainers.foreign import code_of
from tunefleet.trainers.output import output_problems
from tunefleet.trainers.recorded import recorded_run
from tunefleet.trainers.run import RunFile
from tunefleet.trainers.stage import RUN_FILE

PLAIN = {"model": {"name_or_path": "m"}, "data": {"train": [{"path": "x"}]}, "training": {"max_steps": 1}, "output": "o"}
ASKED = [
    ({"model": {"name_or_path": "m", "trust_remote_code": True}}, "model.trust_remote_code: true"),
    ({"model": {"name_or_path": "m", "trust_remote_code": "yes"}}, "model.trust_remote_code: true"),
    ({"objective": {"kind": "stranger.objective"}}, "objective.kind: stranger.objective"),
    ({"objective": "stranger.objective"}, "objective.kind: stranger.objective"),
    ({"evaluation": {"metrics": ["loss", "stranger.metric"]}}, "evaluation.metrics.1.kind: stranger.metric"),
    ({"data": {"train": [{"path": "x", "format": "stranger.rows"}]}}, "data.train.0.format: stranger.rows"),
    ({"data": {"train": [{"path": "x"}], "holdout": [{"path": "y", "format": "stranger.rows"}]}}, "data.holdout.0.format: stranger.rows"),
]


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A folder of somebody else's with modules that leave a trace when they are imported, which is on the path."""
    package = tmp_path / "path" / "stranger"
    package.mkdir(parents=True)
    for name in ("__init__", "objective", "metric", "rows"):
        (package / f"{name}.py").write_text(f"open({str(tmp_path / 'sentinel')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(package.parent))

    def write(sections):
        storage = open_storage(tmp_path / "run")
        storage.put(RUN_FILE, yaml.safe_dump({**PLAIN, **sections}).encode())
        return storage

    return write


@pytest.mark.parametrize(("sections", "code"), ASKED)
def test_a_run_file_that_asks_for_code_is_refused_before_anything_is_imported(stranger, tmp_path, sections, code):
    storage = stranger(sections)
    assert list(code_of({**PLAIN, **sections})) == [code]
    with pytest.raises(SettingsError, match="asks for code") as refused:
        recorded_run(storage)
    assert refused.value.got == code
    (tmp_path / "run" / "export").mkdir()
    (tmp_path / "run" / "export" / "config.json").write_text("{}")
    with pytest.raises(SettingsError, match="asks for code"):
        find_subject(tmp_path / "run" / "export", None)
    assert not (tmp_path / "sentinel").exists()


def test_resume_compares_only_what_asks_for_the_same_code(stranger, tmp_path):
    stranger({"objective": {"kind": "stranger.objective"}})
    mine = RunFile.model_validate({**PLAIN, "output": str(tmp_path / "run")})
    (problem,) = output_problems(mine, resume="auto", overwrite=False)
    assert "asks for code" in problem.what
    assert not (tmp_path / "sentinel").exists()


def test_what_is_trusted_is_read(stranger):
    storage = stranger({"model": {"name_or_path": "m", "trust_remote_code": True}})
    assert recorded_run(storage, trusted=None).model.trust_remote_code
    assert recorded_run(storage, trusted=["model.trust_remote_code: true"]).model.trust_remote_code


@pytest.mark.parametrize("value", [None, [], "text", {"model": 3, "data": {"train": [1]}, "evaluation": {"metrics": "loss"}, "objective": ["a.b"]}])
def test_what_is_no_run_file_asks_for_nothing_and_cannot_be_read(stranger, tmp_path, value):
    assert list(code_of(value)) == []
    storage = open_storage(tmp_path)
    storage.put(RUN_FILE, yaml.safe_dump(value).encode())
    with pytest.raises(OutputError, match="cannot be read"):
        recorded_run(storage)
