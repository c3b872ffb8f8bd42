"""Everything about a run that can be known before a worker starts, beyond the text of its file: files, model, metrics, resources.

No weights are read, and nothing heavy is imported unless a setting asks for what only it can answer.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tunefleet.cluster.addresses import address_problem
from tunefleet.cluster.errors import PreflightError, RequestError, SettingsError, StorageError, TunefleetError, nearest
from tunefleet.cluster.plugins import plugin
from tunefleet.cluster.settings import Checked
from tunefleet.cluster.storage import is_remote, open_storage
from tunefleet.cluster.storages.folders import has_file, local_folder
from tunefleet.data.settings import Source
from tunefleet.trainers.run import TRACKERS, Lora, Model, RunFile

Checks = tuple[tuple[tuple[str, ...], Callable[["Subject"], Iterator[RequestError]]], ...]
PACKED_PEFT = {"full", "lora"}  # prompt and prefix tuning ignore positions: rows that lie end to end would see each other
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "max_seq_len", "n_ctx")
"""What the configs of transformers call the longest sequence that a model can read."""


@dataclass(frozen=True)
class Subject:
    """What is checked. ``model`` is the one that can be looked at now: the base's own where the run stands on a run that is not done."""

    run: RunFile
    model: Model
    local: bool


def check_run(
    run: RunFile, *, known: Model | None = None, text: Checked[RunFile] | None = None, local: bool = True, checks: Checks | None = None
) -> list[RequestError]:
    """Every problem that can be known now, each once.

    ``known`` is looked at instead of ``run.model``. ``text`` is what was found in the run file: values that were wrong there are left alone.
    ``local``: the run starts a Ray of its own on this machine, so its resources are known. ``checks``: CHECKS, or ROW_CHECKS for rows alone.
    """
    if secrets := address_problems(run):
        return secrets
    subject = Subject(run, known or run.model, local)
    problems: list[RequestError] = []
    for keys, find in CHECKS if checks is None else checks:
        if text is None or text.sure(*keys):
            problems += [found for found in find(subject) if found.what not in {p.what for p in problems}]
    return problems


def context_length(model: Model) -> int | None:
    """The longest sequence that the model can read, in tokens; None for one that does not say. Raises SettingsError when it has no config."""
    source = model.config if model.init == "random" and model.config else model.name_or_path
    plain = source if isinstance(source, Mapping) else _config_file(str(source))
    length = _stated_length(plain) if plain is not None else None
    if length is None:  # a hub id, or a default of the architecture
        from tunefleet.trainers.models import model_config

        length = _stated_length(model_config(model).get_text_config().to_dict())
    return length


def _machine(_: Subject) -> Iterator[RequestError]:
    """Versions, an environment in which data would run code, shared memory."""
    from tunefleet.cluster.preflight import preflight

    yield from preflight()


def _places(subject: Subject) -> Iterator[RequestError]:
    """Folders that cannot be made or written. Nothing is put there yet: a refused run leaves no trace."""
    for key, name in (("output", subject.run.output), ("data.store", subject.run.data.store)):
        path = Path(name).expanduser().absolute()
        if is_remote(name):
            yield from _unreachable(key, name)
            continue
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            got = f"{there} is {'not writable' if there.is_dir() else 'a file'}"
            yield SettingsError(f"{key}: nothing can be written there", got=got, want="a folder that can be made and written", fix=f"name another {key}")


def _unreachable(key: str, address: str) -> Iterator[RequestError]:
    """A bucket that is not there or may not be listed, a server that does not answer."""
    try:
        open_storage(address).list("run.yaml")
    except StorageError as error:
        yield PreflightError(f"{key}: {error.what}", got=error.got, want=error.want, fix=error.fix)


def address_problems(run: RunFile) -> list[RequestError]:
    """Addresses that hold a secret. They come before everything else: the other checks name addresses in what they say."""
    held = run.data.holdout if isinstance(run.data.holdout, list) else []
    named = [("output", run.output), ("data.store", run.data.store), ("model.name_or_path", run.model.name_or_path), ("model.config", run.model.config)]
    named += [("model.tokenizer.name_or_path", run.model.tokenizer.name_or_path)]
    named += [(f"data.{side}.{i}.path", source.path) for side, sources in (("train", run.data.train), ("holdout", held)) for i, source in enumerate(sources)]
    return [found for key, text in named if isinstance(text, str) and (found := address_problem(key, text))]


