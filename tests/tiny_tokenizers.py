"""Small tokenizers made on the spot, as folders that AutoTokenizer loads: byte-level BPE without BOS, and a Llama-like one that adds BOS."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

SPECIALS = [
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "[INST]",
    "[/INST]",
    "<start_of_turn>",
    "<end_of_turn>",
]
WORDS = (
    "The quick brown fox jumps over the lazy dog. Assistant: says hello to the user, and the system answers with thoughts of its own. "
    "What is two plus three? It is five, and 12 times 12 is 144. Weather in Paris: sunny, 21 degrees.\n\nThink again; call the tool.\n"
)


@cache
def tokenizer_folder(kind: str) -> Path:
    """A folder with a tokenizer of a kind: ``bytes`` (byte-level, no BOS, trimmed offsets) or ``llama`` (marked spaces, byte fallback, BOS)."""
    folder = Path(mkdtemp(prefix=f"tokenizer-{kind}-"))
    engine = _byte_level() if kind == "bytes" else _llama_like()
    engine.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "bos_token": "<s>", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def tiny_tokenizer(kind: str = "bytes") -> Any:
    """A fresh tokenizer of a kind."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer_folder(kind))


def _byte_level() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    engine.train_from_iterator([WORDS] * 4, trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False))
    engine.post_processor = processors.ByteLevel(trim_offsets=True)
    return engine


def _llama_like() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *sorted(set(WORDS) - {" ", "\n"})]
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("h", "e"), ("l", "l"), ("he", "ll"), ("▁", "a"), ("i", "s")]
    pieces += [left + right for left, right in merges]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    engine = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    engine.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    engine.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    engine.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIALS])
    engine.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])
    return engine
