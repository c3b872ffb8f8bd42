"""The share of answers that are JSON, and of a schema where one is given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from tunefleet.cluster.errors import SettingsError
from tunefleet.trainers.evaluation.metric import Named, installed, of_answers, ratio
from tunefleet.trainers.evaluation.rows import ANSWER, REFERENCE, Floats, RowScores

REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class JsonSchema:
    """Answers that are valid, per answered row, between 0 and 1."""

    class Config(Named):
        """The format."""

        kind: Literal["json_schema"] = "json_schema"
        rules: dict[str, Any] = Field(default_factory=dict, description="a JSON schema that refers to nothing outside itself; by default any JSON is valid")

    better: ClassVar[Literal["min", "max"]] = "max"
    reads: ClassVar[tuple[str, ...]] = (ANSWER, REFERENCE)

    def __init__(self, config: Config) -> None:
        """Raises SettingsError for a schema that is none or refers to what is not in it, and where jsonschema is not installed."""
        installed("jsonschema")
        import jsonschema
        import referencing

        validator = jsonschema.validators.validator_for(config.rules, default=jsonschema.Draft202012Validator)
        try:
            validator.check_schema(config.rules)
            _refuse_dangling(config.rules, validator.META_SCHEMA)
            # an empty registry: without one a $ref fetches what a stranger's suite names, from the network or a file, for every answer
            self._validator = validator(config.rules, registry=referencing.Registry())
            self._validator.is_valid(None)
        except jsonschema.SchemaError as error:
            raise SettingsError("rules: no JSON schema", got=error.message, want="JSON Schema, 2020-12 by default", fix="mend it") from error
        except RecursionError as error:
            raise SettingsError("rules: a JSON schema without end", got="a $ref that leads to itself", want="one that ends", fix="mend it") from error

    def statistics(self, rows: RowScores) -> Floats:
        """Whether it is valid, and 1 for the row."""
        return of_answers(rows, lambda answer, _: (self._valid(answer), 1.0), 2)

    def value(self, totals_SK: Floats) -> Floats:
        """Valid answers per row."""
        return ratio(totals_SK)

    def _valid(self, answer: str) -> bool:
        """An answer that is nested too deeply to be read is not valid either."""
        try:
            return bool(self._validator.is_valid(json.loads(answer, parse_constant=_no_json)))
        except (ValueError, RecursionError):
            return False


def _no_json(constant: str) -> Any:
    """NaN and Infinity, which Python reads and JSON has not (RFC 8259, section 6)."""
    raise ValueError(constant)


def _refuse_dangling(rules: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Raises SettingsError for a reference to anything but a part of these rules, or the meta-schemas of JSON Schema itself."""
    from jsonschema_specifications import REGISTRY
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import specification_with

    specification = specification_with(meta.get("$id") or meta["id"])
    left = [(rules, REGISTRY.resolver_with_root(specification.create_resource(rules)))]
    seen: set[int] = set()
    while left:
        part, resolver = left.pop()
        if not isinstance(part, Mapping) or id(part) in seen:
            continue
        seen.add(id(part))
        for sub in specification.subresources_of(part):
            left.append((sub, resolver.in_subresource(specification.create_resource(sub))))
        for ref in [part[key] for key in REFERENCES if isinstance(part.get(key), str)]:
            try:
                found = resolver.lookup(ref)
                known = isinstance(found.contents, Mapping | bool)
            except (Unresolvable, ValueError):  # ValueError: a name where a list has numbers
                known = False
            if not known:
                want = "a schema that stands in the rules, as #/$defs/name: nothing is fetched"
                raise SettingsError("rules: a $ref that leads nowhere", got=ref, want=want, fix="copy what it means into $defs")
            left.append((found.contents, found.resolver))
