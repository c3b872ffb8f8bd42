"""Results: a dated file of JSON with the machine, the commit and the versions, so that a figure can be judged later; and a table to read now."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunefleet.cluster import machine as place

RESULTS = Path(__file__).parent / "results"
STACK = ("torch", "ray", "deepspeed", "transformers", "accelerate", "trl", "datasets", "peft", "numpy", "pyarrow", "mosaicml-streaming", "litdata")


def machine() -> dict[str, Any]:
    """What the figures were measured on; ``load`` is the 1-minute average when this is called: other work on the machine shows there."""
    return {**place.machine(), "load": os.getloadavg()[0]}


def save(name: str, figures: dict[str, Any], began: dict[str, Any]) -> Path:
    """Write ``results/<date>-<name>.json``. ``began`` is what ``machine()`` said before the measurement."""
    now = datetime.now(UTC)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y-%m-%d-%H%M}-{name}.json"
    head = {"benchmark": name, "time": now.isoformat(timespec="seconds"), "commit": place.commit() or "none", "versions": place.versions(STACK)}
    load = {"before": began["load"], "after": os.getloadavg()[0]}
    path.write_text(json.dumps({**head, "machine": {**began, "load": load}, **figures}, indent=1) + "\n")
    return path


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    import numpy as np

    return {"median": float(np.median(values)), "low": float(min(values)), "high": float(max(values))}
