"""The page of `tunefleet evaluate --html`: one evaluation, from the verdict to single examples."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tunefleet.cluster.axes import quantity
from tunefleet.cluster.errors import SettingsError
from tunefleet.cluster.masking import masked, masked_value
from tunefleet.cluster.page import Figure, figures, page
from tunefleet.cluster.page import verdict as verdict_line
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.report.gatepart import gate_section, said
from tunefleet.trainers.report.gather import Gathered
from tunefleet.trainers.report.heldout import chief_figure, heldout
from tunefleet.trainers.report.keeping import keeping
from tunefleet.trainers.report.regressions import regressions
from tunefleet.trainers.report.slices import slices
from tunefleet.trainers.report.standing import chief_metric, comparison, digits_of, which
from tunefleet.trainers.report.wording import exact, finite, moment, short_name


def write_evaluation_page(evaluation: Mapping[str, Any], address: str) -> str:
    """Write the page, and return where. Raises StorageError where it cannot be written."""
    folder, name = _place(address)
    storage = open_storage(folder)
    storage.put(name, evaluation_page(evaluation, time.time()).encode())
    return f"{storage.address.rstrip('/')}/{name}"


def refuse_no_page(address: str) -> None:
    """Raises SettingsError where the address can be no page, before anything is computed for it."""
    from pathlib import Path

    _, name = _place(address)
    if not name.endswith((".html", ".htm")) or Path(address).is_dir():
        raise SettingsError("--html: this is no page", got=address, want="a file that ends in .html, in a folder or s3://", fix=f"--html {address}/page.html")


def _place(address: str) -> tuple[str, str]:
    folder, _, name = address.rpartition("/")
    return folder or ("/" if address.startswith("/") else "."), name


def evaluation_page(evaluation: Mapping[str, Any], now: float) -> str:
    """The page of the content of an evaluation: a pure function."""
    content: dict[str, Any] = masked_value(evaluation)
    run = Gathered(masked(str(content["source"])), now, "", {}, [], [], [content], [], {})
    found, gate = comparison(run, content), content.get("gate")
    parts = [gate_section(gate) if gate else None, heldout(run), slices(run), keeping(run), regressions(run)]
    lead = [verdict_line(said(gate), tone="good" if gate["passed"] else "bad")] if gate else []
    lead += [verdict_line(found.said, tone=found.tone, why=found.why)] if found else []
    return page(
        short_name(str(content["source"])),
        kind="evaluation",
        about=f"The {which(content)}, compared with its base model {content.get('base_model', '')}".rstrip() + f"{_suite(content)}.",
        lead=[*lead, figures(_figures(run, content))],
        sections=[part for part in parts if part is not None],
        foot=f"Written {moment(now)} of {run.address}. The same numbers: tunefleet evaluate --json.",
    )


def _suite(content: Mapping[str, Any]) -> str:
    return f", on the suite {content['suite']}" if content.get("suite") else ""


def _figures(run: Gathered, content: Mapping[str, Any]) -> list[Figure]:
    found = []
    if figure := chief_figure(run, content):
        found.append(figure)
        name = chief_metric(run, content)
        won = content.get("rows_won", {}).get(name)
        if won:
            found.append(Figure("examples better", quantity(won["won"]), "", f"{won['lost']:,} worse, {won['tied']:,} the same"))
        moved = [one["outcome"].get(name) for one in content.get("slices", [])]
        if moved:
            tone = "warn" if "worse" in moved else "plain"
            more = f"{moved.count('better')} better, {moved.count('unclear')} not sure"
            found.append(Figure("slices worse", str(moved.count("worse")), f"of {len(moved)}", more, tone))  # type: ignore[arg-type]  # of literals
        if content.get("gap") and not content["gap"].get("sets") and (gap := content["gap"]["gaps"]["tuned"].get(name)):
            ends = f"{exact(finite(gap['low']), digits_of(gap))} to {exact(finite(gap['high']), digits_of(gap))}"
            found.append(
                Figure("overfitting gap", exact(finite(gap["value"]), digits_of(gap), signed=True), "", ends, "warn" if finite(gap["low"]) > 0 else "plain")
            )
    if gate := content.get("gate"):
        passed = sum(one["passed"] for one in gate["checks"])
        found.append(Figure("gate", str(passed), f"of {len(gate['checks'])}", "checks hold", "good" if gate["passed"] else "bad"))
    return [*found, Figure("held-out examples", quantity(content.get("rows", 0)))]