def _rows(subject: Subject) -> Iterator[RequestError]:
    """Sources whose files are missing or of unknown kind, and formats that do not exist."""
    data = subject.run.data
    named = [(f"data.train.{i}", source) for i, source in enumerate(data.train)]
    named += [(f"data.holdout.{i}", source) for i, source in enumerate(data.holdout)] if isinstance(data.holdout, list) else []
    for key, source in named:
        yield from source_problems(key, source)


def source_problems(key: str, source: Source) -> Iterator[RequestError]:
    """What can be known of a source without reading a row; ``key`` is where it stands in its file."""
    from tunefleet.data.choice import FORMATS
    from tunefleet.data.origin import SOURCES
    from tunefleet.data.rows import source_files

    try:
        if source.kind != "auto":
            plugin(SOURCES, source.kind)
    except SettingsError as error:
        yield _at(f"{key}.kind", error)
        return
    try:
        source_files(source)
    except RequestError as error:
        yield _at(f"{key}.path", error)
    if source.format != "auto":
        try:
            plugin(FORMATS, source.format)
        except SettingsError as error:
            yield _at(f"{key}.format", error)


def _replay(subject: Subject) -> Iterator[RequestError]:
    """A store to replay that is none. What is in it can be compared when the run's own shards stand."""
    from tunefleet.data.store import Store

    if subject.run.data.replay is not None:
        try:
            Store.open(subject.run.data.replay.store)
        except TunefleetError as error:
            yield SettingsError(
                f"data.replay.store: {error.what}", got=error.got, want="the folder of an earlier data version", fix="see `tunefleet data list`"
            )


def _step(subject: Subject) -> Iterator[RequestError]:
    """A step that may not hold one example."""
    tokens, longest = subject.run.training.train_batch_tokens, subject.run.data.max_length
    if tokens is not None and tokens < longest:
        fix = "raise it, or lower data.max_length"
        yield SettingsError("training.train_batch_tokens: less than one example may have", got=f"{tokens} tokens", want=f"{longest} or more", fix=fix)


def _template(subject: Subject) -> Iterator[RequestError]:
    """A chat template that is neither a template nor a file, or that is no Jinja."""
    given = subject.run.data.chat_template
    if given is None:
        return
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import SandboxedEnvironment

    try:
        text = given if "{" in given else Path(given).read_text(encoding="utf-8")
        SandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", text))
    except (OSError, UnicodeDecodeError) as error:
        want = "text with {{ ... }}, or a file of it"
        yield SettingsError("data.chat_template: neither a template nor the path of one", got=f"{given} ({error})", want=want, fix="correct the path")
    except TemplateSyntaxError as error:
        got = f"line {error.lineno}: {error.message}"
        yield SettingsError("data.chat_template: is no Jinja", got=got, want="a template that Jinja can parse", fix="mend the line named above")


def _model(subject: Subject) -> Iterator[RequestError]:
    """A model folder that is missing, and settings of the model that contradict each other."""
    from tunefleet.trainers.models import model_problems

    yield from model_problems(subject.run)
    own, model = subject.run.model.tokenizer, subject.model
    if (missing := _missing_model(model)) is not None:
        yield missing
    elif not any((own.name_or_path, own.train_vocab_size, model.tokenizer.name_or_path, model.tokenizer.train_vocab_size, model.name_or_path)):
        want = "model.tokenizer.name_or_path, or train_vocab_size to train one on the rows"
        yield SettingsError("model.tokenizer: a model made from a config has none", got="init: random with a config", want=want, fix="set one of them")


def _context(subject: Subject) -> Iterator[RequestError]:
    """Examples that are longer than the model can read."""
    if _missing_model(subject.model) is not None:
        return
    try:
        context = context_length(subject.model)
    except SettingsError as error:
        yield error
        return
    wanted = subject.run.data.max_length
    if context is not None and wanted > context:
        fix = f"set data.max_length to {context} or less, or take a model with a longer context"
        yield SettingsError("data.max_length: longer than the model's context", got=f"{wanted} tokens", want=f"at most {context}", fix=fix)


def _targets(subject: Subject) -> Iterator[RequestError]:
    """LoRA on layers that the model does not have. Looked at only where layers are named: all-linear always finds some."""
    peft = subject.run.peft
    named = isinstance(peft, Lora) and (peft.target_modules != "all-linear" or peft.modules_to_save)
    if named and _missing_model(subject.model) is None:
        from tunefleet.trainers.adapters import target_problems

        yield from target_problems(subject.model, peft)


