"""The loops that are measured against each other: ours, DeepSpeed written by hand, bare PyTorch, and TRL's SFTTrainer. See turns.py for the gate."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from turns import Gate
from workload import Work, unshifted

if TYPE_CHECKING:
    import torch

    from tunefleet.cluster.world import World
    from tunefleet.data.stream import Stream
    from tunefleet.trainers.engine import Engine
    from tunefleet.trainers.loop import Report, State, Watcher
    from tunefleet.trainers.objective import Objective

Also = Callable[["Work", "Engine", "World"], Sequence["Watcher"]]
"""Makes watchers of a run, in its process."""
KNOWN_STEPS = 64  # the most that the hand-written loops can run
MICRO = 8  # rows a forward of everybody whose micro-batches are not cut by tokens: TRL's default, and ours


def ours(gate: Gate, work: Work, store: str, *, also: Also | None = None) -> None:
    """The real loop with all that it has in a run: stream, objective, engine, and the log with a line a step. ``also``: further watchers."""
    from tunefleet.cluster.metrics import Lines
    from tunefleet.cluster.storage import open_storage
    from tunefleet.trainers.engine import Engine
    from tunefleet.trainers.hostmemory import kept_from_step_to_step
    from tunefleet.trainers.loop import State, train_loop
    from tunefleet.trainers.schedule import schedule
    from tunefleet.trainers.scoring import TokenScorer
    from tunefleet.trainers.watchers import LogWatch

    run, world = work.run, join(gate, store)
    model, objective = work.model().to(weights_dtype(work)).train(), make_objective(work)
    stream = make_stream(work, world, model)
    engine = Engine(TokenScorer(model), run, world)
    steps = 1_000_000
    log = LogWatch(Lines(open_storage(mkdtemp()), "metrics.jsonl") if world.main else None, world, stream, every=1, steps=steps)

    class Turns:
        """Counts, and waits at the gate."""

        def wants_stop(self) -> bool:
            return False

        def watch(self, state: State, report: Report) -> None:
            gate.count(state.tokens - self.tokens if world.main else 0, report.computed_tokens)
            self.tokens = state.tokens
            gate.stepped(float(sum(report.totals)))

        tokens = 0

    kept_from_step_to_step()
    watchers = [log, *(also(work, engine, world) if also is not None else []), Turns()]
    gate.open()
    train_loop(
        State(), steps, source=stream, objective=objective, engine=engine, world=world, rate=schedule(run, steps), watchers=watchers, seed=run.training.seed
    )


def by_hand(gate: Gate, work: Work, store: str, *, scored: bool = False) -> None:
    """What one writes with DeepSpeed alone, on the micro-batches of our stream, made beforehand: the model's own loss, backward, step.

    ``scored`` takes our way to the loss (the head on supervised tokens only) in place of the model's own, so that nothing but the loop differs.
    """
    import logging

    import deepspeed
    import torch

    from tunefleet.trainers.scoring import TokenScorer

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would be compiled for a minute
    world = join(gate, store)
    model, objective = work.model().train(), make_objective(work)
    stream = make_stream(work, world, model)
    known = [[objective.collate(r.records) for r in stream.take(step)] for step in range(KNOWN_STEPS)]
    steps = [[batch if scored else plain_batch(batch) for batch in batches] for batches in known]
    tokens = [world.sum({"n": float(sum((b["labels"] >= 0).sum() for b in batches))})["n"] for batches in known]
    rounds = len(steps[0])
    assert all(len(batches) == rounds for batches in steps)
    engine, *_ = deepspeed.initialize(
        model=TokenScorer(model) if scored else model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": rounds,
            "zero_optimization": {"stage": work.run.zero.stage},
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": 1.0,
        },
        dist_init_required=False,
    )
    gate.open()
    for batches, weight in zip(steps, tokens, strict=True):
        total = 0.0
        for batch in batches:
            if scored:
                loss = -engine(batch).logp_BT.sum() * (rounds * world.size / weight)
            else:
                loss = engine(**batch, num_items_in_batch=weight).loss * (rounds * world.size)
            engine.backward(loss)
            engine.step()
            total += float(loss.detach()) / (rounds * world.size)
        gate.count(sum(int(b["attention_mask"].sum()) for b in batches), sum(b["input_ids"].numel() for b in batches))
        gate.stepped(total)


def bare(gate: Gate, work: Work, store: str) -> None:
    """PyTorch alone, on the same examples a step as ours, in micro-batches of 8 padded rows in the order in which they come."""
    import torch

    world = join(gate, store)
    model, objective = work.model().train(), make_objective(work)
    stream = make_stream(work, world, model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    gate.open()
    for batches in padded_steps(stream, objective):
        tokens = float(sum((b["labels"] >= 0).sum() for b in batches))
        total = 0.0
        for batch in batches:
            loss = model(**batch, num_items_in_batch=tokens).loss
            loss.backward()
            total += float(loss.detach())
            gate.count(int(batch["attention_mask"].sum()), batch["input_ids"].numel())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        gate.stepped(total)


def trl(gate: Gate, work: Work, store: str, *, sampling: str = "random") -> None:
    """TRL's SFTTrainer on the same tokens, with what it logs and measures by default; gradient checkpointing off, which it has on."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    split, training = work.split(), work.run.training
    rows = unshifted(split.records(range(split.rows)))
    folder = mkdtemp()

    class Counting(SFTTrainer):
        """Counts tokens as they are trained."""

        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            gate.count(int(inputs["attention_mask"].sum()), inputs["input_ids"].numel())
            return super().training_step(model, inputs, *args, **kwargs)

    class Turns(TrainerCallback):
        """Waits at the gate."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            gate.open()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            gate.stepped()

    Counting(
        model=work.model(),
        args=SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=MICRO,
            gradient_accumulation_steps=(training.train_batch_size or 64) // MICRO,
            max_steps=1_000_000,
            learning_rate=1e-4,
            bf16=training.precision == "bf16",
            gradient_checkpointing=False,
            train_sampling_strategy=sampling,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            max_length=None,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(Path(work.store).parents[1] / "tokenizer"),
        callbacks=[Turns()],
    ).train()


def join(gate: Gate, store: str) -> World:
    """The ranks of this contestant, over gloo. TRL is left without a process group: it would wrap its model."""
    import torch.distributed as dist

    from tunefleet.cluster.world import World

    rank, size = str(gate.rank), str(gate.ranks)
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)
    dist.init_process_group("gloo", init_method=Path(store).as_uri(), rank=gate.rank, world_size=gate.ranks)
    return World.join()


def make_stream(work: Work, world: World, model: Any) -> Stream:
    """The stream of a run, as its worker makes it."""
    from tunefleet.data.feed import feed_of
    from tunefleet.data.store import Store
    from tunefleet.data.stream import Stream
    from tunefleet.trainers.scoring import batching_kind

    training = work.run.training
    return Stream(
        feed_of(Store.open(work.store), work.run.data, training.step_size(), training.seed),
        kind=batching_kind(work.run.data.batching, model, world.device)[0],
        limits=training.limits(),
        rank=world.rank,
        ranks=world.size,
    )


def make_objective(work: Work) -> Objective:
    """Supervised fine-tuning; the padding's id makes no difference."""
    from tunefleet.trainers.objective import make_objective

    return make_objective(work.run.objective, 0)


def weights_dtype(work: Work) -> torch.dtype:
    """As trainers/models.py chooses it."""
    from tunefleet.trainers.models import weights_dtype

    return weights_dtype(work.run)


def plain_batch(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A micro-batch as transformers models want it: labels at the position of their own token, no positions."""
    import torch

    labels = torch.full_like(batch["labels"], -100)
    labels[:, 1:] = batch["labels"][:, :-1]
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}


def padded_steps(stream: Stream, objective: Objective) -> Iterator[list[dict[str, torch.Tensor]]]:
    """The examples of every step of our stream, in micro-batches of 8 in their order."""
    step = 0
    while True:
        records = stream.rows.records(stream.ids(step).tolist())
        yield [plain_batch(objective.collate(records[i : i + MICRO])) for i in range(0, len(records), MICRO)]
        step += 1
