"""At stage 3 a model is partitioned while it is read: ranks on one host together hold it about once. Slow: 0.6 GB are written and read.

pytest -m slow tests/gang/test_loading_memory.py
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from gangs import gang

from tunefleet.cluster.world import World
from tunefleet.trainers.run import RunFile

pytestmark = [pytest.mark.gang, pytest.mark.slow, pytest.mark.timeout(600)]
MEGABYTE = 1 << 20
RANK_BYTES = 160 * MEGABYTE


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A random Llama of 161 million weights in fp32, and its bytes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 16000, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 10, "num_attention_heads": 8}
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes), dtype=torch.float32)
    folder = tmp_path_factory.mktemp("model")
    made.save_pretrained(folder)
    return folder, sum(4 * p.numel() for p in made.parameters())


def private_bytes() -> int:
    """Memory of this process that no file backs; a mapped weights file is the system's cache, and can be given up."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def growth(folder: str) -> int:
    """How far this rank's memory rose at its highest while the model was read."""
    from tunefleet.trainers.models import build
    from tunefleet.trainers.zero import prepare_deepspeed

    world = World.join()
    run = RunFile.model_validate(
        {"model": {"name_or_path": folder}, "data": {"train": [{"path": "none"}]}, "training": {"max_steps": 1}, "zero": {"stage": 3}, "output": "none"}
    )
    prepare_deepspeed(run, world.device)
    world.barrier()
    before, highest, done = private_bytes(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            highest[0] = max(highest[0], private_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    built: Any = build(run, world)
    done.set()
    watcher.join()
    assert sum(p.numel() for p in built.model.parameters()) == 0  # whole weights stand nowhere
    return highest[0] - before


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_together_hold_the_model_about_once(model: tuple[Path, int], ranks: int, record_property: Any) -> None:
    folder, size = model
    total = sum(gang(ranks, growth, str(folder), timeout=500))
    record_property("megabytes", total // MEGABYTE)
    assert total <= 1.1 * size + ranks * RANK_BYTES, f"{total // MEGABYTE} MB for {size // MEGABYTE} MB on {ranks} ranks"
