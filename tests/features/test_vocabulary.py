import json

import pytest
from pyspark.sql import functions as F

from kdlib.config.data import CatalogueConfig
from kdlib.errors import InputError
from kdlib.features.catalogue import catalogue_counts, catalogue_warning, one_row_an_item, read_catalogue
from kdlib.features.funnel import check_listed, warnings
from kdlib.features.read_errors import reading
from kdlib.features.vocabulary import (
    count_left_out,
    extend_vocabulary,
    hide_rare,
    item_counts,
    item_statistics,
    with_catalogue,
)
from tests.release.test_gates import judge


def rows(frame, *names):
    return sorted(tuple(row) for row in frame.select(*names).collect())


@pytest.fixture
def counts(spark):
    """Items b and a with 2 events each, c with 5, and d, known before, with 9."""
    made = [("b", 2, 1, 0), ("a", 2, 2, 1), ("c", 5, 1, 0), ("d", 9, 3, 0)]
    return spark.createDataFrame(made, "item_id string, num_interactions long, num_users long, num_purchases long")


@pytest.fixture
def previous(spark):
    """Yesterday's vocabulary: x, which has no events tonight, and d."""
    made = [(0, "x", "The X", "2024-05-01"), (1, "d", None, "2024-05-02")]
    return spark.createDataFrame(made, "item_index int, item_id string, title string, first_seen string")


def test_events_are_counted_by_item(spark):
    """Events, distinct users and purchases of each item."""
    made = spark.createDataFrame(
        [("u", "a", 0), ("u", "a", 3), ("v", "a", 3), ("v", "b", 2)], "user_id string, item_id string, event_type int"
    )
    assert rows(item_counts(made), "item_id", "num_interactions", "num_users", "num_purchases") == [
        ("a", 3, 2, 2),
        ("b", 1, 1, 0),
    ]


def test_the_first_vocabulary_is_by_count_then_id(counts):
    """Indices are dense from 0, the most frequent item first, ties by item id."""
    made = extend_vocabulary(None, counts, first_new_index=0, first_seen="2024-05-03", max_items=None)
    assert rows(made, "item_index", "item_id", "first_seen") == [
        (0, "d", "2024-05-03"),
        (1, "c", "2024-05-03"),
        (2, "a", "2024-05-03"),
        (3, "b", "2024-05-03"),
    ]


def test_known_items_keep_their_index(counts, previous):
    """New items follow after the known items. A known item without events stays."""
    made = extend_vocabulary(previous, counts, first_new_index=2, first_seen="2024-05-03", max_items=None)
    assert rows(made, "item_index", "item_id", "first_seen") == [
        (0, "x", "2024-05-01"),
        (1, "d", "2024-05-02"),
        (2, "c", "2024-05-03"),
        (3, "a", "2024-05-03"),
        (4, "b", "2024-05-03"),
    ]


@pytest.mark.parametrize(("max_items", "expected"), [(4, ["x", "d", "c", "a"]), (1, ["x", "d"])])
def test_max_items_drops_the_rarest_new_items_only(counts, previous, max_items, expected):
    """The limit cuts new items, the rarest first, and never a known one."""
    made = extend_vocabulary(previous, counts, first_new_index=2, first_seen="2024-05-03", max_items=max_items)
    assert [item for _, item in rows(made, "item_index", "item_id")] == expected


def test_a_million_ids_that_bots_made_up_are_bounded_and_judged(spark, counts, previous):
    """`max_items` bounds the vocabulary: the most frequent items come first, and bots' items touch no known one.

    Without it, each made-up id gets a place, in a Spark of 1 GB, and the gate of new items refuses the run.
    """
    bots = spark.range(1_000_000, numPartitions=4).select(F.concat(F.lit("bot-"), "id").alias("item_id"))
    poisoned = counts.unionByName(bots.select("item_id", *(F.lit(1).cast("long").alias(n) for n in counts.columns[1:])))
    how = {"first_new_index": 2, "first_seen": "2024-05-03"}
    made = extend_vocabulary(previous, poisoned, max_items=1_000, **how)
    found = sorted((row["item_index"], row["item_id"]) for row in made.select("item_index", "item_id").collect())
    assert [place for place, _ in found] == list(range(1_000))
    assert [item for _, item in found[:6]] == ["x", "d", "c", "a", "b", "bot-0"]
    unbounded = extend_vocabulary(previous, poisoned, max_items=None, **how)
    items, last = unbounded.agg(F.count("*"), F.max("item_index")).collect()[0]
    assert (items, last) == (1_000_005, 1_000_004)
    gate = judge(items=items, new_items=items - previous.count())["new_items_volume"]
    assert gate.status == "failed"
    assert "bots can make up ids, and the vocabulary never forgets one" in gate.text


