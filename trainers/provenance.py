"""How weights came to be, out of what stands in a run's output and beside the models that it began from: for the model card and the export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.machine import commit, versions
from tunefleet.trainers.exported import read_origin
from tunefleet.trainers.ledger import read_events
from tunefleet.trainers.origin import adapter_to_go_on
from tunefleet.trainers.run import RunFile

if TYPE_CHECKING:
    from tunefleet.cluster.storage import Storage
    from tunefleet.trainers.manifest import Manifest


@dataclass(frozen=True)
class Provenance:
    """``run_id`` and ``data`` (version, fingerprint, counts, sources) are empty for a run that left no events. ``lineage``: oldest first, this run last."""

    run_id: str = ""
    commit: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    lineage: Sequence[Mapping[str, Any]] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the file beside an export."""
        return dict(vars(self))


def provenance(run: RunFile, storage: Storage, manifest: Manifest, base: str) -> Provenance:
    """Of the weights of a checkpoint. ``base``: hub id or address of the base model, or "" for a random one."""
    events = read_events(storage)
    started = _last(events, "started")
    data = data_of(_last(events, "prepared"))
    earlier = parents(run)
    own = {
        "run": run.name,
        "run_id": str(started.get("run_id", "")),
        "step": manifest.step,
        "checkpoint": manifest.digest,
        "from": earlier[-1]["run"] if earlier else base or "random weights",
        "data_version": data.get("version", ""),
    }
    code = str(started.get("commit", "")) if started else commit()
    return Provenance(own["run_id"], code, started.get("versions") or versions(), data, (*earlier, own))


def parents(run: RunFile) -> list[Mapping[str, Any]]:
    """The lineage of the model or adapter that a run began from, where that is an export of ours."""
    adapter = adapter_to_go_on(run)
    folder = str(adapter) if adapter is not None else run.model.name_or_path
    origin = read_origin(folder) if folder else None
    if origin is None:
        return []
    alone = {
        "run": origin["run"],
        "run_id": "",
        "step": origin["step"],
        "checkpoint": origin["checkpoint"],
        "from": origin["base"]["address"],
        "data_version": "",
    }
    return list(origin.get("lineage") or [alone])  # an export of an earlier version knows only itself


def data_of(prepared: Mapping[str, Any]) -> dict[str, Any]:
    """What the last preparation said of the rows, without where they lie."""
    if not prepared:
        return {}
    sources = [{key: source.get(key) for key in ("name", "held", "rows")} for source in prepared.get("sources", ())]
    return {"version": prepared.get("data_version", ""), "fingerprint": prepared.get("fingerprint", ""), "counts": prepared["counts"], "sources": sources}


def _last(events: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, Any]:
    return next((event for event in reversed(events) if event.get("event") == kind), {})
