"""Formats: every file of the folder is recognised by its own columns and by nothing else's, and reads what it promises."""

from __future__ import annotations

import json

import pytest

from tunefleet.cluster.errors import DataError, SettingsError
from tunefleet.cluster.plugins import kinds
from tunefleet.data.choice import FORMATS, choose_format, make_format
from tunefleet.data.examples import Conversation, Judged, Labelled, Message, Pair, Preference, Text, Triplet
from tunefleet.data.rows import Row, read_rows
from tunefleet.data.settings import Source

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}


def needed(kind: str) -> list[frozenset[str]]:
    """The sets of columns that a format says it needs."""
    return [frozenset(part.split(" (")[0].replace(" ", "").split(",")) for part in make_format(kind).columns.split(" or ")]


def pair(prompt: str, answer: str, *before: Message) -> Conversation:
    return Conversation((*before, Message("user", prompt), Message("assistant", answer)))


def said(*contents: str, system: str = "") -> tuple[Message, ...]:
    """Turns of a prompt: none of them is learnt."""
    turns = [Message("assistant" if i % 2 else "user", content, None, learnt=False) for i, content in enumerate(contents)]
    return (*([Message("system", system, None, learnt=False)] if system else []), *turns)


def preferred(chosen: str, rejected: str, *prompt: Message) -> Preference:
    one, other = (Conversation((*prompt, Message("assistant", answer))) for answer in (chosen, rejected))
    return Preference(one, other, len(prompt))


def turn(content: str, role: str | int = "user") -> dict[str, str]:
    return {"role": "assistant" if role == 1 else str(role), "content": content}


@pytest.mark.parametrize("kind", kinds(FORMATS))
def test_a_format_alone_recognises_the_columns_that_it_asks_for(kind):
    for columns in needed(kind):
        assert [other for other in kinds(FORMATS) if make_format(other).recognises(columns)] == [kind]
        assert [other for other in kinds(FORMATS) if make_format(other).recognises(columns | {"id", "source"})] == [kind]


@pytest.mark.parametrize("kind", kinds(FORMATS))
def test_a_row_without_the_columns_is_an_error_and_never_an_example(kind):
    with pytest.raises(DataError):
        make_format(kind).read({"id": 1})


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ("prompt chosen rejected", "preference"),
        ("conversations chosen rejected", "preference"),
        ("messages chosen rejected tools", "preference"),
        ("chosen rejected", "preference"),
        ("prompt completion label", "completion_label"),
        ("messages label", "completion_label"),
        ("text label", "text_label"),
        ("sentence label idx", "text_label"),
        ("premise hypothesis label", "text_label"),
        ("sentence1 sentence2 score", "scored_pair"),
        ("query positive negative_1 negative_2", "triplet"),
    ],
)
def test_what_is_judged_is_not_taken_for_something_to_imitate(columns, kind):
    assert [found for found in kinds(FORMATS) if make_format(found).recognises(frozenset(columns.split()))] == [kind]


@pytest.mark.parametrize(
    ("columns", "fitting"),
    [
        ("sentence1 sentence2 score label", "scored_pair, text_label"),
        ("text label prompt chosen rejected query positive", "preference, triplet"),
        ("question answer text", "prompt_completion, text"),
        ("messages text", "messages, text"),
    ],
)
def test_columns_that_fit_several_formats_list_them_and_how_to_name_one(columns, fitting):
    with pytest.raises(DataError) as caught:
        choose_format(Source(path="rows.jsonl"), row(**dict.fromkeys(columns.split(), "")))
    assert caught.value.what == "rows.jsonl:1: the columns fit 2 formats"
    assert all(f"{kind}: {make_format(kind).columns}" in caught.value.want for kind in fitting.split(", "))
    assert caught.value.fix == f"set format of this source to one of {fitting}"


