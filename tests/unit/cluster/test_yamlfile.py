"""YAML as people mean it, with the line of every key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunefleet.cluster.errors import SettingsError
from tunefleet.cluster.yamlfile import override, parse, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("1_000", 1000),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        (".inf", float("inf")),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2026-01-02", "2026-01-02"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ('"1e-4"', "1e-4"),
        ("'no'", "no"),
        ("", None),
        ("12e4567", float("inf")),
        ("5e3a", "5e3a"),
    ],
)
def test_scalars_are_what_people_mean(text, value):
    assert parse(f"key: {text}").value == {"key": value}


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans())
def test_numbers_come_back_as_python_writes_them(number):
    text = str(number).lower() if isinstance(number, bool) else repr(number)
    assert parse(f"key: {text}").value == {"key": number}


def test_a_repeated_key_is_a_problem_that_names_both_lines():
    document = parse("a:\n  b: 1\n  c: 2\n  b: 3\n", "run.yaml")
    (problem,) = document.problems
    assert problem.what == "a.b: the key stands twice"
    assert problem.got == "lines 2 and 4 of run.yaml"


def test_every_key_knows_its_line_and_a_missing_one_that_of_its_section():
    document = parse("a:\n  - b: 1\n    c: 2\n  - d: 3\n", "run.yaml")
    assert document.where(("a", 0, "c")) == "run.yaml:3"
    assert document.where(("a", 1, "d")) == "run.yaml:4"
    assert document.where(("a", 1, "nothing")) == "run.yaml:4"
    assert document.where(("x",)) == "run.yaml"


def test_what_is_given_on_the_command_line_carries_no_line_of_the_file():
    document = parse("a: {b: 1, c: 2}\n", "run.yaml").with_override("a.b", "[1, x]").with_override("d.e", "no")
    assert document.value == {"a": {"b": [1, "x"], "c": 2}, "d": {"e": "no"}}
    assert document.where(("a", "b")) == document.where(("a", "b", 1)) == document.where(("d", "e")) == "command line"
    assert document.where(("a", "c")) == "run.yaml:1"


@pytest.mark.parametrize("key", ["a.5.b", "a.x.b", "n.b", "a..b", ""])
def test_an_override_that_leads_nowhere_is_a_problem(key):
    document = parse("a: [{b: 1}]\nn: 3\n").with_override(key, "1")
    assert len(document.problems) == 1
    assert document.value == {"a": [{"b": 1}], "n": 3}


def test_an_entry_of_a_list_can_be_overridden():
    assert parse("a: [{b: 1}, {b: 2}]").with_override("a.1.b", "3").value == {"a": [{"b": 1}, {"b": 3}]}


def test_an_override_that_is_no_yaml_is_a_text():
    assert parse("a: 1").with_override("a", "{% for m in messages %}").value == {"a": "{% for m in messages %}"}


def test_a_key_that_stands_twice_inside_an_override_is_a_problem():
    assert [p.what for p in parse("a: 1").with_override("b", "{x: 1, x: 2}").problems] == ["x: the key stands twice"]


@pytest.mark.parametrize(
    "text", ["a: [1, 2", "a: 1\n\tb: 2", "a: b: c", "a: 1\n---\nb: 2", "a: &x [*x]", "a: \x00"], ids=["open", "tab", "colons", "two", "endless", "control"]
)
def test_what_is_no_yaml_is_refused_with_its_place(text):
    with pytest.raises(SettingsError) as refused:
        parse(text, "run.yaml")
    assert "run.yaml" in refused.value.got
    assert refused.value.fix


def test_aliases_that_unfold_to_billions_are_refused_at_once():
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(SettingsError, match="without end"):
        parse("\n".join(lines))


@pytest.mark.parametrize("text", ["a: !!python/object/apply:os.system [ls]", "a: !mine 3", "a: !!int abc", "? [x, y]\n: 1"])
def test_tags_and_strange_keys_are_problems_and_build_nothing(text):
    document = parse(text, "run.yaml")
    assert len(document.problems) == 1
    assert "run.yaml:1" in document.problems[0].what


def test_a_missing_file_and_a_binary_one_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="missing"):
        read(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(SettingsError, match="cannot read"):
        read(tmp_path / "binary.yaml")
    with pytest.raises(SettingsError, match="cannot read"):
        read(tmp_path)


def test_overriding_leaves_the_original_alone():
    value = {"a": {"b": 1}}
    assert override(value, ("a", "b"), 2) == {"a": {"b": 2}}
    assert value == {"a": {"b": 1}}
