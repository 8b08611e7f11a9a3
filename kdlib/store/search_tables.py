"""The tables of product search. `tables` says what holds for every table."""

import pyarrow as pa

from kdlib.store.contract import TIME, Table, schema_of

QUERIES = Table(
    "queries",
    key=("query",),
    may_be_empty=True,
    schema=schema_of(
        query=pa.string(),  # Normalised by kdlib.data.queries.normalise_query; never empty.
        # At most one for each user and day. 0 if the log has only clicks, carts and purchases for the query.
        num_searches=pa.int64(),
        num_users=pa.int64(),  # Distinct users with a row of any type.
        num_clicks=pa.int64(),
        num_carts=pa.int64(),
        num_purchases=pa.int64(),
    ),
)
"""The queries that were typed in the last `features.queries.period_days` days."""

QUERY_ITEMS = Table(
    "query_items",
    key=("query", "item_id"),
    may_be_empty=True,
    schema=schema_of(
        query=pa.string(),
        item_id=pa.string(),
        num_clicks=pa.int64(),
        num_carts=pa.int64(),
        num_purchases=pa.int64(),
        # Relevance: sum over the events of strength / probability that a user looks at the event's rank.
        weight=pa.float64(),
    ),
)
"""One row for each query of QUERIES and each item that was clicked, put into a cart or bought after it."""

SEARCH_QUARANTINE = Table(
    "search_quarantine",
    key=(),
    may_be_empty=True,
    schema=schema_of(
        reason=pa.string(),  # Why the row was rejected: a code of kdlib.features.searches.REASONS.
        raw=pa.string(),  # As in tables.QUARANTINE.
        file=pa.string(),  # The input file.
    ),
)
"""Rows of the search log that were rejected."""

PRODUCTS = Table(
    "products",
    key=("product_index",),
    schema=schema_of(
        product_index=pa.int32(),  # Dense from 0, in the order of item_id; each run numbers them again.
        item_id=pa.string(),
        title=(pa.string(), True),
        description=(pa.string(), True),
        category=(pa.string(), True),
        available=pa.bool_(),
    ),
)
"""The whole catalogue, products without events included. Search ranks these products."""

PRODUCT_VECTORS = Table(
    "product_vectors",
    key=("product_index",),
    schema=schema_of(
        product_index=pa.int32(),
        vector=pa.list_(pa.float32()),  # The search teacher's, of length 1; zeros if the product has no text.
    ),
)
"""The text of each product, as a vector."""

SEARCH_TARGETS = Table(
    "search_targets",
    key=("query",),
    schema=schema_of(
        query=pa.string(),
        vector=pa.list_(pa.float32()),  # The search teacher's, of length 1; of a foreign query, that of what it means.
        foreign=pa.bool_(),  # In a language of `search.languages`.
    ),
)
"""The search student's training data: queries that users typed, queries made of the catalogue's words, and foreign ones."""

SEARCH_RANKINGS = Table(
    "search_rankings",
    key=("query",),
    schema=schema_of(
        query=pa.string(),  # Normalised by kdlib.data.queries.normalise_query.
        item_ids=pa.list_(pa.string()),  # Best first, distinct, available; fewer than k only if no more exist.
        scores=pa.list_(pa.float32()),  # One for each item.
        model_version=pa.string(),  # The search student's.
        generated_at=TIME,  # The end of the day ds.
    ),
)
"""One row for each head query: the products to show."""
