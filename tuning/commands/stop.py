"""End a job, or the run or study that writes to an output: it saves first, and can go on."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from tunefleet.cluster.errors import SettingsError
from tunefleet.tuning.arguments import Verb
from tunefleet.tuning.joboptions import ADDRESS, VARIABLE, server_of
from tunefleet.tuning.printing import print_text, remark

VERB = Verb(subject="JOB", subject_help=f"the job's id with --address (or {VARIABLE}); or the output of a run or study, wherever it runs", options=(ADDRESS,))


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Wait until a job has ended; what is asked by its output ends by itself."""
    from tunefleet.cluster.storage import is_remote, open_storage
    from tunefleet.trainers.stage import RUN_FILE
    from tunefleet.trainers.stopping import ask_to_stop
    from tunefleet.tuning.study import STUDY

    name = options.subject
    if not options.address and (is_remote(name) or "/" in name or any(open_storage(name).exists(file) for file in (RUN_FILE, STUDY))):
        if not ask_to_stop(open_storage(name), "tunefleet stop"):
            raise SettingsError(
                "nobody runs there", got=name, want="the output of a run or study that is at work", fix="`tunefleet status OUTPUT` says how it stands"
            )
        remark(f"asked: it saves at its next step and ends; `tunefleet status {name}` says how it stands")
        return 0
    from tunefleet.cluster.jobs import stop

    ended = stop(server_of(options), name, lambda job: remark(f"{job.id} is asked to save and end"))
    print_text(f"{ended.id} {ended.status}")
    return 0
