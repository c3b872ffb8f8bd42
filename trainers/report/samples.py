"""What the model says: prompts with the answer of the rows, of the base model and of the tuned one, side by side, and how answers changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunefleet.cluster.markup import Markup
from tunefleet.cluster.page import Section, fold, section, texts
from tunefleet.trainers.report.gather import Gathered

PROMPTS, STEPS, LONGEST = 12, 6, 4000
"""Prompts and earlier steps that are shown, and characters of one text: the page stays far below a megabyte."""


def samples(run: Gathered) -> Section | None:
    """The section, or None where nothing was generated. The weights that the run stands for are shown where they were sampled."""
    if not run.samples:
        return None
    final = next((one for one in run.samples if run.done and one.get("step") == run.done.get("step")), run.samples[-1])
    shown = final["prompts"][:PROMPTS]
    more = len(final["prompts"]) - len(shown)
    about = f"Greedy answers of the base model and of the weights of step {final.get('step')}." + (f" {more} more prompts are not shown." if more else "")
    return section("Samples", *(part for prompt in shown for part in _one(run, prompt, final.get("step"))), about=about)


def _one(run: Gathered, prompt: Mapping[str, Any], step: Any) -> list[Markup]:
    reference = [("what the row says", _cut(prompt["reference"]))] if prompt.get("reference") is not None else []
    columns = [*reference, ("base", _cut(prompt.get("base"))), (f"tuned, step {step}", _cut(prompt.get("tuned")))]
    side = texts(columns, above=("prompt", _cut(prompt.get("prompt")) or ""), lead=len(columns) - 1)
    earlier = [
        (f"step {one.get('step')}", _cut(other.get("tuned")))
        for one in run.samples
        for other in one["prompts"]
        if one.get("step") != step and other.get("prompt") == prompt.get("prompt")
    ][-STEPS:]
    return [side, fold("At earlier steps", texts(earlier))] if earlier else [side]


def _cut(text: Any) -> str | None:
    if text is None:
        return None
    whole = str(text)
    return whole if len(whole) <= LONGEST else f"{whole[:LONGEST]} ... ({len(whole) - LONGEST} more characters)"
