"""The fingerprint of a store: a hash of everything that decides what its shards hold, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from tunefleet.data.layout import Layout
from tunefleet.data.settings import Data
from tunefleet.data.survey import Part
from tunefleet.data.tokens import Encoder

VERSION = 3  # rises whenever the same rows would become other shards


def fingerprint(data: Data, layout: Layout, encoder: Encoder, parts: Sequence[Part], hashes: Mapping[str, str]) -> str:
    """Rows, formats, tokenizer, template, length, layout, held-out share and policies. Paths are not in it: rows that move stay prepared."""
    sources = [
        {
            "files": [hashes[file] for file in part.files],
            "kind": part.source.kind,
            "format": part.source.format,
            "columns": part.source.columns,
            "header": part.source.header,
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
