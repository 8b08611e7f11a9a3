"""Raw files of many forms → the run config that reads them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdlib.config.run import RunConfig
from kdlib.errors import InputError
from kdlib.onboarding.shop import Shop, shop_of
from tests.onboarding import raw_shops
from tests.onboarding.raw_shops import EVENTS, LAST

CSV = {"format": "csv"}
TYPES = {"view": "view", "addtocart": "cart", "transaction": "purchase"}
UNIX = {"format": "epoch_seconds", "column": "timestamp"}

SHOPS: dict[Callable[[Path], list[str]], dict[str, Any]] = {
    raw_shops.rees46: CSV
    | {
        "user": "user_id",
        "session": "user_session",
        "item": "product_id",
        "event_type": "event_type",
        "time": {"format": "iso", "column": "event_time"},
        "where": "event_type not in ('remove_from_cart')",
    },
    raw_shops.retailrocket: CSV
    | {
        "user": "visitorid",
        "item": "itemid",
        "event_type": "event",
        "event_types": TYPES,
        "time": {"format": "epoch_millis", "column": "timestamp"},
    },
    raw_shops.movielens_csv: CSV | {"user": "userId", "item": "movieId", "time": UNIX},
    raw_shops.movielens_100k: CSV
    | {
        "delimiter": "\t",
        "header": False,
        "columns": ["user_id", "item_id", "rating", "timestamp"],
        "user": "user_id",
        "item": "item_id",
        "time": UNIX,
    },
    raw_shops.movielens_1m: CSV
    | {
        "delimiter": "::",
        "header": False,
        "columns": ["user_id", "item_id", "rating", "timestamp"],
        "user": "user_id",
        "item": "item_id",
        "time": UNIX,
    },
    raw_shops.diginetica: CSV
    | {
        "delimiter": ";",
        "session": "sessionId",
        "item": "itemId",
        "time": {
            "format": "day_and_order",
            "day_columns": ["eventdate"],
            "order_column": "timeframe",
            "order_unit": "milliseconds",
        },
    },
    raw_shops.amazon_reviews: {
        "format": "jsonl",
        "user": "reviewerID",
        "item": "asin",
        "time": {"format": "epoch_seconds", "column": "unixReviewTime"},
    },
    raw_shops.amazon_ratings: CSV
    | {
        "header": False,
        "columns": ["user_id", "item_id", "rating", "timestamp"],
        "user": "user_id",
        "item": "item_id",
        "time": UNIX,
    },
    raw_shops.h_and_m: CSV
    | {
        "user": "customer_id",
        "item": "article_id",
        "only_type": "purchase",
        "time": {"format": "iso", "column": "t_dat"},
    },
    raw_shops.german: CSV
    | {
        "delimiter": ";",
        "user": "Kundennr",
        "item": "Artikelnr",
        "only_type": "purchase",
        "time": {"format": "pattern", "column": "Datum", "pattern": "d.M.yyyy H:mm"},
        "where": "Menge > 0",
    },
    raw_shops.american_retail: CSV
    | {
        "user": "CustomerID",
        "item": "StockCode",
        "only_type": "purchase",
        "time": {"format": "pattern", "column": "InvoiceDate", "pattern": "M/d/yyyy H:mm"},
        "where": "Quantity > 0 and InvoiceNo not like 'C%'",
    },
    raw_shops.capitals: CSV
    | {
        "delimiter": "|",
        "user": "CUSTOMER_ID",
        "item": "PRODUCT_ID",
        "event_type": "ACTION",
        "event_types": {"CLICK": "view"},
        "time": {"format": "iso", "column": "CREATED_AT"},
    },
    raw_shops.analytics: {
        "format": "jsonl",
        "user": "user_pseudo_id",
        "item": "item_id",
        "event_type": "event_name",
        "event_types": {"view_item": "view", "add_to_cart": "cart", "purchase": "purchase"},
        "time": {"format": "epoch_micros", "column": "event_timestamp"},
        "where": "event_name not in ('session_start')",
    },
    raw_shops.daily: CSV
    | {
        "user": "user_id",
        "item": "item_id",
        "event_type": "event_type",
        "time": {"format": "iso", "column": "timestamp"},
    },
    raw_shops.parquet: {
        "format": "parquet",
        "user": "customer_id",
        "item": "sku",
        "time": {"format": "iso", "column": "ts"},
    },
    raw_shops.coded: CSV
    | {
        "user": "user_id",
        "item": "item_id",
        "event_type": "behavior_type",
        "event_types": {"1": "view", "2": "favourite", "3": "cart", "4": "purchase"},
        "time": {"format": "iso", "column": "time"},
    },
    raw_shops.chinese: CSV
    | {
        "user": "用户ID",
        "item": "商品ID",
        "event_type": "行为类型",
        "event_types": {"浏览": "view", "收藏": "favourite", "加购": "cart", "购买": "purchase"},
        "time": {"format": "pattern", "column": "时间", "pattern": "yyyy/M/d H:mm:ss"},
    },
    raw_shops.french: CSV
    | {
        "delimiter": ";",
        "user": "client_id",
        "item": "id_produit",
        "event_type": "évènement",
        "event_types": {"vue": "view", "panier": "cart", "achat": "purchase", "favori": "favourite"},
        "time": {"format": "pattern", "column": "horodatage", "pattern": "d/M/yyyy H:mm:ss"},
    },
    raw_shops.recbole: CSV
    | {
        "delimiter": "\t",
        "user": "user_id:token",
        "item": "item_id:token",
        "time": {"format": "epoch_seconds", "column": "timestamp:float"},
    },
    raw_shops.pandas_index: CSV
    | {
        "header": False,
        "columns": ["column_1", "user", "item", "time"],
        "user": "user",
        "item": "item",
        "time": {"format": "iso", "column": "time"},
    },
    raw_shops.instacart: CSV
    | {
        "user": "user_id",
        "item": "product_id",
        "only_type": "purchase",
        "time": {
            "format": "day_and_order",
            "day_columns": ["order_number"],
            "order_column": "add_to_cart_order",
        },
    },
    raw_shops.baskets: {
        "format": "parquet",
        "session": "session_id",
        "item": "item_id",
        "only_type": "purchase",
        "time": {"format": "epoch_millis", "column": "unix_ms"},
    },
    raw_shops.taobao: CSV
    | {
        "header": False,
        "columns": ["user_id", "item_id", "category_id", "event_type", "timestamp"],
        "user": "user_id",
        "item": "item_id",
        "event_type": "event_type",
        "event_types": {"pv": "view", "buy": "purchase", "cart": "cart", "fav": "favourite"},
        "time": UNIX,
    },
    raw_shops.sequences: {"format": "sequences"},
    raw_shops.hashed_sessions: CSV
    | {
        "session": "session_id_hash",
        "item": "product_sku_hash",
        "event_type": "product_action",
        "event_types": {"detail": "view", "add": "cart", "purchase": "purchase"},
        "time": {"format": "epoch_millis", "column": "server_timestamp_epoch_ms"},
        "where": "product_action not in ('remove')",
    },
    raw_shops.order_export: CSV
    | {
        "user": "Email",
        "item": "Lineitem sku",
        "only_type": "purchase",
        "time": {"format": "iso", "column": "Created at"},
        "where": "coalesce(`Financial Status`, '') not in ('refunded')",
    },
    raw_shops.numbered_order_items: CSV
    | {
        "user": "customer_id",
        "item": "sku",
        "only_type": "purchase",
        "time": {"format": "iso", "column": "created_at"},
        "where": "qty_ordered > 0",
    },
    raw_shops.check_ins: CSV
    | {
        "delimiter": "\t",
        "header": False,
        "columns": ["user_id", "timestamp", "column_3", "column_4", "item_id"],
        "user": "user_id",
        "item": "item_id",
        "time": {"format": "iso", "column": "timestamp"},
    },
    raw_shops.subclasses: CSV
    | {
        "delimiter": ";",
        "header": False,
        "columns": ["timestamp", "user_id", "column_3", "category_id", "item_id", "column_6"],
        "user": "user_id",
        "item": "item_id",
        "time": {"format": "iso", "column": "timestamp"},
    },
    raw_shops.blanks: CSV
    | {
        "user": "user_id",
        "item": " product_id",
        "event_type": " event_type",
        "time": {"format": "iso", "column": " event_time"},
    },
    raw_shops.missing_texts: CSV
    | {
        "user": "user_id",
        "item": "product_id",
        "event_type": "evt",
        "time": {"format": "epoch_seconds", "column": "ts"},
        "where": "user_id not in ('\\\\N', 'NULL', 'nan') and product_id not in ('\\\\N', 'NULL', 'nan')",
    },
    raw_shops.russian: CSV
    | {
        "delimiter": ";",
        "user": "клиент",
        "item": "товар",
        "only_type": "purchase",
        "time": {"format": "pattern", "column": "дата", "pattern": "d.M.yyyy H:mm"},
    },
    raw_shops.japanese: CSV
    | {
        "user": "ユーザーID",
        "item": "商品ID",
        "event_type": "イベント",
        "event_types": {"閲覧": "view", "カート": "cart", "購入": "purchase"},
        "time": {"format": "pattern", "column": "日時", "pattern": "yyyy/M/d H:mm"},
    },
}
"""Raw files → the settings of `input.events`, without the path."""

DROPPED = {
    raw_shops.rees46: {"filtered": 40},
    raw_shops.german: {"filtered": 40},
    raw_shops.american_retail: {"filtered": 40},
    raw_shops.analytics: {"filtered": 50},
    raw_shops.pandas_index: {"bad_time": 1},
    raw_shops.hashed_sessions: {"filtered": 40},
    raw_shops.order_export: {"filtered": 40},
    raw_shops.numbered_order_items: {"filtered": 40},
    raw_shops.missing_texts: {"filtered": 80},
}
"""Raw files → rows that are meant to be left out."""

CATALOGUES = {
    raw_shops.movielens_csv: {"format": "csv", "item": "movieId", "category": "genres"},
    raw_shops.amazon_reviews: {"format": "jsonl", "item": "asin"},
    raw_shops.h_and_m: {
        "format": "csv",
        "item": "article_id",
        "title": "prod_name",
        "category": "product_type_name",
        "description": "detail_desc",
    },
    raw_shops.german: {
        "format": "csv",
        "delimiter": ";",
        "item": "Artikelnr",
        "title": "Bezeichnung",
        "available": "Lagerbestand",
    },
    raw_shops.american_retail: {"format": "csv", "item": "StockCode", "title": "Description"},
}
"""Raw files → the settings of `input.catalogue`, without the path."""


def settings(shop: Shop) -> dict[str, Any]:
    """The run config as plain values; it is a valid one."""
    found = yaml.safe_load(shop.text)
    RunConfig.model_validate(found)
    return found


@pytest.mark.parametrize("write", SHOPS, ids=lambda write: write.__name__)
def test_a_raw_shop_is_mapped_without_a_hand(tmp_path, write):
    """Each form of raw files gives a valid run config with the right columns, time and types."""
    found = settings(shop_of(write(tmp_path)))
    found["input"]["events"].pop("path")
    assert found["input"]["events"] == SHOPS[write]
    catalogue = found["input"].get("catalogue")
    assert {key: value for key, value in (catalogue or {}).items() if key != "path"} == CATALOGUES.get(write, {})
    has_times = write not in (raw_shops.sequences, raw_shops.instacart)
    assert not has_times or str(found["ds"]) == LAST


@pytest.mark.parametrize("write", SHOPS, ids=lambda write: write.__name__)
def test_spark_reads_every_row_of_a_raw_shop(spark, tmp_path, write):
    """With the run config of `init`, the real steps keep every row, but for those that are meant to be left out."""
    from kdlib.features import clean
    from kdlib.features.events import read_events

    config = RunConfig.model_validate(settings(shop_of(write(tmp_path))))
    assert config.input.events
    events = read_events(spark, config.input.events, last_day=config.last_day)
    fault = clean.fault(period_start=config.features.period_start, last_day=config.last_day, late_days=0)
    rows = events.select(fault.alias("fault")).groupBy("fault").count().collect()
    found = {row["fault"]: row["count"] for row in rows}
    dropped = DROPPED.get(write, {})
    kept = found.pop(None)
    assert found == dropped
    if write is not raw_shops.sequences:
        assert kept + sum(dropped.values()) == len(EVENTS) + (write is raw_shops.pandas_index)


def test_certain_names_need_no_comment(tmp_path):
    """Columns with distilrec's own names are taken for certain: a run config of few lines, without a comment beside them."""
    paths = raw_shops.daily(tmp_path)
    shop = shop_of(paths, name="my_shop")
    assert shop.doubts == ()
    assert len(shop.text.splitlines()) <= 20


