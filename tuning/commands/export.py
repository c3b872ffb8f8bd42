"""Write a run's weights as a Hugging Face folder, an adapter or merged, verified by its logits."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from tunefleet.cluster.errors import OutputError
from tunefleet.tuning.arguments import TRUST, Option, Verb
from tunefleet.tuning.printing import print_json, remark

VERB = Verb(
    subject="RUN",
    subject_help="a run's output",
    options=(
        Option("--merge", "merge the adapter into the base model's weights"),
        Option("--output", "the folder to write; RUN/export, or RUN/export-merged with --merge", metavar="DIR"),
        Option("--json", "print the folder and what was compared as JSON on stdout"),
        TRUST,
    ),
)


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Export, and say what was compared."""
    from tunefleet.cluster.storages.folders import has_file, joined
    from tunefleet.trainers.chain import EXPORT
    from tunefleet.trainers.export import export
    from tunefleet.trainers.output import MERGED, weights_of
    from tunefleet.trainers.recorded import recorded_run
    from tunefleet.trainers.stage import RUN_FILE

    if not has_file(options.subject, RUN_FILE):
        raise OutputError("this is no run's output", got=options.subject, want=f"a folder with {RUN_FILE}", fix="name the output of a run")
    storage, manifest = weights_of(options.subject)
    folder = joined(options.output or joined(options.subject, MERGED if options.merge else EXPORT), "").rstrip("/")
    refuse_other_folders(folder)
    run = recorded_run(storage, trusted=None if options.trust_code else ())
    done = export(run, storage, manifest, folder, merge=options.merge)
    if options.json:
        print_json({"path": done.path, "step": manifest.step, "checks": dict(done.checks)})
        return 0
    remark(f"step {manifest.step} exported to {done.path}")
    remark(
        "verified: "
        + ", ".join(f"{name.replace('_', ' ')} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in done.checks.items())
    )
    return 0


def refuse_other_folders(place: str) -> None:
    """Raise OutputError for a folder that holds something else than an earlier export: it would be replaced."""
    from tunefleet.cluster.storage import open_storage
    from tunefleet.trainers.exported import ORIGIN

    storage = open_storage(place)
    if Path(place).is_file() or (storage.list() and not storage.exists(ORIGIN)):
        raise OutputError("--output: holds something else", got=place, want="a new folder, or an earlier export to replace", fix="name another folder")
