"""Masks: what the assistant says carries loss, to the letter, whatever the template, the tokenizer and the text."""

from __future__ import annotations

import string

import pytest
from chat_templates import CHATML, FAMILIES, GEMMA, MISTRAL, REWRITING, TOOLS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import tiny_tokenizer

from tunefleet.cluster.errors import DataError, SettingsError
from tunefleet.data.examples import Conversation, Message, Text
from tunefleet.data.tokens import Encoder

TURNS = ("What is two plus three?", "It is five.", "And 12 times 12?", "It is 144,\nand that is all.", "Thanks!", "Émile says: 日本 👍🏽  ok")


@pytest.fixture(params=["bytes", "llama"])
def tokenizer(request):
    return tiny_tokenizer(request.param)


@pytest.fixture(params=list(FAMILIES))
def family(request):
    return FAMILIES[request.param]


def conversation(*contents: str) -> Conversation:
    return Conversation(tuple(Message("assistant" if i % 2 else "user", content) for i, content in enumerate(contents)))


def learnt(encoded, tokenizer) -> list[str]:
    """The decoded text of every stretch of supervised tokens."""
    ids, mask = encoded.columns["ids"].tolist(), encoded.columns["supervised"].tolist()
    stretches, current = [], []
    for token, bit in [*zip(ids, mask, strict=True), (None, 0)]:
        if bit:
            current.append(token)
        elif current:
            stretches.append(tokenizer.decode(current))
            current = []
    return stretches


def as_served(turns: Conversation, tokenizer, template: str) -> list[int]:
    """What transformers itself makes of a conversation."""
    messages = [{"role": m.role, "content": m.content, **(m.extra or {})} for m in turns.messages]
    return list(tokenizer.apply_chat_template(messages, tools=list(turns.tools) or None, chat_template=template, tokenize=True, return_dict=False))


def test_supervised_tokens_decode_to_exactly_the_assistants_turns(tokenizer, family):
    template, closing = family
    encoded = Encoder(tokenizer, template, 1000).supervised(conversation(*TURNS))
    assert [text.strip() for text in learnt(encoded, tokenizer)] == [turn + closing for turn in TURNS[1::2]]
    assert encoded.supervised == encoded.columns["supervised"].sum()
    assert not encoded.truncated


def test_ids_are_those_that_the_model_is_served_with(tokenizer, family):
    template, _ = family
    turns = conversation(*TURNS)
    assert Encoder(tokenizer, template, 1000).supervised(turns).columns["ids"].tolist() == as_served(turns, tokenizer, template)


def test_bos_stands_once_with_every_template(tokenizer, family):
    template, _ = family
    ids = Encoder(tokenizer, template, 1000).supervised(conversation(*TURNS)).columns["ids"].tolist()
    assert ids.count(tokenizer.bos_token_id) == ("bos_token" in template)


words = st.text(alphabet=string.ascii_letters + string.digits + " .,:;!?\n\t'éß日本👍🏽", min_size=1, max_size=40).map(str.strip).filter(bool)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.lists(words, min_size=2, max_size=6).filter(lambda c: len(c) % 2 == 0), family=st.sampled_from(sorted(FAMILIES)))
def test_any_text_of_any_family_is_masked_to_the_letter(contents, family):
    template, closing = FAMILIES[family]
    tokenizer = tiny_tokenizer("bytes")
    encoded = Encoder(tokenizer, template, 4000).supervised(conversation(*contents))
    prefix = " " if family == "mistral" else ""
    assert learnt(encoded, tokenizer) == [prefix + turn + closing for turn in contents[1::2]]


def test_generation_starts_where_learning_starts(tokenizer, family):
    template, _ = family
    encoder, turns = Encoder(tokenizer, template, 1000), conversation(*TURNS[:2])
    encoded = encoder.supervised(turns)
    prompt = encoder.prompt(turns.messages[:1])
    assert encoded.columns["ids"].tolist()[: len(prompt)] == prompt
    assert encoded.columns["supervised"].tolist().index(1) == len(prompt)


def test_the_closing_token_of_a_template_is_found(tokenizer, family):
    template, closing = family
    assert Encoder(tokenizer, template, 100).closing_id() == tokenizer.convert_tokens_to_ids(closing)


def test_a_template_without_a_closing_token_is_said(tokenizer):
    encoder = Encoder(tokenizer, "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}", 100)
    assert encoder.closing_id() is None
    assert any("not learn to stop" in decision for decision in encoder.decisions)


