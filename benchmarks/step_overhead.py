"""What a training step of ours costs: against DeepSpeed written by hand on the same micro-batches, and in useful tokens a second against PyTorch and TRL.

    pip install torch==2.13.0 && pip install -c constraints.txt -e '.[bench]'      in an environment of its own
    python benchmarks/step_overhead.py                                             20 minutes on 2 cores; writes benchmarks/results/<date>-step-overhead.json

A Llama of 5 million parameters with random weights, on the CPU, 2 threads (2 ranks: one each). Contestants live in processes of their own and take turns
(turns.py), so that a slow spell of the machine meets all of them. Useful tokens are tokens that are no padding.

Overhead: the same examples in the same micro-batches (padded rows of like lengths) and the same losses, which is checked. Ours is the whole loop of a
run (stream, collate, weights, log); the others' micro-batches are made beforehand. Throughput: 64 examples a step; TRL draws its own rows, of the same
tokens.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from contestants import MICRO, bare, by_hand, ours, trl
from recording import machine, save, show, spread
from turns import Turn, contest, rounds
from workload import LLAMA, MAX_LENGTH, VOCABULARY, make_work

OURS, HAND, SCORED = "tunefleet", "DeepSpeed by hand", "same with our head"
BARE, TRL, GROUPED = "PyTorch, padded", "TRL", "TRL, group_by_length"
OURS_BF16, GROUPED_BF16 = "tunefleet, bf16", "TRL, group_by_length, bf16"
MICRO_TOKENS = 2048  # training.micro_batch_tokens of ours: the fastest of 1024 and 2048 here; 64 examples a step all the same
GOALS = {BARE: 1.3, TRL: 1.3, GROUPED: 1.0}
OVERHEAD_GOAL = 1.05


def overhead(folder: Path, *, stage: int, ranks: int, pairs: int, steps: int, examples: int) -> dict[str, Any]:
    """Seconds a step of ours and of both hand-written loops, in alternating turns of ``steps`` steps."""
    work = make_work(folder, batching="bucket", stage=stage, train_batch_size=examples, micro_batch_size=MICRO)
    entries = [(OURS, ours, work), (HAND, by_hand, work), (SCORED, partial(by_hand, scored=True), work)]
    with contest(entries, ranks=ranks, threads=max(1, 2 // ranks)) as contestants:
        turns = rounds(contestants, rounds=pairs, steps=steps, warmup=2)
    agree(turns)
    seconds = {name: [t.seconds / t.steps for t in found] for name, found in turns.items()}
    ratios = {name: compared(seconds[OURS], seconds[name]) for name in (HAND, SCORED)}
    cpu = {name: [t.cpu_seconds / t.steps for t in found] for name, found in turns.items()}
    return {
        "stage": stage,
        "ranks": ranks,
        "pairs": pairs,
        "steps_a_turn": steps,
        "examples_a_step": examples,
        "tokens_a_step": turns[OURS][0].useful / steps,
        "seconds_a_step": {name: spread(values) for name, values in seconds.items()},
        "cpu_seconds_a_step": {name: spread(values) for name, values in cpu.items()},
        "ratio": ratios,
        "cpu_ratio": {name: compared(cpu[OURS], cpu[name]) for name in (HAND, SCORED)},
        "goal": OVERHEAD_GOAL,
    }


def agree(turns: dict[str, list[Turn]]) -> None:
    """The loops do the same work: their losses are the same (rank 0's share, in fp32)."""
    curves = {name: [loss for turn in found for loss in turn.losses] for name, found in turns.items()}
    for name, curve in curves.items():
        for here, there in zip(curve, curves[OURS], strict=True):
            if abs(here - there) > 1e-4 * abs(there):
                raise AssertionError(f"{name} trains something else: a loss of {here} where ours has {there}")


def compared(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Ours over theirs: of the medians, and the spread of the ratios turn by turn."""
    by_turn = spread([a / b for a, b in zip(ours, theirs, strict=True)])
    return {"of_medians": spread(ours)["median"] / spread(theirs)["median"], **{f"by_turn_{key}": value for key, value in by_turn.items()}}


def throughput(folder: Path, *, count: int, steps: int) -> dict[str, Any]:
    """Useful tokens a second of every contestant, one worker, 2 threads, 64 examples a step."""
    work, plain = make_work(folder, stage=2, micro_batch_tokens=MICRO_TOKENS), make_work(folder)
    work16, plain16 = make_work(folder, stage=2, micro_batch_tokens=MICRO_TOKENS, precision="bf16"), make_work(folder, precision="bf16")
    grouped = partial(trl, sampling="group_by_length")
    entries = [
        (OURS, ours, work),
        (BARE, bare, plain),
        (TRL, trl, plain),
        (GROUPED, grouped, plain),
        (OURS_BF16, ours, work16),
        (GROUPED_BF16, grouped, plain16),
    ]
    with contest(entries) as contestants:
        turns = rounds(contestants, rounds=count, steps=steps, warmup=1)
    rates = {name: [t.useful / t.seconds for t in found] for name, found in turns.items()}
    pairs = {name: (OURS, name) for name in (BARE, TRL, GROUPED)} | {GROUPED_BF16: (OURS_BF16, GROUPED_BF16)}
    return {
        "rows": work.rows,
        "rounds": count,
        "steps_a_turn": steps,
        "examples_a_step": work.run.training.step_size().examples,
        "micro_batch": {"tunefleet": f"{MICRO_TOKENS} tokens", "others": f"{MICRO} rows"},
        "useful_tokens_per_second": {name: spread(values) for name, values in rates.items()},
        "whole": {name: total(found) for name, found in turns.items()},
        "ratio": {name: compared(rates[mine], rates[theirs]) for name, (mine, theirs) in pairs.items()},
        "goals": GOALS,
    }


def total(turns: Sequence[Turn]) -> dict[str, float]:
    """All turns of one contestant together. ``group_by_length`` goes from long rows to short ones: of it only the whole is like that of the others."""
    useful, seconds = sum(t.useful for t in turns), sum(t.seconds for t in turns)
    return {
        "useful_tokens_per_second": useful / seconds,
        "useful_tokens_per_cpu_second": useful / sum(t.cpu_seconds for t in turns),
        "padding": 1 - useful / sum(t.computed for t in turns),
        "tokens_a_step": useful / sum(t.steps for t in turns),
    }


def show_overhead(found: Sequence[dict[str, Any]]) -> None:
    """A line a stage, number of ranks and opponent."""
    rows = []
    for case in found:
        for name in (HAND, SCORED):
            seconds, ratio = case["seconds_a_step"], case["ratio"][name]
            mine, theirs = (f"{s['median'] * 1e3:.0f} ({s['low'] * 1e3:.0f}-{s['high'] * 1e3:.0f})" for s in (seconds[OURS], seconds[name]))
            turn = f"{ratio['by_turn_median']:.3f} ({ratio['by_turn_low']:.3f}-{ratio['by_turn_high']:.3f})"
            verdict = "met" if ratio["of_medians"] <= OVERHEAD_GOAL else "missed"
            cpu = f"{case['cpu_ratio'][name]['of_medians']:.3f}"
            rows.append([str(case["stage"]), str(case["ranks"]), name, mine, theirs, f"{ratio['of_medians']:.3f}", turn, cpu, f"<= {OVERHEAD_GOAL} {verdict}"])
    columns = ["stage", "ranks", "against", "ours, ms a step", "theirs", "ratio of medians", "turn by turn", "CPU time", "goal"]
    show("a step of ours against one written by hand: medians (range)", columns, rows)


def show_throughput(found: dict[str, Any]) -> None:
    """A line a contestant."""
    rows = []
    for name, rate in found["useful_tokens_per_second"].items():
        whole, ratio = found["whole"][name], found["ratio"].get(name)
        goal = GOALS.get(name)
        mine = found["whole"][OURS_BF16 if "bf16" in name else OURS]["useful_tokens_per_second"]
        verdict = "" if goal is None or ratio is None else f">= {goal} {'met' if ratio['of_medians'] >= goal else 'missed'}"
        rows.append(
            [
                name,
                f"{rate['median']:,.0f} ({rate['low']:,.0f}-{rate['high']:,.0f})",
                f"{whole['useful_tokens_per_second']:,.0f}",
                f"{whole['padding']:.1%}",
                f"{ratio['of_medians']:.2f}" if ratio else "",
                f"{mine / whole['useful_tokens_per_second']:.2f}" if ratio else "",
                verdict,
            ]
        )
    columns = ["loop", "useful tokens/s: median of turns (range)", "whole", "padding", "ours / it: medians", "whole", "goal"]
    show(f"useful tokens a second, {found['rows']} rows, {found['examples_a_step']} examples a step", columns, rows)


def main() -> None:
    """Measure, write the results, print the tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--part", choices=("all", "overhead", "throughput"), default="all")
    options.add_argument("--pairs", type=int, default=12, help="overhead: turns of everyone")
    options.add_argument("--examples", type=int, default=16, help="overhead: examples a step")
    options.add_argument("--rounds", type=int, default=10, help="throughput: turns of everyone")
    options.add_argument("--steps", type=int, default=3, help="throughput: steps a turn; 30 in all see every length that group_by_length sorts by")
    chosen = options.parse_args()
    began, found = machine(), {"model": LLAMA, "vocabulary": VOCABULARY, "max_length": MAX_LENGTH}
    with TemporaryDirectory(prefix="step-overhead-") as root:
        if chosen.part != "throughput":
            cases = [(stage, ranks) for ranks in (1, 2) for stage in (1, 2)]
            found["overhead"] = [overhead(Path(root), stage=s, ranks=r, pairs=chosen.pairs, steps=2, examples=chosen.examples) for s, r in cases]
            show_overhead(found["overhead"])
        if chosen.part != "overhead":
            found["throughput"] = throughput(Path(root), count=chosen.rounds, steps=chosen.steps)
            show_throughput(found["throughput"])
    print(f"written to {save('step-overhead', found, began)}")


if __name__ == "__main__":
    main()
