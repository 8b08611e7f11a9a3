"""Features of items and users: columns of the catalogue and of the list of users → one row a feature with a value."""

from collections.abc import Mapping
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from kdlib.config.data import CatalogueConfig, FeatureKind, UsersConfig
from kdlib.errors import InputError
from kdlib.features.columns import id_of, text_of
from kdlib.features.lake import LAKES
from kdlib.features.privacy import with_pseudonymous_ids
from kdlib.features.read_parquet import read_lake, read_parquet
from kdlib.features.read_text import read_csv, read_jsonl
from kdlib.privacy.pseudonyms import KeySource

MOST_WRONG = 0.01
"""Up to this share of a feature's values may be of a wrong kind. They count as missing."""


def read_features(spark: SparkSession, source: CatalogueConfig | UsersConfig, *, id_column: str) -> DataFrame:
    """The values of `source.features`: id, feature, text. A missing value has no row.

    If an id has several rows, the alphabetically first value of each feature counts. Ids that are too long for an event
    are left out.

    Raises:
      InputError: a file is missing or unreadable, or a column is missing or holds maps or structs.
    """
    names = list(source.features)
    columns = list(dict.fromkeys([id_column, *names]))
    if source.format in LAKES:
        rows = read_lake(spark, source.path, format_=source.format, columns=columns, lists=names)
    elif source.format == "parquet":
        rows = read_parquet(spark, source.path, columns=columns, lists=names)
    elif source.format == "csv":
        how = {"delimiter": source.delimiter, "names": source.columns, "line_breaks": True}
        rows = read_csv(spark, source.path, columns=columns, **how)
    else:
        rows = read_jsonl(spark, source.path, columns=columns, plain=[id_column])
    pairs = F.array(*(F.struct(F.lit(name).alias("feature"), text_of(name).alias("text")) for name in names))
    long = rows.select(id_of(id_column).alias("id"), F.explode(pairs).alias("pair")).select("id", "pair.*")
    return long.dropna().groupBy("id", "feature").agg(F.min("text").alias("text"))


def values_of_users(source: UsersConfig, users: DataFrame, *, key: KeySource | None) -> DataFrame:
    """The values of `source.features` in the form of `typed`, with user_id, of users that the data has.

    Args:
      source: the list of users.
      users: user_id, may repeat.
      key: for pseudonyms; None: the tables have the shop's own ids.

    Raises:
      InputError: as `read_features`.
    """
    values = read_features(users.sparkSession, source, id_column=source.user)
    if key:
        values = with_pseudonymous_ids(values, key, column="id")
    known = values.withColumnRenamed("id", "user_id").join(users.select("user_id"), "user_id", "left_semi")
    return typed(known, source.features, key="user_id")


def typed(values: DataFrame, kinds: Mapping[str, FeatureKind], *, key: str) -> DataFrame:
    """Values as texts → the columns of `tables.ITEM_FEATURES` or `tables.USER_FEATURES`, and `text`.

    A value of a wrong kind is null in `values`, `number` and `vector`.

    Args:
      values: from `read_features`, with the column `key` in place of `id`.
      kinds: feature → kind.
      key: `item_index` or `user_id`.
    """
    kind = F.lit(None).cast("string")
    for name, one in kinds.items():
        kind = F.when(F.col("feature") == name, F.lit(one)).otherwise(kind)
    text = F.col("text")
    is_json = text.startswith("[")
    listed = F.when(is_json, F.from_json(text, "array<string>")).otherwise(F.split(text, r"\|"))
    trimmed = F.filter(F.transform(listed, lambda one: F.trim(one)), lambda one: one != "")
    vector = F.from_json(text, "array<float>")
    number = text.try_cast("double")
    return values.withColumn("kind", kind).select(
        key,
        "feature",
        F.when(F.col("kind") == "category", F.array(text))
        .when(F.col("kind") == "categories", F.array_sort(F.array_distinct(trimmed)))
        .alias("values"),
        F.when((F.col("kind") == "number") & _finite(number), number).alias("number"),
        F.when((F.col("kind") == "vector") & F.forall(vector, _finite) & (F.size(vector) > 0), vector).alias("vector"),
        "text",
    )


def check_features(values: DataFrame, kinds: Mapping[str, FeatureKind], *, section: str) -> dict[str, Any]:
    """Feature → `found` and `wrong`, the numbers of its values and of those of a wrong kind, and an `example` of these.

    Args:
      values: from `typed`.
      kinds: feature → kind.
      section: of the run config, for errors.

    Raises:
      InputError: more than `MOST_WRONG` of a feature's values are of a wrong kind, or its vectors differ in length.
    """
    wrong = ~_has_value()
    counted = values.groupBy("feature").agg(
        F.count("*").alias("found"),
        F.count_if(wrong).alias("wrong"),
        F.min(F.when(wrong, F.left("text", F.lit(60)))).alias("example"),
        F.min(F.size("vector")).alias("least"),
        F.max(F.size("vector")).alias("most"),
    )
    found = {row["feature"]: row.asDict() for row in counted.collect()}
    for name, row in found.items():
        kind = kinds[name]
        if row["wrong"] > MOST_WRONG * row["found"]:
            raise InputError(
                f"{section}.features.{name}: {row['wrong']:,} of {row['found']:,} values are no {kind}, for example"
                f" {row['example']!r}. Correct them, or give the feature another kind"
            )
        if kind == "vector" and row["least"] != row["most"]:
            raise InputError(
                f"{section}.features.{name}: the vectors have {row['least']} to {row['most']} numbers. Give all of them"
                " the same length"
            )
    empty = {"found": 0, "wrong": 0, "example": None}
    return {name: {key: found.get(name, empty)[key] for key in empty} for name in kinds}


def with_value(values: DataFrame) -> DataFrame:
    """The rows of `typed` with a value of the right kind, as the tables hold them."""
    return values.filter(_has_value()).drop("text")


def warnings(counts: Mapping[str, Mapping[str, Any]], *, section: str) -> list[str]:
    """Warnings about features without any value, and about values of a wrong kind. Counts as from `check_features`."""
    lines = []
    for name, row in counts.items():
        if not row["found"]:
            lines.append(f"{section}.features.{name} is empty in every row")
        elif row["wrong"]:
            lines.append(
                f"{section}.features.{name}: {row['wrong']:,} of {row['found']:,} values have another kind and count as"
                f" missing, for example {row['example']!r}"
            )
    return lines


def _has_value() -> Column:
    return F.col("values").isNotNull() | F.col("number").isNotNull() | F.col("vector").isNotNull()


def _finite(number: Column) -> Column:
    return number.isNotNull() & ~F.isnan(number) & (F.abs(number) != F.lit(float("inf")))
