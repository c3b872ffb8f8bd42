"""Strict settings: one definition of every key, and every problem of a file reported at once, with its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from tunefleet.cluster.errors import RequestError, SettingsError
from tunefleet.cluster.fields import describe, plain_types
from tunefleet.cluster.wording import OURS, Fault, about, faults, near_key, worded
from tunefleet.cluster.yamlfile import Document, Keys, override

__all__ = ["Checked", "Settings", "check", "describe", "nested", "refusal"]

ROUNDS = 16  # dropping one bad value can uncover another; no file needs as many


class Settings(BaseModel):
    """A frozen, strict section of a file: an unknown key is an error, so a typo cannot silently train the wrong model."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _a_truth_is_no_number(cls, value: Any) -> Any:
        """Pydantic takes true as 1; a file that says ``max_steps: true`` means something else."""
        given = value if isinstance(value, dict) else {}
        wanted = {name: plain_types(cls.model_fields[name].annotation) for name, item in given.items() if isinstance(item, bool) and name in cls.model_fields}
        wrong = [name for name, types in wanted.items() if types & {int, float} and bool not in types]
        if wrong:
            found = [{"type": "int_type", "loc": (name,), "input": given[name], "msg": "Input should be a valid number"} for name in wrong]
            raise PydanticCustomError(f"{OURS}_nested", "nested", {"errors": found})
        return value


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Checked(Generic[S]):
    """What could be understood (None when too little was), and everything that is wrong with it.

    ``unsure`` are the keys whose value is not what the file says, since that was wrong: later checks leave them alone.
    """

    value: S | None
    problems: list[RequestError]
    unsure: frozenset[Keys] = frozenset()

    def sure(self, *names: str) -> bool:
        """Whether the values of these dotted keys are what the file says."""
        return not any(_related(tuple(name.split(".")), keys) for name in names for keys in self.unsure)


def check(kind: type[S], document: Document, stand_in: Mapping[str, Any] | None = None) -> Checked[S]:
    """Validate a whole document and go on past errors, so that later checks can still look at what was understood.

    A bad value is dropped and takes its default, or its place in ``stand_in`` where a value is required; it stays in ``problems`` and in
    ``unsure``. What only follows from a problem that was already reported is not reported again.
    """
    problems = list(document.problems)
    value: Any = document.value if document.value is not None else {}
    if not isinstance(value, dict):
        return Checked(None, [*problems, SettingsError("the file holds no keys", got=type(value).__name__, want="key: value lines", fix="see examples/")])
    unsure: set[Keys] = set()
    for _ in range(ROUNDS):
        try:
            return Checked(kind.model_validate(value), problems, frozenset(unsure))
        except ValidationError as error:
            found = faults(error, value)
        unsure |= {key for fault in found if fault.type == "extra_forbidden" for key in _doubted(kind, fault, value)}
        reported = [fault for fault in found if not _follows(fault, unsure)]
        words = [worded(kind, fault, document) for fault in reported]
        problems += [word for i, word in enumerate(words) if word.what not in {other.what for other in (*problems, *words[:i])}]
        unsure |= {key for fault in reported for key in _doubted(kind, fault, value)}
        value = _mended(value, found, stand_in or {})
        if value is None:
            break
    return Checked(None, problems, frozenset(unsure))


def refusal(error: SettingsError) -> PydanticCustomError:
    """Carry one of our errors through pydantic, which only collects its own: raise this inside a validator."""
    return PydanticCustomError(OURS, "{what}", {"what": error.what, "got": error.got, "want": error.want, "fix": error.fix})


def nested(error: ValidationError) -> PydanticCustomError:
    """Carry the errors of a plug-in's own settings out of a validator, each with its place."""
    return PydanticCustomError(f"{OURS}_nested", "nested", {"errors": error.errors(include_url=False)})


def _related(one: Keys, other: Keys) -> bool:
    """Whether one of two keys holds the other."""
    size = min(len(one), len(other))
    return one[:size] == other[:size]


def _follows(fault: Fault, unsure: set[Keys]) -> bool:
    """Whether a fault is only the consequence of a value that was complained about and dropped."""
    if fault.type == "missing":
        return any(_related(fault.keys, keys) for keys in unsure)
    below = {str(keys[-1]) for keys in unsure if len(keys) > len(fault.keys) and keys[: len(fault.keys)] == fault.keys}
    return bool(below & about(fault))


def _doubted(kind: type[BaseModel], fault: Fault, value: Any) -> list[Keys]:
    """The keys whose value is in doubt by a fault: a misspelt key leaves the one in doubt that was meant, unless that one stands there too."""
    if fault.type != "extra_forbidden":
        return [fault.keys]
    meant = near_key(kind, fault.keys, value)
    return [(*fault.keys[:-1], meant)] if meant and meant not in (_at(value, fault.keys[:-1]) or {}) else []


def _mended(value: Any, found: Sequence[Fault], stand_in: Mapping[str, Any]) -> Any:
    """The value without what was wrong, or with stand-ins for what is required; None when that is impossible."""
    for fault in found:
        value = _mended_once(value, fault, stand_in)
        if value is None:
            return None
    return value


def _mended_once(value: Any, fault: Fault, stand_in: Mapping[str, Any]) -> Any:
    keys = _above_list(fault.keys)
    if fault.type == "extra_forbidden":
        return _without(value, keys)
    for size in range(1, len(keys) + 1):
        known = _at(stand_in, keys[:size])
        if known is not None and not isinstance(known, dict):
            return override(value, keys[:size], known)
    known, present = _at(stand_in, keys), _at(value, keys)
    if keys and isinstance(known, dict):  # a section as a whole: first what it requires, then, if that was not it, nothing else
        merged = {**present, **known} if isinstance(present, dict) else known
        return override(value, keys, merged if merged != present else known)
    if fault.type == "missing":
        keys = _above_list(keys[:-1])
    return _without(value, keys) if keys else None


def _above_list(keys: Keys) -> Keys:
    """An entry of a list goes with its list, so that the others keep their places."""
    while keys and isinstance(keys[-1], int):
        keys = keys[:-1]
    return keys


def _at(value: Any, keys: Keys) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else value[key] if isinstance(value, list) and isinstance(key, int) and key < len(value) else None
    return value


def _without(value: Any, keys: Keys) -> Any:
    head, rest = keys[0], keys[1:]
    if isinstance(value, dict):
        return {key: _without(item, rest) if key == head else item for key, item in value.items() if key != head or rest}
    if isinstance(value, list):
        return [_without(item, rest) if i == head else item for i, item in enumerate(value)]
    return value
