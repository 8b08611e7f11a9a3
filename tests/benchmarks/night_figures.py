"""The figures of a row of nights, from what is known about each night."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FIRST_WEEK = 7
"""Nights that do not count for the rises: retention removes nothing before."""
SHOWN = (1, 20, 40, 60)
"""Numbers of the nights whose values the figures repeat."""
OVER_TIME = (
    "seconds",
    "cpu_seconds",
    "peak_gigabytes",
    "output_megabytes",
    "delivered_megabytes",
    "temporary_megabytes",
    "events",
    "users",
    "items",
    "ndcg@10",
)
"""What the figures repeat of these nights."""


def is_wrong(found: Mapping[str, int]) -> bool:
    """Whether a check has found anything; `users` is not a fault."""
    return any(value for name, value in found.items() if name != "users")


def figures(nights: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts, medians and rises over the nights.

    Args:
      nights: one record a night, as `sixty_nights.Row.night` makes them.
    """
    tries = [one for night in nights for one in night["tries"]]
    quiet, faulty = ([night for night in nights if bool(night["faults"]) == some] for some in (False, True))
    checks = [night["wrong"] for night in nights] + [one["wrong"] for one in tries if "wrong" in one]
    return {
        "nights": len(nights),
        "nights_with_faults": len(faulty),
        "faults": dict(sorted(Counter(name for night in nights for name in night["faults"]).items())),
        "faults_that_came_too_late": sum(night.get("fault_after_seconds", 0) is None for night in nights),
        "nights_not_published": sum(not night["published"] for night in nights),
        "commands": len(tries),
        "unexpected_statuses": sum("expected" in one for one in tries),
        "tables_checked": len(checks),
        "wrong_tables": sum(map(is_wrong, checks)),
        "nights_with_processes_left": sum(bool(night["left_processes"]) for night in nights),
        **{
            f"median_{name}": {"without_faults": _median(quiet, name), "with_faults": _median(faulty, name)}
            for name in ("seconds", "cpu_seconds")
        },
        "peak_gigabytes": {
            "median": _median(nights, "peak_gigabytes"),
            "most": max(night["peak_gigabytes"] for night in nights),
        },
        "rise_a_night": {
            name: _rise(nights, name)
            for name in ("cpu_seconds", "peak_gigabytes", "output_megabytes", "temporary_megabytes", "events")
        },
        "mean_ndcg@10": {
            name: round(float(np.mean([night["ndcg@10"][name] for night in nights])), 4)
            for name in ("student", "popularity")
        },
        **{
            f"night_{number}": {name: nights[number - 1][name] for name in OVER_TIME}
            for number in SHOWN
            if number <= len(nights)
        },
    }


def _median(nights: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [night[name] for night in nights if night[name] is not None]
    return round(float(np.median(values)), 3) if values else None


def _rise(nights: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Least-squares slope over the nights without a fault, after the first week; None with fewer than two."""
    known = [
        (number, night[name])
        for number, night in enumerate(nights)
        if not night["faults"] and number >= FIRST_WEEK and night[name] is not None
    ]
    if len(known) < 2:
        return None
    numbers, values = zip(*known, strict=True)
    return round(float(np.polyfit(numbers, values, 1)[0]), 4)
