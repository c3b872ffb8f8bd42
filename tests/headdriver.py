"""A run whose cluster loses its head's memory: the GCS is killed at a step and started anew at its port. Usage: headdriver.py RUN.yaml STEP

With RAY_REDIS_ADDRESS what it knew stands in Redis, without it is gone.
"""

import json
import sys
import threading
from pathlib import Path

from tunefleet.cluster.session import connect
from tunefleet.trainers.launch import train
from tunefleet.trainers.run import load_run


def main(path, step):
    run = load_run(path)
    with connect(cpus_needed=3):
        threading.Thread(target=restart_gcs, args=(Path(run.output) / "metrics.jsonl", step), daemon=True).start()
        train(run)


def restart_gcs(metrics, step):
    from ray._private.worker import _global_node as node

    while not metrics.exists() or max((json.loads(line)["step"] for line in metrics.read_text().splitlines()), default=0) < step:
        threading.Event().wait(0.05)
    node._ray_params.gcs_server_port = int(node.gcs_address.rpartition(":")[2])
    node.kill_gcs_server()
    node.start_gcs_server()
    threading.Event().wait()  # the new process dies with the thread that started it


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
