"""Rules of the KubeRay operator (1.7) that its schemas do not say, as its validation has them: what it would refuse in a RayCluster or a RayJob."""

import re

NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
LONGEST = {"RayCluster": 53, "RayJob": 47}
GATED = ("networkPolicy", "tlsOptions", "historyServerOptions")


def refusals(manifest):
    """What the operator, with its feature gates as they come, says against a manifest."""
    name, kind, spec = manifest["metadata"]["name"], manifest["kind"], manifest["spec"]
    found = [f"the name {name}"] if len(name) > LONGEST[kind] or not NAME.fullmatch(name) else []
    annotations = manifest["metadata"].get("annotations", {})
    return found + (list(_job(spec, annotations)) if kind == "RayJob" else list(_cluster(spec, annotations)))


def _job(spec, annotations):
    mode, selector = spec.get("submissionMode", "K8sJobMode"), spec.get("clusterSelector")
    shutdown = spec.get("shutdownAfterJobFinishes", False)
    if spec.get("suspend") and not shutdown:
        yield "suspend without shutdownAfterJobFinishes"
    if spec.get("suspend") and selector:
        yield "suspend with clusterSelector"
    if spec.get("ttlSecondsAfterFinished", 0) < 0:
        yield "a negative ttlSecondsAfterFinished"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not shutdown:
        yield "ttlSecondsAfterFinished without shutdownAfterJobFinishes"
    if (spec.get("deletionStrategy") or {}).get("deletionRules") and shutdown:
        yield "deletionRules with shutdownAfterJobFinishes"
    if not selector and "rayClusterSpec" not in spec:
        yield "neither rayClusterSpec nor clusterSelector"
    if spec.get("backoffLimit", 0) < 0:
        yield "a negative backoffLimit"
    if spec.get("backoffLimit", 0) > 0 and (selector or mode == "InteractiveMode"):
        yield "backoffLimit with clusterSelector or InteractiveMode"
    if mode == "SidecarMode" and ({"submitterPodTemplate", "submitterConfig"} & spec.keys() or selector):
        yield "SidecarMode with a submitter or a clusterSelector"
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(key, 1) <= 0:
            yield f"{key} that is not positive"
    if not spec.get("entrypoint", "").strip() and mode != "InteractiveMode":
        yield "no entrypoint"
    if "rayClusterSpec" in spec:
        if "upgradeStrategy" in spec["rayClusterSpec"]:
            yield "upgradeStrategy in a job's cluster"
        if spec["rayClusterSpec"].get("authOptions", {}).get("enableK8sTokenAuth"):
            yield "enableK8sTokenAuth in a job"
        yield from _cluster(spec["rayClusterSpec"], annotations)


def _cluster(spec, annotations):
    groups = [("head", spec["headGroupSpec"]), *((group["groupName"], group) for group in spec.get("workerGroupSpecs", []))]
    scaled = spec.get("enableInTreeAutoscaling", False)
    second = scaled and spec.get("autoscalerOptions", {}).get("version") == "v2"
    for name, group in groups:
        yield from _group(name, group, second)
    for name, group in groups[1:]:
        if not scaled and not {"minReplicas", "maxReplicas"} <= group.keys():
            yield f"{name}: minReplicas and maxReplicas are wanted without the autoscaler"
        if group.get("minReplicas", 0) > group.get("maxReplicas", 2**31 - 1):
            yield f"{name}: minReplicas above maxReplicas"
        if {"idleTimeoutSeconds", "priority"} & group.keys() and not second:
            yield f"{name}: idleTimeoutSeconds and priority are for autoscaler v2"
        if "priority" in group and _version(spec) < (2, 56):
            yield f"{name}: priority wants Ray 2.56"
        if group.get("suspend"):
            yield f"{name}: a group cannot be suspended"
    yield from _remembered(spec, annotations)
    if spec.get("authOptions", {}).get("mode") == "token" and _version(spec) < (2, 52):
        yield "token authentication wants rayVersion, 2.52 or later"
    yield from (f"{key} is behind a feature gate that is off" for key in GATED if key in spec)


def _group(name, group, second):
    containers = group["template"]["spec"].get("containers")
    params = group.get("rayStartParams") or {}
    if not containers:
        yield f"{name}: no container"
        return
    if {"num-cpus", "num-gpus", "memory", "resources"} & params.keys() and group.get("resources"):
        yield f"{name}: resources stand in rayStartParams too"
    if "labels" in params:
        yield f"{name}: labels belong beside rayStartParams"
    if any(len(value) > 63 or not LABEL.fullmatch(value) for value in group.get("labels", {}).values()):
        yield f"{name}: a label's value"
    if second and group["template"]["spec"].get("restartPolicy", "Never") != "Never":
        yield f"{name}: autoscaler v2 wants restartPolicy Never"
    if any(entry["name"] == "RAY_enable_autoscaler_v2" for entry in containers[0].get("env", [])):
        yield f"{name}: the autoscaler's version belongs into autoscalerOptions"


def _remembered(spec, annotations):
    """Fault tolerance of the GCS: one place says it."""
    options = spec.get("gcsFaultToleranceOptions")
    head = spec["headGroupSpec"]
    variables = {entry["name"] for entry in head["template"]["spec"]["containers"][0].get("env", [])}
    if "REDIS_USERNAME" in variables or "redis-username" in (head.get("rayStartParams") or {}):
        yield "the user of Redis belongs into gcsFaultToleranceOptions"
    if options is None:
        if "RAY_REDIS_ADDRESS" in variables and annotations.get("ray.io/ft-enabled") != "true":
            yield "RAY_REDIS_ADDRESS without gcsFaultToleranceOptions"
        return
    if {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD"} & variables or "redis-password" in (head.get("rayStartParams") or {}):
        yield "Redis stands beside gcsFaultToleranceOptions too"
    if {"ray.io/ft-enabled", "ray.io/external-storage-namespace"} & annotations.keys():
        yield "annotations beside gcsFaultToleranceOptions"
    if options.get("backend", "redis") == "rocksdb":
        yield "the backend rocksdb is behind a feature gate that is off"
    elif "storage" in options:
        yield "storage is for the backend rocksdb"


def _version(spec):
    return tuple(int(part) for part in spec.get("rayVersion", "0.0").split(".")[:2])
