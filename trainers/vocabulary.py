"""Where tokenizers come from: loaded beside a model or from a folder of their own, or trained on the rows. No remote code is ever run for one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tunefleet.cluster.errors import RequestError, SettingsError, nearest
from tunefleet.cluster.storages.folders import local_folder
from tunefleet.data.templates import resolve_template
from tunefleet.trainers.run import Model

BEGINNING, END, PADDING = "<s>", "</s>", "<pad>"


def load_tokenizer(model: Model, chat_template: str | None = None, *, decisions: list[str] | None = None) -> Any:
    """The fast tokenizer of a model, with a pad token and, where one is given, a chat template (its text, or the path of one).

    What was chosen for the user is appended to ``decisions``. Raises SettingsError when there is no tokenizer, or none that is fast.
    """
    from transformers import AutoTokenizer

    own = model.tokenizer
    name = own.name_or_path or model.name_or_path
    if name is None:
        raise SettingsError(
            "model.tokenizer: no tokenizer is named",
            want="model.tokenizer.name_or_path, or train_vocab_size to train one on the rows",
            fix="set one of them: a random model has no tokenizer of its own",
        )
    revision = model.revision if own.name_or_path is None else None
    try:
        tokenizer = AutoTokenizer.from_pretrained(local_folder(name, weights=False), revision=revision, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise SettingsError(
            "model.tokenizer: cannot be loaded",
            got=f"{name}: {str(error).strip().splitlines()[0]}",
            want="a folder or hub id with tokenizer.json",
            fix="set model.tokenizer.name_or_path, or train_vocab_size",
        ) from error
    if not tokenizer.is_fast:
        raise SettingsError("model.tokenizer: has no fast version", got=f"{name}: {type(tokenizer).__name__}", want="a tokenizer.json", fix="convert it")
    _set_padding(tokenizer, own.pad_token, decisions)
    if chat_template is not None:
        tokenizer.chat_template = resolve_template(tokenizer, chat_template).text
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE of ``vocab_size`` tokens: no text is unknown to it. It puts <s> first, and has </s> and <pad>.

    The same texts give the same tokenizer. Raises SettingsError when 256 bytes and three special tokens do not fit.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = [PADDING, BEGINNING, END]
    if vocab_size < 256 + len(special):
        raise SettingsError("model.tokenizer.train_vocab_size: too small", got=str(vocab_size), want=f"at least {256 + len(special)}", fix="raise it")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False))
    begin = backend.token_to_id(BEGINNING)
    backend.post_processor = processors.TemplateProcessing(single=f"{BEGINNING} $A", pair=f"{BEGINNING} $A $B", special_tokens=[(BEGINNING, begin)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BEGINNING, eos_token=END, pad_token=PADDING, clean_up_tokenization_spaces=False)


def vocabulary_problems(tokenizer: Any, config: Any) -> list[RequestError]:
    """Whether the tokenizer makes ids that the model has no embedding for."""
    largest, rows = max(tokenizer.get_vocab().values()), config.get_text_config().vocab_size
    if largest < rows:
        return []
    return [
        SettingsError(
            "model.tokenizer: makes tokens that the model does not know",
            got=f"token ids up to {largest}, a model of {rows} tokens",
            want=f"ids below {rows}",
            fix="take the model's own tokenizer; a random model takes vocab_size from model.config",
        )
    ]


def _set_padding(tokenizer: Any, wanted: str | None, decisions: list[str] | None) -> None:
    if wanted is not None:
        vocabulary = tokenizer.get_vocab()
        if wanted not in vocabulary:
            close = nearest(wanted, vocabulary)
            raise SettingsError(
                "model.tokenizer.pad_token: is no token of this tokenizer", got=wanted, want="a token of its vocabulary", fix=close and f"did you mean {close}?"
            )
        tokenizer.pad_token = wanted
    elif tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise SettingsError(
                "model.tokenizer.pad_token: is needed", got="a tokenizer with neither a pad nor an end-of-text token", want="a token", fix="set it"
            )
        tokenizer.pad_token = tokenizer.eos_token
        if decisions is not None:
            decisions.append(f"model.tokenizer.pad_token: the tokenizer has none, so {tokenizer.eos_token!r} fills the padding, which never carries loss")
