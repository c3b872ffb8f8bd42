"""A study's output: may this study write there, who holds it, and is what lies in it an earlier start of the same study."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from tunefleet.cluster import lease
from tunefleet.cluster.errors import OutputError, Refusal, RequestError, SettingsError
from tunefleet.cluster.metrics import delete_lines, has_lines
from tunefleet.cluster.settings import check
from tunefleet.cluster.storage import Storage
from tunefleet.trainers.chain import absolute
from tunefleet.trainers.foreign import code_of
from tunefleet.trainers.manifest import FOLDER as CHECKPOINTS
from tunefleet.trainers.output import Resume
from tunefleet.trainers.recorded import recorded_document
from tunefleet.trainers.resume import differences
from tunefleet.trainers.stage import EVENTS, REPORT, RUN_FILE, STOP
from tunefleet.tuning.lines import TRIALS
from tunefleet.tuning.space import corners
from tunefleet.tuning.study import BEST, LEASE, STUDY, Study, StudyFile, read_study
from tunefleet.tuning.trial import FOLDER

BASE = "base"  # what all trials share: a tokenizer trained on the rows, the scores of the base model
MAY_CHANGE = {"searcher": ("trials", "warm_start")}
"""Settings of a study's sections with which it may go on; name, budget and output may be others too."""
SAME = ("training", "evaluation")
"""Sections of the run by which trials are compared: what of them a run may change on resume, the trials of one study may not."""
MOVES_WORK = tuple(f"training.{key}" for key in ("micro_batch_size", "micro_batch_tokens", "gradient_checkpointing")) + tuple(
    f"evaluation.{key}" for key in ("placement", "actors", "batch_size", "resources", "samples", "gap_rows", "suite", "bootstrap")
)
"""Keys of those sections that change no number that trials are compared by."""


@contextmanager
def held(storage: Storage, study: Study, *, resume: Resume, overwrite: bool) -> Iterator[int]:
    """Hold the study's output, with this fence.

    Raises OutputError where it exists and nobody said what to do with it, where another study runs there, or where something else lies there;
    a Refusal where the study that began there is another one.
    """
    if resume and overwrite:
        raise OutputError("resume and overwrite exclude each other", fix="--resume goes on, --overwrite starts anew")
    mine = lease.Lease.acquire(storage, LEASE, holder=study.file.name)
    try:
        exists = storage.exists(STUDY)
        refuse_others(storage, exists=exists)
        if exists and not resume and not overwrite:
            fix = "--resume goes on with it, --overwrite starts anew"
            raise OutputError("output: exists already", got=study.file.output, want="a folder without a study", fix=fix)
        if resume is True and not exists:
            raise OutputError("output: nothing to resume", got=study.file.output, want="a study that has begun", fix="leave --resume out")
        if resume and exists:
            Refusal.raise_if(changes(recorded_study(storage, study), study))
        if overwrite and exists:
            clear(storage)
        storage.delete(STOP)
        try:
            yield mine.fence
        except RequestError:
            if not (resume and exists) and not has_lines(storage, TRIALS):  # nothing was begun: the mended request needs no --overwrite
                clear(storage)
            raise
    finally:
        mine.release()


def refuse_others(storage: Storage, *, exists: bool) -> None:
    """Raises OutputError where a run lies in the output, or what looks like a study's although there is none: this study would write over it."""
    found = [RUN_FILE] if storage.exists(RUN_FILE) else []
    if not exists:
        found += [f"{name}/" for name in (CHECKPOINTS, FOLDER, BASE) if storage.list(f"{name}/")]
        found += [name for name in (TRIALS, EVENTS) if has_lines(storage, name)]
        found += [name for name in (BEST, REPORT) if storage.exists(name)]
    if found:
        got = f"{storage.address} with {', '.join(found)}"
        raise OutputError("output: holds something else than a study", got=got, want="an empty folder, or one with a study", fix="name another output")


def clear(storage: Storage) -> None:
    """Remove what a study writes, and nothing else. The study file goes last: while it stands, what is left is known to be a study's."""
    for folder in (FOLDER, BASE):
        storage.delete_tree(folder)
    for name in (TRIALS, EVENTS):
        delete_lines(storage, name)
    for name in (BEST, REPORT, STUDY):
        storage.delete(name)


def put_study(storage: Storage, study: Study) -> None:
    """Write the study file as it runs."""
    storage.put(STUDY, yaml.safe_dump(study.as_it_ran().model_dump(mode="json"), sort_keys=False, allow_unicode=True).encode())


def recorded_study(storage: Storage, study: Study) -> Study:
    """The study that an output was started with; it may ask for no other code than ``study``. Raises OutputError for one that cannot be read."""
    document = recorded_document(storage, STUDY, trusted=set(code_of(study.as_it_ran().model_dump(mode="json"))))
    checked = check(StudyFile, document)
    read = read_study(checked.value) if checked.value is not None and not checked.problems else None
    problems = checked.problems or (read.problems if read else [])
    if problems or read is None or read.study is None:
        got = problems[0].what if problems else "nothing"
        raise OutputError(f"{document.name} cannot be read", got=got, want="what a study of this version wrote", fix="take another output, or --overwrite")
    return read.study


def changes(before: Study, now: Study) -> list[RequestError]:
    """What may not differ between two starts of one study: the searcher would not stand where it stood, or trials be compared that are not alike."""
    was, given = _fixed(before), _fixed(now)
    found = [_changed(key, was.get(key), given.get(key)) for key in sorted({*was, *given}) if was.get(key) != given.get(key)]
    return found + _changes_of_run(before, now)


def _fixed(study: Study) -> dict[str, Any]:
    plain = study.file.model_dump(mode="json", exclude_none=True)
    sections = {
        f"{name}.{key}": value for name in ("space", "searcher", "stopper") for key, value in plain[name].items() if key not in MAY_CHANGE.get(name, ())
    }
    return {**{key: plain[key] for key in ("metric", "mode", "repeats")}, **sections}


def _changes_of_run(before: Study, now: Study) -> list[RequestError]:
    """What differs between the runs of one point."""
    point = corners(now.space())[0]
    runs = [study.trial(point, now.file.output).value for study in (before, now)]
    if runs[0] is None or runs[1] is None:  # of another kind altogether: the point of the one is none of the other
        fix = "take another output (or --overwrite)"
        return [SettingsError("run: may not change on resume", got="one that has not the same keys", want="the run that the study began with", fix=fix)]
    found = differences(absolute(runs[0]), absolute(runs[1]))
    more = [_changed(*one) for one in found.changed if _under(one[0], SAME) and not _under(one[0], MOVES_WORK)]
    return list({problem.what: problem for problem in [*found.refused, *more]}.values())


def _changed(key: str, was: Any, now: Any) -> RequestError:
    fix = "put it back, or take another output (or --overwrite)"
    return SettingsError(f"{key}: may not change on resume", got=repr(now), want=f"{was!r}, as the study began", fix=fix)


def _under(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)
