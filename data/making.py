"""The last part of a preparation: a store out of pieces and a verdict. Shards first, then what stands beside them, the index last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.storage import Storage
from tunefleet.cluster.tasks import Tasks
from tunefleet.data.assembly import HOLDOUT, Assembling, Placed, Side, held_words, make_shard, plan_side
from tunefleet.data.blockwork import Work
from tunefleet.data.datareport import Report, write_report
from tunefleet.data.examples import label_order
from tunefleet.data.facts import Facts, Flag
from tunefleet.data.gate import Verdict
from tunefleet.data.shards import Columns, Index, Shard, SplitIndex, write_index, write_split
from tunefleet.data.survey import Part
from tunefleet.data.templates import resolve_template
from tunefleet.data.versions import DROPPED, HELD, TRAINING, write_rows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

HELD_ROWS = "rows-holdout.jsonl"
TRAIN = "train"


@dataclass(frozen=True)
class Making:
    """A store in the making. ``holds_out``: whether there is to be a held-out split."""

    stores: Storage
    mark: str
    work: Work
    parts: Sequence[Part]
    holds_out: bool
    shard_bytes: int

    @property
    def home(self) -> Storage:
        """Where the store stands."""
        return self.stores.sub(self.mark[:16])

    def make(self, pieces: Sequence[Placed], facts: Facts, verdict: Verdict, decisions: Sequence[str], report: Report, workers: Tasks) -> None:
        """Write everything. Raises DataError when a side is empty: nothing is written then."""
        sides = [plan_side(split, self._sources(split), pieces, verdict.keep, self.shard_bytes) for split in (TRAIN, *((HOLDOUT,) if self.holds_out else ()))]
        self._refuse_empty(sides, verdict)
        labels = sorted({label for placed in pieces for label in placed.piece.labels}, key=label_order)
        splits = self._shards(sides, labels, workers)
        fate = _fates(sides, len(facts))
        manifest, version = write_rows(self.home, facts, self._held(facts), fate)
        counts = {"rows": len(facts), "kept": int((fate != DROPPED).sum()), "examples": sum(s.rows for s in splits.values())}
        counts |= {"tokens": sum(s.tokens for s in splits.values()), "supervised": sum(s.supervised for s in splits.values())}
        counts |= {TRAIN: splits[TRAIN].rows, HOLDOUT: splits[HOLDOUT].rows if HOLDOUT in splits else 0, **verdict.counts}
        counts["supervised_lost"] = int(facts.columns["lost"][verdict.keep].sum(dtype="int64"))
        meta = {
            "decisions": [*decisions, *verdict.decisions()],
            "sets": self._words(sides[1]) if self.holds_out else {},
            "labels": labels,
            "version": version,
            "readable": int((~facts.has(Flag.INVALID)).sum()),
            "blocks": list(dict.fromkeys(placed.piece.key for placed in pieces)),
            **self._described(facts),
        }
        write_report(self.home, report)
        write_index(
            self.home.address, Index(fingerprint=self.mark, layout=Columns.of(self.work.layout), splits=splits, counts=counts, manifest=manifest, meta=meta)
        )

    def _sources(self, split: str) -> list[tuple[str, int]]:
        """Names and numbers of the parts that the rows of a split may be of."""
        shared = not any(part.held for part in self.parts)  # the held-out rows are a share of the training ones
        return [(part.name, number) for number, part in enumerate(self.parts) if part.held == (split == HOLDOUT) or (split == HOLDOUT and shared)]

    def _shards(self, sides: Sequence[Side], labels: Sequence[str], workers: Tasks) -> dict[str, SplitIndex]:
        recipes = [recipe for side in sides for _, own in side.sources for recipe in own]
        work = Assembling(self.stores.address, self.home.address, self.work.layout.columns, {label: number for number, label in enumerate(labels)})
        made: dict[str, Shard] = {}
        for number, shard in workers.run(make_shard, work, recipes):
            made[recipes[number].name] = shard
        return {
            side.split: write_split(self.home, side.split, [(name, [made[r.name] for r in own]) for name, own in side.sources], side.lengths, side.supervised)
            for side in sides
        }

    def _words(self, side: Side) -> dict[str, list[int]]:
        """Write the words of the held-out rows; returns the range of ids of each held-out source."""
        sets: dict[str, list[int]] = {}
        staged = self.home.staging(HELD_ROWS)
        with staged.open("wb") as file:
            for number, (part, line) in enumerate(held_words(self.stores, side)):
                name = self.parts[part].name if self.parts[part].held else HOLDOUT
                file.write(b'{"id": %d, "source": %s, ' % (number, json.dumps(name).encode()) + line[1:] + b"\n")
                sets.setdefault(name, [number, number])[1] = number + 1
        self.home.put_file(HELD_ROWS, staged, consume=True)
        return sets

    def _held(self, facts: Facts) -> npt.NDArray[np.bool_]:
        import numpy as np

        held: npt.NDArray[np.bool_] = np.array([part.held for part in self.parts], bool)[facts.columns["part"]]
        return held

    def _described(self, facts: Facts) -> dict[str, Any]:
        """Sources, tokenizer and template, for people."""
        import numpy as np

        rows = np.bincount(facts.columns["part"], minlength=len(self.parts)).tolist()
        template = resolve_template(self.work.tokenizer, self.work.template)
        return {
            "sources": [{"name": p.name, "held": p.held, "rows": n, "files": list(p.files)} for p, n in zip(self.parts, rows, strict=True)],
            "tokenizer": {"name": str(self.work.tokenizer.name_or_path), "tokens": len(self.work.tokenizer), "encoder": self.work.encoder},
            "chat_template": hashlib.sha256(template.text.encode()).hexdigest(),
            "max_length": self.work.max_length,
        }

    def _refuse_empty(self, sides: Sequence[Side], verdict: Verdict) -> None:
        dropped = ", ".join(f"{f.count} {f.kind}" for f in verdict.findings if f.count and f.policy == "drop")
        got = f"{len(verdict.keep)} rows read, dropped: {dropped or 'none'}"
        if not len(sides[0].lengths) and any(not part.held for part in self.parts):
            raise DataError("data.train: no row is left to train on", got=got, want="one row or more", fix="add rows, or loosen data.quality or data.holdout")
        if self.holds_out and not len(sides[1].lengths):
            raise DataError(
                "data.holdout: no row is held out", got=got, want="one row or more", fix="raise data.holdout, name held-out sources, or set it to 0"
            )


def _fates(sides: Sequence[Side], rows: int) -> npt.NDArray[np.uint8]:
    """What became of every row."""
    import numpy as np

    fate = np.full(rows, DROPPED, np.uint8)
    for side in sides:
        for placed, places in side.taken:
            fate[placed.first_row + np.unique(placed.piece.examples["row"][places])] |= HELD if side.split == HOLDOUT else TRAINING
    return fate
