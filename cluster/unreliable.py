"""Nodes that failed more than once: which they are, and whether a group can do without them. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

STARTED = "started.jsonl"
"""Where each attempt of a group notes who its ranks are and where they run."""

ALLOWED = 1
"""Failures of a node within one run before it is avoided: one may be chance."""


@dataclass(frozen=True)
class Members:
    """Where the ranks of one attempt were: addresses of nodes by rank."""

    attempt: int
    addresses: Mapping[int, str]


def unreliable(members: Sequence[Members], blamed: Sequence[tuple[int, tuple[int, ...]]]) -> set[str]:
    """Addresses that failed in more attempts than is allowed. ``blamed``: (attempt, ranks that died or hung)."""
    where = {group.attempt: group.addresses for group in members}
    failures = Counter(address for attempt, ranks in blamed for address in {where[attempt][rank] for rank in ranks})
    return {address for address, count in failures.items() if count > ALLOWED}


def elsewhere(bad: Set[str], nodes: Sequence[Mapping[str, Any]], workers: int, bundle: Mapping[str, float]) -> bool:
    """Whether the other living nodes hold a whole group. ``nodes`` as Ray lists them; ``bundle``: what one worker takes."""
    good = [node["Resources"] for node in nodes if node["Alive"] and node["NodeManagerAddress"] not in bad]
    return sum(_fit(resources, bundle) for resources in good) >= workers


def _fit(resources: Mapping[str, float], bundle: Mapping[str, float]) -> int:
    return int(min((resources.get(name, 0.0) // amount for name, amount in bundle.items() if amount), default=0))
