"""Hand a run or a study to a Ray cluster as a job, or to Kubernetes, and leave; its output is stable, so submitting it again goes on."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict

from tunefleet.cluster.errors import Refusal
from tunefleet.tuning import kubernetes
from tunefleet.tuning.arguments import TRUST, Option, Verb
from tunefleet.tuning.joboptions import ADDRESS, exit_code_of, server_of
from tunefleet.tuning.printing import print_json, print_text, remark

VERB = Verb(
    subject="run.yaml",
    subject_help="the run file, or a study file",
    keys=True,
    options=(
        ADDRESS,
        Option("--follow", "show what the job says until it ends, and end as it does"),
        Option("--overwrite", "start anew in an output that exists; otherwise the run goes on from its newest checkpoint"),
        Option("--shared", "a folder that every node of the cluster sees under the same path; may be given several times", metavar="FOLDER", many=True),
        Option("--module", "ship a further module of your own (its .py files); those that dotted kinds name go by themselves", metavar="NAME", many=True),
        Option("--spot-head", "submit although the driver will live on a spot node"),
        TRUST,
        Option("--json", "print the job as JSON on stdout"),
        *kubernetes.OPTIONS,
    ),
)


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Check what can be checked from here, ship it, and print the job's id on stdout."""
    if options.kubernetes:
        return kubernetes.submit(options, settings)
    Refusal.raise_if(kubernetes.unfit_options(options))
    from tunefleet.cluster.jobs import follow, head_problems, is_here, job, nodes, submit
    from tunefleet.tuning.submission import parcel_of

    server = server_of(options)
    found = nodes(server)
    here = is_here(found)
    parcel = parcel_of(
        options.subject,
        settings,
        here=here,
        shared=options.shared or (),
        modules=options.module or (),
        overwrite=options.overwrite,
        trust=options.trust_code,
    )
    Refusal.raise_if(head_problems(found, spot_head=options.spot_head))
    name = submit(server, parcel)
    modules = sorted({file.partition("/")[0] for file in parcel.files if file.endswith(".py")})
    remark(f"submitted {parcel.title} ({parcel.kind}) to {server.url}: shipped tunefleet, {', '.join([*parcel.words[1:2], *modules])}; output {parcel.output}")
    if options.json:
        print_json(asdict(job(server, name)))
    else:
        print_text(name)
    if not options.follow:
        remark(f"tunefleet logs {name} --follow; tunefleet stop {name}; tunefleet status {parcel.output}")
        return 0
    return exit_code_of(follow(server, name, remark))
