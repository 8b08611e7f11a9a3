"""Every table between two stages: columns, types, units, grain. `list_tables` has the lists that the shop shows,
`search_tables` the tables of product search. Schemas are stated in these three modules only.

All tables are Parquet with plain types, so that Spark, DuckDB, Polars and pandas read them. Times are UTC, in
microseconds. A comment beside a column says what it holds. `(type, True)` marks a column that may be null.
"""

import pyarrow as pa

from kdlib.config.data import EVENT_TYPES
from kdlib.store import list_tables, search_tables
from kdlib.store.contract import TIME, Table, schema_of
from kdlib.store.contract import check_files as check_files  # Callers write tables.check_files(tables.METRICS, folder).
from kdlib.store.contract import check_schema as check_schema

QUARANTINE = Table(
    "quarantine",
    key=(),
    may_be_empty=True,
    schema=schema_of(
        reason=pa.string(),  # Why the row was rejected: a code of kdlib.features.clean.REASONS.
        # The mapped columns as JSON; a bot's rows have the names of CLEAN_EVENTS. A longer text than 10,000 characters is
        # cut there and ends with `…`. Of a line that does not parse only its length and the number of its fields: the
        # line may hold columns that are not mapped.
        raw=pa.string(),
        file=pa.string(),  # The input file.
    ),
)
"""Events that were rejected, one row for each."""

CLEAN_EVENTS = Table(
    "clean_events",
    key=(),
    schema=schema_of(
        user_id=pa.string(),
        session_id=(pa.string(), True),  # The shop's own; null if it has none.
        item_id=pa.string(),
        event_type=pa.int8(),  # Index into kdlib.config.data.EVENT_TYPES.
        event_time=TIME,
        event_id=(pa.string(), True),  # The shop's own.
        arrived=(pa.date32(), True),  # The day in the input file's name; null if the name holds none.
    ),
)
"""One row for each valid event that is no duplicate, events of bots included. Later runs need not read the input
again."""

SESSIONS = Table(
    "sessions",
    key=("user_id", "session_id"),
    schema=schema_of(
        user_id=pa.string(),
        session_id=pa.string(),  # The shop's own, or a number that counts the user's sessions from 0.
        started_at=TIME,
        ended_at=TIME,
        num_events=pa.int32(),  # Events of all types.
        num_carts=pa.int32(),
        num_purchases=pa.int32(),
        item_ids=pa.list_(pa.string()),  # In the order of time, with repeats.
    ),
)
"""One row for each session of a user."""

HISTORIES = Table(
    "histories",
    key=("user_id",),
    schema=schema_of(
        user_id=pa.string(),
        item_indices=pa.list_(pa.int32()),  # Oldest first; empty if no item of the user is in the vocabulary.
        event_types=pa.list_(pa.int8()),  # Indices into kdlib.config.data.EVENT_TYPES.
        event_times=pa.list_(TIME),
        session_numbers=pa.list_(pa.int32()),  # The user's sessions by start, from 0; may have gaps and may interleave.
        num_train=pa.int32(),  # Models may be trained on positions [0, num_train).
        validation_position=(pa.int32(), True),  # Position of the item to predict from the items before it; null: none.
        test_position=(pa.int32(), True),  # The same for the test.
        # The user's features as codes below USER_CODES, 0 for a missing, unseen or rare value. The list has one entry for
        # each of `user_values` in the manifest of the item vocabulary, or is empty if no model reads features of users.
        user_values=pa.list_(pa.int8()),
    ),
)
"""One row for each user. Lists but `user_values` have one entry for each interaction; a position counts the interactions
from 0. Tables of earlier releases lack `user_values`."""

USER_CODES = 128
"""Number of codes of a user's feature, which count from 0."""

