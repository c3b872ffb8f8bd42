"""`tunefleet submit --kubernetes`: reads the run or study file, follows an overlay of k8s/, and hands a RayJob to kubectl or prints it."""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tunefleet.cluster.errors import PreflightError, Refusal, SettingsError, TunefleetError
from tunefleet.cluster.kubernetes import MOUNT, Job, Manifest, Workers, job_manifests, job_name, owned_by
from tunefleet.cluster.yamlfile import Document, read
from tunefleet.tuning.arguments import Option, whole_number
from tunefleet.tuning.printing import print_json, print_text, remark

BASE = Path(__file__).parent.parent / "cluster" / "manifests"
"""k8s/base, as the package carries it: plain manifests, which are read without kubectl."""

OPTIONS = (
    Option("--kubernetes", "make a RayJob of it, with a cluster of its own as an overlay of k8s/ has it: a folder, or a file of manifests", "OVERLAY", "base"),
    Option("--namespace", "with --kubernetes: the namespace, instead of the overlay's", metavar="NAME", default=""),
    Option("--image", "with --kubernetes: the image of every pod, instead of the overlay's", metavar="IMAGE", default=""),
    Option("--retries", "with --kubernetes: new clusters after a failure; each goes on from the newest checkpoint", "N", type=whole_number(0), default=3),
    Option("--dry-run", "with --kubernetes: print the manifests, apply nothing"),
)
"""What the verb takes for Kubernetes."""


def submit(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Render the job; apply it, or print it with --dry-run. Raises RequestError for what cannot be a job, TunefleetError where kubectl fails."""
    job = job_of(options.subject, settings, suffix=secrets.token_hex(3), namespace=options.namespace, image=options.image, retries=options.retries)
    manifests = job_manifests(overlay(options.kubernetes), job)
    if options.dry_run:
        print_text(yaml.safe_dump_all(manifests, sort_keys=False, allow_unicode=True).rstrip())
        return 0
    apply(manifests)
    namespace = manifests[0]["metadata"].get("namespace", "default")
    if options.json:
        print_json({"rayjob": job.name, "namespace": namespace})
    else:
        print_text(job.name)
    remark(f"kubectl -n {namespace} get rayjob {job.name}; kubectl -n {namespace} logs -f job/{job.name}")
    return 0


def job_of(subject: str, settings: Mapping[str, str], *, suffix: str, namespace: str = "", image: str = "", retries: int = 3) -> Job:
    """The job of a run file or a study file, whose settings of the command line are written into it. Raises RequestError with all that is wrong."""
    document = read(subject)
    if isinstance(document.value, dict) and "space" in document.value:
        return _study_job(document, settings, suffix=suffix, namespace=namespace, image=image, retries=retries)
    from tunefleet.trainers.run import load_run

    run = load_run(subject, settings)
    files = {"run.yaml": _text(run.model_dump(mode="json"))}
    command = ("tunefleet", "train", f"{MOUNT}/run.yaml", "--resume=auto", "--address", "auto")
    workers = Workers(run.scaling.num_workers, run.scaling.cpus_per_worker, run.scaling.use_gpu)
    return Job(job_name(run.name, suffix), command, files, namespace=namespace, image=image, workers=workers, retries=retries)


def _study_job(document: Document, settings: Mapping[str, str], **given: Any) -> Job:
    """A study carries its run in place, so that one file is the whole of it."""
    for key, text in settings.items():
        document = document.with_override(key, text)
    Refusal.raise_if(document.problems)
    study = dict(document.value)
    if isinstance(study.get("run"), str):
        beside = Path(document.name).parent / study["run"]
        study["run"] = read(beside if beside.is_file() else study["run"]).value
    name = job_name(str(study.get("name") or Path(document.name).stem), given.pop("suffix"))
    return Job(name, ("tunefleet", "tune", f"{MOUNT}/study.yaml", "--resume=auto", "--address", "auto"), {"study.yaml": _text(study)}, **given)


def overlay(place: str) -> list[Manifest]:
    """The manifests of an overlay. Raises SettingsError for a place that is neither, PreflightError where a folder wants a kubectl that is not there."""
    if place == "base":
        return _base()
    path = Path(place)
    if path.is_file():
        return _documents(path.read_text(encoding="utf-8"), place)
    if not (path / "kustomization.yaml").is_file():
        want = "a folder with a kustomization.yaml, or a file of manifests"
        raise SettingsError("--kubernetes: no overlay there", got=place, want=want, fix="check the path")
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
        raise SettingsError("--kubernetes: this is not YAML", got=f"{place}: {first}", want="manifests", fix="mend the file") from error
    if not all(isinstance(document, dict) and {"kind", "metadata"} <= document.keys() for document in found):
        raise SettingsError("--kubernetes: these are no manifests", got=place, want="documents with kind and metadata", fix="name an overlay of k8s/")
    return found


def _text(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
