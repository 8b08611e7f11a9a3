"""From an exposure log, added up by user, to users by variant and lifts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kdlib.errors import InputError
from kdlib.experiments.exposures import Columns, Log, Metric
from kdlib.experiments.lift import Lift, adjusted, holm, lift_of, per_user
from kdlib.onboarding.arrow import pc

CONTROL = "control"
MOST_VARIANTS = 20
"""A column with more values does not hold variants."""


@dataclass(frozen=True)
class Groups:
    """The users of a log by variant."""

    places: Mapping[str, NDArray]
    """Variant → places of its users in the arrays of the log, by name."""
    mixed: tuple[str, ...]
    """Users in two variants or more, which are left out."""
    without: int
    """Number of users that the log gives no variant, which are left out."""

    @property
    def counts(self) -> dict[str, int]:
        """Variant → number of users."""
        return {name: len(places) for name, places in self.places.items()}


@dataclass(frozen=True)
class Comparison:
    """A variant against the control, in one metric."""

    metric: Metric
    variant: str
    mean: float
    control_mean: float
    lift: Lift
    holm_p: float
    """The p-value among all comparisons of the analysis (`kdlib.experiments.lift.holm`)."""


def groups_of(log: Log) -> Groups:
    """The users of each variant.

    Raises:
      InputError: the column has too many values.
    """
    known = log.variants.is_valid().to_numpy(zero_copy_only=False)
    users = pc.dictionary_encode(log.users)
    numbers = users.indices.to_numpy()
    times = np.bincount(numbers[known], minlength=len(users.dictionary))
    single = known & (times[numbers] == 1)
    names = sorted(log.variants.unique().drop_null().to_pylist())
    if len(names) > MOST_VARIANTS:
        raise InputError(
            f"the log has {len(names):,} variants, among them {', '.join(names[:3])}; expected {MOST_VARIANTS} at most. Name"
            " the right column with --column variant=NAME"
        )
    codes = pc.index_in(log.variants, value_set=pa.array(names, pa.string())).fill_null(-1).to_numpy()
    places = {name: np.flatnonzero(single & (codes == code)) for code, name in enumerate(names)}
    mixed = users.dictionary.take(pa.array(np.flatnonzero(times > 1))).to_pylist()
    return Groups(places, tuple(mixed), int(np.count_nonzero(times == 0)))


def control_of(groups: Groups, given: str | None) -> str:
    """The variant to compare with: the given one, else `control`, else the one with the most users.

    Raises:
      InputError: the log does not have it, or has no other variant, or a variant has fewer than two users.
    """
    counts = groups.counts
    found = given or (CONTROL if CONTROL in counts else max(counts, key=lambda name: counts[name], default=CONTROL))
    if found not in counts or len(counts) < 2:
        raise InputError(
            f"nothing to compare: expected the control {found} and another variant, found"
            f" {', '.join(counts) or 'no variant'}. Name the control with --control, or the column with --column variant=NAME"
        )
    if few := [name for name in counts if counts[name] < 2]:
        raise InputError(
            f"variant {few[0]} has {counts[few[0]]} users that are in no other variant, and an interval needs 2. Is"
            " the log whole?"
        )
    return found


def compare(log: Log, columns: Columns, metrics: Sequence[Metric], groups: Groups, *, control: str) -> list[Comparison]:
    """Each variant against the control, in each metric.

    Raises:
      InputError: all users have the same value of a metric, or a metric's size is 0.
    """
    found: list[tuple[Metric, str, float, float, Lift]] = []
    for metric in metrics:
        values = _values(log, columns, metric, groups)
        for name in (name for name in values if name != control):
            mine, other = values[name], values[control]
            if not (np.ptp(mine) or np.ptp(other)):
                raise InputError(f"all users of {name} and {control} have the same {metric.name}: nothing to compare")
            found.append((metric, name, float(mine.mean()), float(other.mean()), lift_of(mine, other)))
    raised = holm([lift.p_value for *_, lift in found])
    return [Comparison(*one, p) for one, p in zip(found, raised, strict=True)]


def _values(log: Log, columns: Columns, metric: Metric, groups: Groups) -> dict[str, NDArray]:
    """Variant → values of its users whose mean is the metric."""
    totals, sizes = log.sums[metric.outcome], None
    if metric.size:
        sizes = log.sums.get(metric.size, log.sums["rows"])
        if empty := [name for name, places in groups.places.items() if sizes[places].sum() <= 0]:
            raise InputError(f"{metric.name}: the sum of {metric.size} is not above 0 for variant {empty[0]}")
    values = {
        name: per_user(totals[places], None if sizes is None else sizes[places])
        for name, places in groups.places.items()
    }
    if columns.before is None:
        return values
    before = log.sums[columns.before] / log.sums["rows"]  # the same number stands in each row of a user
    return adjusted(values, {name: before[places] for name, places in groups.places.items()})
