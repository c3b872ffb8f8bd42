"""From a run's output to its report.html: read, build, write. Works while the run goes, after it failed, and where parts are missing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from statistics import mean, median

from tunefleet.cluster.axes import amount, quantity, short
from tunefleet.cluster.errors import TunefleetError
from tunefleet.cluster.markup import Markup
from tunefleet.cluster.page import Figure, Section, code, figures, fold, notice, page, section
from tunefleet.cluster.page import verdict as verdict_line
from tunefleet.cluster.storage import Storage
from tunefleet.trainers.ledger import Events
from tunefleet.trainers.manifest import brief
from tunefleet.trainers.report.account import headline, place, settings
from tunefleet.trainers.report.curves import course, points, smoothing
from tunefleet.trainers.report.gather import Gathered, gather
from tunefleet.trainers.report.heldout import chief_figure, heldout
from tunefleet.trainers.report.keeping import keeping
from tunefleet.trainers.report.regressions import regressions
from tunefleet.trainers.report.rows import rows
from tunefleet.trainers.report.samples import samples
from tunefleet.trainers.report.slices import slices
from tunefleet.trainers.report.standing import result, standing, verdict
from tunefleet.trainers.report.suite import suite
from tunefleet.trainers.report.timing import spent, time_by_cause
from tunefleet.trainers.report.warnings import Warning, warnings
from tunefleet.trainers.report.wording import finite, moment, span
from tunefleet.trainers.stage import REPORT, RUN_FILE


def write_report(storage: Storage, now: float | None = None) -> str:
    """Write ``report.html`` into a run's output, and return its address. Raises OutputError where no run is."""
    html = report(gather(storage, time.time() if now is None else now))
    storage.put(REPORT, html.encode("utf-8"))
    return f"{storage.address.rstrip('/')}/{REPORT}"


def report_at_end(storage: Storage, say: Callable[[str], None]) -> None:
    """The report of a run that ends, well or badly, where anything of it is left. Nothing is raised: a report is no reason to fail a run."""
    try:
        if storage.exists(RUN_FILE):
            say(f"report: {write_report(storage)}")
    except Exception as error:  # noqa: BLE001  whatever it is, the run matters more; it is said, and noted
        say(f"note: the report could not be written: {error}")
        with suppress(TunefleetError):
            Events(storage).add("report_failed", why=brief(error))


def report(run: Gathered) -> str:
    """The page of what was gathered: a pure function."""
    found, remarks = verdict(run), warnings(run)
    parts: list[Section | None] = [
        section("Warnings", *(piece for one in remarks for piece in _remark(one))) if remarks else None,
        heldout(run),
        slices(run),
        keeping(run),
        regressions(run),
        suite(run),
        course(run),
        samples(run),
        time_by_cause(run),
        rows(run),
        settings(run),
        place(run),
    ]
    return page(
        str(run.run.get("name", "run")),
        kind="run report",
        about=headline(run),
        lead=[verdict_line(found.said, tone=found.tone, why=found.why), figures(_figures(run))],
        sections=[part for part in parts if part is not None],
        foot=_foot(run),
    )


def _remark(warning: Warning) -> Iterator[Markup]:
    yield notice(warning.said, tone=warning.tone, detail=warning.detail or None)
    if warning.trace:
        yield fold("What the workers left", code(warning.trace))


def _figures(run: Gathered) -> list[Figure]:
    """The numbers that a reader looks for first."""
    where, found = standing(run), []
    if figure := chief_figure(run, result(run)):
        found.append(figure)
    if run.metrics:
        last = run.metrics[-1]
        losses = [y for _, y in points(run, "loss") if math.isfinite(y)]
        width = smoothing(len(losses))
        told = [f"mean of the last {width} steps" if width > 1 else "of the last step", f"first {short(losses[0])}"] if len(losses) > 1 else []
        found.append(Figure("training loss", short(mean(losses[-width:])) if losses else "-", "", "; ".join(told)))
        of = f"of {quantity(where.steps)}" if where.steps and where.steps != where.step else ""
        found.append(Figure("steps", quantity(where.step), of, f"{finite(last.get('epoch')):.2g} passes over the data"))
        found.append(Figure("tokens", amount(finite(last.get("tokens"))), "", "padding left out"))
        speed, padding = _speed(run)
        found.append(Figure("throughput", amount(speed), "tokens/s", f"median of steps, {padding:.1%} padding" if padding else "median of steps, no padding"))
    seconds = spent(run)
    if seconds:
        whole, useful = sum(seconds.values()), seconds.get("training", 0.0)
        found.append(Figure("wall time", span(whole), "", f"{useful / whole:.0%} of it training" if whole else ""))
    return found


def _speed(run: Gathered) -> tuple[float, float]:
    """Median tokens per second, and the share of all computed tokens that was padding."""
    speeds = [y for _, y in points(run, "tokens_per_second") if math.isfinite(y)]
    useful = computed = 0.0
    for line in run.metrics:
        tokens, padding = finite(line.get("tokens_per_second")) * finite(line.get("step_seconds")), finite(line.get("padding"))
        if math.isfinite(tokens) and padding < 1:
            useful, computed = useful + tokens, computed + tokens / (1 - padding)
    return (median(speeds) if speeds else math.nan), (1 - useful / computed if computed else 0.0)


def _foot(run: Gathered) -> Markup | str:
    return f"Written {moment(run.now)} from {run.address}. The numbers stand in metrics.jsonl, events.jsonl and evaluation/ beside this page."
