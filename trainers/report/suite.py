"""What the run's suite says of its weights: other rows than the run's own, general ones among them."""

from __future__ import annotations

from dataclasses import replace

from tunefleet.cluster.page import Section, fold, notice, section
from tunefleet.trainers.report.gather import Gathered
from tunefleet.trainers.report.heldout import heldout
from tunefleet.trainers.report.keeping import keeping
from tunefleet.trainers.report.regressions import regressions
from tunefleet.trainers.report.slices import slices
from tunefleet.trainers.report.standing import comparison


def suite(run: Gathered) -> Section | None:
    """The section, or None where the run has no suite: the parts of any evaluation, of this one."""
    if not run.suite:
        return None
    view = replace(run, evaluations=[run.suite], done={})
    found, numbers, kept = comparison(view, run.suite), heldout(view), keeping(view)
    more = [fold(part.title, part.body) for part in (slices(view), regressions(view)) if part is not None]
    said = notice(found.said, tone=found.tone, detail=found.why) if found else None
    return section(f"Suite {run.suite.get('suite', '')}".strip(), said, *(part.body for part in (numbers, kept) if part is not None), *more)
