"""What clouds take as a node: botocore's own model of EC2's RunInstances, and Google's own description of an instance. No cloud is asked."""

import importlib.resources
import json
from functools import cache

import botocore.session
from botocore.validate import ParamValidator

FILLED_IN_BY_RAY = {"MinCount": 1, "MaxCount": 1}
TAKEN_BY_RAY = {"sourceInstanceTemplate"}  # its provider takes it out before it asks Google
SCALARS = {"string": str, "boolean": bool, "integer": int, "number": (int, float), "any": object}


def ec2_problems(node_config):
    """Unknown names, wrong types, and values that are none of the choices."""
    shape = _run_instances()
    report = ParamValidator().validate(node_config | FILLED_IN_BY_RAY, shape)
    return ([report.generate_report()] if report.has_errors() else []) + list(_unknown_choices(node_config, shape, "node_config"))


@cache
def _run_instances():
    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


def _unknown_choices(value, shape, place):
    if shape.type_name == "structure":
        for name in value.keys() & shape.members.keys():
            yield from _unknown_choices(value[name], shape.members[name], f"{place}.{name}")
    elif shape.type_name == "list":
        for index, item in enumerate(value):
            yield from _unknown_choices(item, shape.member, f"{place}[{index}]")
    elif shape.type_name == "string" and shape.enum and value not in shape.enum:
        yield f"{place}: {value} is none of EC2's choices"


def gce_problems(node_config):
    """The same for Google's instances; fields that Google itself fills in are no settings, and Ray wants a machineType."""
    given = {key: value for key, value in node_config.items() if key not in TAKEN_BY_RAY}
    missing = [] if "machineType" in node_config or "sourceInstanceTemplate" in node_config else ["node_config: no machineType"]
    return missing + list(_gce(given, {"$ref": "Instance"}, "node_config"))


@cache
def _compute():
    return json.loads((importlib.resources.files("googleapiclient.discovery_cache") / "documents" / "compute.v1.json").read_text())["schemas"]


def _gce(value, schema, place):
    schema = _compute()[schema["$ref"]] if "$ref" in schema else schema
    kind = schema["type"]
    if kind == "object":
        if not isinstance(value, dict):
            yield f"{place}: not a mapping"
            return
        for name, item in value.items():
            part = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if part is None or "[Output Only]" in part.get("description", "")[:20] or part.get("readOnly"):
                yield f"{place}.{name}: no such setting"
            else:
                yield from _gce(item, part, f"{place}.{name}")
    elif kind == "array":
        if not isinstance(value, list):
            yield f"{place}: not a list"
            return
        for index, item in enumerate(value):
            yield from _gce(item, schema["items"], f"{place}[{index}]")
    elif schema.get("format") in ("int64", "uint64"):
        if not str(value).isdecimal():
            yield f"{place}: {value!r} is no number"
    elif not isinstance(value, SCALARS[kind]) or (kind == "integer" and isinstance(value, bool)):
        yield f"{place}: {value!r} is no {kind}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{place}: {value} is none of Google's choices"
