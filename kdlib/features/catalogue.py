"""The shop's product list → one row an item: title, availability, description and category."""

from collections.abc import Mapping

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from kdlib.config.data import NO, YES, CatalogueConfig
from kdlib.errors import InputError
from kdlib.features.columns import MOST_ID_CHARACTERS, id_of, is_long, text_of
from kdlib.features.lake import LAKES
from kdlib.features.read import quoted
from kdlib.features.read_errors import CORRUPT
from kdlib.features.read_parquet import read_lake, read_parquet
from kdlib.features.read_text import read_csv, read_jsonl

MOST_LINES = 1_000
"""If a CSV field, or a row that does not parse, has more lines than this, a quote is probably not closed."""


def read_catalogue(spark: SparkSession, catalogue: CatalogueConfig) -> DataFrame:
    """The rows of the catalogue.

    CSV titles may be quoted and may hold line breaks.

    Returns:
      item_id, title, description, category, available_text: text. item_id is null where the row does not parse, or the
        id is not a plain value or too long for an event.
      available: bool; null where the text is unclear.
      corrupt: bool; the row does not parse.
      long_id: bool; the row parses, and its id has more than `MOST_ID_CHARACTERS`.
      swallowed: the first characters of a text with too many lines, else null.

    Raises:
      InputError: a file is missing or unreadable, or a mapped column is missing.
    """
    names = [catalogue.item, catalogue.title, catalogue.available, catalogue.description, catalogue.category]
    columns = list(dict.fromkeys(name for name in names if name))
    if catalogue.format in LAKES:
        rows = read_lake(spark, catalogue.path, format_=catalogue.format, columns=columns)
    elif catalogue.format == "parquet":
        rows = read_parquet(spark, catalogue.path, columns=columns)
    elif catalogue.format == "csv":
        how = {"delimiter": catalogue.delimiter, "names": catalogue.columns, "line_breaks": True}
        rows = read_csv(spark, catalogue.path, columns=columns, **how)
    else:
        rows = read_jsonl(spark, catalogue.path, columns=columns, plain=[catalogue.item])
    texts = [F.col(quoted(name)) for name in (CORRUPT, *columns)] if catalogue.format == "csv" else []
    too_long = [F.when(F.size(F.split(text, "\n")) > MOST_LINES, F.left(text, F.lit(60))) for text in texts]
    available = text_of(catalogue.available)
    in_stock = available.try_cast("double")
    return rows.select(
        F.when(F.col(CORRUPT).isNull(), id_of(catalogue.item)).alias("item_id"),
        text_of(catalogue.title).alias("title"),
        text_of(catalogue.description).alias("description"),
        text_of(catalogue.category).alias("category"),
        available.alias("available_text"),
        F.when(available.isNull() | F.lower(available).isin(*YES) | (in_stock > 0), True)
        .when(F.lower(available).isin(*NO) | (in_stock <= 0), False)
        .alias("available"),
        F.col(CORRUPT).isNotNull().alias("corrupt"),
        (F.col(CORRUPT).isNull() & is_long(text_of(catalogue.item))).alias("long_id"),
        F.coalesce(*too_long, F.lit(None).cast("string")).alias("swallowed"),
    )


def catalogue_counts(catalogue: DataFrame, *, path: str) -> dict[str, int]:
    """Count the rows: read, without an item_id, corrupt, with a too long or a repeated item_id. Count the items.

    Rows that do not parse or have a too long item_id are also counted as rows without an item_id.

    Raises:
      InputError: no row has an item_id, an availability is neither yes nor no, or a quote is probably not closed.
    """
    unclear = F.when(F.col("available").isNull(), F.col("available_text"))
    counted = catalogue.agg(
        F.count("*"),
        F.count("item_id"),
        F.count_distinct("item_id"),
        F.count(unclear),
        F.min(unclear),
        F.count_if("corrupt"),
        F.count_if("long_id"),
        F.min("swallowed"),
    ).collect()[0]
    rows, with_id, items, num_unclear, example, corrupt, long_id, swallowed = counted
    if swallowed is not None:
        raise InputError(
            f"the catalogue {path}: a row has more than {MOST_LINES:,} lines, so a quote is probably not closed:"
            f" {swallowed!r}… Close the quote there, or double the quotes inside the field"
        )
    if items == 0:
        raise InputError(f"the catalogue {path} has no row with an item id ({rows} rows read). Check input.catalogue")
    if num_unclear:
        raise InputError(
            f"the catalogue {path}: {num_unclear} rows have an availability that is neither yes "
            f"({', '.join(YES)}) nor no ({', '.join(NO)}) nor a number in stock, for example {example!r}. "
            "Correct them, or remove input.catalogue.available from the run config"
        )
    return {
        "rows_read": rows,
        "without_id": rows - with_id,
        "corrupt": corrupt,
        "long_id": long_id,
        "repeated_id": with_id - items,
        "items": items,
    }


def catalogue_warning(counts: Mapping[str, int] | None, before: Mapping[str, int] | None = None) -> str | None:
    """A warning where rows do not parse, ids are too long, or more than half the items of an earlier run are gone.

    None: all is well.

    Args:
      counts: from `catalogue_counts`; None: there is no catalogue.
      before: the counts of the earlier run, if any.
    """
    faults = {"corrupt": "do not parse", "long_id": f"have an item id of more than {MOST_ID_CHARACTERS} characters"}
    if counts and (found := [f"{counts[name]:,} {words}" for name, words in faults.items() if counts.get(name)]):
        return f"of {counts['rows_read']:,} rows of the catalogue, {' and '.join(found)}: their items are left out"
    if counts and before and counts["items"] < before["items"] / 2:
        return (
            f"the catalogue has {counts['items']:,} items, the run before had {before['items']:,}."
            " Check that its export is complete"
        )
    return None


def one_row_an_item(catalogue: DataFrame) -> DataFrame:
    """Drop rows without an item_id, and keep one row an item_id: the row with the alphabetically first title.

    A row with a title wins over a row without one, then an available row over an unavailable one. The choice does not
    depend on how the files are split.
    """
    row = F.struct(F.col("title").isNull(), "title", ~F.col("available"), "available", "description", "category")
    kept = catalogue.filter("item_id IS NOT NULL").groupBy("item_id").agg(F.min(row).alias("row"))
    return kept.select("item_id", "row.title", "row.available", "row.description", "row.category")
