"""The quality gate on many rows with planted faults: what it takes beside tokenising, and whether it finds what was planted.

    python benchmarks/data_quality.py             some four minutes; writes benchmarks/results/<date>-data-quality.json

A row is a question and an answer of some 130 words. Of a hundred rows one is a copy, one a copy of which one word was changed, one another answer to a
question that there is, one an empty answer, and one has a held-out question. The gate is timed alone (facts and sketches of rows that are parsed, on one core
as a Ray task has it; then the judging of all) and `prepare` as a whole, with its own policies and with every search that can be left out left out.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from recording import machine, save, show

from tunefleet.data.facts import Facts, facts_of
from tunefleet.data.gate import judge
from tunefleet.data.layout import ANSWERS, Encoded
from tunefleet.data.prepare import parts_of, prepare
from tunefleet.data.settings import Data
from tunefleet.data.survey import Reading

BLOCK_ROWS = 1000
SOUGHT = ("exact_duplicates", "near_duplicates", "contradictions", "empty_turns", "leakage")
OFF = dict.fromkeys(("exact_duplicates", "near_duplicates", "near_leakage", "duplicate_ids", "contradictions", "roles_out_of_order", "label_spellings"), "off")


def said(seed: str, count: int) -> list[str]:
    """Words of a vocabulary of five thousand."""
    draw = random.Random(seed)
    return [f"w{int(5000 * draw.random() ** 2)}" for _ in range(count)]


def row(number: int) -> dict[str, str]:
    """The good row of a number."""
    return {"prompt": " ".join(said(f"ask {number}", 40)), "completion": " ".join(said(f"answer {number}", 90))}


def planted(number: int, seed: int) -> dict[str, str]:
    """A row: of every hundred five have a fault, each of its own kind."""
    good, draw = row(number), random.Random(f"{seed} {number}")
    earlier = row(100 * draw.randrange(number // 100 + 1) + 50)
    match number % 100:
        case 95:
            return earlier
        case 96:
            words = row(number - 46)["prompt"].split()
            place = draw.randrange(len(words))
            return {**row(number - 46), "prompt": " ".join([*words[:place], "another", *words[place + 1 :]])}
        case 97:
            return {**row(number - 37), "completion": good["completion"]}
        case 98:
            return {**good, "completion": " "}
        case 99:
            return {**good, "prompt": " ".join(said(f"held {number}", 40))}
    return good


def write_rows(folder: Path, rows: int) -> Data:
    """Files of training and held-out rows, and the section of a run file that names them."""
    with (folder / "train.jsonl").open("w") as file:
        file.writelines(json.dumps(planted(number, 0)) + "\n" for number in range(rows))
    with (folder / "held.jsonl").open("w") as file:
        asked = (" ".join(said(f"held {number}", 40)) for number in range(99, rows, 100))
        file.writelines(json.dumps({"prompt": prompt, "completion": " ".join(said(prompt, 90))}) + "\n" for prompt in asked)
    quality = {"leakage": "warn", "unsupervised": "drop"}
    sources: dict[str, Any] = {"train": [{"path": str(folder / "train.jsonl")}], "holdout": [{"path": str(folder / "held.jsonl")}]}
    return Data.model_validate({**sources, "store": str(folder / "shards"), "max_length": 2048, "quality": quality})


def facts(data: Data) -> Iterator[tuple[Facts, float]]:
    """The facts of all rows block by block, and the seconds that each took; tokenising is left out."""
    for number, part in enumerate(parts_of(data)):
        rows = list(Reading(part).parsed())
        for first in range(0, len(rows), BLOCK_ROWS):
            block = rows[first : first + BLOCK_ROWS]
            encoded = [[Encoded({}, 130, 90, uncut=130)] for _ in block]
            began = time.perf_counter()
            made = facts_of(block, encoded, near=True)
            yield made.at(number, 0), time.perf_counter() - began


def gate_alone(data: Data) -> dict[str, Any]:
    """Seconds of the facts and of the judging, bytes of facts, and what was found."""
    made = list(facts(data))
    joined = Facts.joined([one for one, _ in made])
    began = time.perf_counter()
    verdict = judge(joined, parts_of(data), data.quality)
    held = sum(column.nbytes for column in joined.columns.values()) + joined.sketch.nbytes
    counts = {kind: verdict.counts[kind] for kind in SOUGHT}
    return {"facts_s": sum(took for _, took in made), "judging_s": time.perf_counter() - began, "bytes_a_row": held / len(joined), "found": counts}


def whole(data: Data, store: Path, tokenizer: Any, **quality: str) -> dict[str, float]:
    """Minutes of a preparation by this process."""
    section = data.model_copy(update={"store": str(store), "quality": data.quality.model_copy(update=quality)})
    began = time.perf_counter()
    prepare(section, ANSWERS, tokenizer)
    return {"minutes": (time.perf_counter() - began) / 60}


def main() -> None:
    """Measure, compare with what was planted, and write it down."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=100_000)
    options.add_argument("--tokenizer", default="/work/shared/models/stories260K")
    chosen = options.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from transformers import AutoTokenizer

    began, tokenizer = machine(), AutoTokenizer.from_pretrained(chosen.tokenizer, model_max_length=1 << 30)
    with TemporaryDirectory(prefix="data-quality-") as name:
        data = write_rows(Path(name), chosen.rows)
        with_gate = whole(data, Path(name) / "with", tokenizer)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        without = whole(data, Path(name) / "without", tokenizer, **OFF)
        alone = gate_alone(data)
    each = chosen.rows // 100
    recall = {kind: found / each for kind, found in alone["found"].items()}
    figures = {"rows": chosen.rows, "planted_of_each_kind": each, "gate": alone, "prepare": with_gate, "prepare_without": without, "peak_mb": peak}
    path = save("data-quality", {**figures, "found_by_planted": recall}, began)
    cells = [
        ["facts and sketches, one core", f"{alone['facts_s'] / 60:.2f} minutes"],
        ["judging", f"{alone['judging_s'] / 60:.2f} minutes"],
        ["prepare, whole", f"{with_gate['minutes']:.2f} minutes"],
        ["prepare, searches off", f"{without['minutes']:.2f} minutes"],
        ["peak memory of prepare", f"{peak:,.0f} MB"],
        ["facts of a row", f"{alone['bytes_a_row']:.0f} bytes"],
        *([f"{kind}: found, of {each:,} planted", f"{count:,}"] for kind, count in alone["found"].items()),
    ]
    show(f"{chosen.rows:,} rows ({path.name})", ["what", "is"], cells)


if __name__ == "__main__":
    main()
