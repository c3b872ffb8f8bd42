"""A rank on a host of its own, without Ray: it meets the others, adds up, and says what it listens on. Usage: meeting.py RANK FOLDER OWN ALL..."""

import json
import os
import sys
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
from processes import until

from tunefleet.cluster.network import NAMES, join_group, open_rendezvous, use_interface

TIMEOUT_S = 60.0


def main(rank, folder, own, everyone):
    way = use_interface(own, everyone, {})
    note = folder / "port"
    if rank == 0:
        port = open_rendezvous(way.address, len(everyone), TIMEOUT_S)
        (folder / "new").write_text(f"{way.address} {port}")
        (folder / "new").rename(note)
    until(note.exists)
    address, port = note.read_text().split()
    join_group("gloo", rank, len(everyone), address, int(port), TIMEOUT_S, TIMEOUT_S)
    total = torch.full((3,), float(rank + 1))
    dist.all_reduce(total)
    listening = sorted({c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN})
    said = {"way": [way.interface, way.address], "chosen": [os.environ[name] for name in NAMES], "total": total.tolist(), "listening": listening}
    dist.barrier()
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
