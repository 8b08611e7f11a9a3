"""Every table between two stages: columns, types, units, grain and checks. The single place where a schema is stated.

All tables are Parquet with plain types, so that Spark, DuckDB, Polars and pandas read them. Times are UTC microseconds.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kdlib.config.data import EVENT_TYPES
from kdlib.errors import ContractError

TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Table:
    """A table's contract. `key` is its grain: one row for each distinct value; those columns are never null."""

    name: str
    key: tuple[str, ...]
    schema: pa.Schema
    may_be_empty: bool = False


def _schema(**columns: pa.DataType | tuple[pa.DataType, bool]) -> pa.Schema:
    """A schema of `name=type` (never null) and `name=(type, True)` (may be null) columns."""
    return pa.schema(
        [
            pa.field(name, spec[0], nullable=spec[1])
            if isinstance(spec, tuple)
            else pa.field(name, spec, nullable=False)
            for name, spec in columns.items()
        ]
    )


QUARANTINE = Table(
    "quarantine",
    key=(),
    may_be_empty=True,
    schema=_schema(
        reason=pa.string(),  # a code of kdlib.features.clean.REASONS
        raw=pa.string(),  # the text line as it came, or the mapped columns as JSON (a bot's rows: under our names)
        file=pa.string(),  # the input file
    ),
)

CLEAN_EVENTS = Table(
    "clean_events",
    key=(),
    schema=_schema(
        user_id=pa.string(),
        session_id=(pa.string(), True),  # the shop's
        item_id=pa.string(),
        event_type=pa.int8(),  # index into kdlib.config.EVENT_TYPES
        event_time=TIME,
        event_id=(pa.string(), True),
        arrived=(pa.date32(), True),  # the day that the input file's name holds; null where it holds none
    ),
)
"""One row an event without a fault of its own that repeats no other, a bot's too: what later nights need not read again."""

SESSIONS = Table(
    "sessions",
    key=("user_id", "session_id"),
    schema=_schema(
        user_id=pa.string(),
        session_id=pa.string(),  # the shop's, or a number counted per user from 0
        started_at=TIME,
        ended_at=TIME,
        num_events=pa.int32(),
        num_carts=pa.int32(),
        num_purchases=pa.int32(),
        item_ids=pa.list_(pa.string()),  # in time order, with repeats
    ),
)

HISTORIES = Table(
    "histories",
    key=("user_id",),
    schema=_schema(
        user_id=pa.string(),
        item_indices=pa.list_(pa.int32()),  # oldest first; empty when no item is in the vocabulary
        event_types=pa.list_(pa.int8()),  # index into kdlib.config.EVENT_TYPES
        event_times=pa.list_(TIME),
        session_numbers=pa.list_(pa.int32()),  # in the order of the sessions' starts; may skip numbers and interleave
        num_train=pa.int32(),  # positions [0, num_train) may be trained on
        validation_position=(pa.int32(), True),  # the item to predict from those before it; null: none
        test_position=(pa.int32(), True),
    ),
)

ITEM_VOCABULARY = Table(
    "item_vocabulary",
    key=("item_index",),
    schema=_schema(
        item_index=pa.int32(),  # dense from 0, append-only over the nights
        item_id=pa.string(),
        title=(pa.string(), True),
        available=pa.bool_(),  # may be recommended: in stock, and not hidden for the few users that have touched it
        in_stock=pa.bool_(),  # what the catalogue last said of it; true where it has said nothing
        first_seen=pa.string(),  # the run date that gave it its index, YYYY-MM-DD
    ),
)

ITEM_STATISTICS = Table(
    "item_statistics",
    key=("item_index",),
    schema=_schema(
        item_index=pa.int32(),
        num_interactions=pa.int64(),  # all kept events
        num_users=pa.int64(),
        num_purchases=pa.int64(),
        num_train=pa.int64(),  # interactions at training positions: the popularity baseline counts these
        num_in_windows=pa.int64(),  # those of them that a model sees: in histories with two or more
    ),
)

TITLE_VECTORS = Table(
    "title_vectors",
    key=("item_index",),
    schema=_schema(
        item_index=pa.int32(),
        vector=pa.list_(pa.float32()),  # unit length (whitened: in the mean); zeros where the item has no title
    ),
)

ITEM_CODES = Table(
    "item_codes",
    key=("item_index",),
    schema=_schema(
        item_index=pa.int32(),
        codes=pa.list_(pa.int16()),  # one codeword number, 0 … 255, of each code table
        source=pa.string(),  # what was quantised: teacher (the teachers' item vectors) | title | none (their mean)
    ),
)

