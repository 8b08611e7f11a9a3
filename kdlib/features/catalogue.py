"""The shop's list of products → one row an item: title, availability, description and category."""

from collections.abc import Mapping

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from kdlib.config.data import CatalogueConfig
from kdlib.errors import InputError
from kdlib.features.events import text_of
from kdlib.features.read import CORRUPT, quoted, read_csv, read_jsonl, read_parquet

YES = ("1", "1.0", "true", "t", "yes", "y")
NO = ("0", "0.0", "false", "f", "no", "n")
MOST_LINES = 1_000
"""A CSV field, or row that does not parse, of more lines is taken for a quote that is not closed."""


def read_catalogue(spark: SparkSession, catalogue: CatalogueConfig) -> DataFrame:
    """The catalogue's rows: item_id, title, description, category, available_text, available (bool; null where the text is
    unclear), corrupt (bool: it does not parse) and swallowed (how a text of too many lines begins, else null).

    Rows that do not parse, or whose item is no plain value, have no item_id. CSV titles may be quoted and may hold line
    breaks.

    Raises:
      InputError: missing or unreadable files, or a mapped column that is not there.
    """
    names = [catalogue.item, catalogue.title, catalogue.available, catalogue.description, catalogue.category]
    columns = list(dict.fromkeys(name for name in names if name))
    if catalogue.format == "parquet":
        rows = read_parquet(spark, catalogue.path, columns=columns)
    elif catalogue.format == "csv":
        rows = read_csv(spark, catalogue.path, columns=columns, delimiter=catalogue.delimiter, line_breaks=True)
    else:
        rows = read_jsonl(spark, catalogue.path, columns=columns, plain=[catalogue.item])
    texts = [F.col(quoted(name)) for name in (CORRUPT, *columns)] if catalogue.format == "csv" else []
    too_long = [F.when(F.size(F.split(text, "\n")) > MOST_LINES, F.left(text, F.lit(60))) for text in texts]
    available = text_of(catalogue.available)
    in_stock = available.try_cast("double")
    return rows.select(
        F.when(F.col(CORRUPT).isNull(), text_of(catalogue.item)).alias("item_id"),
        text_of(catalogue.title).alias("title"),
        text_of(catalogue.description).alias("description"),
        text_of(catalogue.category).alias("category"),
        available.alias("available_text"),
        F.when(available.isNull() | F.lower(available).isin(*YES) | (in_stock > 0), True)
        .when(F.lower(available).isin(*NO) | (in_stock <= 0), False)
        .alias("available"),
        F.col(CORRUPT).isNotNull().alias("corrupt"),
        F.coalesce(*too_long, F.lit(None).cast("string")).alias("swallowed"),
    )


def catalogue_counts(catalogue: DataFrame, *, path: str) -> dict[str, int]:
    """Count the rows read, those without an item_id, of them those that do not parse, and those that repeat an item_id.

    Raises:
      InputError: no row has an item_id, an availability is neither yes nor no, or a row of so many lines that a quote is
        probably not closed.
    """
    unclear = F.when(F.col("available").isNull(), F.col("available_text"))
    counted = catalogue.agg(
        F.count("*"),
        F.count("item_id"),
        F.count_distinct("item_id"),
        F.count(unclear),
        F.min(unclear),
        F.count_if("corrupt"),
        F.min("swallowed"),
    ).collect()[0]
    rows, with_id, items, num_unclear, example, corrupt, swallowed = counted
    if swallowed is not None:
        raise InputError(
            f"the catalogue {path}: a row goes over more than {MOST_LINES:,} lines, so that a quote is probably not closed:"
            f" {swallowed!r}… Close it there, or double the quotes within the field"
        )
    if items == 0:
        raise InputError(f"the catalogue {path} has no row with an item id ({rows} rows read): check input.catalogue")
    if num_unclear:
        raise InputError(
            f"the catalogue {path}: {num_unclear} rows have an availability that is neither yes "
            f"({', '.join(YES)}) nor no ({', '.join(NO)}) nor a number in stock, such as {example!r}: "
            "mend them, or leave input.catalogue.available out"
        )
    return {
        "rows_read": rows,
        "without_id": rows - with_id,
        "corrupt": corrupt,
        "repeated_id": with_id - items,
        "items": items,
    }


def catalogue_warning(counts: Mapping[str, int] | None, before: Mapping[str, int] | None = None) -> str | None:
    """What to tell the person where rows do not parse, or more than half the items of an earlier night are gone.

    Args:
      counts: from `catalogue_counts`; None: there is no catalogue.
      before: those of the earlier night, if any.
    """
    if counts and counts["corrupt"]:
        return f"{counts['corrupt']:,} of {counts['rows_read']:,} rows of the catalogue do not parse: their items are left out"
    if counts and before and counts["items"] < before["items"] / 2:
        return (
            f"the catalogue has {counts['items']:,} items, {before['items']:,} the night before: is its export whole?"
        )
    return None


def one_row_an_item(catalogue: DataFrame) -> DataFrame:
    """Drop rows without an item_id; of rows with one item_id keep that with the alphabetically first title.

    A row with a title wins over one without, an available one over one that is not: the same on every run,
    however the files are split.
    """
    row = F.struct(F.col("title").isNull(), "title", ~F.col("available"), "available", "description", "category")
    kept = catalogue.filter("item_id IS NOT NULL").groupBy("item_id").agg(F.min(row).alias("row"))
    return kept.select("item_id", "row.title", "row.available", "row.description", "row.category")
