"""Events with pseudonyms in place of user ids, before anything is shuffled, written or logged."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from kdlib.privacy import KeySource, pseudonym, read_key


def with_pseudonyms(events: DataFrame, source: KeySource, *, id_columns: Sequence[str]) -> DataFrame:
    """The events with user_id and session_id replaced, also in `fields`; of a line that does not parse only a hash stays.

    Args:
      events: columns as in `kdlib.features.events`.
      source: where each worker finds the key.
      id_columns: the input's columns that hold user and session ids, as they are named in `fields`.
    """
    hashed = _pseudonyms(source)
    others = [name for name in events.select("fields.*").columns if name not in {*id_columns, "user_id"}]
    fields = F.struct(hashed("user_id").alias("user_id"), *(F.col("fields")[name].alias(name) for name in others))
    line = F.concat(F.lit("sha256:"), F.sha2("line", 256))
    return events.withColumns(
        {"line": line, "fields": fields, "session_id": hashed("session_id"), "user_id": hashed("user_id")}
    )


def _pseudonyms(source: KeySource) -> Callable[[str], Column]:
    """A Spark function of a text column. The key is read by the Python worker: a literal would stand in plans and logs."""

    def hashed(ids: pd.Series) -> pd.Series:
        key = _key(source)
        codes, distinct = pd.factorize(ids)  # −1 for a missing id
        names = pd.Series([pseudonym(key, one) for one in distinct], dtype="object")
        return names.reindex(codes).where(codes >= 0, None).reset_index(drop=True)

    function: Any = F.pandas_udf(hashed, "string")  # pyright: ignore[reportCallIssue, reportArgumentType]
    return lambda column: function(F.col(column))


@lru_cache(maxsize=1)
def _key(source: KeySource) -> bytes:
    return read_key(source)
