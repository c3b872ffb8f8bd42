"""What trackers wrote, read back from their own files: {(name, step): value}, and how often a step was told."""

import struct
from collections import Counter
from pathlib import Path


def tensorboard(folder):
    """By TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(Path(folder) / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    return [((name, event.step), event.value) for name in reader.Tags()["scalars"] for event in reader.Scalars(name)]


def mlflow(folder):
    """By MLflow's own client: the runs that are not deleted."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("tunefleet")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1
    names = runs[0].data.metrics
    return [((name, metric.step), metric.value) for name in names for metric in client.get_metric_history(runs[0].info.run_id, name)]


def wandb(folder):
    """From the records that `wandb sync` would send, of all files of the one run."""
    import json

    from wandb.proto import wandb_internal_pb2

    found, names = [], set()
    for path in sorted(Path(folder, "wandb").rglob("*.wandb")):
        names.add(path.name)
        for data in _log_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
                group = "training" if "training/step" in row else "evaluation"
                found += [((name, row[f"{group}/step"]), value) for name, value in row.items() if name.startswith(group) and not name.endswith("/step")]
    assert len(names) == 1
    return found


def _log_records(data):
    """LevelDB's log format, behind a header of seven bytes: blocks of 32 KiB, records of (crc, length, kind); kinds 2, 3, 4 are parts of a long one."""
    block, place, parts = 32768, 7, []
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):
            yield b"".join(parts)
            parts = []


def once(told):
    """As a mapping, when nothing was told twice."""
    twice = [key for key, count in Counter(key for key, _ in told).items() if count > 1]
    assert not twice
    return dict(told)
