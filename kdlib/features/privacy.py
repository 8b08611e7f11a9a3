"""Replaces the user ids of events with pseudonyms, before anything is shuffled, written or logged."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from socket import gethostname
from typing import Any

import pandas as pd
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from kdlib.errors import ConfigError
from kdlib.features.columns import ACCOUNT
from kdlib.privacy.pseudonyms import KeySource, key_check, pseudonym, read_key


def with_pseudonyms(events: DataFrame, source: KeySource, *, id_columns: Sequence[str]) -> DataFrame:
    """The events with pseudonyms in user_id, session_id and `fields`. A corrupt row becomes a hash.

    Args:
      events: columns as in `kdlib.features.events` or `kdlib.features.searches`, which have no session_id.
      source: where each worker finds the key.
      id_columns: the columns in `fields` that hold user and session ids.
    """
    hashed = _pseudonyms(source)
    others = [name for name in events.select("fields.*").columns if name not in {*id_columns, "user_id"}]
    fields = F.struct(hashed("user_id").alias("user_id"), *(F.col("fields")[name].alias(name) for name in others))
    ids = {name: hashed(name) for name in ("session_id", "user_id") if name in events.columns}
    return events.withColumns({"line": hash_of_line(), "fields": fields, **ids})


def with_pseudonymous_ids(rows: DataFrame, source: KeySource, *, column: str) -> DataFrame:
    """The rows with pseudonyms in one column of user ids."""
    return rows.withColumn(column, _pseudonyms(source)(column))


def hash_of_line() -> Column:
    """A hash of a corrupt row, since the row may hold personal data. A hash and an `ACCOUNT` stay as they are."""
    hashed = F.concat(F.lit("sha256:"), F.sha2("line", 256))
    without_data = F.col("line").rlike(f"^sha256:[0-9a-f]{{64}}$|{ACCOUNT}")
    return F.when(without_data, F.col("line")).otherwise(hashed)


def map_distinct(texts: pd.Series, function: Callable[[str], str | None]) -> pd.Series:
    """Apply a function to every text, with one call for each distinct text. A missing text stays missing."""
    codes, distinct = pd.factorize(texts)  # −1 for a missing text
    values = pd.Series([function(one) for one in distinct], dtype="object")
    return values.reindex(codes).where(codes >= 0, None).reset_index(drop=True)


@contextmanager
def workers_keys() -> Iterator[None]:
    """Raise a Python worker's ConfigError about its key here too: Spark hides it in the worker's traceback."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        if said := re.search(r"kdlib\.errors\.ConfigError: (.+)", str(error)):
            raise ConfigError(said[1]) from None
        raise


def _pseudonyms(source: KeySource) -> Callable[[str], Column]:
    """A Spark function of a text column. The Python worker reads the key: a literal would appear in plans and logs."""
    function: Any = F.pandas_udf(_hashed(source), "string")  # pyright: ignore[reportCallIssue, reportArgumentType]
    return lambda column: function(F.col(column))


def _hashed(source: KeySource) -> Callable[[pd.Series], pd.Series]:
    """A function from ids to pseudonyms, for a Python worker.

    The worker must find the same key as the driver does now.
    """
    check = key_check(read_key(source))

    def hashed(ids: pd.Series) -> pd.Series:
        key = _key(source, check)
        return map_distinct(ids, lambda one: pseudonym(key, one))

    return hashed


@lru_cache(maxsize=1)
def _key(source: KeySource, check: str) -> bytes:
    """The key, read once per worker process.

    With two keys a user would have two pseudonyms, and the list of forgotten users would miss one of them.
    """
    key = read_key(source)
    if (found := key_check(key)) != check:
        where = source.file or f"the environment variable {source.environment}"
        raise ConfigError(
            f"the pseudonym key in {where} on {gethostname()} differs from the key where the job was started: expected"
            f" check value {check}, found {found}. Give every Spark executor the same key"
        )
    return key
