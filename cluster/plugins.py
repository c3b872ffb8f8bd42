"""Plug-in folders: a package is a registry, a module in it is an entry, and its name is the kind.

``objective: {kind: dpo}`` is ``tunefleet.trainers.objectives.dpo``; a dotted kind (``mylab.kto``) is imported as it stands. A plug-in module
holds one public class with a nested ``Config`` (its settings, with ``kind``). Names are listed without importing anything.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from tunefleet.cluster.errors import SettingsError, nearest
from tunefleet.cluster.fields import Family, Sections
from tunefleet.cluster.settings import Settings, nested, refusal


@cache
def kinds(package: str) -> tuple[str, ...]:
    """Names of the plug-ins in a package, sorted, without importing them."""
    spec = find_spec(package)
    locations = spec.submodule_search_locations if spec else None
    return tuple(sorted(m.name for m in pkgutil.iter_modules(locations or []) if not m.name.startswith("_")))


def module(package: str, kind: str) -> ModuleType:
    """Import the module of a kind.

    Raises SettingsError, with the nearest name, for a kind that does not exist.
    """
    subject = package.rpartition(".")[2]
    if not all(part.isidentifier() for part in kind.split(".")):
        raise SettingsError(
            f"no name of a kind in {subject}", got=repr(kind), want=f"one of {', '.join(kinds(package))}, or a.dotted.path", fix="pick one of these"
        )
    if "." not in kind and kind not in kinds(package):
        close = nearest(kind, kinds(package))
        raise SettingsError(
            f"unknown kind in {subject}",
            got=kind,
            want=f"one of {', '.join(kinds(package))}, or a dotted path to a module of your own",
            fix=f"did you mean {close}?" if close else "pick one of these",
        )
    try:
        return importlib.import_module(kind if "." in kind else f"{package}.{kind}")
    except Exception as error:  # importing somebody's module may raise anything; whatever it is, the request cannot be carried out
        raise SettingsError(
            f"the plug-in module of {subject} cannot be imported",
            got=f"{kind} ({type(error).__name__}: {error})",
            want="a module on the Python path of the driver and of every worker",
            fix="install it, or put its folder on PYTHONPATH" if isinstance(error, ModuleNotFoundError) else "mend the module",
        ) from error


def plugin(package: str, kind: str) -> type[Any]:
    """The plug-in class of a kind: the one class of its module with a nested ``Config``."""
    home = module(package, kind)
    found = [item for item in vars(home).values() if inspect.isclass(item) and item.__module__ == home.__name__ and _has_config(item)]
    if len(found) != 1:
        raise SettingsError(
            f"the module {home.__name__} is no plug-in",
            got=f"{len(found)} classes with a nested Config",
            want="exactly one class with a nested class Config(Settings)",
            fix="see CONTRIBUTING.md",
        )
    return found[0]


def config(package: str, kind: str) -> type[Settings]:
    """The settings class of a kind."""
    settings: type[Settings] = plugin(package, kind).Config
    return settings


@dataclass(frozen=True)
class Plugin(Family):
    """Annotation of a settings field that holds the ``Config`` of a plug-in: ``objective: Annotated[Settings, Plugin(OBJECTIVES)]``.

    A bare name stands for ``{kind: name}``. The JSON schema lists the kinds of the folder; a dotted kind cannot be listed.
    """

    package: str

    def member(self, kind: str) -> type[Settings] | None:
        """The settings class of one kind, also a dotted one."""
        try:
            return config(self.package, kind)
        except SettingsError:
            return None

    def members(self) -> Sections:
        """The settings classes of the kinds in the folder; imports them."""
        return {kind: config(self.package, kind) for kind in kinds(self.package)}

    def read(self, value: Any) -> Settings:
        """Turn ``{kind: ..., ...}`` into the plug-in's own settings; raises what pydantic collects."""
        if isinstance(value, Settings):
            return value
        entry = {"kind": value} if isinstance(value, str) else value
        if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str):
            names = ", ".join(kinds(self.package))
            raise refusal(SettingsError("a plug-in is named by its kind", got=repr(value), want="{kind: NAME, ...}", fix=f"kinds here: {names}"))
        try:
            return config(self.package, entry["kind"]).model_validate(entry)
        except SettingsError as error:
            raise refusal(error) from error
        except ValidationError as error:
            raise nested(error) from error

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        dump = core_schema.plain_serializer_function_ser_schema(lambda value, info: value.model_dump(mode=info.mode), info_arg=True)
        return core_schema.no_info_plain_validator_function(self.read, serialization=dump)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        own = [{**section.model_json_schema(), "required": ["kind"]} for section in self.members().values()]
        return {"anyOf": [*own, {"type": "string", "enum": list(kinds(self.package))}, _DOTTED]}


_DOTTED = {
    "type": "object",
    "description": "a plug-in of your own, named by its dotted module",
    "properties": {"kind": {"type": "string", "pattern": r"^\w+(\.\w+)+$"}},
    "required": ["kind"],
}


def _has_config(item: type[Any]) -> bool:
    inner = vars(item).get("Config")
    return inspect.isclass(inner) and issubclass(inner, Settings)