def test_a_folder_of_daily_files_offers_day(tmp_path):
    """Where the names of the files have their days, a comment offers the path with `{day}`."""
    (folder,) = raw_shops.daily(tmp_path)
    assert f"# path: {folder}/{{day}}.csv" in shop_of([folder]).text


def test_files_of_a_shells_glob_are_one_source(tmp_path):
    """Files of one folder and one form, given one by one, are read by one path."""
    raw_shops.daily(tmp_path)
    files = sorted(map(str, (tmp_path / "events").iterdir()))
    assert settings(shop_of(files))["input"]["events"]["path"] == str(tmp_path / "events")
    path = settings(shop_of(files[-3:]))["input"]["events"]["path"]
    assert path == str(tmp_path / "events") + "/{2025-11-20.csv,2025-11-21.csv,2025-11-22.csv}"


def test_a_folder_of_mixed_files_is_taken_apart(tmp_path):
    """Of a folder with events, a catalogue and a picture, each file gets its part, and the picture is left out."""
    raw_shops.h_and_m(tmp_path)
    (tmp_path / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    shop = shop_of([str(tmp_path)])
    found = settings(shop)["input"]
    assert found["events"]["path"] == str(tmp_path / "transactions_train.csv")
    assert found["catalogue"]["path"] == str(tmp_path / "articles.csv")
    assert any("logo.png is left out: is a PNG image" in doubt.text for doubt in shop.doubts)


def test_a_catalogue_with_other_ids_is_refused(tmp_path):
    """A file that lists none of the events' items is no catalogue, and the text shows how the ids look."""
    events, articles = raw_shops.h_and_m(tmp_path)
    text = Path(articles).read_text().replace("\n06", "\nA-6")
    Path(articles).write_text(text)
    shop = shop_of([events, articles])
    assert shop.catalogue is None
    assert any("no column lists the items of the events, such as '0663" in doubt.text for doubt in shop.doubts)


def test_an_availability_in_words_is_not_mapped(tmp_path):
    """An availability that a run would refuse is left out, and the text says which value is unclear."""
    events, articles = raw_shops.german(tmp_path)
    Path(articles).write_text(
        "Artikelnr;Bezeichnung;Lieferbar\n" + "".join(f"A-{n};Gießkanne {n};sofort\n" for n in range(30))
    )
    shop = shop_of([events, articles])
    assert "available" not in settings(shop)["input"]["catalogue"]
    assert any("its value 'sofort' is neither yes" in doubt.text for doubt in shop.doubts)


def test_a_catalogue_without_a_header_gets_names(tmp_path):
    """A catalogue without a header is mapped by its values: the ids of the events, and the longest texts."""
    (tmp_path / "movies.dat").write_text("".join(f"{n}::Film, The Number {n} (1999)::Drama\n" for n in range(31)))
    shop = shop_of([*raw_shops.movielens_1m(tmp_path), str(tmp_path / "movies.dat")])
    found = settings(shop)["input"]["catalogue"]
    assert (found["delimiter"], found["columns"]) == ("::", ["item_id", "title", "column_3"])


def test_day_and_month_that_cannot_be_told_apart(tmp_path):
    """If no day is above 12, the day is taken to come first, and a comment says what to set otherwise."""
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,time\n" + "".join(f"{n % 5},{n % 7},0{n % 9 + 1}/11/2025 10:0{n % 10}\n" for n in range(60))
    )
    shop = shop_of([str(tmp_path / "log.csv")])
    assert shop.events.time is not None
    assert shop.events.time.pattern == "d/M/yyyy H:mm"
    assert "If the month comes first, set pattern:" in shop.text


