"""The search log: from rows to judged rows and tables."""

import random
from collections import Counter
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from kdlib.config.data import SearchesConfig
from kdlib.features import searches
from kdlib.features.columns import MOST_RAW_CHARACTERS
from kdlib.features.queries import queries_table, query_items_table
from kdlib.privacy.forgetting import digest
from kdlib.privacy.pseudonyms import KeySource, pseudonym

LAST_DAY = date(2024, 5, 10)
KEY = "0123456789abcdef-a-key"
SEARCHES = "user_id string, query string, event_type string, item_id string, position int, event_time timestamp"
WEIGHTS: dict[str, Any] = {"position_bias": 1.0, "max_position": 50, "cart_weight": 3.0, "purchase_weight": 5.0}


def read(spark, folder, *lines, header="u,q,i,b,p,t", hide_queries=False, key=None, **settings):
    """Search events of CSV lines `user,query,item,type,position,time`."""
    (folder / "s.csv").write_text("\n".join([header, *lines]) + "\n")
    settings = {"item": "i", "event_type": "b", "position": "p"} | settings
    config = SearchesConfig.model_validate(
        {"path": str(folder / "s.csv"), "format": "csv", "user": "u", "query": "q", "time": {"column": "t"}, **settings}
    )
    return searches.read_searches(spark, config, key=key, hide_queries=hide_queries)


def judge(events, *, period_days=5, forgotten=()):
    return searches.with_outcome(
        events, period_days=period_days, last_day=LAST_DAY, num_partitions=2, forgotten=forgotten
    )


def at(second):
    return datetime(2024, 5, 10, 12, 0, second)


def test_rows_are_read_under_our_names(spark, tmp_path):
    """Queries come in their normal form, mapped types under our names, positions as whole numbers."""
    lines = [
        " 1 ,Rain  JACKET,,find,,2024-05-10 10:00:00",
        "1,rain jacket,a,open,3,2024-05-10 10:00:05",
        "1,x,a,zap,0,",
    ]
    rows = read(spark, tmp_path, *lines, event_types={"find": "search", "open": "click"}).collect()
    names = ("user_id", "query", "item_id", "event_type", "position", "position_given", "time_given")
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("1", "rain jacket", None, "search", None, False, True),
        ("1", "rain jacket", "a", "click", 3, True, True),
        ("1", "x", "a", None, None, True, False),
    ]


def test_without_event_types_an_item_makes_a_click(spark, tmp_path):
    """A row with an item is a click, one without is a search."""
    lines = ["1,tent,a,2024-05-10", "1,tent,,2024-05-10"]
    rows = read(spark, tmp_path, *lines, header="u,q,i,t", event_type=None, position=None).collect()
    assert [row["event_type"] for row in rows] == ["click", "search"]
    assert [row["position_given"] for row in rows] == [False, False]


def test_a_position_is_a_whole_number_from_one_on(spark, tmp_path):
    """Other positions are bad for a click and ignored for a search."""
    good = {"1": 1, "007": 7, "3.0": 3, "99999999999": 2**31 - 1, "": None}
    bad = ("0", "-1", "1.5", "first", "1e2", "0x1", "1d", "+2", "Infinity")
    lines = [f"{text},tent,a,click,{text},2024-05-10" for text in (*good, *bad) if text]
    lines += ["none,tent,a,click,,2024-05-10", *(f"1,tent{text},,search,{text},2024-05-10" for text in bad)]
    judged = judge(read(spark, tmp_path, *lines))
    clicked = judged.filter("event_type = 'click'").collect()
    assert {row["user_id"]: row["position"] for row in clicked} == {text or "none": rank for text, rank in good.items()}
    assert Counter(row["outcome"] for row in judged.collect()) == {
        "kept": len(good) + len(bad),
        "bad_position": len(bad),
    }


