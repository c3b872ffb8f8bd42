"""The gate over three models that were really trained, by the commands that a user would type: one better, one spoiled, one that forgot.

    python benchmarks/gate_verdicts.py           three trainings and three evaluations, about 10 minutes; writes benchmarks/results/<date>-gate-verdicts.json

`better` learns sums (GSM8K) beside the stories that its base knows, and has to pass. `spoiled` learns the same for as long, with the answers of other
questions, is to take the place of `better`, and has to fail for what would be lost on sums. `forgot` learns Shakespeare alone, and has to fail for what
it lost on stories, however much it gained. Losses are recorded, not times, so other work on the machine does not spoil them. It wants the model and
the rows of /work/shared.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from recording import machine, save, show

MODEL, DATA = Path("/work/shared/models/stories260K"), Path("/work/shared/data")
STORY = "<|endoftext|>"
OFF = {"near_duplicates": "off", "contradictions": "off", "near_leakage": "off", "truncated": "drop", "unsupervised": "drop"}
TRAINING = {"train_batch_size": 8, "micro_batch_size": 8, "learning_rate": 2e-3, "warmup_steps": 10, "lr_scheduler_type": "linear", "min_lr_ratio": 0.1}
GATE = {
    "gain": [{"metric": "loss", "set": "sums"}],
    "regression": [{"metric": "loss", "set": "*"}],
    "forgetting": [{"metric": "loss", "most": 0.4}],
    "overfitting": [{"metric": "loss", "most": 0.5}],
}


@dataclass(frozen=True)
class Case:
    """A model, the set that it is to be good at, and the kind of check that has to fail it (None: all have to pass).

    ``against``: the model whose place it is to take, by name; None: the one that it was tuned from.
    """

    name: str
    rows: tuple[str, ...]
    objective: str
    steps: int
    aimed: str
    wrong: str | None = None
    against: str | None = None


CASES = (
    Case("better", ("sums.jsonl", "stories.txt"), "sft", 120, "sums"),
    Case("spoiled", ("shuffled.jsonl", "stories.txt"), "sft", 120, "sums", wrong="regression", against="better"),
    Case("forgot", ("plays.txt",), "pretrain", 150, "plays", wrong="forgetting"),
)


def write_rows(folder: Path) -> None:
    """Cut the real rows: what is trained on, and what no training sees."""
    sums = [json.loads(line) for line in (DATA / "sft" / "gsm8k_train.jsonl").read_text().splitlines()][:2000]
    answers = [row["answer"] for row in sums]
    random.Random(0).shuffle(answers)
    tested = (DATA / "sft" / "gsm8k_test.jsonl").read_text().splitlines()[:120]
    stories = [story for story in (DATA / "text" / "tinystories_1728.txt").read_text().split(STORY) if story.strip()]
    plays = (DATA / "text" / "tinyshakespeare.txt").read_text()
    cut = len(plays) * 95 // 100
    written = {
        "sums.jsonl": "\n".join(map(json.dumps, sums)),
        "shuffled.jsonl": "\n".join(json.dumps({**row, "answer": answer}) for row, answer in zip(sums, answers, strict=True)),
        "sums-tested.jsonl": "\n".join(tested),
        "stories.txt": STORY.join(stories[:600]),
        "stories-tested.txt": STORY.join(stories[-60:]),
        "plays.txt": plays[:cut],
        "plays-tested.txt": plays[cut:],
    }
    for name, text in written.items():
        (folder / name).write_text(text)


def run_file(case: Case, model: str) -> dict[str, Any]:
    """The run that makes a model out of another."""
    data = {"train": [{"path": row} for row in case.rows], "holdout": 0.05, "store": "shards", "max_length": 384, "quality": OFF}
    return {
        "name": case.name,
        "model": {"name_or_path": model},
        "data": data,
        "objective": {"kind": case.objective},
        "training": {**TRAINING, "max_steps": case.steps},
        "evaluation": {"every_steps": None, "samples": {"number": 0}},
        "output": f"runs/{case.name}",
    }


def suite_file(aimed: str) -> dict[str, Any]:
    """What is measured: the set that the model was made for, and the stories, which it should not forget."""
    own = {"sources": [{"path": f"{aimed}-tested.{'jsonl' if aimed == 'sums' else 'txt'}"}], "metrics": ["loss", "token_accuracy", "calibration_error"]}
    return {
        "name": f"{aimed} and stories",
        "sets": {aimed: own, "stories": {"sources": [{"path": "stories-tested.txt"}], "general": True}},
        "max_length": 384,
        "quality": OFF,
    }


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`tunefleet WORDS` as a user types it, in a folder."""
    return subprocess.run([str(Path(sys.executable).with_name("tunefleet")), *words], cwd=folder, capture_output=True, text=True, check=False)


def judged(folder: Path, case: Case) -> dict[str, Any]:
    """Train a model and have the gate judge it."""
    gate = {**GATE, "gain": [{"metric": "loss", "set": case.aimed}]}
    files = {"run": run_file(case, str(MODEL)), "suite": suite_file(case.aimed), "gate": gate}
    subject = [f"runs/{case.name}"]
    if case.against is not None:
        subject = [f"runs/{case.name}/export", "--run", f"{case.name}-next.yaml"]
        files["next"] = run_file(case, f"runs/{case.against}/export")
    for name, content in files.items():
        (folder / f"{case.name}-{name}.yaml").write_text(yaml.safe_dump(content))
    made = command(folder, "train", f"{case.name}-run.yaml")
    if made.returncode:
        raise SystemExit(f"{case.name} was not trained:\n{made.stderr[-2000:]}")
    found = command(folder, "evaluate", *subject, "--suite", f"{case.name}-suite.yaml", "--gate", f"{case.name}-gate.yaml", "--json")
    if found.returncode not in (0, 1):
        raise SystemExit(f"{case.name} was not evaluated:\n{found.stderr[-2000:]}")
    evaluation = json.loads(found.stdout)
    losses = {name: {side: part[side]["loss"] for side in ("base", "tuned", "difference")} for name, part in evaluation["sets"].items()}
    return {"exit_code": found.returncode, "losses": losses, "gap": evaluation["gap"], **evaluation["gate"]}


def main() -> None:
    """Make all three, write, show; the exit code is 1 where the gate judged one of them as it should not."""
    began = machine()
    with tempfile.TemporaryDirectory(prefix="gate-verdicts-") as place:
        folder = Path(place)
        write_rows(folder)
        found = {}
        for case in CASES:
            found[case.name] = judged(folder, case)
            print(f"{case.name}: exit code {found[case.name]['exit_code']}", flush=True)
    failed = {name: sorted({one["kind"] for one in one["checks"] if not one["passed"]}) for name, one in found.items()}
    right = {case.name: not failed[case.name] if case.wrong is None else case.wrong in failed[case.name] for case in CASES}
    path = save("gate-verdicts", {"model": str(MODEL), "steps": {case.name: case.steps for case in CASES}, "models": found, "as_it_should_be": right}, began)
    lines = [
        [name, held, *(f"{part[side]['value']:.3f}" for side in ("base", "tuned")), str(one["exit_code"]), ", ".join(failed[name]) or "-"]
        for name, one in found.items()
        for held, part in one["losses"].items()
    ]
    show(f"the gate ({path.name})", ["model", "set", "base loss", "tuned loss", "exit code", "checks that fail"], lines)
    raise SystemExit(0 if all(right.values()) else 1)


if __name__ == "__main__":
    main()
