"""`tunefleet submit --kubernetes`: reads the run or study file, follows an overlay of k8s/, and hands a RayJob to kubectl or prints it."""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tunefleet.cluster.errors import PreflightError, Refusal, RequestError, SettingsError, TunefleetError
from tunefleet.cluster.kubernetes import OWNER, Job, Manifest, Workers, job_manifests, job_name, owned_by
from tunefleet.tuning.arguments import Option, whole_number
from tunefleet.tuning.printing import print_json, print_text, remark

if TYPE_CHECKING:
    from tunefleet.cluster.jobs import Parcel

BASE = Path(__file__).parent.parent / "cluster" / "manifests"
"""k8s/base, as the package carries it: plain manifests, which are read without kubectl."""

OPTIONS = (
    Option("--kubernetes", "make a RayJob of it, whose cluster is its own, and hand it to kubectl"),
    Option("--overlay", "with --kubernetes: the cluster to follow, a folder of k8s/ or a file of manifests; without it k8s/base", "PLACE", default="base"),
    Option("--namespace", "with --kubernetes: the namespace, instead of the overlay's", metavar="NAME", default=""),
    Option("--image", "with --kubernetes: the image of every pod, instead of the overlay's", metavar="IMAGE", default=""),
    Option("--retries", "with --kubernetes: new clusters after a failure; each goes on from the newest checkpoint", "N", type=whole_number(0), default=3),
    Option("--dry-run", "with --kubernetes: print the manifests, apply nothing"),
)
"""What the verb takes for Kubernetes."""
FORBIDDEN = {
    "--overwrite": "another output: a job that may be tried again goes on",
    "--address": "the context of kubectl, which says where",
    "--follow": "`kubectl logs -f`, as what is said at the end has it",
    "--spot-head": "an overlay, which says where heads live",
}
"""What the verb takes only for a cluster that runs, and what is used instead."""


