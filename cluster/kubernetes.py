"""A run as a RayJob of the KubeRay operator: the cluster of an overlay (k8s/), made anew for one run. Pure: manifests go in, manifests come out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunefleet.cluster.errors import Refusal, RequestError, SettingsError
from tunefleet.cluster.grace import stop_wait
from tunefleet.cluster.masking import masked

Manifest = dict[str, Any]

MOUNT = "/etc/tunefleet"
"""Where pods find the files of the job."""
OWNER = "tunefleet/cluster"
"""The label that says which cluster a pod belongs to, and which cluster a policy is for."""
QUEUE = "tunefleet/queue"
"""The annotation of an overlay's RayCluster that names the queue of Kueue that its jobs wait in."""
LONGEST_NAME = 47  # the operator adds six characters for the cluster, and Kubernetes ten for the names of its services: 63 in all
MOST_BYTES = 900_000  # of all files: a ConfigMap holds 1 MiB
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_WORD = re.compile(r"[\w./:=,@+-]+")
_FILE = re.compile(r"[-._a-zA-Z0-9]+(/[-._a-zA-Z0-9]+)*")
_GPU = "nvidia.com/gpu"


@dataclass(frozen=True)
class Workers:
    """What a run holds at once: ranks, CPU cores a rank, and whether each holds a GPU."""

    number: int
    cpus: int = 1
    gpu: bool = False


@dataclass(frozen=True)
class Job:
    """One run as a job. ``files``: name -> text, at ``MOUNT``, where the command starts; ``command``: words of letters, digits and ``./:=,@+-``.

    Where there are several every pod has them; Python files among them are modules that a run names, and found on the Python path.
    ``image`` and ``namespace`` replace those of the overlay where they are given; ``workers`` sets how many pods start with the cluster.
    ``grace_s``: how long it may save when Ray is asked to stop it.
    """

    name: str
    command: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    namespace: str = ""
    image: str = ""
    workers: Workers | None = None
    retries: int = 3
    kept_s: int = 3600
    deadline_s: int | None = None
    grace_s: float = 120.0


def job_name(title: str, suffix: str) -> str:
    """A name that Kubernetes takes for a job: the title's letters and digits, then the suffix."""
    plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    plain = plain if plain[:1].isalpha() else f"run-{plain}".strip("-")
    return f"{plain[: LONGEST_NAME - len(suffix) - 1].rstrip('-')}-{suffix}"


def job_manifests(overlay: Iterable[Manifest], job: Job) -> list[Manifest]:
    """The RayJob, the ConfigMap of its files, and the overlay's rules for one cluster (NetworkPolicy, PodDisruptionBudget) under the job's name.

    What the overlay has for the whole namespace (accounts, the denial by default, Redis, queues) must stand already and is not repeated. GCS fault
    tolerance is left out: the driver lives on the head and ends with it, so a lost head means a new cluster, and the run goes on from its newest checkpoint.

    Raises:
        RequestError: one problem, or a Refusal with all of them: no cluster or several in the overlay, a name or a file that Kubernetes would refuse,
            a secret in a file, more workers than a group may have.
    """
    documents = [_parted(document) for document in overlay]
    clusters = [document for document in documents if document.get("kind") == "RayCluster"]
    if len(clusters) != 1:
        fix = "name an overlay of k8s/, or what `kubectl kustomize` makes of one"
        raise SettingsError("the overlay must have one RayCluster to follow", got=str(len(clusters)), want="1", fix=fix)
    cluster = clusters[0]
    Refusal.raise_if([*_job_problems(job), *_group_problems(cluster["spec"]["workerGroupSpecs"], job.workers)])
    old = cluster["metadata"]["name"]
    namespace = job.namespace or cluster["metadata"].get("namespace", "")
    rules = [_renamed(document, old, job.name) for document in documents if document is not cluster and _owner(document) == old]
    files: Manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(job.name, namespace),
        "data": {_key(name): text for name, text in sorted(job.files.items())},
    }
    files["immutable"] = True
    manifests = [_ray_job(cluster, job, namespace), files, *rules]
    for manifest in manifests:
        if namespace:
            manifest["metadata"]["namespace"] = namespace
    return manifests