def test_parquet_positions_of_pandas_are_read(spark, tmp_path):
    """pandas writes them as floats, with NaN for a missing position."""
    columns = {"u": ["1", "2"], "q": ["Tent", "tent"], "i": ["a", "b"], "p": [4.0, float("nan")], "t": [at(0), at(1)]}
    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    config = SearchesConfig.model_validate(
        {
            "path": str(tmp_path),
            "format": "parquet",
            "user": "u",
            "query": "q",
            "item": "i",
            "position": "p",
            "time": {"column": "t"},
        }
    )
    judged = judge(searches.read_searches(spark, config)).orderBy("user_id").collect()
    assert [(row["outcome"], row["position"]) for row in judged] == [("kept", 4), ("kept", None)]


def test_a_broken_line_of_a_forgotten_user_is_not_kept(spark, tmp_path):
    """If the user can be read, the line counts as the user's. Of other broken lines only the counts are kept."""
    lines = ["anna,tent", "ben,mug,,click", "1,anna's"]
    events = read(spark, tmp_path, *lines)
    before, after = (
        {row["raw"]: row["reason"] for row in searches.quarantine(judge(events, forgotten=gone)).collect()}
        for gone in ((), [digest("anna")])
    )
    counts = {
        f'{{"found":"{len(line)} characters, {line.count(",") + 1} fields","expected":"6 fields"}}': "corrupt_row"
        for line in lines
    }
    assert before == counts
    assert after == {"forgotten": "forgotten_user"} | dict(list(counts.items())[1:])


def test_each_fault_has_its_reason_and_the_first_one_counts(spark, tmp_path):
    """Every fault gives its reason, and a row with several faults the first.

    The period includes both its ends; rows before it are not a fault.
    """
    long_id = "7" * 20_000
    rows = [
        ("1,tent,a,click,1", "corrupt_row"),
        (",,a,click,1,2024-05-10", "missing_user"),
        ("1, ,a,click,x,2024-05-10", "missing_query"),
        ("1,\x01\u3000,a,click,1,2024-05-10", "missing_query"),
        (f"{long_id},tent,a,click,1,", "long_id"),
        (f"1,tent,{long_id},click,1,2024-05-10", "long_id"),
        ("1,tent,a,click,1,", "missing_time"),
        ("1,tent,,click,1,tomorrow", "bad_time"),
        ("1,tent,a,click,1,2024-05-11 00:00:00", "out_of_period"),
        ("1,tent,a,clik,1,2024-05-10", "unknown_event_type"),
        ("1,tent,,click,0,2024-05-10", "missing_item"),
        ("1,tent,,purchase,,2024-05-10", "missing_item"),
        ("1,tent,a,cart,0,2024-05-10", "bad_position"),
        ("9,tent,a,click,1,2024-05-10", "forgotten_user"),
        (",,,click,0,2024-05-05 23:59:59.999999", "earlier"),
        ("1,tent,,search,,2024-05-06 00:00:00", "kept"),
        ("1,tent,a,purchase,,2024-05-10 23:59:59.999999", "kept"),
    ]
    judged = judge(read(spark, tmp_path, *(line for line, _ in rows)), forgotten=[digest("9")])
    assert Counter(row["outcome"] for row in judged.collect()) == Counter(outcome for _, outcome in rows)
    shown = Counter((row["reason"], row["raw"][:7]) for row in searches.quarantine(judged).collect())
    quarantined = [(line, outcome) for line, outcome in rows if outcome not in ("kept", "earlier")]
    assert shown.total() == len(quarantined)
    assert shown["corrupt_row", '{"found'] == shown["forgotten_user", "forgott"] == 1
    assert {reason for reason, _ in shown} == set(searches.REASONS)
    assert max(len(row["raw"]) for row in searches.quarantine(judged).collect()) == MOST_RAW_CHARACTERS + 1


