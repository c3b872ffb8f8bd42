"""What a run will need, before anything is spent: memory by ZeRO stage, disk, time, price; no worker is started, no weight read."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tunefleet.tuning.arguments import TRUST, Option, Verb
from tunefleet.tuning.printing import print_json, print_table, remark

if TYPE_CHECKING:
    from tunefleet.trainers.plan.make import Choice, Offer, Plan

VERB = Verb(
    subject="run.yaml",
    subject_help="the run file",
    keys=True,
    options=(
        Option("--tokens-per-second", "what you measured, all ranks together, instead of an assumed share of the peak", metavar="N"),
        Option("--peak-tflops", "peak of one of your devices, instead of the table's", metavar="N"),
        Option("--utilisation", "share of the peak that is reached, instead of 0.35", metavar="X"),
        Option("--price", "dollars an hour for one machine, instead of the table's", metavar="USD"),
        Option("--own", "count the run file's own zero.stage and zero.offload alone: several times as fast"),
        TRUST,
        Option("--json", "print the plan as JSON on stdout; sizes in bytes"),
    ),
)


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Plan. What was assumed is said on stderr."""
    from tunefleet.cluster.session import usable_cores
    from tunefleet.trainers.launch import checked
    from tunefleet.trainers.plan.make import Figures, plan_of, to_json

    own = {name: positive(f"--{name.replace('_', '-')}", vars(options)[name]) for name in ("tokens_per_second", "peak_tflops", "utilisation", "price")}
    links = checked(options.subject, settings, resume=False, overwrite=True, local=False, trust_code=options.trust_code)
    peak, share = own["peak_tflops"], own["utilisation"]
    figures = Figures(own["tokens_per_second"], None if peak is None else peak * 1e12, *([] if share is None else [share]))
    if own["price"] is not None:
        from dataclasses import replace

        figures = replace(figures, price=own["price"])
    at_once = usable_cores()
    if not options.own:
        remark(f"note: two steps are done at every ZeRO setting, without memory, {at_once} at a time; --own does those of the run file's own alone")
    plan = plan_of(links[-1], figures, at_once=at_once, own=options.own)
    if options.json:
        print_json(to_json(plan))
        return 0
    for link in links[:-1]:
        remark(f"note: {link.run.name} is done first, and has a plan of its own")
    _print(plan)
    for text in plan.assumed:
        remark(f"note: {text}")
    return 0


def positive(name: str, text: str | None) -> float | None:
    """A number above zero. Raises SettingsError."""
    from tunefleet.cluster.errors import SettingsError

    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise SettingsError(f"{name}: not understood", got=text, want="a number above 0", fix="leave it out to take the table's")
    return number


def _print(plan: Plan) -> None:
    from tunefleet.trainers.plan.dry import PARTS

    shape = plan.rows.shape
    what = f"{plan.ranks} rank{'s' * (plan.ranks > 1)}, micro-batch of {len(shape.lengths)} rows and {sum(shape.lengths):,} tokens"
    columns = ("", "zero.stage", *PARTS, "highest", "between steps", "host, all ranks")
    print_table(f"{plan.name}: memory of a rank at its highest, {what}", columns, [_row(choice, PARTS) for choice in plan.choices])
    for why in dict.fromkeys(choice.memory.why for choice in plan.choices if choice.memory.why):
        remark(f"note: a dry run could not be done: {why}")
    print_table(f"{plan.name}: the run", ("what", "is"), list(_facts(plan)))
    if plan.offers:
        print_table("machine types", ("type", "machines", "fits", "time", "price", "why not"), [_offered(offer) for offer in plan.offers])


def _row(choice: Choice, parts: Sequence[str]) -> tuple[str, ...]:
    memory, label = choice.memory, f"{choice.stage}" + ("" if choice.offload == "none" else f", {choice.offload} offloaded")
    numbers = (*(memory.parts.get(part, 0) for part in parts), memory.device, memory.resting, choice.host)
    return ("->" if choice.chosen else "", label, *("?" if memory.why else size(number) for number in numbers))


def _offered(offer: Offer) -> tuple[str, ...]:
    price = "?" if offer.dollars is None else f"${offer.dollars:,.2f}"
    return (offer.name, f"{offer.machines}", "yes" if offer.fits else "no", _hours(offer.hours), price, offer.why)


def _facts(plan: Plan) -> Iterator[tuple[str, str]]:
    from tunefleet.trainers.plan.machines import MACHINES
    from tunefleet.trainers.plan.work import SOURCE

    sizes, rows = plan.sizes, plan.rows
    yield "parameters", f"{sizes.parameters:,}, {sizes.trained:,} of them trained"
    yield "a checkpoint", f"{size(plan.checkpoint)}, {size(plan.snapshot)} of it weights"
    if rows.shards is not None and rows.window is not None:
        yield "shards", f"{size(rows.shards)} on disk, {size(rows.window)} in the page cache of a node"
    yield "steps", "not known: count the rows with `tunefleet prepare`" if rows.steps is None else f"{rows.steps:,}"
    if rows.tokens is not None and plan.flops is not None:
        yield "tokens", f"{rows.tokens:,.0f}"
        yield "operations", f"{plan.flops:.3g} FLOP, {plan.flops_per_token:.3g} a token: {SOURCE}"
    if plan.own_hours is not None:
        yield "time", _hours(plan.own_hours)
    if plan.offers:
        yield "prices", "on demand, of " + ", ".join(sorted({machine.priced for machine in MACHINES})) + "; sources in trainers/plan/machines.py"


def _hours(hours: float | None) -> str:
    if hours is None:
        return "?"
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:,.1f} min"


def size(number: int) -> str:
    """Bytes in the unit that reads best."""
    return f"{number / 2**30:,.2f} GiB" if number >= 2**30 else f"{number / 2**20:,.1f} MiB"