def test_thoughts_and_calls_are_learnt_and_answers_of_tools_are_not(tokenizer):
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
    turns = Conversation(
        (
            Message("system", "Be brief."),
            Message("user", "Weather in Paris?"),
            Message("assistant", "", {"reasoning_content": "call the tool", "tool_calls": [call]}),
            Message("tool", "sunny"),
            Message("assistant", "It is sunny."),
        ),
        tools=({"type": "function", "function": {"name": "weather", "parameters": {}}},),
    )
    called, answered = learnt(Encoder(tokenizer, TOOLS, 2000).supervised(turns), tokenizer)
    assert called.startswith("<think>\ncall the tool\n</think>")
    assert '"name": "weather", "arguments": {"city": "Paris"}' in called
    assert called.endswith("</tool_call><|im_end|>")
    assert answered == "It is sunny.<|im_end|>"


def test_a_template_that_drops_calls_of_tools_is_refused(tokenizer):
    call = {"type": "function", "function": {"name": "weather", "arguments": {}}}
    turns = Conversation((Message("user", "Weather?"), Message("assistant", "", {"tool_calls": [call]})))
    with pytest.raises(DataError, match="leaves out calls of tools"):
        Encoder(tokenizer, CHATML, 100).supervised(turns)


def test_a_template_that_drops_what_the_assistant_says_is_refused(tokenizer):
    template = "{% for m in messages %}{{ m['role'] }}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
    with pytest.raises(DataError, match="leaves out what the assistant says"):
        Encoder(tokenizer, template, 100).supervised(conversation("Hello", "Goodbye"))


def test_a_template_that_rewrites_earlier_turns_makes_an_example_of_every_answer(tokenizer):
    encoder = Encoder(tokenizer, REWRITING, 1000)
    encoded = list(encoder.answers(conversation(*TURNS)))
    assert [learnt(e, tokenizer) for e in encoded] == [["<think>\n\n</think>\n\n" + turn + "<|im_end|>"] for turn in TURNS[1::2]]
    assert [e.columns["ids"].tolist() for e in encoded] == [as_served(conversation(*TURNS[:n]), tokenizer, REWRITING) for n in (2, 4, 6)]
    assert any("rewrites earlier turns" in decision for decision in encoder.decisions)
    with pytest.raises(DataError, match="turn by turn"):
        encoder.supervised(conversation(*TURNS))


def test_a_generation_prompt_unlike_the_answer_is_cut_where_the_two_part(tokenizer):
    template = CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
    encoder = Encoder(tokenizer, template, 1000)
    assert learnt(encoder.supervised(conversation("Hello", "<then> I say hello")), tokenizer) == ["<then> I say hello<|im_end|>"]
    assert any("in other words" in decision for decision in encoder.decisions)


def test_a_token_across_the_border_of_header_and_answer_is_learnt_and_one_across_its_end_is_not():
    tokenizer = tiny_tokenizer("bytes")
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    encoded = Encoder(tokenizer, template, 100).supervised(conversation("x", "the end", "assistant"))
    tokens = tokenizer.convert_ids_to_tokens(encoded.columns["ids"].tolist())
    first = tokens[encoded.columns["supervised"].tolist().index(1)]
    assert first == "Ġthe"
    assert "".join(learnt(encoded, tokenizer)) == " the end"


def test_turns_that_are_context_carry_no_loss(tokenizer):
    turns = Conversation((Message("user", "One?"), Message("assistant", "First", learnt=False), Message("user", "Two?"), Message("assistant", "Second")))
    assert learnt(Encoder(tokenizer, CHATML, 100).supervised(turns), tokenizer) == ["Second<|im_end|>"]


def test_a_conversation_without_an_answer_has_nothing_to_learn(tokenizer):
    assert Encoder(tokenizer, CHATML, 100).supervised(conversation("Hello")).supervised == 0


