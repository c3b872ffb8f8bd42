"""What evaluation leaves in a run's output, in ``evaluation/``: ``step-00000050.json`` for every evaluated step, ``base.json``, and ``suite.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from tunefleet.cluster.errors import StorageError
from tunefleet.cluster.storage import Storage
from tunefleet.trainers.evaluation.policy import Ticket
from tunefleet.trainers.evaluation.rows import RowScores
from tunefleet.trainers.run import RunFile

FOLDER = "evaluation"
BASE = f"{FOLDER}/base.json"
SUITE = f"{FOLDER}/suite.json"
VERSION = 1


def result_name(step: int) -> str:
    """The name of a step's file; names sort as steps do."""
    return f"{FOLDER}/step-{step:08d}.json"


def result(ticket: Ticket, comparison: Mapping[str, Any], *, placement: str, seconds: float) -> dict[str, Any]:
    """The content of a step's file: which weights, the numbers of ``compare``, where and how long (wall seconds of scoring and comparing)."""
    named = {"version": VERSION, "step": ticket.step, "checkpoint": ticket.digest, "manifest": ticket.manifest}
    return {**named, **comparison, "placement": placement, "seconds": round(seconds, 3)}


def write_result(storage: Storage, content: Mapping[str, Any]) -> None:
    """Write a step's file, atomically. It is strict JSON: what is not finite is null already."""
    storage.put(result_name(content["step"]), _encode(content))


def read_results(storage: Storage) -> list[dict[str, Any]]:
    """Every step's file, by step. Raises StorageError for one that is not ours."""
    found = []
    for name in storage.list(f"{FOLDER}/step-"):
        content = _decode(storage, name)
        if content.get("version") != VERSION:
            raise StorageError(f"{name} has another version", got=repr(content.get("version")), want=str(VERSION), fix="use the tunefleet that wrote it")
        found.append(content)
    return found


def drop_after(storage: Storage, step: int) -> list[int]:
    """Remove the files of later steps: they are of a branch that a resume gave up. Returns their steps."""
    later = [content["step"] for content in read_results(storage) if content["step"] > step]
    for gone in later:
        storage.delete(result_name(gone))
    return later


def by_set(content: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """What the tuned model came to on each held-out set of a step's file: {set: {metric: value}}."""
    return {name: {metric: found["value"] for metric, found in part["tuned"].items()} for name, part in content.get("sets", {}).items()}


def write_suite(storage: Storage, content: Mapping[str, Any]) -> None:
    """Write what the finished run's suite found."""
    storage.put(SUITE, _encode(content))


def read_suite(storage: Storage) -> dict[str, Any]:
    """What the run's suite found; empty where it found nothing yet."""
    content = _decode(storage, SUITE) if storage.exists(SUITE) else {}
    if content and not isinstance(content.get("sets"), dict):
        raise StorageError(f"{SUITE} is no evaluation", got=", ".join(content), want="sets", fix="remove it")
    return content


def base_key(run: RunFile, fingerprint: str) -> str:
    """What the base model's scores and answers depend on: the model, how it is computed and asked, what an example is, and the held-out rows.

    The seed is part of it where it makes the model.
    """
    model = run.model.model_dump(mode="json", exclude={"attn_implementation"})
    asked = [run.evaluation.answers.model_dump(), run.data.chat_template]
    seed = run.training.seed if run.model.init == "random" else None
    parts = [model, run.training.precision, seed, run.objective.model_dump(mode="json"), asked, fingerprint]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def write_base(storage: Storage, key: str, rows: RowScores, values: Mapping[str, Any]) -> None:
    """Keep the base model's scores, row by row, so that no later evaluation, restart or resume scores it again."""
    storage.put(BASE, _encode({"version": VERSION, "key": key, "rows": len(rows.ids), "base": dict(values), "scores": rows.to_json()}))


def read_base(storage: Storage, key: str, needs: Collection[str]) -> RowScores | None:
    """The base model's scores, or None when there are none for this key, or none with all that metrics need."""
    if not storage.exists(BASE):
        return None
    content = _decode(storage, BASE)
    if content.get("version") != VERSION or content.get("key") != key:
        return None
    kept = RowScores.from_json(content["scores"])
    return kept if kept.holds(needs) else None


def digest(storage: Storage, manifest: str) -> str:
    """The sha256 of a manifest, which holds the sha256 of every file of its checkpoint: one name for those weights."""
    return hashlib.sha256(storage.read(manifest)).hexdigest()


def _encode(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, allow_nan=False) + "\n").encode()


def _decode(storage: Storage, name: str) -> dict[str, Any]:
    try:
        content = json.loads(storage.read(name))
    except ValueError as error:
        raise StorageError(f"{name} is no JSON", got=str(error), want="a file that evaluation wrote", fix="remove it") from error
    if not isinstance(content, dict):
        raise StorageError(f"{name} is no evaluation", got=type(content).__name__, want="a mapping", fix="remove it")
    return content