def test_users_of_another_file_are_pointed_out(tmp_path):
    """Where another file has the users of the orders, the text says to join it."""
    (tmp_path / "order_products.csv").write_text(
        "order_id,product_id,add_to_cart_order\n" + "".join(f"{n // 4},{n % 9},{n % 4 + 1}\n" for n in range(80))
    )
    (tmp_path / "orders.csv").write_text("order_id,user_id\n" + "".join(f"{n},{n % 6}\n" for n in range(20)))
    shop = shop_of([str(tmp_path / "order_products.csv"), str(tmp_path / "orders.csv")])
    assert shop.events.session == "order_id"
    assert any("orders.csv has order_id and the user in user_id. Join it" in doubt.text for doubt in shop.doubts)


def test_orders_and_their_lines_are_to_be_joined(tmp_path):
    """If one file has the items and another the users, the error names both and the column that joins them."""
    (tmp_path / "order_items.csv").write_text(
        "order_id,product_id,shipping_date\n" + "".join(f"{n},{n % 9},2025-11-{n % 28 + 1:02d}\n" for n in range(80))
    )
    (tmp_path / "orders.csv").write_text("order_id,customer_id\n" + "".join(f"{n},{n % 6}\n" for n in range(80)))
    with pytest.raises(InputError, match=r"items \(product_id\).* users \(customer_id\).*join the two by order_id"):
        shop_of([str(tmp_path / "order_items.csv"), str(tmp_path / "orders.csv")])