def _packing(subject: Subject) -> Iterator[RequestError]:
    """Packing for a model that mixes what lies end to end, or with virtual tokens in front of every row."""
    run = subject.run
    if run.data.batching != "pack" or _missing_model(subject.model) is not None:
        return
    from tunefleet.trainers.models import skeleton
    from tunefleet.trainers.rowattention import obstacle
    from tunefleet.trainers.scoring import not_packed

    if run.peft.kind not in PACKED_PEFT:
        want = f"peft.kind: {' or '.join(sorted(PACKED_PEFT))}"
        yield SettingsError("data.batching: virtual tokens take no positions, so rows would be mixed", got=run.peft.kind, want=want, fix="set it to bucket")
    try:
        why = obstacle(skeleton(subject.model))
    except SettingsError as error:
        yield error
        return
    if run.model.attn_implementation not in ("auto", "sdpa", "eager"):
        why = f"{run.model.attn_implementation} takes padded rows"
    if why is not None:
        yield not_packed(why)


def _zero(subject: Subject) -> Iterator[RequestError]:
    from tunefleet.trainers.zero import compiler_problems, extra_problems, offload_problems

    yield from (*extra_problems(subject.run), *offload_problems(subject.run))
    yield from compiler_problems(subject.run) if subject.local else ()


def _schedule(subject: Subject) -> Iterator[RequestError]:
    """A warm-up that never ends."""
    training = subject.run.training
    if training.warmup_steps and training.max_steps and training.warmup_steps >= training.max_steps:
        got = f"{training.warmup_steps} of {training.max_steps} steps"
        yield SettingsError("training.warmup_steps: the warm-up takes the whole run", got=got, want="fewer than training.max_steps", fix="lower it")


def _metrics(subject: Subject) -> Iterator[RequestError]:
    """Metrics that do not exist, and early stopping by one that is not computed or the wrong way round."""
    from tunefleet.trainers.evaluation.metric import make_metrics

    settings = subject.run.evaluation
    try:
        metrics = make_metrics(settings.metrics)
    except SettingsError as error:
        yield error
        return
    metric, mode = settings.early_stopping_metric, settings.early_stopping_mode
    if metric not in metrics:
        got, want = f"{metric}, with evaluation.metrics: {list(metrics)}", f"one of {', '.join(metrics) or 'evaluation.metrics, which is empty'}"
        yield SettingsError("evaluation.early_stopping_metric: is not computed", got=got, want=want, fix=f"add {metric} to evaluation.metrics, or name another")
    elif metrics[metric].better != mode:
        fix = f"set evaluation.early_stopping_mode to {metrics[metric].better}"
        yield SettingsError(f"evaluation.early_stopping_mode: {metric} is better the other way", got=mode, want=metrics[metric].better, fix=fix)


def _suite(subject: Subject) -> Iterator[RequestError]:
    """A suite that could not be scored when the run is done."""
    from tunefleet.trainers.evaluation.suite import problems_of

    if subject.run.evaluation.suite is not None:
        yield from (_at("evaluation.suite", problem) for problem in problems_of(subject.run.evaluation.suite))


def _trackers(subject: Subject) -> Iterator[RequestError]:
    """Trackers whose package is not installed."""
    for i, settings in enumerate(subject.run.logging.trackers):
        kind: str = vars(settings)["kind"]
        package: str = plugin(TRACKERS, kind).package
        if find_spec(package) is None:
            fix = f"pip install 'tunefleet[{kind}]', or leave this tracker out"
            yield SettingsError(f"logging.trackers.{i}: is not installed", got=kind, want=f"the package {package} beside the driver", fix=fix)


def _patience(subject: Subject) -> Iterator[RequestError]:
    """Early stopping without rows to stop by."""
    patience = subject.run.evaluation.early_stopping_patience
    if patience is not None and not subject.run.data.holdout:
        want = "held-out rows to evaluate on"
        yield SettingsError("evaluation.early_stopping_patience: there is nothing to stop by", got="data.holdout: 0", want=want, fix="set data.holdout to 0.1")


