"""From a study's output to its report.html: read, build, write. Works while the study goes, after it was cut, and where parts are missing."""

from __future__ import annotations

import time
from collections.abc import Callable

from tunefleet.cluster.axes import amount, count, quantity, short
from tunefleet.cluster.markup import Content, Markup
from tunefleet.cluster.page import Cell, Figure, Section, Tone, code, facts, figures, fold, grid, notice, page, paragraph, section, table, verdict
from tunefleet.cluster.storage import Storage
from tunefleet.trainers.report.wording import metric_name, metric_unit, moment, span
from tunefleet.trainers.stage import REPORT
from tunefleet.tuning.goal import value_of
from tunefleet.tuning.lines import FAILED, FINISHED, RUNNING, STOPPED, TrialLine
from tunefleet.tuning.space import short_names, word
from tunefleet.tuning.standings import Standing, spent, standings, steps_of
from tunefleet.tuning.studyreport.gather import Gathered, gather
from tunefleet.tuning.studyreport.pictures import best_so_far, coordinates, importances, learning_curves, paths

AGAIN_S = 20
"""How often an open page of a study that goes on is read anew."""
FULL = 60
"""Trials that are listed openly; of more the table is folded."""


def write_report(storage: Storage, now: float | None = None, *, trusted: bool = False) -> str:
    """Write ``report.html`` into a study's output, and return its address. Raises OutputError where no study is. ``trusted``: see ``gather``."""
    html = report(gather(storage, time.time() if now is None else now, trusted=trusted))
    storage.put(REPORT, html.encode("utf-8"))
    return f"{storage.address.rstrip('/')}/{REPORT}"


def report_of_study(storage: Storage, say: Callable[[str], None] | None = None) -> None:
    """The report of a study that goes on or ends. Nothing is raised: a report is no reason to fail a study; what went wrong is said."""
    try:
        address = write_report(storage, trusted=True)  # this process runs the study, its code too
        if say is not None:
            say(f"report: {address}")
    except Exception as error:  # noqa: BLE001  whatever it is, the study matters more
        if say is not None:
            say(f"note: the report could not be written: {error}")


def report(study: Gathered) -> str:
    """The page of what was gathered: a pure function."""
    ranked = standings(study.trials.values(), study.metric, study.mode, study.repeats)
    parts: list[Section | None] = [
        section("Progress", best_so_far(study), learning_curves(study), about="What the study found, by what it spent; and how every trial went."),
        _parameters(study),
        _paths(study),
        _trials(study, ranked),
        section("Best run file", code(study.best_file), about="best.yaml, ready for `tunefleet train`.") if study.best_file else None,
        section("Study file", code(_study_file(study))),
    ]
    return page(
        study.name,
        kind="study report",
        about=_about(study),
        lead=[_verdict(study, ranked), figures(_figures(study, ranked))],
        sections=[part for part in parts if part is not None],
        foot=f"Written {moment(study.now)} from {study.address}. The numbers stand in trials.jsonl and in trials/ beside this page.",
        again_s=AGAIN_S if study.state() == "going" else None,
    )


def _about(study: Gathered) -> str:
    repeats = f", each with {study.repeats} seeds" if study.repeats > 1 else ""
    by = f"by held-out {metric_name(study.metric)} ({study.mode})"
    return f"{count(len(study.space), 'parameter')} searched by {study.searcher}{repeats}; stopper: {study.stopper}; {by}"


def _verdict(study: Gathered, ranked: list[Standing]) -> Markup:
    """The winner in one sentence, and how sure that is while the study goes."""
    ended = sum(line.status != RUNNING for line in study.trials.values())
    so_far = f"{ended} of {count(study.total, 'trial')} ended" if study.total else f"{count(ended, 'trial')} ended"
    state = study.state()
    how = {
        "done": f"{so_far}.",
        "stopped": f"The study was stopped: {study.why()}. {so_far}; tunefleet tune --resume, or submitting it again, goes on.",
        "silent": f"No word that the study ended: probably killed. {so_far}; tunefleet tune --resume, or submitting it again, goes on.",
        "going": f"Still going: {so_far}.",
    }[state]
    if not ranked:
        return verdict("No trial has a value yet.", tone="plain" if state == "going" else "bad", why=how)
    best = ranked[0]
    of = f" of {study.repeats}" if len(best.trials) < study.repeats else ""
    many = f", the mean of {count(len(best.trials), 'seed')}{of}" if study.repeats > 1 or len(best.trials) > 1 else ""
    tone: Tone = "good" if state == "done" and best.whole else "warn" if state in ("stopped", "silent") else "plain"
    caution = "" if best.whole else _caution(study, best)
    names = short_names(best.point)
    point = ", ".join(f"{names[key]} {word(value)}" for key, value in best.point.items())
    return verdict(f"Best{'' if state == 'done' else ' so far'}: {point}.", tone=tone, why=_reached(study, best, many, how + caution))