def test_a_person_names_a_column(tmp_path):
    """A column that a person names is taken, whatever its name is; a name that no column has is an error."""
    path = str(tmp_path / "log.csv")
    Path(path).write_text("who,reference,at\n" + "".join(f"{n % 6},{n % 9},{1_762_000_000 + n}\n" for n in range(80)))
    found = settings(shop_of([path], columns={"user": "who", "item": "reference", "time": "at"}))["input"]["events"]
    assert (found["user"], found["item"], found["time"]["column"]) == ("who", "reference", "at")
    with pytest.raises(InputError, match=r"has no column 'whom'\. Its columns are who, reference, at"):
        shop_of([path], columns={"user": "whom"})
    with pytest.raises(InputError, match=r"no column for the item by its name.*--column item=NAME"):
        shop_of([path], columns={"user": "who"})


def test_files_of_other_types_are_not_mixed(tmp_path):
    """Clicks and purchases of one form are two sources, and the text says that the second is left out."""
    for name, number, items in (("sessions", 300, 9), ("purchases", 120, 60)):
        rows = "".join(f"{n % 60},{n % items},2025-11-{n % 28 + 1:02d} 10:00:00\n" for n in range(number))
        (tmp_path / f"{name}.csv").write_text("session_id,item_id,date\n" + rows)
    for paths in ([str(tmp_path)], [str(tmp_path / "sessions.csv"), str(tmp_path / "purchases.csv")]):
        shop = shop_of(paths)
        assert (shop.events.source.name, shop.events.only_type, shop.catalogue) == ("sessions.csv", None, None)
        assert any("purchases.csv also looks like events" in doubt.text for doubt in shop.doubts)