def _resources(subject: Subject) -> Iterator[RequestError]:
    """Workers and actors that this machine can never hold at once."""
    if not subject.local:
        return
    from tunefleet.cluster.preflight import resource_problems
    from tunefleet.cluster.session import usable_cores

    run = subject.run
    beside = run.evaluation.placement == "actors" and bool(run.data.holdout)
    gpus = local_gpus() if run.scaling.use_gpu or run.evaluation.resources.gpu else 0
    yield from resource_problems(
        workers=run.scaling.num_workers,
        cpus_per_worker=run.scaling.cpus_per_worker,
        use_gpu=run.scaling.use_gpu,
        actors=run.evaluation.actors if beside else 0,
        actor_cpu=run.evaluation.resources.cpu,
        actor_gpu=run.evaluation.resources.gpu,
        available={"CPU": float(usable_cores()), "GPU": float(gpus)},
        local=True,
    )


SOURCE = ("model.name_or_path", "model.config")
ROW_CHECKS: Checks = (
    (("data.train", "data.holdout"), _rows),
    (("data.replay",), _replay),
    (("data.chat_template",), _template),
    ((*SOURCE, "data.max_length"), _context),
)
CHECKS: Checks = (
    ((), _machine),
    (("output", "data.store"), _places),
    ((*SOURCE, "model.attn_implementation", "model.dtype", "training.precision", "peft.kind"), _model),
    *ROW_CHECKS,
    ((*SOURCE, "peft.kind", "peft.target_modules", "peft.modules_to_save"), _targets),
    (("training.train_batch_tokens", "data.max_length"), _step),
    ((*SOURCE, "data.batching", "model.attn_implementation", "peft.kind"), _packing),
    (("zero", "training.optimizer"), _zero),
    (("training.max_steps", "training.warmup_steps"), _schedule),
    (("evaluation.metrics", "evaluation.early_stopping_metric", "evaluation.early_stopping_mode"), _metrics),
    (("evaluation.suite",), _suite),
    (("logging.trackers",), _trackers),
    (("evaluation.early_stopping_patience", "data.holdout"), _patience),
    (("scaling", "evaluation.placement", "evaluation.actors", "evaluation.resources", "data.holdout"), _resources),
)
"""The keys that a check reads, and the check. Where one of them was wrong in the text, the check has nothing true to say."""


def _at(key: str, error: RequestError) -> RequestError:
    """The error with the key that caused it in front."""
    return type(error)(f"{key}: {error.what}", got=error.got, want=error.want, fix=error.fix)


def _missing_model(model: Model) -> SettingsError | None:
    """The error for a local model folder, or the file of a config, that is not there; None for what exists or may be a hub id."""
    key, name = ("model.config", model.config) if model.init == "random" and model.config else ("model.name_or_path", model.name_or_path)
    if not isinstance(name, str) or Path(name).expanduser().exists():
        return None
    if is_remote(name):
        want = "the files of a model, config.json among them"
        return None if has_file(name, "config.json") else SettingsError(f"{key}: no model there", got=name, want=want, fix="check the address")
    path = Path(name).expanduser()
    first = path.parts[0] if path.parts else ""
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and first not in (".", "..") and not Path(first).is_dir():
        return None  # may be a hub id
    beside = sorted(item.name for item in path.parent.iterdir()) if path.parent.is_dir() else []
    close = nearest(path.name, beside)
    got = f"{name}: {path.parent} holds {', '.join(beside[:8]) or 'nothing'}" if path.parent.is_dir() else f"{name}: {path.parent} is no folder"
    fix = f"did you mean {path.parent / close}?" if close else "correct the path; it is taken from where you are"
    return SettingsError(f"{key}: no such folder or file", got=got, want="a model folder, a hub id or a run file", fix=fix)


def _config_file(source: str) -> Mapping[str, Any] | None:
    """The content of a local config.json; None for what is not local. Raises SettingsError for one that is no JSON."""
    path = Path(local_folder(source, weights=False) if is_remote(source) else source).expanduser()
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SettingsError("model: its config is no JSON", got=f"{path}: {error}", want="the config.json of a model", fix="fetch the model anew") from error
    return content if isinstance(content, Mapping) else None


def _stated_length(config: Mapping[str, Any]) -> int | None:
    inner = config.get("text_config")
    every = {**config, **inner} if isinstance(inner, Mapping) else config
    return next((every[key] for key in CONTEXT_KEYS if isinstance(every.get(key), int)), None)


def local_gpus() -> int:
    """GPUs of this machine."""
    import torch

    return torch.cuda.device_count()
