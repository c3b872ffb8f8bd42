"""The share of answers that are JSON, and of a schema where one is given."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Literal

from pydantic import Field

from tunefleet.cluster.errors import SettingsError
from tunefleet.trainers.evaluation.metric import Named, installed, of_answers, ratio
from tunefleet.trainers.evaluation.rows import ANSWER, REFERENCE, Floats, RowScores


class JsonSchema:
    """Answers that are valid, per answered row, between 0 and 1."""

    class Config(Named):
        """The format."""

        kind: Literal["json_schema"] = "json_schema"
        rules: dict[str, Any] = Field(default_factory=dict, description="a JSON schema; by default any JSON is valid")

    better: ClassVar[Literal["min", "max"]] = "max"
    reads: ClassVar[tuple[str, ...]] = (ANSWER, REFERENCE)

    def __init__(self, config: Config) -> None:
        """Raises SettingsError for a schema that is none, and where jsonschema is not installed."""
        installed("jsonschema")
        import jsonschema

        validator = jsonschema.validators.validator_for(config.rules, default=jsonschema.Draft202012Validator)
        try:
            validator.check_schema(config.rules)
        except jsonschema.SchemaError as error:
            raise SettingsError("rules: no JSON schema", got=error.message, want="JSON Schema, 2020-12 by default", fix="mend it") from error
        self._validator = validator(config.rules)

    def statistics(self, rows: RowScores) -> Floats:
        """Whether it is valid, and 1 for the row."""
        return of_answers(rows, lambda answer, _: (self._valid(answer), 1.0), 2)

    def value(self, totals_SK: Floats) -> Floats:
        """Valid answers per row."""
        return ratio(totals_SK)

    def _valid(self, answer: str) -> bool:
        try:
            return bool(self._validator.is_valid(json.loads(answer)))
        except ValueError:
            return False