def test_some_files_of_a_folder_are_named_one_by_one(tmp_path):
    """Files of one form that no pattern tells from the others are named in braces."""
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text(
            "user_id,item_id,time\n" + "".join(f"{n % 6},{n % 9},{1_762_000_000 + n}\n" for n in range(60))
        )
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"{n},Title {n}\n" for n in range(9)))
    found = settings(shop_of([str(tmp_path)]))["input"]
    assert found["events"]["path"] == str(tmp_path) + "/{test.csv,train.csv}"
    assert found["catalogue"]["path"] == str(tmp_path / "items.csv")


def test_a_user_column_that_is_mostly_empty_gives_way(tmp_path):
    """If most rows have no user, another column with users counts, and the text says so."""
    (tmp_path / "log.csv").write_text(
        "user_id,anonymous_id,item_id,time\n"
        + "".join(f"{'' if n % 4 else n % 6},a{n % 7},{n % 9},{1_762_000_000 + n}\n" for n in range(60))
    )
    shop = shop_of([str(tmp_path / "log.csv")])
    assert shop.events.user == "anonymous_id"
    assert shop_of([str(tmp_path / "log.csv")], columns={"user": "user_id"}).events.user == "user_id"
    assert any(
        "user_id has no user in 75.0% of the rows, so anonymous_id is the user" in one.text for one in shop.doubts
    )


