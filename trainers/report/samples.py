"""What the model says: prompts with the answer of the rows, of the base model and of the tuned one, side by side, and how answers changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunefleet.cluster.axes import count
from tunefleet.cluster.markup import Markup
from tunefleet.cluster.page import Section, fold, section, texts
from tunefleet.trainers.report.gather import Gathered
from tunefleet.trainers.report.standing import result

PROMPTS, STEPS, LONGEST = 12, 6, 4000
"""Prompts and earlier steps that are shown, and characters of one text: the page stays far below a megabyte."""


def samples(run: Gathered) -> Section | None:
    """The section, or None where nothing was generated. The weights that the verdict is about are shown where they were sampled."""
    if not run.samples:
        return None
    final = next((one for one in run.samples if one.get("step") == result(run).get("step")), run.samples[-1])
    shown = final["prompts"][:PROMPTS]
    more = len(final["prompts"]) - len(shown)
    most = run.section("evaluation").get("samples")
    bound = f" of at most {most['max_new_tokens']} tokens" if isinstance(most, Mapping) and "max_new_tokens" in most else ""
    about = f"Greedy answers{bound}, of the base model and of the weights of step {final.get('step')}."
    about += f" {count(more, 'more prompt')} not shown." if more else ""
    return section("Samples", *(part for prompt in shown for part in _one(run, prompt, final.get("step"))), about=about)


def _one(run: Gathered, prompt: Mapping[str, Any], step: Any) -> list[Markup]:
    reference = [("the row itself", _cut(prompt["reference"]))] if prompt.get("reference") is not None else []
    columns = [*reference, ("base model", _cut(prompt.get("base"))), (f"tuned, step {step}", _cut(prompt.get("tuned")))]
    side = texts(columns, above=("prompt", _cut(prompt.get("prompt")) or ""), lead=len(columns) - 1)
    others = [
        (f"step {one.get('step')}", _cut(other.get("tuned")))
        for one in run.samples
        for other in one["prompts"]
        if one.get("step") != step and other.get("prompt") == prompt.get("prompt")
    ][-STEPS:]
    return [side, fold("At other steps", texts(others))] if others else [side]


def _cut(text: Any) -> str | None:
    if text is None:
        return None
    whole = str(text)
    return whole if len(whole) <= LONGEST else f"{whole[:LONGEST]} ... ({len(whole) - LONGEST} more characters)"