ITEM_CODEBOOKS = Table(
    "item_codebooks",
    key=("level", "code"),
    schema=_schema(
        level=pa.int16(),  # the code table, from 0
        code=pa.int16(),  # the codeword's number, from 0
        codeword=pa.list_(
            pa.float32()
        ),  # added up over the levels, or, where narrower than an item vector, side by side
    ),
)

CONTEXT = {"new_session": 2, "event_type": len(EVENT_TYPES), "time_gap": 28}
"""What a model may know at a position beside its item: columns, in this order, of whole numbers below so many.

`new_session`: 1 where the item after this one opens a session, which the nightly job knows: its lists are read on the next
day. `event_type`: of this interaction, index into EVENT_TYPES. `time_gap`: seconds since the interaction before it, 0 for a
history's first one, 1 below a second, then b + 2 from 2^b seconds on, up to 27 from 2^25 (388 days) on. The time from the
last interaction to the one to predict is no column, for no nightly job knows it.
"""

TEACHER_TARGETS = Table(
    "teacher_targets",
    key=("user_id", "start"),
    schema=_schema(
        user_id=pa.string(),
        start=pa.int32(),  # position of the window's first item in the history
        items=pa.list_(pa.int32()),  # n + 1 item indices: n inputs, each predicting the next
        context=pa.list_(pa.int8()),  # n × the columns of CONTEXT, row-major
        # what the teachers say at each position, n rows one after another, in one of two forms (the manifest's `form`):
        # hidden: int8 [n, sum of the teachers' widths] states; sampled: int32 [n, samples] items drawn from their mixture
        hidden=pa.binary(),
        # hidden: n × teachers, state = int8 · scale; sampled: n × 1, mean log-probability of the draws
        scales=pa.list_(pa.float32()),
    ),
)

QUERIES = Table(
    "queries",
    key=("query",),
    may_be_empty=True,
    schema=_schema(
        query=pa.string(),  # as kdlib.data.queries.normalise_query makes it; never empty
        num_searches=pa.int64(),  # of a user, one a UTC day; 0 where the log holds only what followed
        num_users=pa.int64(),  # distinct ones with a row of any type
        num_clicks=pa.int64(),
        num_carts=pa.int64(),
        num_purchases=pa.int64(),
    ),
)
"""What was typed in the last `features.queries.period_days` days."""

QUERY_ITEMS = Table(
    "query_items",
    key=("query", "item_id"),
    may_be_empty=True,
    schema=_schema(
        query=pa.string(),
        item_id=pa.string(),
        num_clicks=pa.int64(),
        num_carts=pa.int64(),
        num_purchases=pa.int64(),
        weight=pa.float64(),  # relevance: sum of the events' strengths, each over the chance that its rank is looked at
    ),
)
"""One row a query and an item that was clicked, put into a cart or bought after it; its queries are those of QUERIES."""

SEARCH_QUARANTINE = Table(
    "search_quarantine",
    key=(),
    may_be_empty=True,
    schema=_schema(
        reason=pa.string(),  # a code of kdlib.features.searches.REASONS
        raw=pa.string(),  # as in QUARANTINE
        file=pa.string(),
    ),
)

METRICS = Table(
    "metrics",
    key=("model", "metric"),  # "a - b" is the paired difference of two models
    schema=_schema(
        model=pa.string(),
        metric=pa.string(),
        value=pa.float64(),
        low=(pa.float64(), True),  # 95% bootstrap interval over users; null where the metric is not a mean over users
        high=(pa.float64(), True),
        num_users=pa.int64(),
    ),
)

GATES = Table(
    "gates",
    key=("gate",),
    schema=_schema(
        gate=pa.string(),  # a name of kdlib.release.gates
        part=pa.string(),  # input | quality: judged before training, or after evaluation
        value=(pa.float64(), True),  # what was found; null where the gate was skipped
        low=(pa.float64(), True),  # the bounds, inclusive; null: none on this side
        high=(pa.float64(), True),
        status=pa.string(),  # passed | failed | forced (failed, published all the same by --force) | skipped
        text=pa.string(),  # one sentence for the person: what was compared with what
    ),
)

RECOMMENDATIONS = Table(
    "recommendations",
    key=("user_id",),
    schema=_schema(
        user_id=pa.string(),
        item_ids=pa.list_(pa.string()),  # best first, distinct, none in the user's history, all available
        scores=pa.list_(pa.float32()),  # the model's logits, or the share of training interactions for source=popular
        source=pa.string(),  # model | popular
        model_version=pa.string(),
        generated_at=TIME,  # the end of the day ds: the data's cut-off, so that a rerun gives the same table
        # one list for each of item_ids: the items of the user's history that raise its score most, best first, maybe none;
        # null where no reasons were looked for: recommend.because is 0, or source=popular
        because_item_ids=(pa.list_(pa.list_(pa.string())), True),
    ),
)