def owned_by(manifest: Manifest, job: Manifest, uid: str) -> Manifest:
    """A manifest that Kubernetes removes together with the job whose uid this is."""
    reference = {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": job["metadata"]["name"], "uid": uid}
    return {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": [reference]}}


def _ray_job(cluster: Manifest, job: Job, namespace: str) -> Manifest:
    """The RayJob: one cluster a run, gone when the run is over; every new try is a new cluster that goes on from the newest checkpoint."""
    spec: Manifest = {key: value for key, value in cluster["spec"].items() if key not in ("gcsFaultToleranceOptions", "suspend")}
    head = spec["headGroupSpec"]
    head["rayStartParams"] = {**head["rayStartParams"], "dashboard-host": "0.0.0.0"}  # noqa: S104 - the operator asks it by token; the policies keep others out
    pods = [head["template"], *(group["template"] for group in spec["workerGroupSpecs"])]
    for pod in pods:
        pod["metadata"]["labels"][OWNER] = job.name
        if job.image:
            for container in pod["spec"]["containers"]:
                container["image"] = job.image
    choice = _chosen(spec["workerGroupSpecs"], job.workers) if job.workers else None
    if choice:
        choice.group["replicas"] = choice.pods  # the operator hands the command over once they all run
    submitter = _submitter(head["template"])
    head["template"]["spec"]["containers"][0]["env"] += [{"name": name, "value": value} for name, value in stop_wait(job.grace_s).items()]
    modules = any(name.endswith(".py") for name in job.files)
    for pod in pods if len(job.files) > 1 else pods[:1]:  # the drivers of a study's trials live on workers, and read what its run stands on
        _mount_files(pod["spec"], job, modules=modules)
    queue = cluster["metadata"].get("annotations", {}).get(QUEUE)
    metadata = _metadata(job.name, namespace)
    if queue:
        metadata["labels"]["kueue.x-k8s.io/queue-name"] = queue
    return {
        "apiVersion": cluster["apiVersion"],
        "kind": "RayJob",
        "metadata": metadata,
        "spec": {
            "entrypoint": " ".join(("env", "-C", MOUNT, *job.command)),
            "submissionMode": "K8sJobMode",
            "submitterPodTemplate": submitter,
            "submitterConfig": {"backoffLimit": 3},
            "suspend": bool(queue),  # Kueue lets it go
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": job.kept_s,
            "backoffLimit": job.retries,
            **({"activeDeadlineSeconds": job.deadline_s} if job.deadline_s is not None else {}),
            "rayClusterSpec": spec,
        },
    }


def _submitter(head: Manifest) -> Manifest:
    """The pod that hands the command to the head and follows its log: the head's image and restrictions, and no right but to reach the head."""
    container = head["spec"]["containers"][0]
    size = {"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "1Gi"}
    return {
        "metadata": {"labels": dict(head["metadata"]["labels"])},
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": "tunefleet-worker",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": _parted(head["spec"]["securityContext"]),
            "containers": [
                {
                    "name": "submitter",
                    "image": container["image"],
                    "securityContext": _parted(container["securityContext"]),
                    "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 - a folder of this pod alone
                    "resources": {"requests": dict(size), "limits": dict(size)},
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
                }
            ],
            "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "500Mi"}}],
        },
    }


def _mount_files(pod: Manifest, job: Job, *, modules: bool) -> None:
    items = [{"key": _key(name), "path": name} for name in sorted(job.files)]
    pod["volumes"].append({"name": "job", "configMap": {"name": job.name, "items": items}})
    container = pod["containers"][0]
    container["volumeMounts"].append({"name": "job", "mountPath": MOUNT, "readOnly": True})
    if modules:
        container["env"].append({"name": "PYTHONPATH", "value": MOUNT})


def _key(name: str) -> str:
    """A file's name as a key of a ConfigMap, which takes no slash."""
    return name.replace("/", "..")


def _metadata(name: str, namespace: str) -> Manifest:
    labels = {"app.kubernetes.io/name": "tunefleet", OWNER: name}
    return {"name": name, **({"namespace": namespace} if namespace else {}), "labels": labels}


def _parted(value: Any) -> Any:
    """A copy in which nothing stands twice: what YAML's aliases share would change in both places."""
    if isinstance(value, dict):
        return {key: _parted(item) for key, item in value.items()}
    return [_parted(item) for item in value] if isinstance(value, list) else value


def _owner(document: Manifest) -> str | None:
    owner: str | None = document["metadata"].get("labels", {}).get(OWNER)
    return owner


def _renamed(value: Any, old: str, new: str) -> Any:
    """A rule of the old cluster as one of the new: in its name, and wherever it says which cluster it is for."""

    def label(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: new if key == OWNER and item == old else label(item) for key, item in part.items()}
        return [label(item) for item in part] if isinstance(part, list) else part

    renamed: Manifest = label(value)
    name = renamed["metadata"]["name"]
    renamed["metadata"]["name"] = f"{new}-{name.removeprefix(f'{old}-')}"
    return renamed


@dataclass(frozen=True)
class _Choice:
    """The worker group that a run starts with, and how many pods of it."""

    group: Manifest
    pods: int


def _chosen(groups: Sequence[Manifest], workers: Workers) -> _Choice | None:
    """One with GPUs only where they are wanted, by priority, spot before on-demand where it is equal; None where no pod holds a worker."""
    fitting = [(group, room) for group in groups if (room := _room(group, workers)) > 0]
    if not fitting:
        return None
    group, room = max(fitting, key=lambda pair: (pair[0].get("priority", 0), pair[0].get("labels", {}).get("ray.io/market-type") == "spot"))
    return _Choice(group, math.ceil(workers.number / room))


def _room(group: Manifest, workers: Workers) -> int:
    """Workers that a pod of the group holds."""
    limits = _limits(group)
    gpus = int(limits.get(_GPU, 0))
    if bool(gpus) != workers.gpu:
        return 0
    room = int(_cores(limits["cpu"]) // workers.cpus)
    return min(room, gpus) if workers.gpu else room


def _cores(amount: str | int) -> float:
    """CPU cores of an amount as Kubernetes writes it: 2, or 500m."""
    text = str(amount)
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def _group_problems(groups: Sequence[Manifest], workers: Workers | None) -> Iterable[RequestError]:
    """Why no group of the overlay can hold the workers."""
    if workers is None:
        return
    choice = _chosen(groups, workers)
    if choice is None:
        got = ", ".join(f"{group['groupName']}: {_size(group)}" for group in groups)
        want = f"{workers.cpus} CPUs{' and a GPU' if workers.gpu else ''} a worker"
        yield SettingsError("scaling: no pod of the overlay holds a worker", got=got, want=want, fix="set scaling to fit, or name another overlay")
    elif choice.pods > choice.group.get("maxReplicas", 1):
        got = f"{workers.number} workers, so {choice.pods} pods of {choice.group['groupName']}"
        want = f"maxReplicas: {choice.group['maxReplicas']}"
        yield SettingsError("scaling.num_workers: more than the overlay allows", got=got, want=want, fix="raise it, or ask for less")


def _limits(group: Manifest) -> Mapping[str, Any]:
    limits: Mapping[str, Any] = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return limits


def _size(group: Manifest) -> str:
    limits = _limits(group)
    return f"{limits['cpu']} CPUs" + (f" and {limits[_GPU]} GPUs" if _GPU in limits else "")


def _job_problems(job: Job) -> Iterable[RequestError]:
    if len(job.name) > LONGEST_NAME or not _NAME.fullmatch(job.name):
        want = f"small letters, digits and hyphens, a letter first, at most {LONGEST_NAME}"
        yield SettingsError("the job's name is none that Kubernetes takes", got=job.name, want=want, fix="set name")
    for word in job.command:
        if not _WORD.fullmatch(word):  # two shells and Ray's own command line read it on its way, each with other rules of quoting
            yield SettingsError(
                "a word of the command would not arrive as it is", got=word, want="letters, digits and ./:=,@+-", fix="write it into the run file"
            )
    for name, text in job.files.items():
        if not _FILE.fullmatch(name) or len(name) > 200 or ".." in name:
            yield SettingsError("a file's name is none that a ConfigMap takes", got=name, want="letters, digits, hyphens, dots", fix="rename the file")
        if masked(text) != text:
            shown = next(line for line in masked(text).splitlines() if line not in text.splitlines()).strip()
            fix = "take it out; pods get secrets from the Secret tunefleet-environment"
            yield SettingsError(f"{name} holds what looks like a secret", got=shown, want="a file that everybody who sees the job may read", fix=fix)
    size = sum(len(text.encode()) for text in job.files.values())
    if size > MOST_BYTES:
        yield SettingsError(
            "the job's files are too large", got=f"{size:,} bytes", want=f"at most {MOST_BYTES:,}", fix="put them where the run can read them: s3://"
        )
