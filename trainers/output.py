"""A run's output folder: may this run write there, who holds it, what is in it already, and which weights it stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from tunefleet.cluster import lease
from tunefleet.cluster.addresses import address_problem
from tunefleet.cluster.errors import CheckpointError, OutputError, Refusal, RequestError, SettingsError, StorageError
from tunefleet.cluster.metrics import delete_lines, has_lines, join_lines
from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.trainers.chain import EXPORT, TOKENIZER
from tunefleet.trainers.foreign import code_of
from tunefleet.trainers.handover import ADOPTED, PINNED
from tunefleet.trainers.ledger import Events, when
from tunefleet.trainers.manifest import FOLDER, Manifest, brief, newest, newest_step, read_manifest, verify
from tunefleet.trainers.recorded import recorded_run
from tunefleet.trainers.resume import Differences, differences
from tunefleet.trainers.run import RunFile
from tunefleet.trainers.stage import BASE, DONE, EVENTS, INIT, METRICS, REPORT, RUN_FILE, STOP, TRACKERS, WORKERS, read_done

Resume = bool | Literal["auto"]
LEASE = "lease"
MERGED = f"{EXPORT}-merged"
_LENGTH = ("training.max_steps", "training.num_train_epochs", "export")
"""A run that is done is not done any more when one of these has changed."""


@dataclass(frozen=True)
class Claim:
    """An output that this process may write to. ``fence`` is higher than that of everyone who held it before. ``must_resume``: see Stage."""

    run: RunFile
    storage: Storage
    fence: int
    changed: tuple[tuple[str, Any, Any], ...]
    must_resume: bool = False


def output_problems(run: RunFile, *, resume: Resume, overwrite: bool) -> list[RequestError]:
    """Why this run may not write to its output: it exists, there is nothing to resume, or what is there is another run."""
    if address_problem("output", run.output):  # said by check_run
        return []
    try:
        return _output_problems(run, open_storage(run.output), resume=resume, overwrite=overwrite)
    except RequestError as error:  # an address that is none, or files that another version has written
        return [error]
    except StorageError as error:
        return [OutputError(f"output: {error.what}", got=error.got, want=error.want, fix=error.fix)]


def _output_problems(run: RunFile, storage: Storage, *, resume: Resume, overwrite: bool) -> list[RequestError]:
    if overwrite and resume:
        return [OutputError("resume and overwrite exclude each other", fix="--resume goes on, --overwrite starts anew")]
    exists = storage.exists(RUN_FILE)
    if exists and not resume and not overwrite:
        return [OutputError("output: exists already", got=run.output, want="a folder without a run", fix="--resume goes on with it, --overwrite starts anew")]
    if not exists and storage.list(f"{FOLDER}/"):  # they would be taken for this run's own
        fix = f"put {RUN_FILE} back, or name another output"
        return [OutputError("output: holds checkpoints, and no run that made them", got=run.output, want=f"{RUN_FILE} beside them", fix=fix)]
    if resume is True and not (exists and newest_step(storage)):
        return [OutputError("output: nothing to resume", got=run.output, want="a complete checkpoint", fix="leave --resume out, or say --resume=auto")]
    return [*differences(earlier(storage, run), run).refused, *_too_short(storage, run)] if exists and resume else []


def _too_short(storage: Storage, run: RunFile) -> list[RequestError]:
    """A resume with fewer steps than are done: weights cannot be trained back."""
    done, wanted = newest_step(storage), run.training.max_steps
    if wanted is None or done <= wanted:
        return []
    return [SettingsError("training.max_steps: more steps are done already", got=str(wanted), want=f"at least {done}", fix="raise it, or --overwrite")]


def earlier(storage: Storage, run: RunFile) -> RunFile:
    """The run file that an output was started with; it may ask for no other code than the one at hand. Raises RequestError."""
    return recorded_run(storage, trusted=set(code_of(run.model_dump(mode="json"))))


def finished(run: RunFile) -> Differences | None:
    """What differs from the run that stands there, when that is done, is this run, and is as long; None when there is something left to do."""
    storage = open_storage(run.output)
    if not (storage.exists(DONE) and storage.exists(RUN_FILE) and (not run.export.at_end or storage.list(f"{EXPORT}/"))):
        return None
    found = differences(earlier(storage, run), run)
    longer = any(key == name or key.startswith(f"{name}.") for key, _, _ in found.changed for name in _LENGTH)
    return None if found.refused or longer else found


def weights_of(output: str | Path) -> tuple[Storage, Manifest]:
    """The weights that a run stands for: those that its end names (the best after early stopping), else its newest complete checkpoint.

    Raises CheckpointError when there are none, or when they are torn.
    """
    storage = open_storage(output)
    if storage.exists(DONE):
        manifest = read_manifest(storage, read_done(storage)["weights"])
        verify(storage, manifest)
        return storage, manifest
    found = newest(storage)
    if found is None:
        raise CheckpointError(f"{output} holds no complete checkpoint", want="a run that has saved one", fix="train it first, or name its export folder")
    return storage, found


def check_fence(storage: Storage, fence: int) -> None:
    """Raises OutputError when another run has taken the output since: a driver that was stopped for long, and its workers, must not write any more."""
    held, record = lease.newest(storage, LEASE)
    if held > fence:
        by = f"{record['holder']} on {record['host']}, process {record['pid']}" if record else "another run"
        raise OutputError(f"{storage.address}: taken over by another run", got=by, want="one writer at a time", fix="let that run go on; this one ends here")


@contextmanager
def claim(run: RunFile, *, resume: Resume, overwrite: bool, at_end: Callable[[Storage], None] = lambda storage: None) -> Iterator[Claim]:
    """Hold the output for as long as the block runs; a bad end is an event. Raises OutputError that names the holder when another run has it.

    ``at_end`` is called last of all, while the output is still held; not when another run has taken it over.
    """
    storage = open_storage(run.output)
    held = lease.Lease.acquire(storage, LEASE, holder=run.name)
    try:
        Refusal.raise_if(output_problems(run, resume=resume, overwrite=overwrite))  # again: only now nobody else can change it
        if overwrite and storage.exists(RUN_FILE):
            _clear(storage)
        fresh = not storage.exists(RUN_FILE)
        changed = () if fresh else differences(earlier(storage, run), run).changed
        storage.delete(DONE)
        storage.delete(STOP)
        storage.put(RUN_FILE, yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False, allow_unicode=True).encode())
        with _afterwards(storage, held.fence, at_end), _told(storage, held.fence), _given_back(storage) if fresh else nullcontext():
            yield Claim(run, storage, held.fence, changed, must_resume=resume is True)
    finally:
        held.release()


@contextmanager
def _afterwards(storage: Storage, fence: int, at_end: Callable[[Storage], None]) -> Iterator[None]:
    """Call ``at_end``, however the block ended."""
    try:
        yield
    finally:
        with suppress(StorageError, OutputError):
            check_fence(storage, fence)
            at_end(storage)


@contextmanager
def _told(storage: Storage, fence: int) -> Iterator[None]:
    """Note why a run that is not done ends, so that the time until it goes on is nobody's."""
    try:
        yield
    except BaseException as error:
        with suppress(StorageError, OutputError):  # what is raised already matters more
            check_fence(storage, fence)
            if not storage.exists(DONE):
                Events(storage).add("stopped", phase="stopped", why=brief(error))
            join_logs(storage)
        raise


def join_logs(storage: Storage) -> None:
    """Make ``metrics.jsonl`` and ``events.jsonl`` whole, where they were written in parts."""
    join_lines(storage, METRICS)
    join_lines(storage, EVENTS, order=when)


@contextmanager
def _given_back(storage: Storage) -> Iterator[None]:
    """A new output whose request turns out to be wrong before a step was done is free again: the mended request needs no --overwrite."""
    try:
        yield
    except RequestError:
        if not has_lines(storage, METRICS) and not storage.list(f"{FOLDER}/"):
            _clear(storage)
        raise


def _clear(storage: Storage) -> None:
    """Remove what a run writes, and nothing else. The run file goes last: while it stands, what is left is known to be a run's."""
    for folder in (FOLDER, "evaluation", EXPORT, MERGED, BASE, TOKENIZER, WORKERS, TRACKERS, INIT):
        storage.delete_tree(folder)
    for name in (METRICS, EVENTS):
        delete_lines(storage, name)
    for name in (DONE, STOP, PINNED, ADOPTED, REPORT, RUN_FILE):
        storage.delete(name)
