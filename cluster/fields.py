"""What a settings class holds: its keys, their defaults and descriptions, also behind a choice by ``kind``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Sections = Mapping[str, type[BaseModel]]


class Family:
    """Annotation of a field that holds one of several settings classes, chosen by ``kind`` and imported only when asked for."""

    def member(self, kind: str) -> type[BaseModel] | None:
        """The settings class of one kind, None where there is none."""
        raise NotImplementedError

    def members(self) -> Sections:
        """The settings classes by kind."""
        raise NotImplementedError


@dataclass(frozen=True)
class Key:
    """One line of help: the dotted key, its default, what it means, and the kind it belongs to (empty where there is one kind)."""

    name: str
    default: str
    description: str
    kind: str = ""


def members(info: FieldInfo) -> Sections:
    """The settings classes that a field may hold, by kind; by an empty name where there is no choice."""
    if (family := _family(info)) is not None:
        return family.members()
    found: dict[str, type[BaseModel]] = {}
    for section in _classes(info.annotation):
        kind = section.model_fields.get("kind")
        found[str(kind.default) if kind else ""] = section
    return found


def find(kind: type[BaseModel], keys: Sequence[str | int], value: Any) -> tuple[type[BaseModel] | None, FieldInfo | None]:
    """The settings class that the last of the keys stands in, and its field; None for what no class knows.

    ``value`` is the raw value of ``kind``: it says which member of a family is meant.
    """
    holder: type[BaseModel] | None = None
    current: type[BaseModel] | None = kind
    info: FieldInfo | None = None
    for key in keys:
        inner = _entry(value, key)
        if not isinstance(key, int):
            holder, info = current, current.model_fields.get(key) if current else None
            current = _chosen(info, inner) if info else None
        elif info is not None:
            current = _chosen(info, inner) if _family(info) else next(iter(members(info).values()), None)
        value = inner
    return holder, info


def keys_of(kind: type[BaseModel], prefix: str = "", of: str = "") -> list[Key]:
    """Every key of a settings class, dotted: the help text and the docs are made of it."""
    rows: list[Key] = []
    for name, info in kind.model_fields.items():
        key = f"{prefix}{name}"
        sections = members(info) if _only_sections(info) else {}
        if sections and "" not in sections and _is_list(info):
            key += ".N"
        if not sections:
            rows.append(Key(key, _default(info), info.description or "", of))
        elif "" in sections:
            rows += keys_of(sections[""], f"{key}{'.N' if _is_list(info) else ''}.", of)
        else:
            rows.append(Key(f"{key}.kind", _chosen_name(info), f"{info.description}: {', '.join(sections)}", of))
            for each, section in sections.items():
                rows += [row for row in keys_of(section, f"{key}.", each) if row.name != f"{key}.kind"]
    return rows


def describe(kind: type[BaseModel]) -> list[tuple[str, str, str]]:
    """Every key as (dotted key, default, description); a key of one kind only says so in its description."""
    return [(row.name, row.default, f"{row.description} (kind: {row.kind})" if row.kind else row.description) for row in keys_of(kind)]


def plain_types(annotation: Any) -> set[type]:
    """The types at the leaves of an annotation: {int, NoneType} for ``PositiveInt | None``. What stands inside a container is left out."""
    if isinstance(annotation, type):
        return {annotation}
    if _is_container(annotation):
        return set()
    return {leaf for inner in get_args(annotation) for leaf in plain_types(inner)}


def short(value: Any) -> str:
    """A value as a settings file would hold it (null, true, "text"), at most 120 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _classes(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _classes(inner)


def _only_sections(info: FieldInfo) -> bool:
    if _family(info) is not None:
        return True
    options = get_args(info.annotation) if not isinstance(info.annotation, type) and not _is_list(info) else (info.annotation,)
    return all(option is NoneType or any(_classes(option)) for option in options) and any(_classes(info.annotation))


def _family(info: FieldInfo) -> Family | None:
    """The family of a field, or of the entries of a list."""
    entries = [extra for option in get_args(info.annotation) if get_origin(option) is Annotated for extra in get_args(option)[1:]]
    return next((extra for extra in (*info.metadata, *entries) if isinstance(extra, Family)), None)


def _is_list(info: FieldInfo) -> bool:
    return get_origin(info.annotation) is list


def _is_container(annotation: Any) -> bool:
    return get_origin(annotation) in (list, dict, tuple)


def _entry(value: Any, key: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(key)
    return value[key] if isinstance(value, list) and isinstance(key, int) and key < len(value) else None


def _chosen(info: FieldInfo, value: Any) -> type[BaseModel] | None:
    """The one class of a field, or the member of a family that a raw value names; the default's where it names none."""
    named = value.get("kind", _chosen_name(info)) if isinstance(value, dict) else value
    if (family := _family(info)) is not None:
        return family.member(named) if isinstance(named, str) else None
    sections = members(info)
    return sections.get("") or (sections.get(named) if isinstance(named, str) else None)


def _chosen_name(info: FieldInfo) -> str:
    default = info.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, BaseModel):
        default = default.model_dump()
    return str(default.get("kind", "required")) if isinstance(default, dict) else "required"


def _default(info: FieldInfo) -> str:
    return "required" if info.is_required() else short(info.get_default(call_default_factory=True, validated_data={}))