def test_numbers_that_look_like_items_are_no_catalogue(tmp_path):
    """A file with the events' item column lists the items by this column only, and only once each."""
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,time\n" + "".join(f"{n % 6},{n % 9},{1_762_000_000 + n}\n" for n in range(60))
    )
    (tmp_path / "features.csv").write_text("item_id,feature\n" + "".join(f"{n // 4},{n}\n" for n in range(36)))
    shop = shop_of([str(tmp_path / "log.csv"), str(tmp_path / "features.csv")])
    assert shop.catalogue is None
    assert any("features.csv is left out: no column lists the items" in doubt.text for doubt in shop.doubts)


def test_a_column_of_unknown_types_is_pointed_out(tmp_path):
    """Event types that are unknown numbers are not guessed, and the text says which values there are."""
    (tmp_path / "log.csv").write_text(
        "user_id,sku,time,type\n" + "".join(f"{n % 6},{n % 9},{1_762_000_000 + n},{n % 6}\n" for n in range(60))
    )
    shop = shop_of([str(tmp_path / "log.csv")])
    assert shop.events.event_type is None
    assert any("type may hold event types" in doubt.text and "5 (16.7%)" in doubt.text for doubt in shop.doubts)


def test_gaps_variants_and_clocks_are_pointed_out(tmp_path):
    """The comments name a user column with gaps, the product of the variants, and a time of day in its own column."""
    (tmp_path / "log.csv").write_text(
        "user_id,sku,parent_sku,date,clock\n"
        + "".join(f"{n % 6 or ''},{n % 9},{n % 9 // 3},2025-11-{n % 28 + 1:02d},10:{n % 60:02d}\n" for n in range(120))
    )
    text = " ".join(doubt.text for doubt in shop_of([str(tmp_path / "log.csv")]).doubts)
    assert "user_id is empty in 16.7% of the rows" in text
    assert "one parent_sku has several sku" in text
    assert "The time of day is in clock" in text


@pytest.mark.parametrize(("rows_of_nobody", "where"), [(12, None), (300, "user_id not in ('0')")])
def test_an_id_of_nobody_is_filtered(tmp_path, rows_of_nobody, where):
    """The user 0 is nobody if it has far more rows than any other user, else a user like others."""
    users = [user for user in range(1, 11) for _ in range(12)] + [0] * rows_of_nobody
    rows = [f"{user},{n % 7},2025-11-{n % 28 + 1:02d}\n" for n, user in enumerate(users)]
    (tmp_path / "log.csv").write_text("user_id,item_id,date\n" + "".join(rows))
    assert settings(shop_of([str(tmp_path / "log.csv")]))["input"]["events"].get("where") == where
