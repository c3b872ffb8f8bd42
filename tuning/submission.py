"""What goes to a cluster: the run or study file as it will run, and the user's own modules that it names. Nothing else of the folder ever leaves it.

The file that is shipped is made anew: overrides applied, every local path absolute, base runs beside it, templates, configs and suites in place. So the parcel
is a list of what may go, not of what may not: a ``.env``, a key or a row that lies beside the run file has no way into it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from tunefleet.cluster.addresses import address_problem
from tunefleet.cluster.errors import Refusal, RequestError, SettingsError
from tunefleet.cluster.jobs import Parcel
from tunefleet.cluster.settings import check
from tunefleet.cluster.wheel import SHIPPED, module_files
from tunefleet.cluster.yamlfile import read
from tunefleet.trainers.chain import absolute, absolute_path, placed
from tunefleet.trainers.check import address_problems
from tunefleet.trainers.evaluation.suite import read_suite
from tunefleet.trainers.foreign import dotted_kinds
from tunefleet.trainers.run import STAND_IN, RunFile, read_run
from tunefleet.tuning.study import read_study
from tunefleet.tuning.studycheck import check_study

MOST_BYTES = 64 << 20
"""Of one's own modules: they are code, and Ray keeps them in the head's memory."""


def parcel_of(
    subject: str, overrides: Mapping[str, str], *, here: bool, shared: Sequence[str], modules: Sequence[str] = (), overwrite: bool = False, trust: bool = False
) -> Parcel:
    """The parcel of a run file or a study file.

    Args:
        subject: the file.
        overrides: ``dotted.key=value``.
        here: the whole cluster is this machine, so that its paths are the cluster's.
        shared: folders that every node of the cluster sees under the same path.
        modules: modules to ship beside those that dotted kinds name.
        overwrite: start anew in an output that exists, where otherwise the run goes on.
        trust: run the code that a file in somebody's output asks for.

    Raises:
        RequestError: one problem, or a Refusal with all of them.
    """
    make = _study if is_study(subject) else _run
    parcel, plain, problems = make(subject, overrides, overwrite=overwrite, trust=trust)
    if not here:
        problems += place_problems(plain, shared)
    shipped, more = _modules([*modules, *(name.partition(".")[0] for value in plain for _, name in dotted_kinds(value))])
    Refusal.raise_if([*problems, *more])
    assert parcel is not None
    return replace(parcel, files={**shipped, **parcel.files})


def is_study(subject: str) -> bool:
    """Whether a file is a study: it says what is searched. Raises SettingsError when it cannot be read."""
    value = read(subject).value
    return isinstance(value, dict) and "space" in value and "run" in value


Made = tuple[Parcel | None, list[dict[str, Any]], list[RequestError]]
"""A parcel without modules, the plain values of its files, and what is wrong with them."""


def _run(subject: str, overrides: Mapping[str, str], *, overwrite: bool, trust: bool) -> Made:
    checked = read_run(subject, overrides, trust_code=trust)
    if checked.value is None or checked.problems:
        return None, [], checked.problems
    found = _with_bases(checked.value, trust=trust)
    plain = found.run.model_dump(mode="json")
    words = ("train", "run.yaml", "--overwrite" if overwrite else "--resume=auto", "--address", "auto")
    parcel = Parcel(found.run.name, "run", found.run.output, words, {"run.yaml": _text(plain), **found.files}, found.run.failures.stop_timeout_s)
    return parcel, [plain, *found.plain], found.problems


def _study(subject: str, overrides: Mapping[str, str], *, overwrite: bool, trust: bool) -> Made:
    read = read_study(subject, overrides, trust_code=trust)
    if read.study is None or read.problems:
        return None, [], read.problems
    study = read.study
    run = check(RunFile, study.run, STAND_IN)
    if run.value is None or run.problems:
        return None, [], [SettingsError(f"run: {p.what}", got=p.got, want=p.want, fix=p.fix) for p in run.problems]
    earlier: list[str] = vars(study.file.searcher).get(EARLIER, [])
    named = [("output", study.file.output), *((f"searcher.{EARLIER}.{i}", address) for i, address in enumerate(earlier))]
    if secrets := [secret for key, text in named if (secret := address_problem(key, text))]:
        return None, [], list(secrets)
    found = _with_bases(run.value, trust=trust)
    inner, output = found.run.model_dump(mode="json"), absolute_path(study.file.output)
    placed_there: dict[str, Any] = {"run": inner, "output": output}
    if earlier:
        placed_there["searcher"] = study.file.searcher.model_copy(update={EARLIER: [absolute_path(address) for address in earlier]})
    whole = study.file.model_copy(update=placed_there).model_dump(mode="json")
    words = ("tune", "study.yaml", "--overwrite" if overwrite else "--resume=auto", "--address", "auto")
    plain = {**{key: value for key, value in whole.items() if key != "run"}, **{f"run.{key}": value for key, value in inner.items()}}
    parcel = Parcel(study.file.name, "study", output, words, {"study.yaml": _text(whole), **found.files}, run.value.failures.stop_timeout_s)
    return parcel, [plain, inner, *found.plain], [*found.problems, *check_study(read, elsewhere=True)]


@dataclass(frozen=True)
class _Shipped:
    """A run as it is shipped; the files of the runs that it stands on, their plain values; and what is wrong with any of them."""

    run: RunFile
    files: Mapping[str, bytes] = field(default_factory=dict)
    plain: Sequence[dict[str, Any]] = ()
    problems: list[RequestError] = field(default_factory=list)


def _with_bases(run: RunFile, *, trust: bool, above: tuple[str, ...] = ()) -> _Shipped:
    """The run with its paths absolute, its small texts in place, and the names under which the runs that it stands on are shipped."""
    if secret := address_problems(run):  # nothing else is looked at: what is said of it names addresses
        return _Shipped(run, problems=secret)
    run, problems = _written_out(absolute(run), trust=trust)
    base = run.model.name_or_path or ""
    if not base.endswith((".yaml", ".yml")):
        return _Shipped(run, problems=problems)
    name = f"base-{len(above) + 1}.yaml"
    run = run.model_copy(update={"model": run.model.model_copy(update={"name_or_path": name})})
    if base in above:
        circle = " -> ".join((*above, base))
        return _Shipped(run, problems=[SettingsError("model.name_or_path: the runs stand on each other in a circle", got=circle, fix="break the circle")])
    checked = read_run(base, trust_code=trust)
    if checked.value is None or checked.problems:
        return _Shipped(run, problems=[*problems, *checked.problems])
    found = _with_bases(checked.value, trust=trust, above=(*above, base))
    plain = found.run.model_dump(mode="json")
    return _Shipped(run, {name: _text(plain), **found.files}, [plain, *found.plain], [*problems, *found.problems])


def _written_out(run: RunFile, *, trust: bool) -> tuple[RunFile, list[RequestError]]:
    """The run with what its paths name in their place: a chat template, a model's config, a suite. And what is wrong with those."""
    template, config, problems = run.data.chat_template, run.model.config, list[RequestError]()
    if template is not None and "{" not in template:
        try:
            template = Path(template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            want = "text with {{ ... }}, or a file of it"
            problems.append(
                SettingsError("data.chat_template: neither a template nor the path of one", got=f"{template} ({error})", want=want, fix="correct it")
            )
    if isinstance(config, str) and (path := Path(config) / "config.json" if Path(config).is_dir() else Path(config)).is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
    suite, of_suite = _suite(run.evaluation.suite, trust=trust)
    return run.model_copy(
        update={
            "data": run.data.model_copy(update={"chat_template": template}),
            "model": run.model.model_copy(update={"config": config}),
            "evaluation": run.evaluation.model_copy(update={"suite": suite}),
        }
    ), [*problems, *of_suite]


def _suite(given: str | dict[str, Any] | None, *, trust: bool) -> tuple[dict[str, Any] | None, list[RequestError]]:
    """What stands in a suite file, with its paths absolute, and what is wrong with it."""
    if given is None:
        return None, []
    read = read_suite(given, trust_code=trust)
    suite = read.value
    if suite is None or read.problems:
        return None, [SettingsError(f"evaluation.suite: {p.what}", got=p.got, want=p.want, fix=p.fix) for p in read.problems]
    named = [(f"sets.{name}.sources.{i}.path", source.path) for name, one in suite.sets.items() for i, source in enumerate(one.sources)]
    secrets = [found for key, text in [*named, ("store", suite.store or "")] if (found := address_problem(f"evaluation.suite.{key}", text))]
    if secrets:
        return None, list(secrets)
    sets = {name: one.model_copy(update={"sources": [placed(source) for source in one.sources]}) for name, one in suite.sets.items()}
    store = suite.store and absolute_path(suite.store)
    return suite.model_copy(update={"sets": sets, "store": store}).model_dump(mode="json"), []


def place_problems(plain: Sequence[Mapping[str, Any]], shared: Sequence[str]) -> list[RequestError]:
    """Paths of this machine, which mean nothing or something else to a cluster elsewhere."""
    known = [Path(folder).expanduser().absolute() for folder in shared]
    problems: list[RequestError] = []
    for key, path in (found for value in plain for found in local_paths(value)):
        if any(folder == Path(path) or folder in Path(path).parents for folder in known):
            continue
        wants = "s3://bucket/prefix" + (" or a hub id" if key.endswith(("path", "name_or_path", "init_from")) else "")
        fix = f"copy it there and name {wants}; or say --shared FOLDER for a folder that every node sees under this path"
        problems.append(SettingsError(f"{key}: the cluster is elsewhere and does not see this machine's files", got=path, want=wants, fix=fix))
    return problems


EARLIER = "warm_start"
"""A setting of a searcher that lists outputs of earlier studies."""
_PLACES = ("output", "store", "path", "name_or_path", "init_from", "tracking_uri", "folder", EARLIER)
"""Keys whose values may be paths, or lists of them."""


def local_paths(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Key and path of every absolute path in a file's plain value."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        name = f"{prefix}.{key}" if prefix else str(key)
        place = str(key) if isinstance(value, Mapping) else prefix.rpartition(".")[2]
        if isinstance(item, str) and place in _PLACES and item.startswith(("/", "file://")) and not name.endswith("data.cache.folder"):
            yield name, item.removeprefix("file://")
        else:
            yield from local_paths(item, name)


def _modules(names: Sequence[str]) -> tuple[dict[str, bytes], list[RequestError]]:
    """The Python files of top-level modules, by name; and what cannot be shipped."""
    files: dict[str, bytes] = {}
    problems: list[RequestError] = []
    for name in dict.fromkeys(names):
        origin = _origin(name)
        if name == "tunefleet" or origin is None:
            want = f"a module or package with Python files ({', '.join(SHIPPED)}) on the Python path"
            fix = "put its folder on PYTHONPATH; what is installed on every node need not be shipped"
            problems.append(SettingsError("this module cannot be shipped", got=name, want=want, fix=fix))
            continue
        files |= module_files(origin)
    if (size := sum(map(len, files.values()))) > MOST_BYTES:
        fix = "install it on the nodes instead"
        problems.append(SettingsError("the modules are too large to be shipped", got=f"{size >> 20} MiB", want=f"at most {MOST_BYTES >> 20} MiB", fix=fix))
    return files, problems


def _origin(name: str) -> Path | None:
    """The file or folder of a top-level module, without importing it; None where it has no Python files."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def _text(value: Any) -> bytes:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode()
