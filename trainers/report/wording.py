"""The words of a report: units of metrics, spans of time, moments, names without their folders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Literal

from tunefleet.cluster.axes import short
from tunefleet.cluster.markup import Content, join
from tunefleet.cluster.page import aside
from tunefleet.trainers.run import METRICS

UNITS = {"loss": "nats per token", "token_accuracy": "share of tokens"}


def metric_name(name: str) -> str:
    """``token_accuracy`` as people say it; ``stories/loss``, that of one held-out set, too."""
    held, _, own = name.rpartition("/")
    return own.replace("_", " ") + (f" on {held}" if held else "")


def metric_unit(name: str) -> str:
    """What a metric is counted in, empty where it has no unit."""
    return UNITS.get(name.rpartition("/")[2], "")


def better(name: str, evaluation: Mapping[str, Any]) -> Literal["min", "max"] | None:
    """Which way a metric is better. One that is a module of the user's is not imported for it: then what the run file says of it counts, if anything."""
    from tunefleet.cluster.plugins import kinds, plugin
    from tunefleet.trainers.evaluation.metric import result_name

    wanted = [{"kind": item} if isinstance(item, str) else item for item in evaluation.get("metrics") or [name]]
    kind = next((str(item["kind"]) for item in wanted if result_name(item) == name), name)
    if kind in kinds(METRICS):
        direction: Literal["min", "max"] = plugin(METRICS, kind).better
        return direction
    said = evaluation.get("early_stopping_mode")
    return said if name == evaluation.get("early_stopping_metric") and said in ("min", "max") else None


def finite(value: Any) -> float:
    """A number, NaN where there is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def with_interval(estimate: Mapping[str, Any] | None, digits: int, *, signed: bool = False) -> Content:
    """``1.92 (1.85 to 2.01)``, to so many digits after the point."""
    if not estimate or estimate.get("value") is None:
        return "-"
    low, high = finite(estimate.get("low")), finite(estimate.get("high"))
    if math.isnan(low) or math.isnan(high):
        return short(estimate["value"])
    value, low_end, high_end = (exact(number, digits, signed=signed) for number in (estimate["value"], low, high))
    return join(f"{value} ", aside(f"({low_end} to {high_end})"))


def exact(value: float, digits: int, *, signed: bool = False) -> str:
    """A number to so many digits after the point, with a true minus; ``signed``: a plus too."""
    if abs(value) >= 1e6 or not math.isfinite(value):
        return short(value)
    text = f"{abs(value):,.{digits}f}"
    return ("\u2212" if value < 0 else "+" if signed and value > 0 else "") + text


def span(seconds: float) -> str:
    """``0.4 s``, ``39 s``, ``3 min 05 s``, ``2 h 04 min``."""
    if seconds < 0.05:
        return "<0.1 s" if seconds > 0 else "0 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def moment(seconds: float) -> str:
    """A time since 1970 as a date in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def short_name(path: str) -> str:
    """The last part of an address; of a path to ``export`` the run that exported."""
    parts = [part for part in PurePosixPath(path.rstrip("/")).parts if part not in ("export", "/")]
    return parts[-1] if parts and (path.startswith(("/", ".", "~")) or "://" in path) else path


def words(names: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
