"""The tables with the lists that the shop shows. `tables` says what holds for every table."""

import pyarrow as pa

from kdlib.store.contract import TIME, Table, schema_of

RECOMMENDATIONS = Table(
    "recommendations",
    key=("user_id",),
    schema=schema_of(
        user_id=pa.string(),
        # Best first, distinct, all available. Without rules (recommend.policy) none is in the user's history.
        item_ids=pa.list_(pa.string()),
        # One for each item: the model's logit, with its boost. With source `popular`: the item's share of the training interactions.
        scores=pa.list_(pa.float32()),
        source=pa.string(),  # `model`, or `popular`: the most popular items, for users without a usable history.
        model_version=pa.string(),
        generated_at=TIME,  # The end of the day ds. Not the clock, so that a rerun gives the same table.
        # For each of item_ids: the items of the user's history that raise its score most, best first; may be empty.
        # Null if no reasons were computed: recommend.because is 0, or the source is `popular`.
        because_item_ids=(pa.list_(pa.list_(pa.string())), True),
        # For each of item_ids: `model`, `popular` or `pinned`. Null without rules: all items come from `source`.
        item_sources=(pa.list_(pa.string()), True),
        # The user's variant of the A/B test (kdlib.experiments.variants), or `holdout`. Null without a section `experiment`.
        variant=(pa.string(), True),
    ),
)
"""One row for each user: the items to show."""

SIMILAR_ITEMS = Table(
    "similar_items",
    key=("item_id",),
    schema=schema_of(
        item_id=pa.string(),
        item_ids=pa.list_(pa.string()),  # Best first, distinct, all available, not the item itself.
        scores=pa.list_(pa.float32()),  # One for each item: the cosine of the two item vectors.
        model_version=pa.string(),  # The student's.
        generated_at=TIME,  # The end of the day ds.
    ),
)
"""One row for each item that the student has a vector for: the items with the nearest vectors."""

BOUGHT_TOGETHER = Table(
    "bought_together",
    key=("item_id",),
    may_be_empty=True,
    schema=schema_of(
        item_id=pa.string(),
        item_ids=pa.list_(pa.string()),  # As in SIMILAR_ITEMS.
        scores=pa.list_(pa.float32()),  # One for each item; kdlib.lists.together says how it is made.
        generated_at=TIME,  # The end of the day ds.
    ),
)
"""One row for each item that was bought in a basket with an available item: what else is in these baskets."""

POPULAR_ITEMS = Table(
    "popular_items",
    key=("of", "feature", "value"),
    schema=schema_of(
        # `all`: all items and users. `items`: the items with this value. `users`: the events of users with this value.
        of=pa.string(),
        feature=pa.string(),  # Of the catalogue or of the users; empty for `all`.
        value=pa.string(),  # Of the feature; empty for `all`.
        item_ids=pa.list_(pa.string()),  # Best first, distinct, all available.
        scores=pa.list_(pa.float32()),  # One for each item: its events, each weighted by its age.
        generated_at=TIME,  # The end of the day ds.
    ),
)
"""One row for all items, and for each value of a feature: what is popular now."""

BUY_AGAIN = Table(
    "buy_again",
    key=("user_id",),
    may_be_empty=True,
    schema=schema_of(
        user_id=pa.string(),
        item_ids=pa.list_(pa.string()),  # Best first, distinct, all available, all bought by the user before.
        scores=pa.list_(pa.float32()),  # One for each item; kdlib.lists.again says how it is made.
        generated_at=TIME,  # The end of the day ds.
    ),
)
"""One row for each user who has bought an available item: what to buy again."""

RECOMMENDATIONS_LONG = Table(
    "recommendations_long",
    key=("user_id", "rank"),
    may_be_empty=True,
    schema=schema_of(
        user_id=pa.string(),
        item_id=pa.string(),
        rank=pa.int32(),  # The item's place in the user's list, from 1.
        score=pa.float32(),
        variant=(pa.string(), True),  # As in RECOMMENDATIONS.
    ),
)
"""RECOMMENDATIONS with one row for each item of a list."""
