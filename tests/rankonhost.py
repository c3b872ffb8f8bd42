"""A rank of a real run on a host of its own, without Ray. Usage: rankonhost.py RANK FOLDER HANG_S OWN ALL..., with the stage in FOLDER/stage.json.

Rank 0 writes its rendezvous to FOLDER/port. Where FOLDER/skip stands, rank 1 never comes to the collective that the others are in.
"""

import json
import sys
import threading
from pathlib import Path

from processes import until

from tunefleet.cluster.heartbeat import Watchdog
from tunefleet.cluster.network import join_group, open_rendezvous, use_interface
from tunefleet.cluster.world import World
from tunefleet.trainers.stage import Stage
from tunefleet.trainers.worker import train_stage

TIMEOUT_S = 120.0


def main(rank, folder, hang_s, own, everyone):
    way, note = use_interface(own, everyone, {}), folder / "port"
    if rank == 0:
        (folder / "new").write_text(f"{way.address} {open_rendezvous(way.address, len(everyone), TIMEOUT_S)}")
        (folder / "new").rename(note)
    until(note.exists)
    address, port = note.read_text().split()
    join_group("gloo", rank, len(everyone), address, int(port), TIMEOUT_S, hang_s + 60)
    with Watchdog(hang_s, (folder / f"stacks-{rank}.txt").write_text):
        if (folder / "skip").exists():
            skip(rank)
        else:
            train_stage(Stage.from_json(json.loads((folder / "stage.json").read_text())), World.join(), 1)


def skip(rank):
    """One rank waits for something else than the rest."""
    if rank == 1:
        threading.Event().wait()
    World.join().barrier()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4], sys.argv[5:])
