"""What people read holds no secret: passwords in addresses, signed queries, tokens that are known by their looks, values of keys that say so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

MASK = "***"
SHORTEST = len("://x@")  # of the places and looks below: lines of metrics hold many shorter texts
_NAMED = r"secret|passw(?:or)?d|credential|api[_-]?key|access[_-]?key|private[_-]?key|auth[_-]?token"
_KEY = re.compile(_NAMED, re.I)
_PLACES = (
    (re.compile(r"(?<=://)[^\s/@?#'\"]+@"), f"{MASK}@"),
    (re.compile(r"([?&][\w.-]{0,60}(?:signature|credential|token|secret|password|key|auth|sig)[\w.-]{0,60}=)[^\s&#'\"]+", re.I), rf"\g<1>{MASK}"),
    (re.compile(r"\b((?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.I), rf"\g<1>{MASK}"),
    (re.compile(rf"((?:{_NAMED})[\w.-]{{0,60}}['\"]?\s{{0,4}}[:=]\s{{0,4}})[^\s,}}\]]+", re.I), rf"\g<1>{MASK}"),
)
"""Each begins at a fixed word or sign, so that a long text takes a time in proportion to its length."""
_LOOKS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,})\b"
)

_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/'\"()]+/)+")


@lru_cache(maxsize=4096)
def _secret(key: str) -> bool:
    return _KEY.search(key) is not None


def masked(text: str) -> str:
    """A text with stars where a secret stands, as far as it can be told by its place or its looks."""
    if len(text) < SHORTEST:
        return text
    for pattern, shown in _PLACES:
        text = pattern.sub(shown, text)
    return _LOOKS.sub(MASK, text)


def masked_value(value: Any) -> Any:
    """Plain values with every text masked, and whole values of keys whose name says that they are secret."""
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {key: MASK if isinstance(key, str) and _secret(key) and item else masked_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked_value(item) for item in value]
    return value


def without_folders(text: str) -> str:
    """A text that is masked, and in which absolute paths have lost all but their names: for what leaves this machine."""
    return _FOLDERS.sub("", masked(text))