PRODUCTS = Table(
    "products",
    key=("product_index",),
    schema=_schema(
        product_index=pa.int32(),  # dense from 0 in the order of item_id, each night anew
        item_id=pa.string(),
        title=(pa.string(), True),
        description=(pa.string(), True),
        category=(pa.string(), True),
        available=pa.bool_(),
    ),
)
"""The whole catalogue, with and without events: what search looks through."""

PRODUCT_VECTORS = Table(
    "product_vectors",
    key=("product_index",),
    schema=_schema(
        product_index=pa.int32(),
        vector=pa.list_(pa.float32()),  # the teacher's, of unit length; zeros where the product has no text
    ),
)

SEARCH_TARGETS = Table(
    "search_targets",
    key=("query",),
    schema=_schema(
        query=pa.string(),
        vector=pa.list_(pa.float32()),  # the teacher's, of unit length
    ),
)
"""What the search student learns from: queries that were typed, and made-up ones of the catalogue's words."""

SEARCH_RANKINGS = Table(
    "search_rankings",
    key=("query",),
    schema=_schema(
        query=pa.string(),  # normalised (kdlib.data.queries)
        item_ids=pa.list_(pa.string()),  # best first, distinct, available; fewer than k only where there are no more
        scores=pa.list_(pa.float32()),
        model_version=pa.string(),  # the student's
        generated_at=TIME,  # the end of the day ds
    ),
)

ALL = {
    table.name: table
    for table in (
        QUARANTINE,
        CLEAN_EVENTS,
        SESSIONS,
        HISTORIES,
        ITEM_VOCABULARY,
        ITEM_STATISTICS,
        TITLE_VECTORS,
        ITEM_CODES,
        ITEM_CODEBOOKS,
        TEACHER_TARGETS,
        METRICS,
        GATES,
        RECOMMENDATIONS,
        PRODUCTS,
        PRODUCT_VECTORS,
        QUERIES,
        QUERY_ITEMS,
        SEARCH_QUARANTINE,
        SEARCH_TARGETS,
        SEARCH_RANKINGS,
    )
}


def check_schema(table: Table, schema: pa.Schema, *, where: str | Path) -> None:
    """Columns and types are the contract's (order and nullability aside).

    Raises:
      ContractError: names the first column that is missing, extra or of another type.
    """
    for field in table.schema:
        index = schema.get_field_index(field.name)
        if index < 0:
            raise ContractError(
                f"table {table.name} at {where} lacks the column {field.name} ({field.type}); found {schema.names}"
            )
        found = schema.field(index).type
        if _plain(found) != _plain(field.type):
            raise ContractError(
                f"table {table.name} at {where}: column {field.name} must be {field.type}, found {found}"
            )
    if extra := sorted(set(schema.names) - set(table.schema.names) - {"ds"}):
        raise ContractError(f"table {table.name} at {where} has columns outside its contract: {extra}")


def _plain(type_: pa.DataType) -> pa.DataType:
    """The type without what Parquet writers choose freely: list item names, large offsets, item nullability."""
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return pa.list_(pa.field("item", _plain(type_.value_type)))
    if pa.types.is_large_string(type_):
        return pa.string()
    if pa.types.is_large_binary(type_):
        return pa.binary()
    return type_


def check_files(table: Table, folder: Path) -> int:
    """Check a folder of Parquet files against the contract, from their footers where they say enough; return the rows.

    Raises:
      ContractError: no files, unreadable file, wrong schema, nulls in a column that has none, or no rows.
    """
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise ContractError(f"table {table.name}: no Parquet files in {folder}")
    rows = 0
    for file in files:
        try:
            footer = pq.read_metadata(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise ContractError(f"table {table.name}: {file} is not a whole Parquet file: {error}") from None
        check_schema(table, footer.schema.to_arrow_schema(), where=file)
        rows += footer.num_rows
        _check_nulls(table, footer, file)
    if rows == 0 and not table.may_be_empty:
        raise ContractError(f"table {table.name} at {folder} has no rows")
    return rows


def _check_nulls(table: Table, footer: pq.FileMetaData, file: Path) -> None:
    flat = {field.name for field in table.schema if not field.nullable and not pa.types.is_nested(field.type)}
    for group in range(footer.num_row_groups):
        for number in range(footer.num_columns):
            column = footer.row_group(group).column(number)
            name, statistics = column.path_in_schema, column.statistics
            if name not in flat:
                continue
            if statistics is not None and statistics.has_null_count:
                nulls = statistics.null_count
            else:  # writers leave the statistics out for long values
                nulls = pq.ParquetFile(file).read_row_group(group, columns=[name])[name].null_count
            if nulls:
                raise ContractError(
                    f"table {table.name}: column {name} must not be null, found {nulls} nulls in {file}"
                )
