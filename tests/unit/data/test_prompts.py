"""Prompts of any row format, with or without the answer; all bad rows at once."""

import json

import pytest

from tunefleet.cluster.errors import DataError
from tunefleet.data.prompts import read_prompts
from tunefleet.data.settings import Source

TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
HUMAN = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}


def read(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_prompts(Source(path=str(path)))


def said(prompt):
    return prompt.asked if isinstance(prompt.asked, str) else [f"{turn.role}: {turn.content}" for turn in prompt.asked]


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"prompt": "q"}, "q"),
        ({"prompt": "q", "completion": "r", "id": 3}, "q"),
        ({"prompt": "q", "response": "r"}, "q"),
        ({"question": "q"}, "q"),
        ({"instruction": "q", "input": "x"}, "q\n\nx"),
        ({"prompt": "q", "system": "s"}, ["system: s", "user: q"]),
        ({"messages": TURNS}, ["system: Be brief.", "user: a", "assistant: b", "user: c"]),
        ({"messages": [*TURNS, {"role": "assistant", "content": "d"}]}, ["system: Be brief.", "user: a", "assistant: b", "user: c"]),
        ({"messages": [TURNS[1]], "tools": [TOOL]}, ["user: a"]),
        ({"conversations": HUMAN}, "q"),
        ({"prompt": "q", "chosen": "r", "rejected": "s"}, "q"),
        ({"prompt": "q", "completion": "r", "label": True}, "q"),
        ({"text": "Once upon"}, "Once upon"),
    ],
)
def test_every_format_gives_what_was_asked_and_keeps_its_columns(tmp_path, row, asked):
    (prompt,) = read(tmp_path, row)
    assert said(prompt) == asked
    assert prompt.values == row
    assert len(prompt.tools) == len(row.get("tools", ()))


def test_a_line_of_plain_text_is_a_prompt(tmp_path):
    (tmp_path / "p.txt").write_text("one\n\n  two three \r\nfour")
    prompts = read_prompts(Source(path=str(tmp_path / "p.txt")))
    assert [prompt.asked for prompt in prompts] == ["one", "two three", "four"]
    assert prompts[0].values == {"prompt": "one"}


def test_all_rows_without_a_prompt_are_named_together(tmp_path):
    with pytest.raises(DataError) as caught:
        read(tmp_path, {"prompt": "a"}, {"prompt": 3}, {"prompt": "b"}, {"completion": "c"})
    assert caught.value.what == "2 of 4 rows cannot be answered"
    assert "rows.jsonl:2: " in caught.value.got
    assert "rows.jsonl:4: " in caught.value.got


@pytest.mark.parametrize(("row", "what"), [({"text": "a", "label": "b"}, "cannot be answered"), ({"colour": "red"}, "no format fits")])
def test_rows_that_ask_nothing_are_refused(tmp_path, row, what):
    with pytest.raises(DataError, match=what):
        read(tmp_path, row)


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no row"):
        read(tmp_path)
