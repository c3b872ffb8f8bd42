"""Rows ``{text, label}`` or ``{sentence1, sentence2, label}``: texts with a label, or with several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.settings import Settings
from tunefleet.data.examples import Labelled
from tunefleet.data.turns import text_of

TEXTS = (("text",), ("sentence",), ("sentence1", "sentence2"), ("premise", "hypothesis"))
LABELS = ("label", "labels")


class TextLabel:
    """A text, or two that are looked at together, and its label: a word, a whole number, true or false; or a list of labels, which may be empty."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["text_label"] = "text_label"

    columns: ClassVar[str] = "text, label or text, labels or sentence, label or sentence1, sentence2, label or premise, hypothesis, label"

    def __init__(self, config: Config) -> None:
        self.config = config

    def recognises(self, columns: frozenset[str]) -> bool:
        """Exactly one way to spell the texts and one the label, and no conversation."""
        chat = columns & {"messages", "conversations", "prompt"}
        return len(_found(columns)) == 1 and len(columns.intersection(LABELS)) == 1 and not chat

    def read(self, values: Mapping[str, Any]) -> Labelled:
        """The texts as they stand; labels as words."""
        texts, labels = _found(frozenset(values)), [name for name in LABELS if name in values]
        if len(texts) != 1 or len(labels) != 1:
            raise DataError("not exactly one text and one label", got=", ".join(sorted(map(str, values))), want=self.columns)
        read = tuple(text_of(values[name], name, empty=False) for name in texts[0])
        for name, text in zip(texts[0], read, strict=True):
            if not text.strip():
                raise DataError(f"{name} is empty", got=repr(text), want="a text to classify")
        given = values[labels[0]]
        if isinstance(given, list | tuple):
            return Labelled(read, tuple(dict.fromkeys(label_of(label) for label in given)), several=True)
        return Labelled(read, (label_of(given),))


def label_of(value: Any) -> str:
    """A label as a word. Raises DataError for what is none: nothing, a fraction, an object."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):  # columns with a gap have whole numbers as floats
        return str(int(value))
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise DataError("the label is no label", got=repr(value)[:80], want="a word, a whole number, true or false, or a list of these")


def _found(columns: frozenset[str]) -> list[tuple[str, ...]]:
    return [names for names in TEXTS if columns.issuperset(names)]
