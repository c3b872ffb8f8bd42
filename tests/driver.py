"""A driver of its own, for tests that end it: a group that runs until somebody ends it. Usage: driver.py FOLDER."""

import sys

import groupjobs

from tunefleet.cluster.group import run_group
from tunefleet.cluster.session import connect


def main(folder):
    with connect(cpus_needed=2):
        run_group(
            groupjobs.wait_for_ever,
            {"folder": folder},
            workers=2,
            use_gpu=False,
            cpus_per_worker=1,
            max_failures=0,
            start_timeout_s=120,
            hang_timeout_s=120,
            name="group",
            storage_path=folder,
            progress=None,
            on_event=lambda kind, record: None,
        )


if __name__ == "__main__":
    main(sys.argv[1])