READINGS = [
    ("alpaca", {"instruction": "Add.", "input": "1 2", "output": "3"}, pair("Add.\n\n1 2", "3")),
    ("alpaca", {"instruction": "Add.", "input": None, "output": "3", "system": "Be brief."}, pair("Add.", "3", Message("system", "Be brief."))),
    ("alpaca", {"instruction": "c", "output": "d", "history": [["a", "b"]]}, pair("c", "d", Message("user", "a"), Message("assistant", "b"))),
    ("prompt_completion", {"prompt": "a", "completion": "b"}, pair("a", "b")),
    ("prompt_completion", {"question": "a", "answer": "b", "source": "x"}, pair("a", "b")),
    ("prompt_completion", {"input": "a", "output": "b"}, pair("a", "b")),
    ("messages", {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, pair("a", "b")),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant", "content": "b"}]}, pair("a", "b")),
    ("sharegpt", {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, pair("a", "b")),
    ("sharegpt", {"system": "s", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, pair("a", "b", Message("system", "s"))),
    ("text", {"text": " as it stands\n"}, Text(" as it stands\n")),
    ("preference", {"prompt": "a", "chosen": "b", "rejected": "c"}, preferred("b", "c", *said("a"))),
    (
        "preference",
        {"prompt": "a", "system": "s", "chosen": {"role": "assistant", "content": "b"}, "rejected": "c"},
        preferred("b", "c", *said("a", system="s")),
    ),
    (
        "preference",
        {"conversations": [turn("a"), turn("b", 1), turn("c")], "chosen": turn("d", "assistant"), "rejected": "e"},
        preferred("d", "e", *said("a", "b", "c")),
    ),
    ("preference", {"prompt": "a", "chosen": [turn("a"), turn("b", 1)], "rejected": [turn("a"), turn("c", 1)]}, preferred("b", "c", *said("a"))),
    ("preference", {"chosen": [turn("a"), turn("b", 1)], "rejected": [turn("a"), turn("c", 1)]}, preferred("b", "c", *said("a"))),
    ("preference", {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}, preferred("b", "c", *said("a"))),
    (
        "preference",
        {"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: bd", "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: be"},
        preferred("bd", "be", *said("a", "b", "c")),
    ),
    ("preference", {"chosen": "Name a fruit.\nan apple", "rejected": "Name a fruit.\nan ant"}, preferred("an apple", "an ant", *said("Name a fruit."))),
    ("preference", {"chosen": "Name a fruit: an apple", "rejected": "Name a fruit: an ant"}, preferred("apple", "ant", *said("Name a fruit: an"))),
    ("completion_label", {"prompt": "a", "completion": "b", "label": True}, Judged(Conversation((*said("a"), Message("assistant", "b"))), True, 1)),
    ("completion_label", {"question": "a", "answer": "b", "label": "0"}, Judged(Conversation((*said("a"), Message("assistant", "b"))), False, 1)),
    ("completion_label", {"messages": [turn("a"), turn("b", 1)], "label": 1.0}, Judged(Conversation((*said("a"), Message("assistant", "b"))), True, 1)),
    ("text_label", {"text": "a", "label": "good"}, Labelled(("a",), ("good",))),
    ("text_label", {"sentence": "a", "label": 3}, Labelled(("a",), ("3",))),
    ("text_label", {"text": "a", "label": 1.0}, Labelled(("a",), ("1",))),
    ("text_label", {"text": "a", "label": False}, Labelled(("a",), ("false",))),
    ("text_label", {"text": "a", "labels": ["x", "y", "x"]}, Labelled(("a",), ("x", "y"), several=True)),
    ("text_label", {"text": "a", "labels": []}, Labelled(("a",), (), several=True)),
    ("text_label", {"premise": "a", "hypothesis": "b", "label": "neutral"}, Labelled(("a", "b"), ("neutral",))),
    ("scored_pair", {"sentence1": "a", "sentence2": "b", "score": "4.75"}, Pair("a", "b", 4.75)),
    ("scored_pair", {"text1": "a", "text2": "b", "score": 1}, Pair("a", "b", 1.0)),
    ("triplet", {"query": "a", "positive": "b"}, Triplet("a", "b")),
    ("triplet", {"anchor": "a", "positive": "b", "negative": "c"}, Triplet("a", "b", ("c",))),
    ("triplet", {"query": "a", "positive": "b", "negatives": ["c", "d"]}, Triplet("a", "b", ("c", "d"))),
    ("triplet", {"query": "a", "positive": "b", "negative_10": "e", "negative_2": "d", "negative_1": None}, Triplet("a", "b", ("d", "e"))),
]


@pytest.mark.parametrize(("kind", "values", "example"), READINGS)
def test_rows_are_read_as_they_are_meant(kind, values, example):
    assert make_format(kind).read(values) == example


def test_calls_of_tools_become_the_templates():
    turns = [{"from": "human", "value": "Weather?"}, {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Paris"}}'}]
    tools = '[{"name": "weather", "parameters": {}}]'
    read = make_format("sharegpt").read(
        {"conversations": [*turns, {"from": "observation", "value": "sunny"}, {"from": "gpt", "value": "Sun."}], "tools": tools}
    )
    assert read.messages[1] == Message("assistant", "", {"tool_calls": [CALL]})
    assert [m.role for m in read.messages] == ["user", "assistant", "tool", "assistant"]
    assert read.tools == ({"type": "function", "function": {"name": "weather", "parameters": {}}},)


def test_what_a_template_may_read_is_kept_and_nulls_of_parquet_are_not():
    turns = [{"role": "user", "content": "a", "name": None}, {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": None}]
    read = make_format("messages").read({"messages": turns, "tools": None})
    assert read.messages == (Message("user", "a"), Message("assistant", "", {"tool_calls": [CALL]}))


@pytest.mark.parametrize("arguments", [{"city": "Paris"}, '{"city": "Paris"}'])
@pytest.mark.parametrize("spelling", ["calls", "text", "bare", "one"])
def test_calls_of_tools_are_the_same_however_they_are_spelt(arguments, spelling):
    function = {"name": "weather", "arguments": arguments}
    spelt = {
        "calls": {"tool_calls": [{"type": "function", "function": function}]},
        "text": {"tool_calls": json.dumps([{"type": "function", "function": function}])},
        "bare": {"tool_calls": [function]},
        "one": {"function_call": function},
    }[spelling]
    read = make_format("messages").read({"messages": [turn("Weather?"), {"role": "assistant", "content": None, **spelt}]})
    assert read.messages[1] == Message("assistant", "", {"tool_calls": [CALL]})


def test_a_call_keeps_its_id_and_the_answer_of_the_tool_names_it():
    calls = [{"id": "call_1", **CALL}]
    turns = [turn("Weather?"), {"role": "assistant", "content": None, "tool_calls": calls}, {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]
    read = make_format("messages").read({"messages": turns})
    assert read.messages[1].extra == {"tool_calls": calls}
    assert read.messages[2] == Message("tool", "sunny", {"tool_call_id": "call_1"})


@pytest.mark.parametrize("shape", ["list", "text", "texts"])
def test_tools_are_the_same_as_a_list_and_as_json_text(shape):
    tools = [{"name": "weather", "parameters": {}}, {"type": "function", "function": {"name": "time"}}]
    given = {"list": tools, "text": json.dumps(tools), "texts": [json.dumps(tool) for tool in tools]}[shape]
    read = make_format("messages").read({"messages": [turn("a"), turn("b", 1)], "tools": given})
    assert [tool["function"]["name"] for tool in read.tools] == ["weather", "time"]


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}])
def test_turns_marked_as_context_are_not_learnt(mark):
    read = make_format("messages").read({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", **mark}]})
    assert read.messages[1] == Message("assistant", "b", None, learnt=False)


def test_of_lists_of_turns_only_the_completion_is_learnt():
    prompt = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    read = make_format("prompt_completion").read({"prompt": prompt, "completion": [{"role": "assistant", "content": "d"}]})
    assert [m.learnt for m in read.messages if m.role == "assistant"] == [False, True]


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("messages", {"messages": []}, "no list of turns"),
        ("messages", {"messages": [{"role": "asistant", "content": "a"}]}, "did you mean assistant"),
        ("messages", {"messages": [{"role": "user", "content": 7}]}, "no text"),
        ("messages", {"messages": [{"role": "user", "content": None}]}, "no text"),
        ("messages", {"messages": ["hello"]}, "no object"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]}, "no text"),
        ("sharegpt", {"conversations": [{"from": "function_call", "value": "weather()"}]}, "not JSON"),
        ("sharegpt", {"conversations": [{"from": "human", "value": "a"}], "tools": "{"}, "not JSON"),
        ("alpaca", {"instruction": "", "output": "b"}, "both empty"),
        ("alpaca", {"instruction": "a", "output": None}, "no text"),
        ("prompt_completion", {"prompt": "a", "completion": "b", "question": "c", "answer": "d"}, "not exactly one pair"),
        ("text", {"text": None}, "no text"),
        (
            "messages",
            {"messages": [turn("a"), {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            "not JSON",
        ),
        ("messages", {"messages": [turn("a"), {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]}, "no object"),
        ("messages", {"messages": [turn("a"), {"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}]}, "no call of a tool"),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": "b"}, "the same"),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": None}, "rejected is missing"),
        ("preference", {"chosen": "abc", "rejected": "xyz"}, "no prompt"),
        ("preference", {"chosen": [turn("a"), turn("b", 1)], "rejected": [turn("x"), turn("c", 1)]}, "part from the other"),
        ("preference", {"prompt": "z", "chosen": [turn("a"), turn("b", 1)], "rejected": [turn("a"), turn("c", 1)]}, "not the one that the answers repeat"),
        ("completion_label", {"prompt": "a", "completion": "b", "label": 0.5}, "good or bad"),
        ("completion_label", {"messages": [turn("a")], "label": True}, "not the assistant's"),
        ("text_label", {"text": "a", "label": None}, "no label"),
        ("text_label", {"text": "a", "label": 0.5}, "no label"),
        ("text_label", {"text": " ", "label": "x"}, "empty"),
        ("scored_pair", {"sentence1": "a", "sentence2": "b", "score": "high"}, "no number"),
        ("scored_pair", {"sentence1": "a", "sentence2": "b", "score": float("nan")}, "no number"),
        ("scored_pair", {"sentence1": "a", "sentence2": "", "score": 1}, "empty"),
        ("triplet", {"query": "a", "positive": "b", "negative": "b"}, "also a negative"),
        ("triplet", {"query": "", "positive": "b"}, "empty"),
    ],
)
def test_a_row_that_cannot_be_read_says_why(kind, values, words):
    with pytest.raises(DataError) as caught:
        make_format(kind).read(values)
    assert words in str(caught.value)


def row(**values: object) -> Row:
    return Row("rows.jsonl", 1, values)


def test_auto_decides_by_columns_and_says_so():
    _, kind, decision = choose_format(Source(path="rows.jsonl"), row(question="a", answer="b"))
    assert kind == "prompt_completion"
    assert decision == "rows.jsonl: rows are read as prompt_completion, by their columns answer, question"


def test_a_named_format_is_not_a_decision():
    assert choose_format(Source(path="rows.jsonl", format="text"), row(text="a", messages=[]))[1:] == ("text", "")
    with pytest.raises(SettingsError, match="unknown kind"):
        choose_format(Source(path="rows.jsonl", format="sharegtp"), row(text="a"))


def test_columns_that_fit_none_or_several_list_the_formats():
    with pytest.raises(DataError, match="fit 2 formats") as caught:
        choose_format(Source(path="rows.jsonl"), row(text="a", messages=[]))
    assert "messages, text" in caught.value.fix
    with pytest.raises(DataError, match="no format fits") as caught:
        choose_format(Source(path="rows.jsonl"), row(mesages=[]))
    assert "columns: {messages: mesages}" in caught.value.fix
    assert all(kind in caught.value.want for kind in kinds(FORMATS))


def test_a_format_of_ones_own_is_a_dotted_name(tmp_path, monkeypatch):
    """Topical Chat: an object of dialogues between two people, of whom the second is learnt."""
    package = tmp_path / "mylab"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "topical.py").write_text(
        "from typing import Literal\n"
        "from tunefleet.cluster.settings import Settings\n"
        "from tunefleet.data.examples import Conversation, Message\n"
        "class Topical:\n"
        "    class Config(Settings):\n"
        "        kind: Literal['topical'] = 'topical'\n"
        "    columns = 'content'\n"
        "    def __init__(self, config): self.config = config\n"
        "    def recognises(self, columns): return 'content' in columns\n"
        "    def read(self, values):\n"
        "        roles = {'agent_1': 'user', 'agent_2': 'assistant'}\n"
        "        return Conversation(tuple(Message(roles[t['agent']], t['message']) for t in values['content']))\n"
    )
    (tmp_path / "chat.json").write_text('{"t_1": {"content": [{"agent": "agent_1", "message": "Hi"}, {"agent": "agent_2", "message": "Ho"}]}}')
    monkeypatch.syspath_prepend(str(tmp_path))
    source = Source(path=str(tmp_path / "chat.json"), format="mylab.topical")
    first = next(read_rows(source))
    chosen, _, _ = choose_format(source, first)
    assert chosen.read(first.values) == pair("Hi", "Ho")
