"""A file is checked as a whole: each thing that is wrong is said once, with its place and what to do, and nothing that only follows from it."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, PositiveInt, model_validator

from tunefleet.cluster.errors import SettingsError
from tunefleet.cluster.settings import Settings, check, describe, refusal
from tunefleet.cluster.yamlfile import parse


class Plain(Settings):
    kind: Literal["plain"] = "plain"


class Fancy(Settings):
    kind: Literal["fancy"] = "fancy"
    rank: PositiveInt = Field(default=8, description="its rank")


class Item(Settings):
    path: str
    weight: float = 1.0


class Section(Settings):
    steps: PositiveInt | None = Field(default=None, description="steps to do")
    epochs: float | None = None
    small: bool = False
    shape: Literal["round", "square"] = "round"

    @model_validator(mode="after")
    def _one_length(self) -> "Section":
        if (self.steps is None) == (self.epochs is None):
            raise refusal(SettingsError("one length is wanted", got="none or two", want="exactly one of steps and epochs", fix="set one"))
        return self


class File(Settings):
    section: Section = Field(description="a section")
    items: list[Item] = Field(default_factory=list, description="items")
    share: float | list[Item] = Field(default=0.1, description="a share or items")
    choice: Annotated[Plain | Fancy, Field(discriminator="kind")] = Field(default=Plain(), description="a choice")
    name: str = Field(description="a name")


STAND_IN = {"section": {"steps": 1}, "name": "unknown"}


def checked(text: str):
    return check(File, parse(text, "f.yaml"), STAND_IN)


def whats(text: str) -> list[str]:
    return [problem.what for problem in checked(text).problems]


def only(text: str) -> SettingsError:
    (problem,) = checked(text).problems
    assert problem.fix, problem
    return problem


def test_a_good_file_has_no_problem():
    found = checked("section: {steps: 3}\nname: no\n")
    assert not found.problems
    assert found.value.name == "no"
    assert found.sure("section", "name", "choice")


def test_an_unknown_key_names_its_line_and_the_nearest_key():
    problem = only("section: {steps: 3}\nnmae: a\nname: a\n")
    assert problem.what == "nmae: unknown key (f.yaml:2)"
    assert problem.fix == "did you mean name?"


def test_an_unknown_key_of_a_union_is_compared_with_the_member_that_was_named():
    problem = only("section: {steps: 3}\nname: a\nchoice: {kind: fancy, ranc: 3}\n")
    assert problem.want == "one of kind, rank"
    assert problem.fix == "did you mean rank?"
    assert only("section: {steps: 3}\nname: a\nchoice: {ranc: 3, kind: plain}\n").want == "one of kind"


def test_an_unknown_kind_is_an_error_with_the_nearest():
    problem = only("section: {steps: 3}\nname: a\nchoice: {kind: fanci}\n")
    assert problem.what == "choice.kind: unknown kind (f.yaml:3)"
    assert problem.fix == "did you mean fancy?"
    assert only("section: {steps: 3}\nname: a\nchoice: {rank: 3}\n").what == "choice.kind: missing (f.yaml:3)"


def test_the_fix_of_a_bad_value_is_an_instruction():
    assert only("section: {steps: 3, shape: 5}\nname: a\n").fix == "set section.shape to 'round' or 'square'"
    assert only("section: {steps: 3, shape: squar}\nname: a\n").fix == "did you mean square?"
    assert only("section: {steps: 3}\nname: 5\n").fix == 'put it in quotes: "5"'


def test_of_a_union_only_the_member_that_was_meant_speaks():
    assert whats("section: {steps: 3}\nname: a\nshare: [{pth: x, path: y}]\n") == ["share.0.pth: unknown key (f.yaml:3)"]
    assert only("section: {steps: 3}\nname: a\nshare: many\n").want.startswith("a number or a list")


def test_true_is_no_number_and_infinity_is_none():
    assert whats("section: {steps: true}\nname: a\n") == ["section.steps: not allowed (f.yaml:1)"]
    assert whats("section: {epochs: .inf}\nname: a\n") == ["section.epochs: not allowed (f.yaml:1)"]
    assert not whats("section: {steps: 3, small: no}\nname: a\n")


def test_what_only_follows_from_a_problem_is_not_reported():
    assert whats("section: {stepss: 3}\nname: a\n") == ["section.stepss: unknown key (f.yaml:1)"]
    assert whats("section: {steps: 3}\nnmae: a\n") == ["nmae: unknown key (f.yaml:2)"]
    assert whats("section: {steps: many}\nname: a\n") == ["section.steps: not allowed (f.yaml:1)"]
    assert whats("section: {steps: 3}\nname: [a]\n") == ["name: not allowed (f.yaml:2)"]
    assert whats("section: 5\nname: a\n") == ["section: not allowed (f.yaml:1)"]


def test_what_was_hidden_behind_another_problem_is_reported_in_the_same_pass():
    found = whats("section: {small: maybe}\nname: a\n")
    assert found == ["section.small: not allowed (f.yaml:1)", "section: one length is wanted (f.yaml:1)"]


def test_later_checks_still_see_the_rest_and_know_what_is_unsure():
    found = checked("section: {steps: many, shape: square}\nitems: [{weight: 2}]\nchoice: {kind: fancy, rank: 3}\n")
    assert sorted(p.what for p in found.problems) == ["items.0.path: missing (f.yaml:2)", "name: missing (f.yaml)", "section.steps: not allowed (f.yaml:1)"]
    assert found.value.section.shape == "square"
    assert found.value.choice == Fancy(rank=3)
    assert found.sure("section.shape", "choice")
    assert not found.sure("section.steps")
    assert not found.sure("section")
    assert not found.sure("name")


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text", "3"])
def test_a_file_without_keys_is_refused(text):
    found = checked(text)
    assert found.value is None
    assert [p.what for p in found.problems] == ["the file holds no keys"]


def test_an_empty_file_misses_what_is_required():
    assert whats("") == ["section: missing (f.yaml)", "name: missing (f.yaml)"]


def test_keys_of_the_command_line_are_named_so():
    document = parse("section: {steps: 3}\nname: a\n", "f.yaml").with_override("section.shape", "flat").with_override("section.new", "1")
    assert [p.what for p in check(File, document, STAND_IN).problems] == [
        "section.shape: not allowed (command line)",
        "section.new: unknown key (command line)",
    ]


def test_every_key_is_described_with_its_kind():
    rows = {name: (default, about) for name, default, about in describe(File)}
    assert rows["section.steps"] == ("null", "steps to do")
    assert rows["items.N.path"][0] == "required"
    assert rows["choice.kind"] == ("plain", "a choice: plain, fancy")
    assert rows["choice.rank"] == ("8", "its rank (kind: fancy)")
    assert rows["share"] == ("0.1", "a share or items")
