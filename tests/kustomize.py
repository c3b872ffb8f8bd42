"""The part of kustomize that k8s/ uses (resources, components, JSON patches, namespace, labels, images): overlays are checked without kubectl too."""

import copy
from pathlib import Path

import yaml
from manifests import documents

KNOWN = {"apiVersion", "kind", "namespace", "resources", "components", "patches", "labels", "images"}
CLUSTER_WIDE = {"Namespace"}


def render(folder: Path):
    """The documents of a kustomization."""
    return _accumulate(folder, [])


def _accumulate(folder, found):
    settings = documents(folder / "kustomization.yaml")[0]
    assert settings.keys() <= KNOWN, f"{folder} uses what this renderer does not know: {settings.keys() - KNOWN}"
    for name in settings.get("resources", []):
        place = folder / name
        found = [*found, *(_accumulate(place, []) if place.is_dir() else documents(place))]
    for name in settings.get("components", []):
        found = _accumulate(folder / name, found)
    found = copy.deepcopy(found)
    for patch in settings.get("patches", []):
        operations = yaml.safe_load(patch["patch"]) if "patch" in patch else documents(folder / patch["path"])[0]
        targets = [d for d in found if d["kind"] == patch["target"]["kind"] and d["metadata"]["name"] == patch["target"].get("name", d["metadata"]["name"])]
        assert targets, f"{folder}: no target of {patch['target']}"
        for target in targets:
            for operation in operations:
                _apply(target, operation)
    for document in found:
        if "namespace" in settings and document["kind"] not in CLUSTER_WIDE:
            document["metadata"]["namespace"] = settings["namespace"]
        for label in settings.get("labels", []):
            document["metadata"].setdefault("labels", {}).update(label["pairs"])
        for image in settings.get("images", []):
            _images(document, image)
    return found


def _apply(target, operation):
    """One operation of a JSON patch (RFC 6902). A path that leads nowhere raises, as kustomize does."""
    kind = operation["op"]
    value = copy.deepcopy(_at(target, _way(operation["from"])) if kind == "copy" else operation.get("value"))
    *way, last = _way(operation["path"])
    parent = _at(target, way)
    if isinstance(parent, list):
        index = len(parent) if last == "-" else int(last)
        assert 0 <= index < len(parent) + (kind in ("add", "copy")), operation
        if kind in ("add", "copy"):
            parent.insert(index, value)
        elif kind == "replace":
            parent[index] = value
        else:
            del parent[index]
    elif kind == "remove":
        del parent[last]
    else:
        assert kind != "replace" or last in parent, operation
        parent[last] = value


def _way(path):
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def _at(value, way):
    for part in way:
        value = value[int(part) if isinstance(value, list) else part]
    return value


def _images(value, image):
    if isinstance(value, dict):
        if isinstance(value.get("image"), str) and value["image"].partition(":")[0] == image["name"]:
            name, _, tag = value["image"].partition(":")
            value["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"
        for part in value.values():
            _images(part, image)
    elif isinstance(value, list):
        for part in value:
            _images(part, image)