def test_titles_and_availability_come_from_the_catalogue(spark, previous):
    """An item that the catalogue does not list keeps its title and stock.

    Without a catalogue all items are available.
    """
    items = previous.withColumn("in_stock", F.col("item_id") == "d")
    catalogue = spark.createDataFrame(
        [("d", "The D", False), ("new", "N", True)], "item_id string, title string, available boolean"
    )
    assert rows(with_catalogue(items, catalogue), "item_id", "title", "available", "in_stock") == [
        ("d", "The D", False, False),
        ("x", "The X", False, False),
    ]
    assert rows(with_catalogue(items, None), "item_id", "title", "available", "in_stock") == [
        ("d", None, True, True),
        ("x", "The X", True, True),
    ]


def test_an_item_out_of_stock_stays_so_when_it_leaves_the_catalogue(spark, counts, previous):
    """It stays so until the catalogue lists it again.

    An item hidden for its few users comes back when it has more users.
    """

    def run(earlier, catalogue, users):
        counted = counts.withColumn("num_users", F.when(F.col("item_id") == "c", users).otherwise(F.col("num_users")))
        known = extend_vocabulary(
            earlier, counted, first_new_index=earlier.count(), first_seen="2024-05-03", max_items=None
        )
        shop = spark.createDataFrame(catalogue, "item_id string, title string, available boolean")
        made = hide_rare(with_catalogue(known, shop), counted, min_users=2)
        return spark.createDataFrame(made.collect(), made.schema)

    def available(made):
        return {item: is_there for item, is_there in rows(made, "item_id", "available") if item in "cdx"}

    first = run(previous, [("d", "D", False), ("c", "C", True)], users=1)
    assert available(first) == {"c": False, "d": False, "x": True}
    second = run(first, [("a", "A", True)], users=1)
    assert available(second) == {"c": False, "d": False, "x": True}
    assert available(run(second, [("a", "A", True)], users=2)) == {"c": True, "d": False, "x": True}
    assert available(run(second, [("d", "D", True)], users=2)) == {"c": True, "d": True, "x": True}


def test_an_item_that_no_catalogue_has_listed_is_not_in_stock_where_that_is_said(spark, counts):
    """Nobody knows whether the shop still sells it. If the catalogue does not tell the stock, the item is available."""
    items = extend_vocabulary(None, counts, first_new_index=0, first_seen="2024-05-03", max_items=3)
    listed = spark.createDataFrame([("c", "C", True)], "item_id string, title string, available boolean")
    for says_stock in (True, False):
        made = with_catalogue(items, listed, says_stock=says_stock)
        assert dict(rows(made, "item_id", "available")) == {"a": not says_stock, "c": True, "d": not says_stock}
    assert count_left_out(counts, items, listed) == {
        "out_of_vocabulary": 2,
        "unlisted_items": 3,
        "unlisted_events": 13,
        "unlisted_item": "d",
    }
    assert count_left_out(counts, items, None) == {
        "out_of_vocabulary": 2,
        "unlisted_items": 0,
        "unlisted_events": 0,
        "unlisted_item": None,
    }


def test_a_catalogue_of_other_ids_is_an_error():
    """Otherwise every item would lack its title and be out of stock, for example where the ids differ in case."""
    none = {
        "unlisted_items": 3,
        "unlisted_events": 9,
        "unlisted_item": "a0",
        "kept": 9,
        "validation_users": 1,
        "test_users": 1,
    }
    with pytest.raises(
        InputError, match=r"has none of the 3 items of the events, for example 'a0'\. Check that both write ids alike"
    ):
        check_listed(none)
    check_listed(none | {"unlisted_events": 8})
    told = "3 of the items, with 88.9% of the events, are not in the catalogue, for example 'a0'"
    assert warnings(none | {"unlisted_events": 8}) == [told]
    check_listed(none | {"unlisted_items": 0, "unlisted_events": 0})
    assert warnings({name: none[name] for name in ("kept", "validation_users", "test_users")}) == []


def test_a_number_in_stock_is_an_availability(spark, tmp_path):
    """More than 0 is available: twelve pieces, half a metre. 0 or less is not."""
    stock = ["12", "0.5", "0", "-3", "1e3", "YES", "n", None]
    lines = (json.dumps({"item_id": str(number), "stock": one}) for number, one in enumerate(stock))
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    config = CatalogueConfig(path=str(tmp_path / "items.jsonl"), format="jsonl", title=None, available="stock")
    found = read_catalogue(spark, config).orderBy("item_id").collect()
    assert [row["available"] for row in found] == [True, True, False, False, True, True, False, True]


def test_a_catalogue_without_a_header_takes_its_names_from_columns(spark, tmp_path):
    """With `columns` the first line of the catalogue is a product, also with a delimiter of two characters."""
    (tmp_path / "c.dat").write_text("1::Film, The (1999)::Drama\n2::Another::Action\n")
    config = CatalogueConfig(
        path=str(tmp_path / "c.dat"),
        format="csv",
        delimiter="::",
        columns=("item_id", "title", "kind"),
        category="kind",
    )
    found = read_catalogue(spark, config).orderBy("item_id").collect()
    assert [(row["item_id"], row["title"], row["category"]) for row in found] == [
        ("1", "Film, The (1999)", "Drama"),
        ("2", "Another", "Action"),
    ]