def test_rows_of_a_day_that_say_the_same_are_one_event_at_its_best_rank(spark, tmp_path):
    """User, UTC day, normalised query, type and item make an event.

    The better of two ranks counts, and any rank beats none.
    """
    lines = [
        "1,tent,a,click,,2024-05-10 10:00:00",
        "1, TENT,a,click,7,2024-05-10 10:00:00",
        "1,tent,a,click,5,2024-05-10 23:59:59",
        "1,tent,,search,,2024-05-10 10:00:00",
        "1,tent,z,search,1,2024-05-10 11:00:00",
        "1,tent,a,cart,5,2024-05-10 10:00:00",
        "1,tent,b,click,5,2024-05-10 10:00:00",
        "2,tent,a,click,5,2024-05-10 10:00:00",
        "1,tent,a,click,6,2024-05-09 23:59:59",
    ]
    judged = judge(read(spark, tmp_path, *lines))
    assert Counter(row["outcome"] for row in judged.collect()) == {"kept": 6, "duplicate": 3}
    found = sorted(
        str((r["user_id"], r["event_type"], r["item_id"], r["position"])) for r in searches.kept(judged).collect()
    )
    assert found == [
        "('1', 'cart', 'a', 5)",
        "('1', 'click', 'a', 5)",
        "('1', 'click', 'a', 6)",
        "('1', 'click', 'b', 5)",
        "('1', 'search', None, None)",
        "('2', 'click', 'a', 5)",
    ]


def test_a_crawler_says_no_more_of_an_item_than_a_shopper(spark, tmp_path):
    """Fifty clicks far down the page by one user on one day weigh as one click. The user's searches count once too."""
    crawled = [f"bot,tent,a,click,50,2024-05-10 10:00:{second:02d}" for second in range(50)]
    crawled += [f"bot,tent,,search,,2024-05-10 11:00:{second:02d}" for second in range(50)]
    shoppers = [f"{user},tent,b,click,2,2024-05-10" for user in range(30)]
    kept = searches.kept(judge(read(spark, tmp_path, *crawled, *shoppers)))
    typed = queries_table(kept)
    assert [tuple(row) for row in typed.collect()] == [("tent", 1, 31, 31, 0, 0)]
    items = query_items_table(kept, typed, **WEIGHTS).collect()
    assert {row["item_id"]: row["weight"] for row in items} == {"a": 50.0, "b": 60.0}


@pytest.mark.parametrize("seed", range(2))
def test_every_row_has_one_outcome(spark, tmp_path, seed):
    """Kept, duplicate, quarantined and earlier rows add up to all rows."""
    choose = random.Random(seed).choice
    lines = [
        ",".join(
            [
                choose("12 "),
                choose(["tent", "Tent ", "mug", ""]),
                choose(["a", "b", ""]),
                choose(["search", "click", "buy"]),
                choose(["", "1", "2", "x"]),
                choose(["2024-05-10 10:00:00", "2024-05-09", "2024-05-01", "2025-01-01", ""]),
            ]
        )
        for _ in range(300)
    ]
    judged = judge(read(spark, tmp_path, *lines))
    counts = searches.count_outcomes(judged)
    assert counts["kept"] + counts["duplicate"] + counts["quarantined"] + counts["earlier"] == 300
    assert counts["earlier"] == sum(line.endswith("2024-05-01") for line in lines)
    assert searches.quarantine(judged).count() == counts["quarantined"] == sum(counts["reasons"].values())
    assert (counts["first_event"], counts["last_event"]) == ("2024-05-09 00:00:00", "2024-05-10 10:00:00")
    assert min(counts["kept"], counts["duplicate"], counts["quarantined"]) > 0


def test_a_log_without_rows_of_the_period_has_none(spark, tmp_path):
    """Its rows are counted as earlier, and the time of the last one is known."""
    counts = searches.count_outcomes(judge(read(spark, tmp_path, "1,tent,,search,,2024-01-01")))
    assert (counts["rows_read"], counts["kept"], counts["earlier"]) == (0, 0, 1)
    assert (counts["first_event"], counts["last_earlier"]) == (None, "2024-01-01 00:00:00")


def test_pseudonyms_are_those_of_the_events(spark, tmp_path):
    """The same key gives the same pseudonym, also in the quarantine. Of a line that does not parse only the counts are kept."""
    (tmp_path / "key").write_text(KEY)
    lines = ["anna,tent,,search,,2024-05-10", "anna,mug,a,zap,,2024-05-10", "anna,mug"]
    judged = judge(read(spark, tmp_path, *lines, key=KeySource(str(tmp_path / "key"), None)))
    name = pseudonym(KEY.encode(), "anna")
    assert [row["user_id"] for row in searches.kept(judged).collect()] == [name]
    shown = {row["reason"]: row["raw"] for row in searches.quarantine(judged).collect()}
    assert name in shown["unknown_event_type"]
    assert shown["corrupt_row"] == '{"found":"8 characters, 2 fields","expected":"6 fields"}'
    assert "anna" not in str(shown)


