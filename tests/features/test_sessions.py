import pytest
from pyspark.sql import functions as F

from kdlib.features.histories import histories, interactions
from kdlib.features.sessions import sessions_table, with_sessions


@pytest.fixture
def events(spark):
    """Kept events from (user, item, time of day, event type, shop session, event id) tuples."""

    def make(*rows):
        full = [(*row, *(0, None, None)[len(row) - 3 :]) for row in rows]
        schema = "user_id string, item_id string, time string, type int, session_id string, event_id string"
        frame = spark.createDataFrame(full, schema)
        return frame.select(
            "user_id",
            "session_id",
            "item_id",
            F.col("type").cast("tinyint").alias("event_type"),
            F.concat(F.lit("2024-05-01 "), "time").cast("timestamp").alias("event_time"),
            "event_id",
            F.unix_date(F.lit("2024-05-01").cast("date")).alias("day"),
        )

    return make


def sessions(events, gap: int | None = 1800):
    rows = (
        sessions_table(with_sessions(events, gap_seconds=gap)).orderBy("user_id", "started_at", "session_id").collect()
    )
    return [(row["user_id"], row["session_id"], row["item_ids"]) for row in rows]


def test_only_a_gap_longer_than_the_limit_opens_a_session(events):
    """A gap of exactly half an hour stays in one session, one microsecond more does not. Other users do not matter."""
    made = events(
        ("u", "a", "10:00:00"),
        ("u", "b", "10:30:00"),
        ("u", "c", "11:00:00.000001"),
        ("v", "d", "10:15:00"),
    )
    assert sessions(made) == [("u", "0", ["a", "b"]), ("u", "1", ["c"]), ("v", "0", ["d"])]


def test_a_session_counts_its_events(events):
    """Start, end, and the numbers of events, carts and purchases are those of the session's rows."""
    made = events(
        ("u", "b", "10:00:01", 3), ("u", "a", "10:00:00", 2), ("u", "a", "10:00:05", 2), ("u", "a", "10:00:09")
    )
    row = sessions_table(with_sessions(made, gap_seconds=1800)).collect()[0]
    assert row["item_ids"] == ["a", "b", "a", "a"]
    assert (row["num_events"], row["num_carts"], row["num_purchases"]) == (4, 2, 1)
    span = [row["started_at"].astimezone().timestamp(), row["ended_at"].astimezone().timestamp()]
    assert span[1] - span[0] == 9


def test_events_at_one_time_are_ordered_by_event_id_then_item(events):
    """Events at the same time have a fixed order that does not depend on the order of the rows."""
    made = events(
        ("u", "z", "10:00:00", 0, None, "1"),
        ("u", "a", "10:00:00", 0, None, "2"),
        ("v", "y", "10:00:00"),
        ("v", "x", "10:00:00"),
    )
    assert [row[2] for row in sessions(made)] == [["z", "a"], ["x", "y"]]


def test_the_shops_sessions_are_numbered_by_their_start(events):
    """The shop's session ids win over gaps and may overlap. Rows of one day without an id share a session."""
    made = events(
        ("u", "a", "10:00:00", 0, "tab2"),
        ("u", "b", "10:00:01", 0, "tab1"),
        ("u", "c", "15:00:00", 0, "tab2"),
        ("u", "d", "16:00:00"),
        ("u", "e", "22:00:00"),
    )
    assert sessions(made, gap=None) == [
        ("u", "tab2", ["a", "c"]),
        ("u", "tab1", ["b"]),
        ("u", "none-2024-05-01", ["d", "e"]),
    ]
    numbers = with_sessions(made, gap_seconds=None).orderBy("event_time").collect()
    assert [row["session_number"] for row in numbers] == [0, 1, 0, 2, 2]


def history(events, vocabulary, *, collapse=True):
    known = events.sparkSession.createDataFrame(list(vocabulary.items()), "item_id string, item_index int")
    steps = interactions(with_sessions(events, gap_seconds=1800), collapse_repeats=collapse)
    rows = histories(steps, F.broadcast(known)).orderBy("user_id").collect()
    return [
        (
            row["user_id"],
            row["item_indices"],
            row["event_types"],
            row["session_numbers"],
            [t.second for t in row["event_times"]],
        )
        for row in rows
    ]


def test_repeats_in_a_session_collapse_to_the_first_time_and_the_strongest_type(events):
    """Consecutive events on one item become one interaction, but not across a session's end or another item."""
    made = events(
        ("u", "a", "10:00:01"),
        ("u", "a", "10:00:02", 3),
        ("u", "a", "10:00:03", 2),
        ("u", "b", "10:00:04"),
        ("u", "a", "10:00:05"),
        ("u", "a", "12:00:06"),
    )
    items = {"a": 5, "b": 7}
    assert history(made, items) == [("u", [5, 7, 5, 5], [3, 0, 0, 0], [0, 0, 0, 1], [1, 4, 5, 6])]
    assert history(made, items, collapse=False)[0][1:3] == ([5, 5, 5, 7, 5, 5], [0, 3, 2, 0, 0, 0])


def test_what_happens_after_midnight_stays_by_itself(spark):
    """A purchase at 00:01 UTC does not turn the view before midnight into a purchase: the view may be trained on."""
    times = ["2024-05-01 23:59:01", "2024-05-02 00:01:02", "2024-05-02 00:01:03"]
    rows = [("u", "a", f"{time}+00:00", kind) for time, kind in zip(times, (0, 3, 0), strict=True)]
    frame = spark.createDataFrame(rows, "user_id string, item_id string, time string, type int").select(
        "user_id",
        "item_id",
        F.col("type").cast("tinyint").alias("event_type"),
        F.col("time").cast("timestamp").alias("event_time"),
        F.lit(None).cast("string").alias("session_id"),
        F.lit(None).cast("string").alias("event_id"),
        F.substring("time", 10, 1).cast("int").alias("day"),
    )
    assert history(frame, {"a": 0}) == [("u", [0, 0], [0, 3], [0, 0], [1, 2])]


def test_items_outside_the_vocabulary_leave_the_history_but_not_its_session_numbers(events):
    """A user with no known item keeps an empty history. Sessions are numbered before items are left out."""
    made = events(("u", "x", "08:00:00"), ("u", "a", "10:00:01"), ("v", "x", "08:00:00"))
    assert history(made, {"a": 0}) == [("u", [0], [0], [1], [1]), ("v", [], [], [], [])]
