"""A folder is a registry: a file in it is a kind, found by name and listed without being imported."""

import sys
from typing import Annotated

import pytest
from pydantic import TypeAdapter

from tunefleet.cluster.errors import SettingsError
from tunefleet.cluster.plugins import Plugin, config, kinds, module, plugin
from tunefleet.cluster.settings import Settings, check
from tunefleet.cluster.yamlfile import parse

GOOD = """
from typing import Literal
from tunefleet.cluster.settings import Settings
from pydantic import Field


class Good:
    class Config(Settings):
        kind: Literal["good", "shelf.good"] = "good"
        beta: float = Field(default=0.1, gt=0, description="strength")
"""


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A package with plug-ins of several qualities."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for name, text in {
        "__init__": "",
        "good": GOOD,
        "explodes": "raise RuntimeError('boom')",
        "empty": "x = 1",
        "needs": "import no_such_thing_at_all",
    }.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "_private.py").write_text("raise RuntimeError('never imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    kinds.cache_clear()
    yield "shelf"
    kinds.cache_clear()
    for name in [name for name in sys.modules if name == "shelf" or name.startswith("shelf.")]:
        del sys.modules[name]


def test_kinds_are_listed_without_importing_any(shelf):
    assert kinds(shelf) == ("empty", "explodes", "good", "needs")
    assert "shelf.explodes" not in sys.modules


def test_a_misspelt_kind_names_the_nearest(shelf):
    with pytest.raises(SettingsError) as refused:
        module(shelf, "goodd")
    assert refused.value.fix == "did you mean good?"
    assert "empty" in refused.value.want


@pytest.mark.parametrize(("kind", "words"), [("explodes", "boom"), ("needs", "no_such_thing_at_all"), ("no_lab.kto", "no_lab")])
def test_a_module_that_cannot_be_imported_says_why(shelf, kind, words):
    with pytest.raises(SettingsError, match="cannot be imported") as refused:
        module(shelf, kind)
    assert words in refused.value.got


@pytest.mark.parametrize("kind", ["", "..os", "a b", "../x", "shelf.", "good/../x"])
def test_what_is_no_name_is_never_imported(shelf, kind):
    with pytest.raises(SettingsError, match="no name of a kind"):
        module(shelf, kind)


@pytest.mark.parametrize("kind", ["empty", "os.path"])
def test_a_module_without_a_plugin_is_refused(shelf, kind):
    with pytest.raises(SettingsError, match="is no plug-in"):
        plugin(shelf, kind)


def test_a_dotted_kind_is_imported_as_it_stands(shelf):
    assert plugin("tunefleet.trainers.objectives", "shelf.good").__name__ == "Good"


def test_a_field_of_plugins_is_read_checked_described_and_written_back(shelf):
    class File(Settings):
        thing: Annotated[Settings, Plugin(shelf)]

    found = check(File, parse("thing: {kind: good, beta: 2}"))
    assert found.value.thing == config(shelf, "good")(beta=2)
    assert found.value.model_dump(mode="json") == {"thing": {"kind": "good", "beta": 2.0}}
    assert check(File, parse("thing: good")).value.thing.beta == 0.1
    (problem,) = check(File, parse("thing: {kind: good, bta: 2}", "f.yaml")).problems
    assert (problem.what, problem.fix) == ("thing.bta: unknown key (f.yaml:1)", "did you mean beta?")
    (problem,) = check(File, parse("thing: {kind: good, beta: -2}", "f.yaml")).problems
    assert problem.what == "thing.beta: not allowed (f.yaml:1)"
    (problem,) = check(File, parse("thing: {beta: 2}", "f.yaml")).problems
    assert problem.what == "thing: a plug-in is named by its kind (f.yaml:1)"


def test_the_json_schema_of_plugins_lists_the_kinds_of_the_folder():
    schema = TypeAdapter(Annotated[Settings, Plugin("tunefleet.trainers.objectives")]).json_schema()
    assert {each["properties"]["kind"].get("const") for each in schema["anyOf"] if "properties" in each} >= {"sft", "pretrain"}
