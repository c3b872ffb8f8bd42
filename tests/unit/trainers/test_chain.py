"""Runs that stand on runs: the order in which they are done, and what can be no base."""

import pytest
import yaml

from tunefleet.trainers.chain import chain
from tunefleet.trainers.run import RunFile


@pytest.fixture
def write(tmp_path):
    def make(name, model, **sections):
        value = {"name": name, "model": {"name_or_path": model}, "data": {"train": [{"path": "x.txt"}]}, "training": {"max_steps": 1}, **sections}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**value, "output": str(tmp_path / name)}))
        return RunFile.model_validate(yaml.safe_load(path.read_text()))

    return make


def test_bases_come_first_and_their_exports_are_the_models(write, tmp_path):
    write("a", "model")
    write("b", str(tmp_path / "a.yaml"), peft="lora", export={"merge": True})
    links, problems = chain(write("c", str(tmp_path / "b.yaml")))
    assert problems == []
    assert [link.run.name for link in links] == ["a", "b", "c"]
    assert [link.run.model.name_or_path for link in links] == ["model", str(tmp_path / "a/export"), str(tmp_path / "b/export")]
    assert {link.known.name_or_path for link in links} == {"model"}
    assert links[2].run.model.tokenizer.name_or_path == "model"


@pytest.mark.parametrize(
    ("sections", "what"),
    [({"export": {"at_end": False}}, "exports nothing"), ({"peft": "lora"}, "exports an adapter only")],
)
def test_a_base_exports_a_whole_model(write, tmp_path, sections, what):
    write("a", "model", **sections)
    _, (problem,) = chain(write("b", str(tmp_path / "a.yaml")))
    assert what in problem.what
    assert "a.yaml" in problem.got


def test_circles_missing_files_and_shared_outputs_are_refused(write, tmp_path):
    write("a", str(tmp_path / "b.yaml"))
    _, problems = chain(write("b", str(tmp_path / "a.yaml")))
    assert any("circle" in p.what for p in problems)
    _, (problem,) = chain(write("c", str(tmp_path / "none.yaml")))
    assert "missing" in problem.what
    write("d", "model")
    base = RunFile.model_validate(yaml.safe_load((tmp_path / "d.yaml").read_text()))
    same = base.model_copy(update={"model": base.model.model_copy(update={"name_or_path": str(tmp_path / "d.yaml")})})
    _, problems = chain(same)
    assert any("write to one folder" in p.what for p in problems)