def test_where_rare_queries_are_left_out_the_quarantine_does_not_show_them(spark, tmp_path):
    """It hides queries in rows that parse and in rows that do not. A missing query can still be seen."""
    lines = ["1,my name,a,zap,,2024-05-10", "1,my name", "1,,a,click,,2024-05-10"]
    judged = judge(read(spark, tmp_path, *lines, hide_queries=True))
    shown = {row["reason"]: row["raw"] for row in searches.quarantine(judged).collect()}
    assert '"q":"hidden"' in shown["unknown_event_type"]
    assert '"q":null' in shown["missing_query"]
    assert "my name" not in str(shown)


def test_queries_are_counted_by_event_and_by_user(spark):
    """Every type is counted, and a user with many rows once. A query with only clicks has no searches."""
    rows = [
        ("1", "tent", "search", None, None, at(0)),
        ("1", "tent", "search", None, None, at(9)),
        ("1", "tent", "click", "a", 2, at(1)),
        ("2", "tent", "cart", "a", 2, at(2)),
        ("2", "tent", "purchase", "a", 2, at(3)),
        ("2", "mug", "click", "b", None, at(4)),
    ]
    frame = spark.createDataFrame(rows, SEARCHES)
    assert sorted(tuple(row) for row in queries_table(frame).collect()) == [
        ("mug", 0, 1, 1, 0, 0),
        ("tent", 2, 2, 1, 1, 1),
    ]
    assert {row["query"] for row in queries_table(frame, min_users=2).collect()} == {"tent"}
    assert queries_table(frame, min_users=3).collect() == []


def test_a_weight_is_strength_over_the_chance_of_being_looked_at(spark):
    """By hand: a click at rank 4 counts 4, a cart at 2 counts 3·2, a purchase without rank counts 5, and a click at
    90 counts 50."""
    rows = [
        ("1", "tent", "search", None, None, at(0)),
        ("1", "tent", "click", "a", 4, at(1)),
        ("2", "tent", "click", "a", 4, at(1)),
        ("1", "tent", "cart", "a", 2, at(2)),
        ("1", "tent", "purchase", "a", None, at(3)),
        ("1", "tent", "click", "b", 90, at(4)),
        ("2", "rare", "click", "a", 1, at(5)),
    ]
    frame = spark.createDataFrame(rows, SEARCHES)
    tent = spark.createDataFrame([("tent",)], "query string")

    def table(**changes: Any):
        settings: dict[str, Any] = WEIGHTS | changes
        items = query_items_table(frame, tent, **settings)
        return sorted(tuple(row) for row in items.collect())

    assert table() == [("tent", "a", 2, 1, 1, 4 + 4 + 3 * 2 + 5.0), ("tent", "b", 1, 0, 0, 50.0)]
    assert [row[-1] for row in table(position_bias=0.5)] == pytest.approx([2 + 2 + 3 * 2**0.5 + 5, 50**0.5])
    assert [row[-1] for row in table(position_bias=0.0)] == [2 + 3 + 5.0, 1.0]
    assert [row[-1] for row in table(max_position=3)] == [3 + 3 + 6 + 5.0, 3.0]


def test_weights_do_not_depend_on_the_order_of_the_rows(spark):
    """They agree to the last digit for any partitions, although floats add up differently in another order."""
    rows = [("1", "tent", "click", "a", 1 + n % 37, at(n % 60)) for n in range(200)]
    tent = spark.createDataFrame([("tent",)], "query string")
    found = set()
    for seed in range(6):
        shuffled = random.Random(seed).sample(rows, len(rows))
        frame = spark.createDataFrame(shuffled, SEARCHES).repartition(1 + seed)
        settings: dict[str, Any] = WEIGHTS | {"position_bias": 0.3}
        items = query_items_table(frame, tent, **settings).select(F.col("weight"))
        found.add(items.collect()[0][0])
    assert len(found) == 1
