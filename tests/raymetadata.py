"""All that a Ray knows of its jobs, actors, workers and nodes, and what it keeps under a key, as text: python raymetadata.py HOST:PORT.

A program of its own, since a process decides once whether it shows Ray a token.
"""

import os
import subprocess
import sys

SPACES = (None, b"fun", b"job", b"session", b"dashboard", b"tracing", b"cluster", b"usage_stats", b"healthcheck")


def metadata(address: str, **variables: str) -> str:
    """What a program of its own finds out at the address, with further variables of the environment."""
    command = [sys.executable, __file__, address]
    return subprocess.run(command, env={**os.environ, "RAY_AUTH_MODE": "token", **variables}, check=True, capture_output=True, text=True, timeout=120).stdout


def main(address: str) -> None:
    from ray._private.state import GlobalState
    from ray._raylet import GcsClient, GcsClientOptions

    state = GlobalState()
    state._initialize_global_state(GcsClientOptions.create(address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False))
    sys.stdout.write(repr((state.job_table(), state.actor_table(None), state.workers(), state.node_table(), state.placement_group_table())))
    client = GcsClient(address=address)
    for space in SPACES:
        for key in client.internal_kv_keys(b"", space):
            sys.stdout.write(repr((key, client.internal_kv_get(key, space))))


if __name__ == "__main__":
    main(sys.argv[1])
