"""May this run go on from that one? A pure comparison of two run files.

What fixes the examples, the loss or the shape of the weights may not differ; what only moves the work may.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tunefleet.cluster.errors import RequestError, SettingsError
from tunefleet.trainers.run import RunFile

FIXED = ("model", "objective", "peft", "training.seed", "training.train_batch_size", "training.train_batch_tokens", "parallel", "data")
FREE_IN_FIXED = ("data.store", "data.cache", "data.batching", "model.attn_implementation")  # where shards lie and how rows are grouped changes no example


@dataclass(frozen=True)
class Differences:
    """What changed between two run files: dotted key, before, after; and those changes that a resume refuses."""

    changed: tuple[tuple[str, Any, Any], ...]
    refused: tuple[RequestError, ...]


def differences(before: RunFile, after: RunFile) -> Differences:
    """Compare a run's own file with the one that is to go on from it."""
    old, new = dict(_leaves(before.model_dump())), dict(_leaves(after.model_dump()))
    changed = tuple((key, old.get(key), new.get(key)) for key in sorted({*old, *new}) if old.get(key) != new.get(key) and key != "output")
    refused = tuple(
        SettingsError(
            f"{key}: may not change on resume",
            got=repr(now),
            want=f"{was!r}, as the run started",
            fix="put it back, or start a new run with another output (or --overwrite)",
        )
        for key, was, now in changed
        if _under(key, FIXED) and not _under(key, FREE_IN_FIXED)
    )
    return Differences(changed, refused)


def _under(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
