"""Tokenizers: loaded with a pad token that is said, or trained so that no text is unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_model

from tunefleet.cluster.errors import SettingsError
from tunefleet.trainers.run import Model
from tunefleet.trainers.vocabulary import load_tokenizer, train_tokenizer, vocabulary_problems

TRAINED = train_tokenizer(["the cat sat on the mat", "the dog sat on the log"] * 10, 300)


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_a_trained_tokenizer_gives_every_text_back(text: str) -> None:
    ids = TRAINED(text)["input_ids"]
    assert ids[0] == TRAINED.bos_token_id
    assert TRAINED.decode(ids[1:]) == text


def test_the_same_texts_give_the_same_tokenizer() -> None:
    again = train_tokenizer(["the cat sat on the mat", "the dog sat on the log"] * 10, 300)
    assert again.get_vocab() == TRAINED.get_vocab()
    assert len({TRAINED.bos_token_id, TRAINED.eos_token_id, TRAINED.pad_token_id}) == 3


def test_a_vocabulary_without_room_for_bytes_is_refused() -> None:
    with pytest.raises(SettingsError, match="train_vocab_size"):
        train_tokenizer(["x"], 100)


def saved(folder: Path, **changes: Any) -> str:
    tokenizer = train_tokenizer(["the cat sat"], 300)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_the_end_of_text_pads_where_there_is_no_pad_token_and_that_is_said(tmp_path: Path) -> None:
    decisions: list[str] = []
    tokenizer = load_tokenizer(Model(name_or_path=saved(tmp_path, pad_token=None)), decisions=decisions)
    assert tokenizer.pad_token == tokenizer.eos_token == "</s>"
    assert len(decisions) == 1
    assert "pad_token" in decisions[0]


def test_a_pad_token_of_its_own_is_kept_and_nothing_is_said(tmp_path: Path) -> None:
    decisions: list[str] = []
    assert load_tokenizer(Model(name_or_path=saved(tmp_path)), decisions=decisions).pad_token == "<pad>"
    assert decisions == []


def test_neither_pad_nor_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is needed"):
        load_tokenizer(Model(name_or_path=saved(tmp_path, pad_token=None, eos_token=None)))


def test_a_wanted_pad_token_must_exist(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    assert load_tokenizer(Model.model_validate({"name_or_path": folder, "tokenizer": {"pad_token": "<s>"}})).pad_token == "<s>"
    with pytest.raises(SettingsError, match="no token of this tokenizer"):
        load_tokenizer(Model.model_validate({"name_or_path": folder, "tokenizer": {"pad_token": "<pdd>"}}))


def test_a_template_is_taken_as_text_or_from_a_file(tmp_path: Path) -> None:
    model = Model(name_or_path=saved(tmp_path))
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    assert load_tokenizer(model, "{{ bos_token }}").chat_template == "{{ bos_token }}"
    assert load_tokenizer(model, str(tmp_path / "chat.jinja")).chat_template == "{{ messages }}"
    assert load_tokenizer(model).chat_template is None


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match=r"model\.tokenizer"):
        load_tokenizer(Model(name_or_path=str(tmp_path)))
    with pytest.raises(SettingsError, match="no tokenizer is named"):
        load_tokenizer(Model.model_validate({"init": "random", "config": {"model_type": "llama"}}))


def test_tokens_beyond_the_models_vocabulary_are_found() -> None:
    assert vocabulary_problems(TRAINED, tiny_model("llama", vocab_size=300).config) == []
    (problem,) = vocabulary_problems(TRAINED, tiny_model("llama").config)
    assert "299" not in problem.want
    assert "96" in problem.want
