"""Runs that stand on runs: ``model.name_or_path: base.yaml`` means that base.yaml is done first, and its export is the model.

The whole chain is one submission: one Ray session, one worker group, each run with an output of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunefleet.cluster.errors import RequestError, SettingsError
from tunefleet.data.settings import Source
from tunefleet.trainers.run import Model, RunFile, read_run

EXPORT = "export"
TOKENIZER = "tokenizer"  # where a run that trains its tokenizer keeps it


@dataclass(frozen=True)
class Link:
    """One run of a chain: its file with absolute paths, and the model that checks may look at before the base exists."""

    run: RunFile
    known: Model


def chain(run: RunFile, seen: tuple[str, ...] = (), *, trust_code: bool = False) -> tuple[list[Link], list[RequestError]]:
    """The runs to do, bases first, the given one last; and what is wrong with the base files. ``trust_code``: see ``read_run``."""
    run = absolute(run)
    name = run.model.name_or_path or ""
    if not name.endswith((".yaml", ".yml")):
        from tunefleet.trainers.origin import begun

        run, known, problems = begun(run)
        return [Link(run, known)], problems
    if name in seen:
        return [], [SettingsError("model.name_or_path: the runs stand on each other in a circle", got=" -> ".join((*seen, name)), fix="break the circle")]
    if not Path(name).is_file():
        return [], [
            SettingsError("model.name_or_path: this run file is missing", got=name, want="a run file, a model folder or a hub id", fix="check the path")
        ]
    checked = read_run(name, trust_code=trust_code)
    if checked.value is None:
        return [], checked.problems
    links, problems = chain(checked.value, (*seen, name), trust_code=trust_code)
    if not links:
        return [], [*checked.problems, *problems]
    base = links[-1]
    problems += _unfit(base.run, name)
    if base.run.output == run.output:
        problems.append(SettingsError("output: a run and its base write to one folder", got=run.output, fix="give each an output of its own"))
    mine = _replaced(run, base.run.output + "/" + EXPORT, base.run.model)
    return [*links, Link(mine, base.known)], [*checked.problems, *problems]


def _unfit(base: RunFile, name: str) -> list[RequestError]:
    """Why the export of a run can be no model of another: there is none, or it is an adapter."""
    if not base.export.at_end:
        return [SettingsError("model.name_or_path: this run exports nothing", got=f"{name} with export.at_end: false", want="true", fix=f"set it in {name}")]
    if base.peft.kind == "lora" and not base.export.merge:
        got = f"{name} with peft.kind: lora and export.merge: false"
        return [SettingsError("model.name_or_path: this run exports an adapter only", got=got, want="a whole model", fix=f"set export.merge: true in {name}")]
    return []


def absolute(run: RunFile) -> RunFile:
    """The run with every local path absolute, so that a worker with another working folder finds the same files."""
    model, data = run.model, run.data
    trained = f"{absolute_path(run.output)}/{TOKENIZER}" if model.tokenizer.train_vocab_size else None
    tokenizer = model.tokenizer.model_copy(update={"name_or_path": _existing(model.tokenizer.name_or_path or trained)})
    origin = absolute_path(model.init_from) if model.init_from else None
    config = _existing(model.config) if isinstance(model.config, str) else model.config
    sources = {"train": [placed(source) for source in data.train]}
    holdout = data.holdout if isinstance(data.holdout, float | int) else [placed(source) for source in data.holdout]
    template, suite = _existing(data.chat_template), run.evaluation.suite
    replay = data.replay and data.replay.model_copy(update={"store": absolute_path(data.replay.store)})
    return run.model_copy(
        update={
            "model": model.model_copy(update={"name_or_path": _existing(model.name_or_path), "init_from": origin, "tokenizer": tokenizer, "config": config}),
            "data": data.model_copy(update={**sources, "holdout": holdout, "replay": replay, "store": absolute_path(data.store), "chat_template": template}),
            "evaluation": run.evaluation.model_copy(update={"suite": _existing(suite) if isinstance(suite, str) else suite}),
            "output": absolute_path(run.output),
        }
    )


def _replaced(run: RunFile, export: str, base: Model) -> RunFile:
    own = run.model.tokenizer
    tokenizer = own if own.name_or_path else own.model_copy(update={"name_or_path": base.tokenizer.name_or_path or base.name_or_path})
    return run.model_copy(update={"model": run.model.model_copy(update={"name_or_path": export, "tokenizer": tokenizer})})


def absolute_path(text: str) -> str:
    """A folder's path made absolute; an address as it is."""
    return text if "://" in text else str(Path(text).expanduser().absolute())


def placed(source: Source) -> Source:
    """A source with its path absolute, and one on a hub as it is, said to be one: whether a name means a folder depends on where it is looked at."""
    from tunefleet.data.origin import HUB, is_hub

    return source.model_copy(update={"kind": HUB} if is_hub(source) else {"path": absolute_path(source.path)})


def _existing(text: str | None) -> str | None:
    """A local path made absolute when it is one; a hub id or a template stays as it is."""
    if text is None or len(text) > 4096 or "\n" in text:
        return text
    path = Path(text).expanduser()
    looks_local = text.startswith((".", "/", "~")) or text.endswith((".yaml", ".yml"))
    return str(path.absolute()) if looks_local or path.exists() else text
