"""The shop's list of products → one row an item: title, availability, description and category."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from kdlib.config import CatalogueConfig
from kdlib.errors import InputError
from kdlib.features.events import text_of
from kdlib.features.read import CORRUPT, read_csv, read_jsonl, read_parquet

YES = ("1", "1.0", "true", "t", "yes", "y")
NO = ("0", "0.0", "false", "f", "no", "n")


def read_catalogue(spark: SparkSession, catalogue: CatalogueConfig) -> DataFrame:
    """The catalogue's rows: item_id, title, description, category, available_text and available (bool; null where the text
    is unclear).

    Rows that do not parse have no item_id. CSV titles may be quoted and may hold line breaks.

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
        rows = read_jsonl(spark, catalogue.path, columns=columns)
    available = text_of(catalogue.available)
    return rows.select(
        F.when(F.col(CORRUPT).isNull(), text_of(catalogue.item)).alias("item_id"),
        text_of(catalogue.title).alias("title"),
        text_of(catalogue.description).alias("description"),
        text_of(catalogue.category).alias("category"),
        available.alias("available_text"),
        F.when(available.isNull() | F.lower(available).isin(*YES), True)
        .when(F.lower(available).isin(*NO), False)
        .alias("available"),
    )


def catalogue_counts(catalogue: DataFrame, *, path: str) -> dict[str, int]:
    """Count the rows read, those without an item_id (or that do not parse), and those that repeat an item_id.

    Raises:
      InputError: no row has an item_id, or an availability is neither yes nor no.
    """
    unclear = F.when(F.col("available").isNull(), F.col("available_text"))
    counted = catalogue.agg(
        F.count("*"), F.count("item_id"), F.count_distinct("item_id"), F.count(unclear), F.min(unclear)
    ).collect()[0]
    rows, with_id, items, num_unclear, example = counted
    if items == 0:
        raise InputError(f"the catalogue {path} has no row with an item id ({rows} rows read): check input.catalogue")
    if num_unclear:
        raise InputError(
            f"the catalogue {path}: {num_unclear} rows have an availability that is neither yes "
            f"({', '.join(YES)}) nor no ({', '.join(NO)}), such as {example!r}: "
            "mend them, or leave input.catalogue.available out"
        )
    return {"rows_read": rows, "without_id": rows - with_id, "repeated_id": with_id - items, "items": items}


def one_row_an_item(catalogue: DataFrame) -> DataFrame:
    """Drop rows without an item_id; of rows with one item_id keep that with the alphabetically first title.

    A row with a title wins over one without, an available one over one that is not: the same on every run,
    however the files are split.
    """
    row = F.struct(F.col("title").isNull(), "title", ~F.col("available"), "available", "description", "category")
    kept = catalogue.filter("item_id IS NOT NULL").groupBy("item_id").agg(F.min(row).alias("row"))
    return kept.select("item_id", "row.title", "row.available", "row.description", "row.category")
