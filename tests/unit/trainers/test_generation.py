"""What a model says to a prompt depends on the prompt alone: not on its neighbours, their padding, or how it is read out."""

import pytest
from talkers import QUESTIONS, TEMPLATE, talker
from tiny_models import ARCHITECTURES

from tunefleet.cluster.errors import DataError, SettingsError
from tunefleet.data.examples import Message
from tunefleet.trainers.decoding import Drawing, Stream, before_end
from tunefleet.trainers.generation import Generator, find

PENALTIES = {"repetition_penalty": 1.8, "no_repeat_ngram_size": 2, "do_sample": True, "temperature": 0.5, "top_k": 3}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["text", "chat"])
def test_a_batch_says_what_each_prompt_alone_is_told(tmp_path, architecture, template):
    """With the end token as padding, a tokenizer that pads right, and a folder whose generation config would look at the padding."""
    generator = Generator(talker(tmp_path, architecture, template=template, **PENALTIES))
    assert (generator.asker.encoder is None) == (template is None)
    generator.asker.tokenizer.padding_side = "right"
    encoded = [generator.asker.encode(question) for question in QUESTIONS if template is None or len(question) < 30]
    drawing = Drawing(max_new_tokens=6)
    alone = [generator.answers([ids], drawing)[0] for ids in encoded]
    assert generator.answers(encoded, drawing, batch=len(encoded)) == alone
    assert generator.answers(encoded[::-1], drawing, batch=2) == alone[::-1]


def test_the_likeliest_token_is_taken_whatever_the_folder_asks_for(tmp_path):
    plain, asking = Generator(talker(tmp_path / "plain")), Generator(talker(tmp_path / "asking", **PENALTIES))
    assert asking.model.generation_config.repetition_penalty == 1.8
    assert asking.generate(QUESTIONS[:3], 12) == plain.generate(QUESTIONS[:3], 12)


def test_a_stream_is_the_answer_in_pieces_and_holds_back_half_a_character(tmp_path):
    generator = Generator(talker(tmp_path))
    ids = generator.asker.encode("Hello")
    pieces: list[str] = []
    answer = generator.stream(ids, Drawing(12), pieces.append)
    assert answer == generator.answers([ids], Drawing(12))[0]
    assert "".join(pieces) == answer.text
    whole = "é – 😀 end"
    tokenizer = generator.asker.tokenizer
    pieces, stream = [], Stream(tokenizer, None, lambda piece: pieces.append(piece))
    import torch

    for token in ([0], *([token] for token in tokenizer(whole)["input_ids"])):
        stream.put(torch.tensor(token))
    stream.end()
    assert "".join(pieces) == whole
    assert not any("�" in piece for piece in pieces)


def test_ctrl_c_ends_an_answer_and_keeps_what_was_said(tmp_path):
    generator = Generator(talker(tmp_path))

    def write(piece):
        said.append(piece)
        if len(said) == 2:
            raise KeyboardInterrupt

    said: list[str] = []
    answer = generator.stream(generator.asker.encode("fox"), Drawing(40), write)
    assert answer.finish == "interrupted"
    assert answer.text == "".join(said)


def test_nothing_is_written_past_the_context_and_a_prompt_that_fills_it_is_refused(tmp_path):
    generator = Generator(talker(tmp_path, "gpt2", template=None))
    assert generator.asker.context == 64
    nearly = generator.asker.encode("fox " * 12)
    room = generator.asker.room(nearly)
    short = generator.asker.encode("fox")
    together = generator.answers([nearly, short], Drawing(60))
    assert together == [generator.answers([ids], Drawing(60))[0] for ids in (nearly, short)]
    assert together[0].tokens <= room < 60
    with pytest.raises(DataError, match="too long"):
        generator.asker.encode("fox " * 200)


def test_a_model_without_a_template_continues_text_and_answers_in_a_chat(tmp_path):
    folder = talker(tmp_path, template=None)
    turns = [Message("user", "Hello")]
    with pytest.raises(DataError, match="continues text"):
        Generator(folder).asker.encode(turns)
    chat = Generator(folder, chat=True).asker
    assert chat.tokenizer.decode(chat.encode(turns)).endswith("Assistant:\n")


def test_an_answer_ends_before_its_first_end(tmp_path):
    assert before_end([5, 6, 2, 7, 2], [2, 3]) == [5, 6]
    assert before_end([5, 6], None) == [5, 6]
    for wrong in (Drawing(0), Drawing(4, -1.0)):
        with pytest.raises(SettingsError, match="out of range"):
            wrong.check()


@pytest.mark.parametrize("source", ["runs/shp", "./runs/shp", "a/b/c"])
def test_a_mistyped_folder_is_no_name_for_a_hub(tmp_path, monkeypatch, source):
    (tmp_path / "runs" / "shop").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="no such folder") as caught:
        find(source)
    assert ("did you mean runs/shop?" in caught.value.fix) == ("shp" in source)
    assert find("org/model").address == "org/model"
