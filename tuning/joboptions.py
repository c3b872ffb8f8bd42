"""What the verbs about jobs share: the address of the cluster, and how a job's end becomes an exit code."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from tunefleet.cluster.errors import SettingsError, Stopped
from tunefleet.tuning.arguments import Option
from tunefleet.tuning.printing import remark

if TYPE_CHECKING:
    from tunefleet.cluster.jobs import Job
    from tunefleet.cluster.jobserver import JobServer

VARIABLE = "RAY_API_SERVER_ADDRESS"
ADDRESS = Option("--address", f"the cluster's dashboard, http://HEAD:8265; without it {VARIABLE} says it", metavar="ADDR")


def server_of(options: argparse.Namespace) -> JobServer:
    """The job server that was named; what somebody who trusts it should know is said. Raises RequestError."""
    from tunefleet.cluster.jobserver import job_server

    address = options.address or os.environ.get(VARIABLE)
    if not address:
        want = "http://HEAD:8265, the address of the cluster's dashboard"
        raise SettingsError(
            "--address: is missing", got=f"nothing, and {VARIABLE} is not set", want=want, fix="name it; `tunefleet train` runs on this machine"
        )
    server = job_server(address)
    for text in server.remarks():
        remark(f"note: {text}")
    return server


def exit_code_of(job: Job) -> int:
    """How a job ended, as if its driver had run here."""
    if job.status == "SUCCEEDED":
        return 0
    if job.status == "STOPPED":
        return Stopped.exit_code
    return job.exit_code if job.exit_code is not None and 0 < job.exit_code < 256 else 1