def _caution(study: Gathered, best: Standing) -> str:
    """Why the best configuration may not be it."""
    if best.failed:
        return f" {count(best.failed, 'seed')} of it failed, and no other configuration has a value of all its seeds."
    if study.repeats > 1:
        return " No configuration has run to its end with all its seeds yet."
    return " No trial has run to its end yet, so this is of fewer steps than the run file asks for."


def _reached(study: Gathered, best: Standing, many: str, how: str) -> str:
    unit = f" {metric_unit(study.metric)}" if metric_unit(study.metric) else ""
    return f"Held-out {metric_name(study.metric)} {best.value:.4f}{unit}{many}, after {best.trials[0].step} steps. {how}"


def _figures(study: Gathered, ranked: list[Standing]) -> list[Figure]:
    """The numbers that a reader looks for first."""
    trials = list(study.trials.values())
    found = [Figure(f"best held-out {metric_name(study.metric)}", f"{ranked[0].value:.4f}" if ranked else "-", "", metric_unit(study.metric))]
    kinds = [(FINISHED, "ran to the end"), (STOPPED, "stopped"), (FAILED, "failed"), (RUNNING, "running")]
    told = ", ".join(f"{number} {word}" for status, word in kinds if (number := sum(line.status == status for line in trials)))
    found.append(Figure("trials", quantity(len(trials)), f"of {study.total}" if study.total and study.total != len(trials) else "", told))
    cost = spent(trials, study.last_step)
    found.append(Figure("steps spent", amount(cost.steps), "", "optimizer steps of all trials"))
    if study.last_step and cost.saved_steps:
        more = f"{amount(cost.saved_steps)} steps that stopped trials did not take"
        found.append(Figure("compute saved", f"{cost.saved():.0%}", "", more, "good"))
    if cost.worker_seconds:
        found.append(Figure("worker time", span(cost.worker_seconds), "", "held by the workers of all trials"))
    return found


def _parameters(study: Gathered) -> Section:
    bars = importances(study)
    missing = paragraph("Too few trials, or too few that differ, to say which parameter matters.") if bars is None else None
    return section("Parameters", coordinates(study), bars, missing)


def _paths(study: Gathered) -> Section | None:
    """What PBT changed while trials ran."""
    drawn = paths(study)
    about = (
        "Parameters that changed while trials ran. The thick line is what the weights of the best trial were trained with, through the trials they came from."
    )
    return section("Paths", grid(*drawn) if len(drawn) > 1 else drawn[0], about=about) if drawn else None


def _trials(study: Gathered, ranked: list[Standing]) -> Section:
    """Every trial, the best first; those that failed with what went wrong."""
    place = {line.id: i for i, one in enumerate(ranked) for line in one.trials}
    order = sorted(study.trials.values(), key=lambda line: (place.get(line.id, len(place)), line.number))
    columns = ["trial", *short_names(study.space).values(), "status", "step", metric_name(study.metric), "steps spent"]
    rows = table(columns, [_row(study, line) for line in order], numbers=[len(columns) - 3, len(columns) - 2, len(columns) - 1])
    failed = [line for line in order if line.status == FAILED]
    remarks = [notice(f"Trial {line.id} failed at step {line.step}.", detail=line.why or None) for line in failed[:5]]
    more = [paragraph(f"{count(len(failed) - 5, 'more trial')} failed; trials.jsonl says why.")] if len(failed) > 5 else []
    listed = rows if len(order) <= FULL else fold(f"All {len(order)} trials", rows)
    why = [(f"{line.id}", line.why) for line in order if line.status == STOPPED and line.why]
    reasons: Content = fold("Why trials were stopped", facts(why), aside=count(len(why), "trial")) if why else None
    return section("Trials", *remarks, *more, listed, reasons)


def _row(study: Gathered, line: TrialLine) -> list[Content | Cell]:
    value = value_of(line.metrics, study.metric)
    tone: Tone = {FINISHED: "good", FAILED: "bad"}.get(line.status, "plain")  # type: ignore[assignment]  # of literals
    parameters: list[Content | Cell] = [word(line.parameters.get(key, "-")) for key in study.space]
    told = short(steps_of(line))
    return [line.id, *parameters, Cell(line.status, tone), quantity(line.step), f"{value:.4f}" if value is not None else "-", told]


def _study_file(study: Gathered) -> str:
    """The study file as it ran, without the run file in it."""
    import yaml

    ranges = {key: {name: value for name, value in given.items() if value is not None} for key, given in study.shown["space"].items()}
    return yaml.safe_dump({**study.shown, "space": ranges}, sort_keys=False, allow_unicode=True, width=120)
