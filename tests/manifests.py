"""Kubernetes manifests in tests: reading them, and what a strict reading of the operator's schemas finds wrong in them."""

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

PROJECT = Path(__file__).parents[1]
SCHEMAS = PROJECT.parent / "shared" / "kuberay"
"""KubeRay's custom resource definitions; they lie beside the project, and not in it."""


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file, empty ones left out."""
    return [document for document in yaml.load_all(path.read_text(), yaml.CSafeLoader) if document]


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of Kubernetes as a JSON schema that takes no unknown name, and asks for nothing that the API server fills in."""
    out = {key: value for key, value in schema.items() if key not in ("properties", "required", "items", "additionalProperties")}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"], **{key: value for key, value in out.items() if key == "pattern"}}
    if isinstance(schema.get("additionalProperties"), dict):
        out["additionalProperties"] = strict(schema["additionalProperties"])
    if "items" in schema:
        out["items"] = strict(schema["items"])
    if "properties" in schema:
        properties = schema["properties"]
        out["properties"] = {name: {"type": "object"} if name == "metadata" else strict(part) for name, part in properties.items()}
        out["required"] = [name for name in schema.get("required", []) if "default" not in properties.get(name, {})]
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            out["additionalProperties"] = False
    return out


@cache
def _validators() -> dict[tuple[str, str], jsonschema.Draft202012Validator]:
    """A validator for each kind and served version of the schemas; read once, since that takes a second."""
    found = {}
    for path in sorted(SCHEMAS.glob("ray.io_*.yaml")):
        for definition in documents(path):
            for version in definition["spec"]["versions"]:
                if version["served"]:
                    key = (f"{definition['spec']['group']}/{version['name']}", definition["spec"]["names"]["kind"])
                    found[key] = jsonschema.Draft202012Validator(strict(version["schema"]["openAPIV3Schema"]))
    return found


def problems(manifest: dict[str, Any]) -> list[str]:
    """What is wrong in a manifest of one of the operator's kinds, each with its place. A kind or version without a schema is a problem."""
    key = (manifest["apiVersion"], manifest["kind"])
    if key not in _validators():
        return [f"no schema for {key}"]
    return [f"{error.json_path}: {error.message}" for error in _validators()[key].iter_errors(manifest)]