ITEM_VOCABULARY = Table(
    "item_vocabulary",
    key=("item_index",),
    schema=schema_of(
        item_index=pa.int32(),  # Dense from 0; an item keeps its index in later runs.
        item_id=pa.string(),
        title=(pa.string(), True),
        # May be recommended: in stock, and touched by no user or by at least privacy.min_item_users users.
        available=pa.bool_(),
        in_stock=pa.bool_(),  # As the catalogue last said; true if it never said.
        first_seen=pa.string(),  # Date of the run that gave the item its index, YYYY-MM-DD.
    ),
)
"""One row for each item that models know."""

ITEM_STATISTICS = Table(
    "item_statistics",
    key=("item_index",),
    schema=schema_of(
        item_index=pa.int32(),
        num_interactions=pa.int64(),  # All kept events.
        num_users=pa.int64(),  # Distinct users with a kept event.
        num_purchases=pa.int64(),  # Kept events of the type purchase.
        num_train=pa.int64(),  # Interactions at training positions; the popularity baseline uses them.
        # The part of num_train that models train on: from histories with two or more training positions.
        num_in_windows=pa.int64(),
    ),
)
"""Counts of each item of the vocabulary; zeros for an item without events."""

_FEATURE = {
    "feature": pa.string(),  # Name of the column.
    # One of the three is given, by the kind of the feature.
    "values": (pa.list_(pa.string()), True),  # `category`: one value. `categories`: distinct values, sorted.
    "number": (pa.float64(), True),
    "vector": (pa.list_(pa.float32()), True),
}

ITEM_FEATURES = Table(
    "item_features",
    key=("item_index", "feature"),
    may_be_empty=True,
    schema=schema_of(item_index=pa.int32(), **_FEATURE),
)
"""The features of each item of the vocabulary, as the catalogue gives them. A missing value has no row."""

USER_FEATURES = Table(
    "user_features", key=("user_id", "feature"), may_be_empty=True, schema=schema_of(user_id=pa.string(), **_FEATURE)
)
"""The features of each user with a history, as the list of users gives them. A missing value has no row."""

TITLE_VECTORS = Table(
    "title_vectors",
    key=("item_index",),
    schema=schema_of(
        item_index=pa.int32(),
        vector=pa.list_(pa.float32()),  # Of length 1, or 1 on average if whitened; zeros if the item has no title.
    ),
)
"""The title of each item of the vocabulary, as a vector."""

ITEM_CODES = Table(
    "item_codes",
    key=("item_index",),
    schema=schema_of(
        item_index=pa.int32(),
        codes=pa.list_(pa.int16()),  # For each code table the number of a codeword, 0 … 255.
        # The vector that was quantised: `teacher` (from the teachers' item tables), `title`, or `none` (their mean).
        source=pa.string(),
    ),
)
"""The codes of each item of the vocabulary. Its vector is looked up in ITEM_CODEBOOKS."""

ITEM_CODEBOOKS = Table(
    "item_codebooks",
    key=("level", "code"),
    schema=schema_of(
        level=pa.int16(),  # The code table, from 0.
        code=pa.int16(),  # The codeword's number, from 0.
        # An item vector is the sum of its codewords. If they are narrower than an item vector, they stand side by side.
        codeword=pa.list_(pa.float32()),
    ),
)
"""The codewords of each code table."""

CONTEXT = {"new_session": 2, "event_type": len(EVENT_TYPES), "time_gap": 28}
"""Context columns: what a model may know at a position beside the item. Column → number of values, which count from 0.

- `new_session`: 1 if the next item opens a session. A run knows this, because its lists are read on the next day.
- `event_type`: type of this interaction, an index into EVENT_TYPES.
- `time_gap`: time since the interaction before. It is 0 for the history's first interaction, and 1 for less than a
  second. From 2^b seconds on it is b + 2. The greatest value is 27, from 2^25 seconds (388 days) on.

The time from the last interaction to the one to predict is no column, because a run does not know it.

The codes of `user_values` in HISTORIES are more columns, after these. They are the same at all positions of a user.
"""

