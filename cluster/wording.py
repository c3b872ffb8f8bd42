"""What pydantic found, in our four lines: the dotted key and its line, what was got, what is wanted, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from tunefleet.cluster.errors import SettingsError, nearest
from tunefleet.cluster.fields import find, members, short
from tunefleet.cluster.yamlfile import Document, Keys

OURS = "tunefleet"  # the type of errors that our own validators raise


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: pydantic's name for it, the keys that it is about, what was got, and what would do."""

    type: str
    keys: Keys
    got: Any
    wants: tuple[str, ...]
    context: Mapping[str, Any] = field(default_factory=dict)


def faults(error: ValidationError, value: Any) -> list[Fault]:
    """What pydantic found in a raw value, once each: of the members of a union only the one that the value is closest to speaks."""
    every = list(_all(error.errors(include_url=False), value))
    by_keys: dict[Keys, list[Fault]] = {}
    for fault in every:
        by_keys.setdefault(fault.keys, []).append(fault)
    kept: list[Fault] = []
    for keys, same in by_keys.items():
        exact = [fault for fault in same if not _mismatch(fault)]
        if exact:
            kept += exact
        elif not any(len(other) > len(keys) and other[: len(keys)] == keys for other in by_keys):
            first = same[0]
            kept.append(Fault(first.type, keys, first.got, tuple(want for fault in same for want in fault.wants), first.context))
    return kept


def about(fault: Fault) -> set[str]:
    """The words of a fault of a whole section: the names of the keys that it is about are among them."""
    return {word for part in ("what", "want", "error") for word in re.findall(r"\w+", str(fault.context.get(part, "")))}


def near_key(kind: type[BaseModel], keys: Keys, value: Any) -> str:
    """The key that a misspelt one probably means, or an empty string."""
    return nearest(str(keys[-1]), _neighbours(kind, keys, value))


def worded(kind: type[BaseModel], fault: Fault, document: Document) -> SettingsError:
    """One fault as one of our errors."""
    name, where = ".".join(map(str, fault.keys)) or "the file", document.where(fault.keys)
    at = f" ({where})" if where else ""
    _, info = find(kind, fault.keys, document.value)
    means = info.description or "" if info else ""
    if fault.type == OURS:
        ours = fault.context
        return SettingsError(f"{name}: {ours['what']}{at}", got=ours["got"], want=ours["want"], fix=ours["fix"])
    if fault.type == "extra_forbidden":
        return _unknown_key(fault, name, at, _neighbours(kind, fault.keys, document.value))
    if fault.type == "missing":
        return SettingsError(f"{name}: missing{at}", want=means or "a value", fix=f"set {name}")
    if fault.type in ("union_tag_invalid", "union_tag_not_found"):
        kinds = list(members(info)) if info else []
        return _unknown_kind(fault, name, at, kinds)
    if fault.type == "value_error":
        return SettingsError(f"{name}: {fault.context['error']}{at}", got=short(fault.got), fix=f"change {name}")
    want = " or ".join(dict.fromkeys(fault.wants))
    return SettingsError(f"{name}: not allowed{at}", got=short(fault.got), want=f"{want} ({means})" if means else want, fix=_fix(fault, name, want))


def _unknown_key(fault: Fault, name: str, at: str, known: Sequence[str]) -> SettingsError:
    close = nearest(str(fault.keys[-1]), known)
    fix = f"did you mean {close}?" if close else "remove it; `tunefleet schema` prints every key"
    return SettingsError(f"{name}: unknown key{at}", got=str(fault.keys[-1]), want=f"one of {', '.join(known)}" if known else "no key here", fix=fix)


def _unknown_kind(fault: Fault, name: str, at: str, kinds: Sequence[str]) -> SettingsError:
    got = str(fault.context.get("tag", ""))
    close = nearest(got, kinds)
    fix = f"did you mean {close}?" if close else f"set {name}.kind to one of these"
    return SettingsError(f"{name}.kind: {'unknown kind' if got else 'missing'}{at}", got=got or short(fault.got), want=f"one of {', '.join(kinds)}", fix=fix)


def _fix(fault: Fault, name: str, want: str) -> str:
    if fault.type == "literal_error":
        allowed = re.findall(r"'([^']*)'", want)
        close = nearest(fault.got, allowed) if isinstance(fault.got, str) else ""
        return f"did you mean {close}?" if close else f"set {name} to {want}"
    if any(want.startswith("a text") for want in fault.wants) and isinstance(fault.got, bool | int | float):
        return f'put it in quotes: "{str(fault.got).lower() if isinstance(fault.got, bool) else fault.got}"'
    return f"set {name} to {want}"


def _neighbours(kind: type[BaseModel], keys: Keys, value: Any) -> list[str]:
    """The keys that the section of the last key knows."""
    holder, _ = find(kind, keys, value)
    return list(holder.model_fields) if holder else []


def _mismatch(fault: Fault) -> bool:
    """Whether the value was of another type altogether: the voice of a union's member that was not meant."""
    return fault.type.endswith(("_type", "_parsing", "_from_float"))


def _all(details: Sequence[Any], value: Any, outer: tuple[str | int, ...] = ()) -> Iterator[Fault]:
    for detail in details:
        place, context = (*outer, *detail["loc"]), detail.get("ctx", {})
        if detail["type"] == f"{OURS}_nested":
            yield from _all(context["errors"], value, place)
        else:
            absent = detail["type"] in ("missing", "extra_forbidden")
            yield Fault(detail["type"], _real(value, place, keep_last=absent), detail["input"], (_want(str(detail["msg"])),), context)


def _want(message: str) -> str:
    """Pydantic's sentence as the end of ``want:``."""
    text = message.removeprefix("Input should be ").removeprefix("a valid ")
    for theirs, ours in (("string", "a text"), ("integer", "an integer"), ("number", "a number"), ("boolean", "true or false"), ("list", "a list")):
        if text.startswith(theirs):
            return ours
    return "keys and values: {key: value}" if text.startswith("dictionary") else text


def _real(value: Any, keys: tuple[str | int, ...], *, keep_last: bool) -> Keys:
    """The part of a pydantic location that names keys of the value (pydantic puts the names of union members between them)."""
    path: list[str | int] = []
    for i, key in enumerate(keys):
        held = key in value if isinstance(value, dict) else isinstance(value, list) and isinstance(key, int) and key < len(value)
        if held:
            value = value[key]
        elif not (keep_last and i == len(keys) - 1 and isinstance(value, dict) and isinstance(key, str)):
            continue
        path.append(key)
    return tuple(path)
