"""Rows ``{text: ...}``: documents, also those of plain text files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tunefleet.cluster.settings import Settings
from tunefleet.data.examples import Text
from tunefleet.data.turns import text_of


class Documents:
    """Raw text; every token of it is learnt."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["text"] = "text"

    columns: ClassVar[str] = "text"

    def __init__(self, config: Config) -> None:
        self.config = config

    def recognises(self, columns: frozenset[str]) -> bool:
        """A column text that no label judges."""
        return "text" in columns and not columns & {"label", "labels"}

    def read(self, values: Mapping[str, Any]) -> Text:
        """The text as it stands."""
        return Text(text_of(values.get("text"), "text", empty=False))