TEACHER_TARGETS = Table(
    "teacher_targets",
    key=("user_id", "start"),
    schema=schema_of(
        user_id=pa.string(),
        start=pa.int32(),  # Position of the window's first item in the history.
        items=pa.list_(pa.int32()),  # Shape [n + 1]: n inputs, and the target of the last input.
        context=pa.list_(pa.int8()),  # Shape [n, columns of CONTEXT and of the user's values], row-major.
        target_types=pa.list_(pa.int8()),  # Shape [n]: the type of each target's event, an index into EVENT_TYPES.
        hidden=pa.binary(),  # Shape [n, …], row-major. See below.
        scales=pa.list_(pa.float32()),  # Shape [n, …], row-major. See below.
    ),
)
"""What the teachers say about each position of a window of n positions. `distillation.targets` in the manifest's
`made_by` names one of two forms.

- `hidden`: the column `hidden` holds the teachers' hidden states, int8 [n, sum of the teachers' widths]. The column
  `scales` is [n, teachers]. A teacher's state is its int8 values times its scale.
- `sampled`: the column `hidden` holds item indices sampled from what the teachers predict together, int32 [n, samples].
  The column `scales` is [n, 1], the mean log-probability of the samples.
"""

METRICS = Table(
    "metrics",
    key=("model", "metric"),  # The model "a - b" is the paired difference of two models.
    schema=schema_of(
        model=pa.string(),
        # `ndcg@10`, …. After a slash, the users that count: `recall@20/purchase` are those whose next event is a purchase.
        metric=pa.string(),
        value=pa.float64(),
        low=(pa.float64(), True),  # 95% bootstrap interval over users; null if the metric is no mean over users.
        high=(pa.float64(), True),
        num_users=pa.int64(),  # Evaluated users.
    ),
)
"""The metrics of each model, from `evaluate`."""

GATES = Table(
    "gates",
    key=("gate",),
    schema=schema_of(
        gate=pa.string(),  # A name of kdlib.release.gates.
        part=pa.string(),  # `input` (judged before training), `quality` (judged after evaluation) or `search`.
        value=(pa.float64(), True),  # Null if the gate was skipped.
        low=(pa.float64(), True),  # Inclusive bound; null: no bound on this side.
        high=(pa.float64(), True),
        status=pa.string(),  # `passed`, `failed`, `forced` (failed, but published with --force) or `skipped`.
        text=pa.string(),  # One sentence for people: what was compared with what.
    ),
)
"""The gates of a run, one row for each (`kdlib.release.gates`)."""

SEARCH_GATES = Table("search_gates", key=("gate",), schema=GATES.schema)
"""The gates of a run's product search (`kdlib.release.search_gates`), as GATES."""

ALL = {
    table.name: table
    for table in (
        QUARANTINE,
        CLEAN_EVENTS,
        SESSIONS,
        HISTORIES,
        ITEM_VOCABULARY,
        ITEM_STATISTICS,
        ITEM_FEATURES,
        USER_FEATURES,
        TITLE_VECTORS,
        ITEM_CODES,
        ITEM_CODEBOOKS,
        TEACHER_TARGETS,
        METRICS,
        GATES,
        SEARCH_GATES,
        list_tables.RECOMMENDATIONS,
        list_tables.SIMILAR_ITEMS,
        list_tables.BOUGHT_TOGETHER,
        list_tables.POPULAR_ITEMS,
        list_tables.BUY_AGAIN,
        list_tables.RECOMMENDATIONS_LONG,
        search_tables.PRODUCTS,
        search_tables.PRODUCT_VECTORS,
        search_tables.QUERIES,
        search_tables.QUERY_ITEMS,
        search_tables.SEARCH_QUARANTINE,
        search_tables.SEARCH_TARGETS,
        search_tables.SEARCH_RANKINGS,
    )
}
"""Name → table."""
