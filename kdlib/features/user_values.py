"""Features of users as models read them: each value is a small code.

A category's codes are its most frequent values. A number's codes are the ranges between its quantiles. The codes are
append-only: a run takes over those of an earlier run, so that a code means the same in all runs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from kdlib.config.data import FeatureKind
from kdlib.config.run import RunConfig
from kdlib.features.read_errors import reading
from kdlib.features.side_features import check_features, values_of_users
from kdlib.store.tables import USER_CODES

LEAST_USERS = 2
"""A category needs this many users for a code of its own."""
RANGES = 16
"""Number of ranges of a number."""
SAMPLE = 10_000
"""Most users from whom the ranges are made. A hash chooses them, so that the same input gives the same ranges."""

Coding = dict[str, Any]
"""What the codes of a feature mean: `feature`, its `kind`, and `codes`.

`category`: code c is the value `codes[c − 1]`. `number`: the codes are the ends of ranges, ascending. Code 1 is below the
first end, and a number equal to an end belongs to the range above it.
"""


def add_user_values(
    histories: DataFrame, config: RunConfig, *, users: DataFrame, earlier: Mapping[str, Any]
) -> tuple[DataFrame, dict[str, Any]]:
    """The histories with `user_values`; and details for the manifest of the vocabulary: the codings, and the values' counts.

    The list of users is read only if a model reads features of users.

    Args:
      histories: one row a user.
      config: the run config.
      users: user_id of all users with a history; may repeat.
      earlier: the details of the vocabulary that the run extends; empty on a first run.

    Raises:
      InputError: the list of users is missing or unreadable, or too many of its values are of a wrong kind.
    """
    before, source, kinds = earlier.get("user_values", []), config.input.users, config.user_features
    if source is None or not kinds:
        return histories.withColumn("user_values", _bytes([])), {"user_values": before, "user_features": {}}
    with reading(source.path):
        wanted = source.model_copy(update={"features": kinds})
        values = values_of_users(wanted, users, key=config.privacy.key).persist(StorageLevel.MEMORY_AND_DISK)
        counts = check_features(values, kinds, section="input.users")
        found = codings(values, kinds, earlier=before)
    return with_user_values(histories, values, found), {"user_values": found, "user_features": counts}


def codings(values: DataFrame, kinds: Mapping[str, FeatureKind], *, earlier: Sequence[Coding]) -> list[Coding]:
    """One coding for each feature that models read or have read: those of an earlier run in their order, then new ones.

    A feature that has another kind now is a new one.

    Args:
      values: from `side_features.values_of_users`.
      kinds: feature → `category` or `number`, of the features that models read.
      earlier: of the earlier run.
    """
    found = [dict(one) for one in earlier]
    known = {(one["feature"], one["kind"]) for one in earlier}
    found += [{"feature": name, "kind": kind, "codes": []} for name, kind in kinds.items() if (name, kind) not in known]
    for coding in found:
        if kinds.get(coding["feature"]) == coding["kind"]:
            mine, known_codes = values.filter(F.col("feature") == coding["feature"]), coding["codes"]
            if coding["kind"] == "category":
                coding["codes"] = [*known_codes, *_new_categories(mine, known_codes)]
            else:
                coding["codes"] = known_codes or _ends(mine)
    return found


def _new_categories(values: DataFrame, known: list[str]) -> list[str]:
    """The most frequent values without a code, as many as there is room for."""
    counted = values.groupBy(F.col("values")[0].alias("value")).count().filter(F.col("count") >= LEAST_USERS)
    new = counted.filter(~F.col("value").isin(known)).orderBy(F.desc("count"), "value")
    return [row["value"] for row in new.limit(USER_CODES - 1 - len(known)).collect()]


def _ends(values: DataFrame) -> list[float]:
    """The distinct quantiles between the ranges; none if no user has a number."""
    sample = values.dropna(subset="number").orderBy(F.xxhash64("user_id"), "user_id").limit(SAMPLE)
    shares = F.lit([place / RANGES for place in range(1, RANGES)])
    return sorted(set(sample.agg(F.percentile("number", shares)).collect()[0][0] or ()))


def with_user_values(histories: DataFrame, values: DataFrame, codings: Sequence[Coding]) -> DataFrame:
    """The histories with `user_values`: for each coding the user's code, 0 if the value is missing or has no code.

    Args:
      histories: one row a user.
      values: from `side_features.values_of_users`, of the features that models read. Other features have the code 0.
      codings: from `codings`.
    """
    codes = [F.coalesce(F.max(_code(one)), F.lit(0)) for one in codings]
    coded = values.groupBy("user_id").agg(_bytes(codes).alias("user_values"))
    found = F.coalesce("user_values", _bytes([F.lit(0)] * len(codings))).alias("user_values")
    return histories.join(coded, "user_id", "left").select(*histories.columns, found)


def _bytes(codes: Sequence[Column]) -> Column:
    return F.array(*codes).cast("array<tinyint>")


def _code(coding: Coding) -> Column:
    """The code of a row's value, 0 for a value without a code; null for a row of another feature or kind."""
    if coding["kind"] == "category":
        code = F.array_position(F.array(*map(F.lit, coding["codes"])).cast("array<string>"), F.col("values")[0])
    else:
        ends = F.array(*map(F.lit, coding["codes"])).cast("array<double>")
        below = F.size(F.filter(ends, lambda end: end <= F.col("number")))
        code = F.when(F.col("number").isNotNull(), below + 1)
    return F.when(F.col("feature") == coding["feature"], code)
