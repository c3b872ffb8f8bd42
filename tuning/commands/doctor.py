"""Look at this machine and, with --address, at a cluster: versions, memory, storage, GPUs, Ray; and what to do about each."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict

from tunefleet.cluster.diagnosis import Finding, diagnose
from tunefleet.cluster.errors import RequestError, SettingsError
from tunefleet.tuning.arguments import Option, Verb
from tunefleet.tuning.printing import print_json, print_table

VERB = Verb(
    options=(
        Option("--address", "a running Ray cluster, host:port; or its job server, http://host:8265", metavar="ADDR"),
        Option("--cluster", "try every node of the cluster: versions, clocks, disks, storage, network; exit code 1 when a long run would break"),
        Option("--output", "a folder or s3:// that runs are to write to", metavar="DIR"),
        Option("--json", "print the findings as JSON on stdout"),
    ),
)


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Print what was found; 0 when there is no problem, 2 when there is one; with --cluster 1, since the request was right."""
    if options.cluster and not options.address:
        fix = "say --address host:port, or --address auto on one of its nodes"
        raise SettingsError("--cluster: which cluster?", got="no --address", want="a running Ray cluster", fix=fix)
    findings = [finding for look in LOOKS for finding in look(options)]
    if options.json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_table("tunefleet doctor", ("subject", "state", "found", "fix"), [(f.subject, f.state, f.found, f.fix) for f in findings])
    failed = 1 if options.cluster else 2
    return failed if any(finding.state == "problem" for finding in findings) else 0


def _versions(_: argparse.Namespace) -> Iterator[Finding]:
    from importlib.metadata import version

    from tunefleet.cluster.preflight import STACK, version_problems

    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", "ok" if sys.version_info >= (3, 11) else "problem", python, "" if sys.version_info >= (3, 11) else "install Python 3.11")
    for name, bounds in STACK.items():
        problems = version_problems({name: bounds})
        yield from _problems(name, problems) if problems else [Finding(name, "ok", version(name))]


def _machine(options: argparse.Namespace) -> Iterator[Finding]:
    import os

    from tunefleet.cluster.preflight import environment_problems, memory_problems, storage_problems
    from tunefleet.cluster.session import usable_cores
    from tunefleet.cluster.storage import open_storage

    yield Finding("cores", "ok", str(usable_cores()))
    yield from _found("environment", environment_problems(os.environ), "no setting that runs code from data")
    yield from _found("shared memory", memory_problems(), "enough for Ray's object store")
    storage = open_storage(options.output or ".")
    yield from _found("storage", storage_problems(storage), f"{storage.address} can be written")


def _gpus(_: argparse.Namespace) -> Iterator[Finding]:
    import torch

    count = torch.cuda.device_count()
    names = ", ".join(dict.fromkeys(torch.cuda.get_device_name(i) for i in range(count)))
    yield Finding("gpus", "ok", f"{count}: {names}") if count else Finding("gpus", "note", "none", "training runs on the CPU; set scaling.use_gpu: false")


def _compilers(_: argparse.Namespace) -> Iterator[Finding]:
    """Nothing is compiled on the CPU path; on GPUs DeepSpeed's own kernels are not used either, so none is needed."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    yield Finding("compiler", "ok", compiler) if compiler else Finding("compiler", "note", "none", "none is needed: nothing is compiled")


def _ray(options: argparse.Namespace) -> Iterator[Finding]:
    """Reachable and authenticated: joined, and left again. Without an address a local Ray is started by each run, and not here."""
    if not options.address:
        yield Finding("ray cluster", "note", "none named: a run starts a local one", "--address host:port looks at a running one")
        return
    from tunefleet.cluster.jobserver import job_server
    from tunefleet.cluster.session import connect

    try:
        if "://" in options.address:
            server = job_server(options.address)
            yield Finding("job server", "ok" if server.guarded else "note", f"{server.url} answers", "; ".join(server.remarks()))
            return
        with connect(options.address) as session:
            resources = session.resources()
            yield Finding("ray cluster", "ok", ", ".join(f"{name} {resources[name]:g}" for name in ("CPU", "GPU") if name in resources))
            if options.cluster:
                from tunefleet.cluster.nodeprobe import ask_nodes

                yield from diagnose(*ask_nodes(options.output))
    except RequestError as error:
        yield from _problems("ray cluster", [error])


LOOKS: tuple[Callable[[argparse.Namespace], Iterator[Finding]], ...] = (_versions, _machine, _gpus, _compilers, _ray)


def _found(subject: str, problems: list[RequestError], fine: str) -> Iterator[Finding]:
    yield from _problems(subject, problems) if problems else [Finding(subject, "ok", fine)]


def _problems(subject: str, problems: list[RequestError]) -> list[Finding]:
    return [Finding(subject, "problem", ": ".join(part for part in (error.what, error.got) if part), error.fix or error.want) for error in problems]
