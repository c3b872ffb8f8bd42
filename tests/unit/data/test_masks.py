"""Masks of whole conversations: with system prompts, tools, calls, thoughts and several turns, the supervised tokens are exactly the assistant's."""

from __future__ import annotations

import string
from itertools import groupby

import pytest
from chat_templates import RICH, Family
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import tiny_tokenizer

from tunefleet.cluster.errors import DataError
from tunefleet.data.choice import make_format
from tunefleet.data.examples import Conversation, Message
from tunefleet.data.tokens import Encoder

WEATHER = {"type": "function", "function": {"name": "weather", "description": "Weather of a city", "parameters": {"type": "object"}}}
CALL = {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": {"city": "Paris", "days": 2, "note": 'a "quote", é'}}}


@pytest.fixture(params=["bytes", "llama"])
def tokenizer(request):
    return tiny_tokenizer(request.param)


@pytest.fixture(params=list(RICH))
def family(request) -> Family:
    return RICH[request.param]


def learnt(encoded, tokenizer) -> list[str]:
    """The decoded text of every stretch of supervised tokens."""
    pairs = zip(encoded.columns["ids"].tolist(), encoded.columns["supervised"].tolist(), strict=True)
    return [tokenizer.decode([token for token, _ in run]) for bit, run in groupby(pairs, key=lambda pair: pair[1]) if bit]


def talk(family: Family) -> Conversation:
    """A conversation with everything that a family can write."""
    turns = [Message("system", "Be brief.")] if family.system else []
    turns += [Message("user", "Hello."), Message("assistant", "Hi there.", {"reasoning_content": "a greeting"})]
    if family.tools:
        turns += [Message("user", "Weather in Paris?"), Message("assistant", "", {"reasoning_content": "ask the tool", "tool_calls": [CALL]})]
        turns += [Message("tool", "sunny, 21 degrees"), Message("assistant", "It is sunny.", {"reasoning_content": "the tool knows"})]
    turns += [Message("user", "Thanks!"), Message("assistant", "You are welcome, 日本 👍🏽.")]
    return Conversation(tuple(turns), (WEATHER,) if family.tools else ())


def assistants(conversation: Conversation) -> list[Message]:
    return [message for message in conversation.messages if message.role == "assistant"]


def in_its_own_context(conversation: Conversation, number: int) -> Conversation:
    """The turns up to and including one of the assistant."""
    places = [i for i, message in enumerate(conversation.messages) if message.role == "assistant"]
    return Conversation(conversation.messages[: places[number] + 1], conversation.tools)


def test_the_assistants_turns_are_learnt_to_the_letter_and_each_once(tokenizer, family):
    turns = talk(family)
    encoded = list(Encoder(tokenizer, family.template, 4000).answers(turns))
    found = [text for one in encoded for text in learnt(one, tokenizer)]
    assert [text.strip() for text in found] == [family.says(message).strip() for message in assistants(turns)]
    assert (len(encoded) > 1) == family.rewrites


def test_every_turn_is_learnt_after_exactly_what_the_model_is_asked_with(tokenizer, family):
    """The ids up to and including each learnt turn are those that transformers makes of the conversation up to it."""
    turns = talk(family)
    encoder = Encoder(tokenizer, family.template, 4000)
    number = 0
    for one in encoder.answers(turns):
        ids, mask = one.columns["ids"].tolist(), one.columns["supervised"].tolist()
        ends = [i + 1 for i, bit in enumerate(mask) if bit and not (mask[i + 1 :] or [0])[0]]
        for end in ends:
            served = encoder.renderer.text((part := in_its_own_context(turns, number)).messages, part.tools)
            whole = tokenizer(served, add_special_tokens=False)["input_ids"]
            assert ids[:end] == whole[:end]
            assert not tokenizer.decode(whole[end:]).strip()
            number += 1
    assert number == len(assistants(turns))


def test_tools_and_what_they_answer_are_never_learnt(tokenizer, family):
    if not family.tools:
        pytest.skip("this family has no tools")
    for one in Encoder(tokenizer, family.template, 4000).answers(talk(family)):
        for text in learnt(one, tokenizer):
            assert "Weather of a city" not in text
            assert "sunny, 21 degrees" not in text


def test_calls_and_answers_to_one_question_stay_in_one_text_where_the_template_lets_them(tokenizer):
    encoded = list(Encoder(tokenizer, RICH["thinking"].template, 4000).answers(talk(RICH["thinking"])))
    assert [len(learnt(one, tokenizer)) for one in encoded] == [1, 2, 1]
    assert [one.answer for one in encoded] == [0, 2, 3]


@pytest.mark.parametrize("name", ["gemma", "mistral"])
def test_a_system_prompt_is_refused_with_the_templates_reason_where_it_has_none(tokenizer, name):
    turns = Conversation((Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Ho")))
    with pytest.raises(DataError, match="cannot render") as caught:
        list(Encoder(tokenizer, RICH[name].template, 100).answers(turns))
    assert "System role not supported" in caught.value.got or "only user, assistant and tool" in caught.value.got


@pytest.mark.parametrize("name", ["llama3", "mistral", "deepseek", "gemma"])
def test_thoughts_that_a_template_leaves_out_are_said(tokenizer, name):
    turns = Conversation((Message("user", "Hi"), Message("assistant", "Ho", {"reasoning_content": "hm"})))
    encoder = Encoder(tokenizer, RICH[name].template, 100)
    list(encoder.answers(turns))
    assert any("leaves out what the assistant thought" in decision for decision in encoder.decisions)


def test_a_template_gets_calls_in_the_form_that_it_can_write(tokenizer):
    encoder = Encoder(tokenizer, RICH["deepseek"].template, 1000)
    list(encoder.answers(talk(RICH["deepseek"])))
    assert [d for d in encoder.decisions if "calls of tools" in d] == ["the chat template wants the arguments of calls of tools as JSON text"]
    for name in ("thinking", "llama3", "mistral", "harmony"):
        encoder = Encoder(tokenizer, RICH[name].template, 1000)
        list(encoder.answers(talk(RICH[name])))
        assert not [d for d in encoder.decisions if "calls of tools" in d]


@pytest.mark.parametrize("arguments", [CALL["function"]["arguments"], '{"city": "Paris", "days": 2, "note": "a \\"quote\\", é"}'])
def test_rows_in_openais_spelling_give_the_same_mask(tokenizer, family, arguments):
    if not family.tools:
        pytest.skip("this family has no tools")
    call = {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    rows = [{"role": m.role, "content": m.content or None, **(m.extra or {})} for m in talk(family).messages]
    for row in rows:
        if "tool_calls" in row:
            row["tool_calls"] = [call]
        if row["role"] == "tool":
            row["tool_call_id"] = "call00001"
    read = make_format("messages").read({"messages": rows, "tools": [WEATHER["function"]]})
    found = [text for one in Encoder(tokenizer, family.template, 4000).answers(read) for text in learnt(one, tokenizer)]
    assert [text.strip() for text in found] == [family.says(message).strip() for message in assistants(talk(family))]


words = st.text(alphabet=string.ascii_letters + string.digits + " .,:;!?{}\"'\n\té日👍🏽", min_size=1, max_size=24).map(str.strip).filter(bool)
thoughts = st.none() | words
arguments = st.dictionaries(st.sampled_from(["city", "days", "who"]), words | st.integers(-9, 999) | st.booleans(), max_size=3)


@st.composite
def conversations(draw, family: Family) -> Conversation:
    """Questions with an answer each; before some answers calls of tools and what these say."""
    turns = [Message("system", draw(words))] if family.system and draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns.append(Message("user", draw(words)))
        for _ in range(draw(st.integers(0, 2)) if family.tools else 0):
            call = {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": draw(arguments)}}
            content = draw(words) if family.calls_and_content and draw(st.booleans()) else ""
            turns += [Message("assistant", content, thinking(draw(thoughts)) | {"tool_calls": [call]}), Message("tool", draw(words))]
        turns.append(Message("assistant", draw(words), thinking(draw(thoughts)) or None))
    return Conversation(tuple(turns), (WEATHER,) if family.tools else ())


def thinking(thought: str | None) -> dict:
    return {"reasoning_content": thought} if thought else {}


@pytest.mark.parametrize("name", list(RICH))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_any_conversation_is_masked_to_the_letter(name, data):
    family, tokenizer = RICH[name], tiny_tokenizer("bytes")
    turns = data.draw(conversations(family))
    found = [text for one in Encoder(tokenizer, family.template, 8000).answers(turns) for text in learnt(one, tokenizer)]
    assert found == [family.says(message) for message in assistants(turns)]
