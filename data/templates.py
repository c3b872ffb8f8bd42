"""The chat template of a run: the run file's, else the tokenizer's own, else a plain default, which is said once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunefleet.cluster.errors import SettingsError

DEFAULT = (
    "{%- if tools %}Tools:\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% endif %}"
    "{%- for message in messages %}"
    "{{- '' if loop.first else '\n' }}{{ message['role'] | capitalize }}:\n{{ message['content'] | trim }}"
    "{%- for call in message['tool_calls'] or [] %}"
    "{{- '\n' if message['content'] or not loop.first else '' }}<tool_call>{{ call['function'] | tojson }}</tool_call>"
    "{%- endfor %}"
    "{%- if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '\nAssistant:\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Template:
    """A Jinja template, and what was decided to get it (empty when nothing was)."""

    text: str
    decision: str = ""


def resolve_template(tokenizer: Any, given: str | None) -> Template:
    """The template of a run. ``given`` is ``data.chat_template``: a template (it holds a brace) or the path of one.

    Raises SettingsError for a path that is none, and for a tokenizer with several templates and none called default.
    """
    if given is not None:
        return Template(given if "{" in given else _read(given))
    own = tokenizer.chat_template
    if isinstance(own, dict):
        if "default" not in own:
            raise SettingsError(
                "data.chat_template: the tokenizer has several templates and no default", got=", ".join(own), want="one template", fix="set data.chat_template"
            )
        own = own["default"]
    if own:
        return Template(str(own))
    return Template(
        default_template(tokenizer),
        "data.chat_template: the tokenizer has none, so a plain default is used (User: / Assistant: lines, end-of-text after each answer)",
    )


def default_template(tokenizer: Any) -> str:
    """The default for a tokenizer: it begins with BOS exactly where the tokenizer itself would put one."""
    return ("{{ bos_token }}" if adds_bos(tokenizer) else "") + DEFAULT


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts BOS before plain text."""
    ids: list[int] = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            "data.chat_template: neither a template nor the path of one", got=path, want="text with {{ ... }}, or a file of it", fix="correct the path"
        ) from error
