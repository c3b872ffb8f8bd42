"""The suite file: sets of rows that no run trains on, what is measured on each, and which of them stand for what a model should not forget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from tunefleet.cluster.addresses import address_problem
from tunefleet.cluster.errors import DataError, Refusal, RequestError, SettingsError
from tunefleet.cluster.plugins import Plugin
from tunefleet.cluster.settings import Checked, Settings, check
from tunefleet.cluster.yamlfile import Document, read
from tunefleet.data.settings import Data, Mixture, Quality, Source
from tunefleet.trainers.evaluation.metric import make_metrics, result_name
from tunefleet.trainers.foreign import refuse_code
from tunefleet.trainers.run import METRICS, Answers, Resources, RunFile

Measured = list[Annotated[Settings, Plugin(METRICS)]]


class SuiteSet(Settings):
    """One set of held-out rows."""

    sources: list[Source] = Field(min_length=1, description="its rows: path, format, columns, ... as in data.train")
    metrics: Measured | None = Field(default=None, description="what is measured on it; null takes the suite's")
    general: bool = Field(default=False, description="stands for what the model could do before: watched for forgetting, no part of the numbers at the top")


class Suite(Settings):
    """Sets of held-out rows, and what is measured on them."""

    version: Literal[1] = Field(default=1, description="version of this format")
    name: str = Field(default="suite", description="a name for people")
    sets: dict[str, SuiteSet] = Field(min_length=1, description="the sets by name")
    metrics: Measured = Field(default=[{"kind": "loss"}], validate_default=True, description="what is measured on sets that name no metrics: loss, ...")
    answers: Answers = Field(default=Answers(), description="what is generated for metrics of answers; rows are counted for each set")
    batch_size: PositiveInt = Field(default=16, description="rows a forward")
    bootstrap: PositiveInt = Field(default=1000, description="resamples behind the 95% intervals")
    max_length: PositiveInt | None = Field(default=None, description="tokens per example; null takes data.max_length of the run")
    store: str | None = Field(default=None, description="where its shards live; null takes data.store of the run")
    quality: Quality = Field(
        default=Quality(near_duplicates="off", near_leakage="off"), description="policies for its rows, as data.quality; nothing is trained, so nothing leaks"
    )
    actors: NonNegativeInt = Field(default=0, description="Ray actors that share the rows, each with the model; 0: one process, without Ray")
    resources: Resources = Field(default=Resources(), description="what one actor holds")


STAND_IN = {"sets": {"unknown": {"sources": [{"path": "unknown"}]}}}


Given = Suite | Mapping[str, Any] | str | Path
"""A suite, what stands in the file of one, or its path."""


def read_suite(suite: Given, *, trust_code: bool = False) -> Checked[Suite]:
    """Read a suite file, or take what was given in its place; collect everything that is wrong with its text. ``trust_code``: see read_run."""
    if isinstance(suite, Suite):
        return Checked(suite, [])
    if isinstance(suite, Mapping):
        return check(Suite, Document(suite, "evaluation.suite"), STAND_IN)
    try:
        document = read(suite)
    except SettingsError as error:
        return Checked(None, [error])
    if not trust_code and (refused := refuse_code(suite, document, ())):
        return Checked(None, [refused])
    return check(Suite, document, STAND_IN)


def load_suite(suite: Given, *, trust_code: bool = False) -> Suite:
    """A suite with rows and metrics. Raises the problem, or a Refusal with all of them: of its text, its files, its metrics. No model is looked at."""
    checked = read_suite(suite, trust_code=trust_code)
    Refusal.raise_if(_all_problems(checked))
    assert checked.value is not None
    return checked.value


def problems_of(suite: Given) -> list[RequestError]:
    """Everything that is wrong with a suite."""
    return _all_problems(read_suite(suite))


def _all_problems(checked: Checked[Suite]) -> list[RequestError]:
    return [*checked.problems, *(suite_problems(checked) if checked.value else [])]


def suite_problems(checked: Checked[Suite]) -> list[RequestError]:
    """What is wrong beyond the text: sources that are missing or hold no row, metrics that cannot be made or stand twice."""
    suite = checked.value
    assert suite is not None, "the text was understood"
    found: list[RequestError] = []
    for name, held in suite.sets.items():
        if checked.sure(f"sets.{name}.sources"):
            for number, source in enumerate(held.sources):
                found += _source_problems(f"sets.{name}.sources.{number}", source)
        if held.metrics is not None and checked.sure(f"sets.{name}.metrics"):
            found += _metric_problems(f"sets.{name}.metrics", held.metrics)
    if checked.sure("metrics"):
        found += _metric_problems("metrics", suite.metrics)
    if checked.sure("metrics", *(f"sets.{name}.metrics" for name in suite.sets)):
        found += _ambiguous_names(suite)
    return found


def _ambiguous_names(suite: Suite) -> Iterator[SettingsError]:
    """Results of one name that are of different kinds in different sets: nobody could say which way such a name is better."""
    kinds: dict[str, dict[str, str]] = {}
    for held, wanted in metrics_by_set(suite).items():
        for settings in wanted:
            kinds.setdefault(result_name(vars(settings)), {}).setdefault(vars(settings)["kind"], held)
    for name, sets in kinds.items():
        if len(sets) > 1:
            got = ", ".join(f"{kind} in {held}" for kind, held in sets.items())
            yield SettingsError(f"metrics: {name} stands for different kinds", got=got, want="one kind a name", fix="give one of them a name: of its own")


def metrics_by_set(suite: Suite) -> Mapping[str, Measured]:
    """What is measured on each set."""
    return {name: suite.metrics if held.metrics is None else held.metrics for name, held in suite.sets.items()}


def rows_of(suite: Suite, run: RunFile) -> Data:
    """The data section of the suite's rows: all of them are held out, and read as the run reads its own."""
    sources = [source for held in suite.sets.values() for source in held.sources]
    new = {"train": [], "holdout": sources, "mixture": Mixture(), "replay": None, "quality": suite.quality}
    new |= {"max_length": suite.max_length or run.data.max_length, "store": suite.store or run.data.store}
    return run.data.model_copy(update=new)


def examined_run(suite: Suite, run: RunFile) -> RunFile:
    """The run with its rows scored and answered as the suite says; its data section stays, see ``rows_of``."""
    same = {"answers": suite.answers, "batch_size": suite.batch_size, "bootstrap": suite.bootstrap, "resources": suite.resources, "metrics": suite.metrics}
    return run.model_copy(update={"evaluation": run.evaluation.model_copy(update=same)})


def _source_problems(key: str, source: Source) -> Iterator[RequestError]:
    from tunefleet.data.rows import read_rows
    from tunefleet.trainers.check import source_problems

    secret = address_problem(f"{key}.path", source.path)
    problems = [secret] if secret else list(source_problems(key, source))
    yield from problems
    if problems:
        return
    try:
        row = next(read_rows(source), None)
    except RequestError as error:
        yield type(error)(f"{key}: {error.what}", got=error.got, want=error.want, fix=error.fix)
        return
    if row is None:
        yield DataError(f"{key}: holds no rows", got=f"{source.path}: empty", want="one row or more", fix="fill it, or take it out of the set")


def _metric_problems(key: str, wanted: Measured) -> Iterator[RequestError]:
    if not wanted:
        yield SettingsError(f"{key}: nothing is measured", got="an empty list", want="one metric or more", fix="set it to [loss]")
        return
    try:
        make_metrics(wanted)
    except SettingsError as error:
        yield SettingsError(f"{key}: {error.what.removeprefix('evaluation.metrics: ')}", got=error.got, want=error.want, fix=error.fix)