def submit(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Render the job; apply it, or print it with --dry-run. Raises RequestError for what cannot be a job, TunefleetError where kubectl fails."""
    Refusal.raise_if(unfit_options(options))
    from tunefleet.tuning.submission import parcel_of

    followed = overlay(options.overlay)
    parcel = parcel_of(
        options.subject,
        settings,
        here=False,
        shared=[*(options.shared or ()), *shared_folders(followed)],
        modules=options.module or (),
        trust=options.trust_code,
    )
    job = job_of(parcel, secrets.token_hex(3), namespace=options.namespace, image=options.image, retries=options.retries)
    manifests = job_manifests(followed, job)
    if options.dry_run:
        print_text(yaml.safe_dump_all(manifests, sort_keys=False, allow_unicode=True, width=1000).rstrip())
        return 0
    apply(manifests)
    namespace = manifests[0]["metadata"].get("namespace", "default")
    if options.json:
        print_json({"rayjob": job.name, "namespace": namespace})
    else:
        print_text(job.name)
    for text in afterwards(job.name, namespace, parcel.output):
        remark(text)
    return 0


def afterwards(name: str, namespace: str, output: str) -> list[str]:
    """What follows a RayJob, and what ends it: kubectl, since the job is Kubernetes' own. A run that was asked to stop counts as failed there: no new try."""
    from tunefleet.cluster.storage import is_remote

    kubectl = f"kubectl -n {namespace}"
    head = f"$({kubectl} get pod -l {OWNER}={name},ray.io/node-type=head -o name)"
    stop = f"tunefleet stop {output}" if is_remote(output) else f'{kubectl} exec "{head}" -- tunefleet stop {output}'
    return [
        f"how it stands: {kubectl} get rayjob {name}; its words: {kubectl} logs -f job/{name}",
        f"""stop, a checkpoint first: {kubectl} patch rayjob {name} --type merge -p '{{"spec":{{"backoffLimit":0}}}}' && {stop}""",
        f"remove, with its cluster: {kubectl} delete rayjob {name}; what its output holds stays, and submitting again goes on from there",
    ]


def unfit_options(options: argparse.Namespace) -> list[RequestError]:
    """Options that would be ignored: those of a RayJob without --kubernetes, and those of a running cluster with it."""
    given = vars(options)
    if not options.kubernetes:
        named = [option.name for option in OPTIONS[1:] if given[_field(option.name)] != (option.default if option.metavar else False)]
        return [SettingsError(f"{name}: only with --kubernetes", got=name, want="--kubernetes beside it", fix="add it, or leave this out") for name in named]
    named = [name for name in FORBIDDEN if given[_field(name)]]
    return [SettingsError(f"{name}: not with --kubernetes", got=name, want=FORBIDDEN[name], fix="leave it out") for name in named]


def _field(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def job_of(parcel: Parcel, suffix: str, *, namespace: str = "", image: str = "", retries: int = 3) -> Job:
    """The job that does what a parcel says, with pods for all the workers that it holds at once."""
    try:
        files = {name: content.decode("utf-8") for name, content in parcel.files.items()}
    except UnicodeDecodeError as error:
        raise SettingsError("a module cannot be shipped", got=f"a file in another encoding ({error})", want="UTF-8", fix="save it as UTF-8") from error
    plain = yaml.safe_load(files[parcel.words[1]])
    study = parcel.words[0] == "tune"
    scaling = (plain["run"] if study else plain)["scaling"]
    abreast = plain["budget"]["concurrent_trials"] if study else 1
    if abreast is None:
        fix = "set budget.concurrent_trials"
        raise SettingsError("budget.concurrent_trials: is not set", got="null", want="trials at a time, for which the job's cluster is made", fix=fix)
    workers = Workers(scaling["num_workers"] * abreast, scaling["cpus_per_worker"], scaling["use_gpu"])
    name = job_name(parcel.title, suffix)
    return Job(name, ("tunefleet", *parcel.words), files, namespace=namespace, image=image, workers=workers, retries=retries, grace_s=parcel.grace_s)


def shared_folders(manifests: Sequence[Manifest]) -> list[str]:
    """Where the head of an overlay's cluster mounts claims, which its workers mount at the same place."""
    pods = [manifest["spec"]["headGroupSpec"]["template"]["spec"] for manifest in manifests if manifest["kind"] == "RayCluster"]
    claims = {volume["name"] for pod in pods for volume in pod["volumes"] if "persistentVolumeClaim" in volume}
    return [mount["mountPath"] for pod in pods for mount in pod["containers"][0]["volumeMounts"] if mount["name"] in claims]


def overlay(place: str) -> list[Manifest]:
    """The manifests of an overlay. Raises SettingsError for a place that is neither, PreflightError where a folder wants a kubectl that is not there."""
    if place == "base":
        return _base()
    path = Path(place)
    if path.is_file():
        return _documents(path.read_text(encoding="utf-8"), place)
    if not (path / "kustomization.yaml").is_file():
        want = "a folder with a kustomization.yaml, or a file of manifests"
        raise SettingsError("--overlay: none is there", got=place, want=want, fix="check the path")
    return _documents(_kubectl("kustomize", str(path)), place)


def _base() -> list[Manifest]:
    """The package's own manifests; all that kustomize would do to them is to set the namespace."""
    namespace = yaml.safe_load((BASE / "kustomization.yaml").read_text(encoding="utf-8"))["namespace"]
    files = sorted(path for path in BASE.glob("*.yaml") if path.name != "kustomization.yaml")
    documents = [document for path in files for document in _documents(path.read_text(encoding="utf-8"), path.name)]
    return [{**document, "metadata": {**document["metadata"], "namespace": namespace}} for document in documents]


def apply(manifests: Sequence[Manifest]) -> None:
    """Hand the job over, and then what belongs to it, so that Kubernetes removes it all with the job."""
    made = json.loads(_kubectl("create", "-f", "-", "-o", "json", given=yaml.safe_dump(manifests[0])))
    owned = [owned_by(manifest, made, made["metadata"]["uid"]) for manifest in manifests[1:]]
    _kubectl("create", "-f", "-", given=yaml.safe_dump_all(owned))


def _kubectl(*arguments: str, given: str | None = None) -> str:
    program = shutil.which("kubectl")
    if program is None:
        fix = "install it; or print the job with --dry-run (an overlay as a file: `kubectl kustomize` writes it) and apply it elsewhere"
        raise PreflightError("kubectl is missing", got="no kubectl in PATH", want="kubectl, with the context of your cluster", fix=fix)
    done = subprocess.run([program, *arguments], input=given, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise TunefleetError(
            f"kubectl {arguments[0]} failed", got=said[-1] if said else f"exit code {done.returncode}", want="0", fix="see kubectl's own words"
        )
    return done.stdout


def _documents(text: str, place: str) -> list[Manifest]:
    try:
        found = [document for document in yaml.safe_load_all(text) if document]
    except yaml.YAMLError as error:
        first = str(error).partition("\n")[0]
        raise SettingsError("--overlay: this is not YAML", got=f"{place}: {first}", want="manifests", fix="mend the file") from error
    if not all(isinstance(document, dict) and {"kind", "metadata"} <= document.keys() for document in found):
        raise SettingsError("--overlay: these are no manifests", got=place, want="documents with kind and metadata", fix="name an overlay of k8s/")
    return found
