"""Kubernetes manifests in tests: reading them, and what a strict reading of the operator's schemas finds wrong in them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

PROJECT = Path(__file__).parents[1]
KUBERNETES = "1.34"
SCHEMAS = PROJECT.parent / "shared" / "kuberay"
"""KubeRay's custom resource definitions; they lie beside the project, and not in it."""


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file, empty ones left out, and what aliases share in it parted."""
    return [json.loads(json.dumps(document)) for document in yaml.load_all(path.read_text(), yaml.CSafeLoader) if document]


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


_AMOUNT = {"type": ["string", "integer"]}
_TEXT = {"type": "string"}
_LABELS = {"type": "object", "additionalProperties": _TEXT}


def _object(required: str = "", **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required.split(), "properties": properties}


def _list(item: Any) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


_RESOURCE = _object("name nominalQuota", name=_TEXT, nominalQuota=_AMOUNT, borrowingLimit=_AMOUNT, lendingLimit=_AMOUNT)
_FLAVOR = _object("name resources", name=_TEXT, resources=_list(_RESOURCE))
KUEUE = {
    "ResourceFlavor": _object(nodeLabels=_LABELS, nodeTaints=_list({"type": "object"}), tolerations=_list({"type": "object"}), topologyName=_TEXT),
    "LocalQueue": _object("clusterQueue", clusterQueue=_TEXT, stopPolicy={"enum": ["None", "Hold", "HoldAndDrain"]}),
    "ClusterQueue": _object(
        "resourceGroups",
        cohort=_TEXT,
        namespaceSelector=_object(matchLabels=_LABELS, matchExpressions=_list({"type": "object"})),
        queueingStrategy={"enum": ["StrictFIFO", "BestEffortFIFO"]},
        preemption=_object(
            withinClusterQueue={"enum": ["Never", "LowerPriority", "LowerOrNewerEqualPriority"]},
            reclaimWithinCohort={"enum": ["Never", "LowerPriority", "Any"]},
            borrowWithinCohort={"type": "object"},
        ),
        resourceGroups=_list(_object("coveredResources flavors", coveredResources=_list(_TEXT), flavors=_list(_FLAVOR))),
        stopPolicy={"enum": ["None", "Hold", "HoldAndDrain"]},
    ),
}
"""The specs of Kueue's kinds (kueue.x-k8s.io/v1beta1), as far as we use them and their neighbours; its own schemas are not at hand."""


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
    """What is wrong in a manifest, each with its place: by the schemas of the operator, of Kueue, or of Kubernetes. A kind without one is a problem."""
    group, kind = manifest["apiVersion"].partition("/")[0], manifest["kind"]
    if group == "ray.io":
        validator = _validators().get((manifest["apiVersion"], kind))
    elif group == "kueue.x-k8s.io":
        validator = jsonschema.Draft202012Validator(_object("apiVersion kind metadata", apiVersion={}, kind={}, metadata={"type": "object"}, spec=KUEUE[kind]))
    else:
        return _core_problems(manifest)
    if validator is None:
        return [f"no schema for {manifest['apiVersion']} {kind}"]
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


def _core_problems(manifest: dict[str, Any]) -> list[str]:
    import kubernetes_validate

    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{list(error.path)}: {error.message}"]
    return []
