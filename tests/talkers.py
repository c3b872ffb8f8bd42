"""Model folders to talk to, made on the spot: tiny random architectures with a tokenizer, with or without a chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_models import tiny_model
from tiny_tokenizers import tiny_tokenizer

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTIONS = ("Hello", "What is two plus three?", "Weather in Paris", "Think again; call the tool. " * 3, "fox", "The quick brown fox")


def talker(folder: Path, architecture: str = "llama", *, template: str | None = TEMPLATE, **generation: Any) -> str:
    """The folder's path. ``generation``: what its generation config asks for. Its pad token is its end token, as many have it."""
    tokenizer = tiny_tokenizer("bytes")
    if template:
        tokenizer.chat_template = template
    model = tiny_model(architecture, vocab_size=len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return str(folder)
