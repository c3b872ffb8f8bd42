"""Write a run's weights as a Hugging Face folder, an adapter or merged, verified by its logits."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tunefleet.cluster.errors import OutputError, SettingsError
from tunefleet.tuning.arguments import TRUST, Option, Verb
from tunefleet.tuning.printing import print_json, remark

VERB = Verb(
    subject="RUN",
    subject_help="a run's output; with --push also the folder of an export, which is sent as it is",
    options=(
        Option("--merge", "merge the adapter into the base model's weights"),
        Option("--output", "the folder to write; RUN/export, or RUN/export-merged with --merge", metavar="DIR"),
        Option("--push", "send the export to a model hub, in one commit to a private repository; the token is taken from HF_TOKEN", metavar="ORG/NAME"),
        Option("--public", "with --push: everybody may read it"),
        Option("--json", "print the folder and what was compared as JSON on stdout"),
        TRUST,
    ),
)


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Export, say what was compared, and send it where that was asked for. Who may not write there is told before anything is exported."""
    from tunefleet.cluster.storages.folders import has_file
    from tunefleet.trainers.exported import ORIGIN
    from tunefleet.trainers.stage import RUN_FILE

    is_run = has_file(options.subject, RUN_FILE)
    is_export = not is_run and bool(options.push) and has_file(options.subject, ORIGIN)
    if not is_run and not is_export:
        raise OutputError("this is no run's output", got=options.subject, want=f"a folder with {RUN_FILE}", fix="name the output of a run")
    if options.public and not options.push:
        raise SettingsError("--public: goes with --push", got="no --push", want="--push ORG/NAME", fix="leave it out")
    if is_export and (options.merge or options.output):
        raise SettingsError("--push: this is an export already", got=options.subject, want="a run for --merge and --output", fix="leave them out")
    send = sender(options, is_export=is_export)
    told, folder = ({"path": options.subject}, options.subject) if is_export else exported(options)
    told |= send(folder)
    if options.json:
        print_json(told)
    return 0


def exported(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """What to print, and the folder."""
    from tunefleet.cluster.storages.folders import joined
    from tunefleet.trainers.chain import EXPORT
    from tunefleet.trainers.export import export
    from tunefleet.trainers.output import MERGED, weights_of
    from tunefleet.trainers.recorded import recorded_run

    storage, manifest = weights_of(options.subject)
    folder = joined(options.output or joined(options.subject, MERGED if options.merge else EXPORT), "").rstrip("/")
    refuse_other_folders(folder)
    run = recorded_run(storage, trusted=None if options.trust_code else ())
    done = export(run, storage, manifest, folder, merge=options.merge)
    remark(f"step {manifest.step} exported to {done.path}")
    remark(
        "verified: "
        + ", ".join(f"{name.replace('_', ' ')} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in done.checks.items())
    )
    return {"path": done.path, "step": manifest.step, "checks": dict(done.checks)}, folder


def sender(options: argparse.Namespace, *, is_export: bool) -> Callable[[str], dict[str, Any]]:
    """What sends a folder, once the hub has said that it may be sent; nothing is sent without --push."""
    if not options.push:
        return lambda folder: {}
    from tunefleet.cluster.storages.folders import local_folder
    from tunefleet.trainers.push import check_base, check_pushable, open_target, push

    if is_export:
        check_pushable(Path(local_folder(options.subject, weights=False)))
    elif not options.merge:
        model, adapter = based_on(options)
        if adapter:
            check_base(model)
    target = open_target(options.push, public=options.public)

    def send(folder: str) -> dict[str, Any]:
        done = push(Path(local_folder(folder)), target, message=f"tunefleet export of {Path(options.subject).name}")
        remark(f"sent {done.files} files to {done.url}" + ("" if options.public else ", private"))
        if done.left:
            remark(f"left at home, being no part of a model: {', '.join(done.left)}")
        return {"pushed": done.url}

    return send


def based_on(options: argparse.Namespace) -> tuple[str, bool]:
    """The base model of a run, "" for a random one, and whether the run trained an adapter on it."""
    from tunefleet.cluster.storage import open_storage
    from tunefleet.trainers.recorded import recorded_run
    from tunefleet.trainers.run import Lora

    run = recorded_run(open_storage(options.subject), trusted=None if options.trust_code else ())
    return (run.model.name_or_path or "" if run.model.init == "pretrained" else ""), isinstance(run.peft, Lora)


def refuse_other_folders(place: str) -> None:
    """Raise OutputError for a folder that holds something else than an earlier export: it would be replaced."""
    from tunefleet.cluster.storage import open_storage
    from tunefleet.trainers.exported import ORIGIN

    storage = open_storage(place)
    if Path(place).is_file() or (storage.list() and not storage.exists(ORIGIN)):
        raise OutputError("--output: holds something else", got=place, want="a new folder, or an earlier export to replace", fix="name another folder")
