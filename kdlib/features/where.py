"""The filter of the input (`input.events.where`): a Spark SQL condition over the columns of the files.

Spark parses and evaluates the condition. Two of Spark's rules would surprise a shop whose files hold text, so they do
not apply here. A value that cannot be cast would end the run. Here it gives null, and the row is left out. In
`Price > 0` Spark would cut the text 0.55 to 0. Here `0` means `0.0`, and Spark compares decimal numbers.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from kdlib.errors import ConfigError
from kdlib.features.read_errors import names_text, reading

FILTERED = "_filtered"
"""Column of the readers: whether the filter leaves the row out. False in a row that does not parse."""

_COMPARISONS = ("EqualTo", "EqualNullSafe", "GreaterThan", "GreaterThanOrEqual", "LessThan", "LessThanOrEqual")
_ANSI = "spark.sql.ansi.enabled"


def filter_columns(spark: SparkSession, where: str | None, *, found: Sequence[str], path: str) -> list[str]:
    """The columns that a filter names, without repeats; empty without a filter.

    Args:
      spark: the session.
      where: the filter.
      found: the columns of the input, for the error's text.
      path: path of the input, for the error's text.

    Raises:
      ConfigError: Spark cannot parse the filter, or the filter holds a subquery.
    """
    if where is None:
        return []
    nodes = [*_nodes(_parsed(spark, where, found=found, path=path))]
    if any(_kind(node) in ("ScalarSubquery", "Exists", "ListQuery", "InSubquery") for node in nodes):
        raise _wrong(where, "a filter may not hold a subquery", found=found, path=path)
    return list(dict.fromkeys(node.nameParts().apply(0) for node in nodes if _kind(node) == "UnresolvedAttribute"))


def with_filtered(rows: DataFrame, where: str | None, *, found: Sequence[str], path: str, parsed: Column) -> DataFrame:
    """Add the column FILTERED. Compute the filter on the first row at once, so that a wrong filter fails early.

    Args:
      rows: rows with all columns that the filter names (`filter_columns`).
      where: the filter; None: no row is left out.
      found: the columns of the input, for the error's text.
      path: path of the input, for the error's text.
      parsed: whether a row parses; never null.

    Raises:
      ConfigError: the filter names an unknown column, is not a condition on one row, or depends on the clock or on
        chance.
    """
    if where is None:
        return rows.withColumn(FILTERED, F.lit(False))
    spark = rows.sparkSession
    named = filter_columns(spark, where, found=found, path=path)
    if unknown := [name for name in named if name not in found]:
        raise _wrong(where, f"no column has the name {' or '.join(unknown)}", found=found, path=path)
    sql = _with_decimals(where, _parsed(spark, where, found=found, path=path))
    with _casts_give_null(spark):
        try:
            _check(rows.filter(sql), where, found=found, path=path)
            rows = rows.withColumn(FILTERED, ~F.coalesce(F.expr(sql), F.lit(False)))
            with reading(path):
                rows.select(FILTERED).head(1)
        except (PySparkException, Py4JJavaError) as error:
            raise _wrong(where, _said(error), found=found, path=path) from None
    return rows.withColumn(FILTERED, parsed & F.col(FILTERED))


def _check(kept: DataFrame, where: str, *, found: Sequence[str], path: str) -> None:
    """Raise ConfigError for a condition that can give other rows in the next run."""
    plan: Any = kept._jdf.queryExecution().analyzed()  # pyright: ignore[reportOptionalCall]
    jvm: Any = kept.sparkSession._jvm
    # functions such as `current_date()`
    clock = plan.condition().containsPattern(jvm.org.apache.spark.sql.catalyst.trees.TreePattern.CURRENT_LIKE())
    if clock or not plan.condition().deterministic():
        cause = "the clock" if clock else "chance or on the order of the rows"
        raise _wrong(where, f"a filter may not depend on {cause}", found=found, path=path)


def _parsed(spark: SparkSession, where: str, *, found: Sequence[str], path: str) -> Any:
    """The condition as Spark's tree of expressions."""
    try:
        return spark._jsparkSession.sessionState().sqlParser().parseExpression(where)  # pyright: ignore
    except (PySparkException, Py4JError) as error:
        raise _wrong(where, _said(error), found=found, path=path) from None


def _with_decimals(where: str, tree: Any) -> str:
    """The condition, with the whole numbers of its comparisons as decimal numbers (`0.0`)."""
    compared = [
        child
        for node in _nodes(tree)
        if _kind(node) in _COMPARISONS
        or (_kind(node) == "UnresolvedFunction" and node.nameParts().apply(0).lower() == "between")
        for child in _children(node)
        if _kind(child) == "Literal" and child.dataType().typeName() in ("integer", "long")
    ]
    for place in sorted((literal.origin().stopIndex().get() + 1 for literal in compared), reverse=True):
        number = where[:place].removesuffix("L").removesuffix("l")
        where = number + ".0" + where[place:]
    return where


def _nodes(tree: Any) -> Iterator[Any]:
    yield tree
    for child in _children(tree):
        yield from _nodes(child)


def _children(node: Any) -> list[Any]:
    found = node.children()
    return [found.apply(place) for place in range(found.size())]


def _kind(node: Any) -> str:
    return node.getClass().getSimpleName()


@contextmanager
def _casts_give_null(spark: SparkSession) -> Iterator[None]:
    """Expressions that are built inside the block give null where the ANSI rules would end the run."""
    before = spark.conf.get(_ANSI) or "true"
    spark.conf.set(_ANSI, "false")
    try:
        yield
    finally:
        spark.conf.set(_ANSI, before)


def _wrong(where: str, fault: str, *, found: Sequence[str], path: str) -> ConfigError:
    return ConfigError(
        f"the filter input.events.where is wrong: {where!r}: {fault}. Give a Spark SQL condition over the columns of"
        f" {path}, with backticks around names that have blanks: {names_text(found)}"
    )


def _said(error: Exception) -> str:
    """Spark's reason in one line, without its codes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if "due to the upgrading to Spark" not in line] or lines
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    text = re.sub(r"^\[[\w.]+\] ", "", causes[-1] if causes else lines[0])
    return re.sub(r"\.? ?SQLSTATE: \w+(;.*)?", "", text).rstrip(".:;")
