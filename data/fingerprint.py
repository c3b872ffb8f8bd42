"""The fingerprint of a store: a hash of everything that decides what its shards hold, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunefleet.cluster.errors import StorageError
from tunefleet.cluster.storage import Storage, hash_file
from tunefleet.data.layout import Layout
from tunefleet.data.settings import Data
from tunefleet.data.survey import Part
from tunefleet.data.tokens import Encoder

VERSION = 2  # rises whenever the same rows would become other shards
HASHES = "hashes.json"


def fingerprint(data: Data, layout: Layout, encoder: Encoder, parts: Sequence[Part], hashes: dict[str, str]) -> str:
    """Rows, formats, tokenizer, template, length, layout, held-out share and policies. Paths are not in it: rows that move stay prepared."""
    sources = [
        {
            "files": [hashes[file] for file in part.files],
            "format": part.source.format,
            "columns": part.source.columns,
            "separator": part.source.separator,
            "held": part.name if part.held else "",
        }
        for part in parts
    ]
    value = {
        "version": VERSION,
        "sources": sources,
        "encoder": encoder.identity(),
        "max_length": data.max_length,
        "layout": [layout.name, layout.version, [[c.name, c.dtype, c.per_token] for c in layout.columns]],
        "holdout": data.holdout if isinstance(data.holdout, float) else None,
        "quality": data.quality.model_dump(),
    }
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def content_hashes(files: Sequence[str], store: Storage) -> dict[str, str]:
    """The sha256 of every file. A local file that has kept its size and time is not read again: its hash stands in the store."""
    known = _known(store)
    fresh: dict[str, Any] = {}
    hashes: dict[str, str] = {}
    for file in files:
        if "://" in file:
            hashes[file] = _hash_stream(file)
            continue
        path = Path(file).resolve()
        stat = path.stat()
        entry = known.get(str(path))
        if not entry or entry[:2] != [stat.st_size, stat.st_mtime_ns]:
            entry = fresh[str(path)] = [stat.st_size, stat.st_mtime_ns, hash_file(path)[0]]
        hashes[file] = entry[2]
    if fresh:
        store.put(HASHES, json.dumps(known | fresh, indent=0).encode())
    return hashes


def _known(store: Storage) -> dict[str, Any]:
    """Hashes of earlier calls. It is a cache: one that cannot be understood is made anew."""
    try:
        value = json.loads(store.read(HASHES)) if store.exists(HASHES) else {}
    except (ValueError, StorageError):
        return {}
    return value if isinstance(value, dict) else {}


def _hash_stream(address: str) -> str:
    import fsspec

    digest = hashlib.sha256()
    with fsspec.open(address, "rb") as stream:
        while chunk := stream.read(4 << 20):
            digest.update(chunk)
    return digest.hexdigest()
