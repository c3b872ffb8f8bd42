"""Where a run goes on: finding the next step's examples at 1%, 50% and 99% of an epoch, for ten thousand and for ten million rows. The index alone is read.

    python benchmarks/resume.py            half a minute; writes benchmarks/results/<date>-resume.json

Each figure is of a new course that knows nothing yet, as in a worker that has just been started: where the step begins and ends, which examples it
has. Shards have a thousand rows each; 8 are shuffled together. In turns, medians.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import perf_counter

import numpy as np
from recording import machine, save, show, spread

from tunefleet.data.mixture import Mixture, Part
from tunefleet.data.order import Course, Order
from tunefleet.data.steps import StepSize, steps_of

ROWS, SHARES, SHARD, WINDOW = (10_000, 10_000_000), (0.01, 0.5, 0.99), 1000, 8
SIZES = {"64 examples": StepSize(64, None), "16,384 tokens": StepSize(None, 16_384)}


def courses(rows: int) -> tuple[dict[str, Callable[[], Course]], np.ndarray]:
    """How a course over so many rows is made: of one source, and of two of which one is read twice; and the lengths."""
    lengths = np.random.default_rng(0).integers(50, 500, rows).astype(np.int32)
    shards, tokens = [SHARD] * (rows // SHARD), lengths.reshape(-1, SHARD).sum(1).tolist()
    half, cut = rows // 2, len(shards) // 2
    parts = [Part(shards[:cut], 0, rows, lengths[:half], tokens[:cut]), Part(shards[cut:], half, rows // 3, lengths[half:], tokens[cut:])]
    return {
        "one source": lambda: Order(shards, 0, WINDOW, lengths, tokens),
        "a mixture of two": lambda: Mixture(parts, 0, WINDOW),
    }, lengths


def resumed(make: Callable[[], Course], lengths: np.ndarray, size: StepSize, share: float) -> float:
    """Seconds from nothing to the examples of a step."""
    began = perf_counter()
    course = make()
    steps = steps_of(course, lengths, size)
    ids = course.at(*steps.range(int(steps.per_epoch * share)))
    took = perf_counter() - began
    assert len(ids)
    return took


def main() -> None:
    """Measure in turns, write, show."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=25, help="turns of everyone")
    chosen, began = options.parse_args(), machine()
    made = {rows: courses(rows) for rows in ROWS}
    found: dict[tuple[str, str, int, float], list[float]] = {}
    for turn in range(chosen.rounds + 1):
        for rows, (makers, lengths) in made.items():
            for name, make in makers.items():
                for size, share in ((size, share) for size in SIZES for share in SHARES):
                    took = resumed(make, lengths, SIZES[size], share)
                    if turn:
                        found.setdefault((name, size, rows, share), []).append(took * 1e3)
    medians = {key: spread(values) for key, values in found.items()}
    lines, figures = [], []
    for name, size in sorted({key[:2] for key in medians}):
        own = {key[2:]: value["median"] for key, value in medians.items() if key[:2] == (name, size)}
        ratio = max(own.values()) / min(own.values())
        figures.append({"course": name, "step": size, "ms": {f"{rows} rows at {share:.0%}": value for (rows, share), value in own.items()}, "ratio": ratio})
        lines.append([name, size, *(f"{own[rows, share]:.2f}" for rows in ROWS for share in SHARES), f"{ratio:.2f}"])
    path = save("resume", {"rounds": chosen.rounds, "resume": figures}, began)
    columns = ["course", "step", *(f"{rows:,} at {share:.0%}" for rows in ROWS for share in SHARES), "slowest / fastest"]
    show(f"milliseconds to the examples of the next step ({path.name})", columns, lines)


if __name__ == "__main__":
    main()
