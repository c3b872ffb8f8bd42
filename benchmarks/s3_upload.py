"""Checkpoints on S3: how fast one is uploaded, against a plain ``put`` of s3fs, and whether training waits for it.

    python benchmarks/s3_upload.py             about 3 minutes on 2 cores; writes benchmarks/results/<date>-s3-upload.json

The server is OpenStack Swift on this machine (tests/s3server.py; the first start installs it). Speed: a rank's part of a checkpoint as it is saved
(fragments in memory, encoded, hashed and sent), and ``S3FileSystem().put`` of the very files that it makes, in alternating turns.
Waiting: ``tunefleet train`` of 5 million parameters on 2 workers with its output on the server; all is read from the run's events and metrics.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from recording import machine, save, show, spread
from workload import LLAMA, made_rows, tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import s3server

GOAL = 0.8
OURS, PLAIN = "tunefleet", "s3fs put"
STEPS, EVERY = 60, 15


def speed(folder: Path, *, mib: int, rounds: int) -> dict[str, Any]:
    """MB/s of both in alternating turns, after one turn of each that does not count."""
    import s3fs
    import torch

    from tunefleet.cluster.storage import open_storage
    from tunefleet.trainers.checkpoint import write_part
    from tunefleet.trainers.fragment_files import Fragment, encode, files_of

    numbers = mib * (1 << 20) // 4 // 3
    values = torch.randn(numbers, generator=torch.Generator().manual_seed(0))
    parts = [Fragment("layer", slot, (numbers,), 0, values.clone()) for slot in ("weight", "exp_avg", "exp_avg_sq")]
    folder.mkdir()
    for number, group in enumerate([*files_of(parts[:1]), *files_of(parts[1:])]):
        (folder / f"{number:05d}.safetensors").write_bytes(encode(group))
    size = sum(path.stat().st_size for path in folder.iterdir())
    system = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    storage = open_storage(f"s3://{s3server.BUCKET}/speed")

    def once(name: str, place: str) -> float:
        began = time.perf_counter()
        if name == OURS:
            write_part(storage, place, "attempt", 0, parts)
        else:
            system.put([str(path) for path in sorted(folder.iterdir())], f"{s3server.BUCKET}/speed/{place}/")
        seconds = time.perf_counter() - began
        assert sum(storage.size(name) for name in storage.list(f"{place}/") if name.endswith(".safetensors")) == size
        storage.delete_tree(place)
        return size / 1e6 / seconds

    found: dict[str, list[float]] = {OURS: [], PLAIN: []}
    for number in range(rounds + 1):
        for name in (OURS, PLAIN) if number % 2 else (PLAIN, OURS):
            rate = once(name, f"turn-{number}-{name.partition(' ')[0]}")
            if number:
                found[name].append(rate)
    ratio = spread([ours / plain for ours, plain in zip(found[OURS], found[PLAIN], strict=True)])
    return {"bytes": size, "rounds": rounds, "mb_per_second": {name: spread(values) for name, values in found.items()}, "ratio_by_turn": ratio, "goal": GOAL}


def waiting(folder: Path) -> dict[str, Any]:
    """A run on the server, and what its events say of each checkpoint's upload."""
    from tunefleet.cluster.metrics import read_lines
    from tunefleet.cluster.storage import open_storage

    folder.mkdir()
    rows = made_rows(folder / "rows.jsonl", 500)
    tokenizer(folder, rows)
    output = f"s3://{s3server.BUCKET}/run"
    run = {
        "version": 1,
        "model": {"init": "random", "config": LLAMA, "tokenizer": {"name_or_path": str(folder / "tokenizer")}},
        "data": {"train": [{"path": str(rows)}], "store": f"s3://{s3server.BUCKET}/shards", "max_length": 512, "holdout": 0.0},
        "training": {"max_steps": STEPS, "train_batch_size": 16},
        "checkpoint": {"every_steps": EVERY},
        "scaling": {"num_workers": 2},
        "export": {"at_end": False},
        "output": output,
    }
    (folder / "run.yaml").write_text(json.dumps(run))  # JSON is YAML
    command = [str(Path(sys.executable).with_name("tunefleet")), "train", str(folder / "run.yaml")]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    events, lines = (read_lines(open_storage(output), name) for name in ("events.jsonl", "metrics.jsonl"))
    when = {(event["event"], event.get("step")): event for event in events}
    saves = [upload_of(when, lines, step) for step in range(EVERY, STEPS, EVERY)]  # the last one is waited for: nothing is left to do
    outside = [b["time"] - a["time"] for a, b in itertools.pairwise(lines) if not any(s["from"] <= b["time"] and a["time"] <= s["until"] for s in saves)]
    inside = [seconds for found in saves for seconds in found["step_seconds"]]
    return {
        "steps": STEPS,
        "every_steps": EVERY,
        "checkpoint_bytes": saves[0]["bytes"],
        "training_stood_s": spread([s["stood_s"] for s in saves]),
        "upload_s": spread([s["until"] - s["from"] for s in saves]),
        "steps_while_uploading": [len(s["step_seconds"]) for s in saves],
        "step_s": {"while uploading": spread(inside) if inside else None, "else": spread(outside)},
    }


def upload_of(when: dict[Any, Any], lines: list[dict[str, Any]], step: int) -> dict[str, Any]:
    """One checkpoint: how long training stood for it, from when until when it was uploaded, and the steps of that time."""
    begun, ended, complete = (when[name, step] for name in ("checkpoint_started", "checkpoint_ended", "checkpoint_complete"))
    within = [b["time"] - a["time"] for a, b in itertools.pairwise(lines) if ended["time"] < b["time"] <= complete["time"]]
    return {
        "stood_s": ended["time"] - begun["time"],
        "from": ended["time"],
        "until": complete["time"],
        "bytes": complete["bytes"],
        "step_seconds": within,
    }


def main() -> None:
    """Measure, write the results, print the tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--mib", type=int, default=256, help="size of the part of a checkpoint that is uploaded")
    options.add_argument("--rounds", type=int, default=7, help="turns of each")
    chosen = options.parse_args()
    began = machine()
    with TemporaryDirectory(prefix="s3-upload-") as root:
        server = s3server.start(Path(root) / "server")
        try:
            os.environ.update(server.variables())
            import s3fs

            s3fs.S3FileSystem(skip_instance_cache=True).mkdir(s3server.BUCKET)
            rates = speed(Path(root) / "files", mib=chosen.mib, rounds=chosen.rounds)
            run = waiting(Path(root) / "run")
        finally:
            server.stop()
    path = save("s3-upload", {"speed": rates, "run": run}, began)
    table = [[name, *(f"{found[key]:.0f}" for key in ("median", "low", "high"))] for name, found in rates["mb_per_second"].items()]
    show(f"upload of {rates['bytes'] / 1e6:.0f} MB, MB/s", ["way", "median", "low", "high"], table)
    ratio = rates["ratio_by_turn"]
    print(f"ratio turn by turn {ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f}); goal {'met' if ratio['median'] >= GOAL else 'missed'}: {GOAL}")
    stood, upload, counts = run["training_stood_s"]["median"], run["upload_s"]["median"], run["steps_while_uploading"]
    print(f"a run: training stood {stood:.2f} s for a checkpoint of {run['checkpoint_bytes'] / 1e6:.0f} MB whose upload took {upload:.2f} s and {counts} steps")
    print(f"seconds a step: {run['step_s']}\nwritten to {path}")


if __name__ == "__main__":
    main()