def test_statistics_count_training_positions(spark, counts, previous):
    """Every item of the vocabulary has a row. num_train counts the item at training positions of the histories.

    A history of one training item is in no window.
    """
    histories = spark.createDataFrame(
        [([1, 1, 0], 2), ([1, 0], 0), ([0, 1], 1), ([], 0)], "item_indices array<int>, num_train int"
    )
    made = item_statistics(previous, counts, histories)
    names = ("item_index", "num_interactions", "num_users", "num_purchases", "num_train", "num_in_windows")
    assert rows(made, *names) == [(0, 0, 0, 0, 1, 0), (1, 9, 3, 0, 2, 2)]


def test_a_csv_catalogue_may_quote_and_repeat(spark, tmp_path):
    """Quoted commas, doubled quotes and line breaks belong to the title. Repeats and rows without an id are counted.

    An id that is too long for an event counts as none.
    """
    text = 'item_id,title,stock\n1,"A ""big"", red\none",yes\n1,B,0\n,C,1\n2,,False\n3,D,\nbroken\n'
    text += "".join(f"{'x' * length},E,1\n" for length in (256, 257))
    (tmp_path / "items.csv").write_text(text)
    config = CatalogueConfig(path=str(tmp_path / "items.csv"), format="csv", available="stock")
    catalogue = read_catalogue(spark, config)
    assert catalogue_counts(catalogue, path="p") == {
        "rows_read": 8,
        "without_id": 3,
        "corrupt": 1,
        "long_id": 1,
        "repeated_id": 1,
        "items": 4,
    }
    products = one_row_an_item(catalogue).withColumn("title", F.coalesce("title", F.lit("-")))
    assert rows(products, "item_id", "title", "available") == [
        ("1", 'A "big", red\none', True),
        ("2", "-", False),
        ("3", "D", True),
        ("x" * 256, "E", True),
    ]


@pytest.mark.parametrize(
    ("more", "length", "message"),
    [
        ("", 20, r"has more than 1,000 lines, .*not closed: 'open\\n6,T6"),
        (",z", 20, r"""has more than 1,000 lines, .*not closed: '5,"open,z\\n6,T6"""),
        ("", 2_000, r"a field has more than 1,000,000 characters.* quote is probably"),
    ],
)
def test_a_quote_that_is_not_closed_swallows_no_catalogue(spark, tmp_path, more, length, message):
    """The rest of the file becomes one row. It is an error whether or not this row has as many fields as the others."""
    lines = ["item_id,title", "1,A", '5,"open', *(f"{number},T{number} {'y' * length}" for number in range(6, 1_209))]
    (tmp_path / "items.csv").write_text("".join(f"{line}{more}\n" for line in lines))
    config = CatalogueConfig(path=str(tmp_path / "items.csv"), format="csv")
    with pytest.raises(InputError, match=message), reading(config.path):
        catalogue_counts(read_catalogue(spark, config), path="p")


def test_a_catalogue_that_lost_rows_is_told():
    """The warning counts rows that do not parse and ids that are too long, or names the loss of half the items."""
    counts = {"rows_read": 50, "items": 49, "corrupt": 0}
    assert (
        catalogue_warning(None, counts) is catalogue_warning(counts) is catalogue_warning(counts, {"items": 98}) is None
    )
    assert catalogue_warning(counts, {"items": 99}) == (
        "the catalogue has 49 items, the run before had 99. Check that its export is complete"
    )
    told = catalogue_warning(counts | {"corrupt": 1, "long_id": 2})
    assert told == (
        "of 50 rows of the catalogue, 1 do not parse and 2 have an item id of more than 256 characters: their items are"
        " left out"
    )


def test_a_catalogue_of_json_may_hold_lists_but_no_list_is_an_item(spark, tmp_path):
    """A list of categories is text. A list is not an item id."""
    rows = [{"item_id": 1, "title": "A", "category": ["x", "y"]}, {"item_id": [2, 3], "title": "B", "category": "x"}]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = CatalogueConfig(path=str(tmp_path / "items.jsonl"), format="jsonl", category="category")
    assert [row["category"] for row in one_row_an_item(read_catalogue(spark, config)).collect()] == ['["x","y"]']


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"item_id": 1, "stock": "perhaps"}\n', r"1 rows have an availability .* for example 'perhaps'"),
        ('{"item_id": null, "stock": 1}\n', r"no row with an item id \(1 rows read\)"),
    ],
)
def test_an_unusable_catalogue_is_named(spark, tmp_path, text, message):
    """An availability that is neither yes nor no, or no item at all, is an error."""
    (tmp_path / "items.jsonl").write_text(text)
    config = CatalogueConfig(path=str(tmp_path / "items.jsonl"), format="jsonl", title=None, available="stock")
    with pytest.raises(InputError, match=message):
        catalogue_counts(read_catalogue(spark, config), path="p")