def test_what_a_template_refuses_is_an_error_of_the_row(tokenizer):
    system = Conversation((Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Ho")))
    with pytest.raises(DataError, match="cannot render") as caught:
        Encoder(tokenizer, GEMMA, 100).supervised(system)
    assert "System role not supported" in caught.value.got
    with pytest.raises(DataError, match="begins with the assistant"):
        Encoder(tokenizer, CHATML, 100).supervised(Conversation((Message("assistant", "Ho"),)))


def test_a_broken_template_is_an_error_of_the_settings(tokenizer, tmp_path):
    with pytest.raises(SettingsError, match="not a Jinja template"):
        Encoder(tokenizer, "{% for %}", 100).supervised(conversation("a", "b"))
    with pytest.raises(SettingsError, match="neither a template nor the path"):
        Encoder(tokenizer, str(tmp_path / "missing.jinja"), 100)
    (tmp_path / "chat.jinja").write_text(MISTRAL)
    assert Encoder(tokenizer, str(tmp_path / "chat.jinja"), 100).template.text == MISTRAL


def test_the_default_template_is_said_and_ends_answers_with_eos(tokenizer):
    encoder = Encoder(tokenizer, None, 1000)
    encoded = encoder.supervised(conversation(*TURNS))
    assert [text.strip() for text in learnt(encoded, tokenizer)] == [turn + "</s>" for turn in TURNS[1::2]]
    assert sum("plain default" in decision for decision in encoder.decisions) == 1
    adds = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    assert encoded.columns["ids"].tolist().count(tokenizer.bos_token_id) == adds


def test_the_tokenizers_own_template_is_taken(tokenizer):
    tokenizer.chat_template = CHATML
    encoder = Encoder(tokenizer, None, 1000)
    assert encoder.template.text == CHATML
    assert not encoder.supervised(conversation("a", "b")).truncated
    assert encoder.decisions == []


def test_too_long_rows_keep_their_beginning(tokenizer):
    turns = conversation(*TURNS)
    whole = Encoder(tokenizer, CHATML, 1000).supervised(turns)
    cut = Encoder(tokenizer, CHATML, 20).supervised(turns)
    assert cut.truncated
    assert cut.length == 20
    assert cut.columns["ids"].tolist() == whole.columns["ids"].tolist()[:20]
    assert cut.columns["supervised"].tolist() == whole.columns["supervised"].tolist()[:20]


def test_truncation_or_padding_set_on_the_tokenizer_changes_nothing(tokenizer):
    before = Encoder(tokenizer, CHATML, 1000).supervised(conversation(*TURNS)).columns["ids"].tolist()
    mark = Encoder(tokenizer, CHATML, 1000).identity()
    tokenizer.pad_token = "</s>"
    tokenizer(["a", "a b c d"], padding=True, truncation=True, max_length=2)
    assert Encoder(tokenizer, CHATML, 1000).supervised(conversation(*TURNS)).columns["ids"].tolist() == before
    assert Encoder(tokenizer, CHATML, 1000).identity() == mark


@pytest.mark.parametrize("length", [2, 3, 7, 64, 10_000])
def test_pieces_predict_every_token_of_a_document_exactly_once(tokenizer, length):
    text = "the quick brown fox, " * 9 + "日本"
    whole = tokenizer(text)["input_ids"]
    pieces = list(Encoder(tokenizer, None, length).pieces(Text(text)))
    assert whole[0] == pieces[0].columns["ids"][0]
    targets = [token for p in pieces for token, bit in zip(p.columns["ids"], p.columns["supervised"], strict=True) if bit]
    assert targets == whole[1:]
    assert all(2 <= p.length <= length and not p.truncated for p in pieces)


def test_bos_in_the_text_itself_is_not_doubled():
    tokenizer = tiny_tokenizer("llama")
    (piece,) = Encoder(tokenizer, None, 100).pieces(Text("<s>hello"))
    assert piece.columns["ids"].tolist().count(tokenizer.bos_token_id) == 1


def test_an_empty_document_has_no_pieces(tokenizer):
    adds = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    assert sum(p.supervised for p in Encoder(tokenizer, None, 100).pieces(Text(""))) == 0
    assert len(list(Encoder(tokenizer, None, 100).pieces(Text("")))) == adds


def test_reading_ahead_changes_nothing(tokenizer):
    examples = [conversation(*TURNS[:n]) for n in (2, 4, 6)] + [Text("the fox"), conversation("a", "b"), Text("")]
    alone = Encoder(tokenizer, TOOLS, 40)
    ahead = Encoder(tokenizer, TOOLS, 40)
    ahead.read_ahead(examples)
    for example in examples:
        for one, other in zip(alone.answers(example), ahead.answers(example), strict=True):
            assert one.columns["ids"].tolist() == other.columns["ids"].tolist()
            assert one.columns["supervised"].tolist() == other.columns["supervised"].tolist()
            assert one.truncated == other.truncated


def test_one_token_is_no_length(tokenizer):
    with pytest.raises(SettingsError, match="nothing is left to predict"):
        Encoder(tokenizer, None, 1)
