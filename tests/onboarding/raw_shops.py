"""Small raw files in the forms in which shops and public data sets come, with made-up rows."""

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FIRST = datetime(2025, 11, 3, 8, 15, 30, tzinfo=UTC)
DAYS = 20
LAST = "2025-11-22"


@dataclass(frozen=True)
class Event:
    """A made-up event: numbers of the user and the item, and the time."""

    user: int
    item: int
    at: datetime
    place: int
    """Running number of the event in its user's history, from 0."""


def events(users: int = 40, items: int = 30, seed: int = 1) -> list[Event]:
    """Some events of each user, the last one on the last day, sorted by user and time."""
    chance, found = random.Random(seed), []
    for user in range(1, users + 1):
        days = [*sorted(chance.sample(range(DAYS - 1), 4)), DAYS - 1]
        for place, day in enumerate(days):
            at = FIRST + timedelta(days=day, minutes=chance.randrange(600), seconds=chance.randrange(60))
            found.append(Event(user, chance.randrange(items), at, place))
    return found


EVENTS = events()


def lines(header: str | None, row: Callable[[Event], str]) -> str:
    """A header and a line for each event."""
    return "".join(f"{line}\n" for line in ([header] if header else []) + [row(event) for event in EVENTS])


def _types(event: Event, names: tuple[str, ...]) -> str:
    return names[(event.user + event.place) % len(names)]


def rees46(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        kind = _types(event, ("view", "view", "cart", "remove_from_cart", "purchase"))
        return (
            f"{event.at:%Y-%m-%d %H:%M:%S} UTC,{kind},{1_000_000 + event.item},{2053013555631882655 + event.item % 3},"
            f"electronics.phone,brand,{event.item}.99,{512_000_000 + event.user},{event.user:08x}-{event.place // 3}"
        )

    header = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session"
    return [_write(folder / "2025-Nov.csv.gz", lines(header, row))]


def retailrocket(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        kind = _types(event, ("view", "addtocart", "transaction"))
        return f"{_epoch(event) * 1_000},{event.user},{kind},{event.item},{event.user if kind == 'transaction' else ''}"

    return [_write(folder / "events.csv", lines("timestamp,visitorid,event,itemid,transactionid", row))]


def movielens_csv(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        return f"{event.user},{event.item},{event.item % 5 + 0.5},{_epoch(event)}"

    movies = "movieId,title,genres\n" + "".join(
        f'{n},"Film, The Number {n} (1999)",{"Drama" if n % 2 else "Drama|Action"}\n' for n in range(30)
    )
    return [
        _write(folder / "ratings.csv", lines("userId,movieId,rating,timestamp", row)),
        _write(folder / "movies.csv", movies),
    ]


def movielens_100k(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        return f"{event.user + 1}\t{event.item + 1}\t{event.item % 5 + 1}\t{_epoch(event)}"

    return [_write(folder / "u.data", lines(None, row))]


def movielens_1m(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        return f"{event.user + 1}::{event.item + 1}::{event.item % 5 + 1}::{_epoch(event)}"

    return [_write(folder / "ratings.dat", lines(None, row))]


def diginetica(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        user = "NA" if event.user % 3 else str(event.user)
        return f"{event.user};{user};{event.item};{event.place * 100_000 + 500};{event.at:%Y-%m-%d}"

    return [_write(folder / "train-item-views.csv", lines("sessionId;userId;itemId;timeframe;eventdate", row))]


def amazon_reviews(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        return json.dumps(
            {
                "overall": float(event.item % 5 + 1),
                "verified": True,
                "reviewTime": f"{event.at:%m} {event.at.day}, {event.at:%Y}",
                "reviewerID": f"A{event.user:013d}",
                "asin": f"B00{event.item:07d}",
                "style": {"Size:": " 8"},
                "reviewText": f'Good, "really" number {event.place}',
                "unixReviewTime": _epoch(event) // 86_400 * 86_400,
            }
        )

    meta = "".join(
        json.dumps({"asin": f"B00{n:07d}", "title": f"Product number {n}", "category": ["a", "b"], "price": "$3.50"})
        + "\n"
        for n in range(30)
    )
    return [
        _write(folder / "All_Beauty.json.gz", lines(None, row)),
        _write(folder / "meta_All_Beauty.json.gz", meta),
    ]


def amazon_ratings(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        return f"A{event.user:013d},B00{event.item:07d},{event.item % 5 + 1}.0,{_epoch(event)}"

    return [_write(folder / "ratings_Beauty.csv", lines(None, row))]


def h_and_m(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        return f"{event.at:%Y-%m-%d},{event.user:064x},0{663713000 + event.item},0.0508,2"

    articles = "article_id,product_code,prod_name,product_type_no,product_type_name,colour_group_code,detail_desc\n"
    articles += "".join(
        f'0{663713000 + n},0{663 + n},Strap top {n},253,{"Vest top" if n % 2 else "Sweater"},09,"Jersey top, with narrow straps {n}."\n'
        for n in range(30)
    )
    return [
        _write(folder / "transactions_train.csv", lines("t_dat,customer_id,article_id,price,sales_channel_id", row)),
        _write(folder / "articles.csv", articles),
    ]


def german(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        amount = -1 if event.place == 3 else 1 + event.item % 3
        return f'{event.at:%d.%m.%Y %H:%M};{1000 + event.user};"A-{event.item}";{amount};{event.item},95'

    articles = "Artikelnr;Bezeichnung;Warengruppe;Lagerbestand\n" + "".join(
        f'"A-{n}";"Gießkanne, {n} Liter";Garten;{n % 4}\n' for n in range(30)
    )
    return [
        _write(folder / "Bestellungen.csv", "\ufeff" + lines("Datum;Kundennr;Artikelnr;Menge;Preis", row)),
        _write(folder / "Artikel.csv", "\ufeff" + articles),
    ]


def american_retail(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        cancelled = event.place == 2
        at = f"{event.at.month}/{event.at.day}/{event.at.year} {event.at.hour}:{event.at:%M}"
        number = f"{'C' if cancelled else ''}{536365 + 7 * event.user + event.place}"
        return f"{number},S{event.item},CREAM HANGER NUMBER {event.item},{-1 if cancelled else 6},{at},2.55,{17850 + event.user}"

    header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID"
    return [_write(folder / "retail.csv", lines(header, row))]


def capitals(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        return f'"{event.user}"|"{event.item}"|"{event.at:%Y-%m-%dT%H:%M:%S}+02:00"|"CLICK"'

    return [_write(folder / "export.txt", lines('"CUSTOMER_ID"|"PRODUCT_ID"|"CREATED_AT"|"ACTION"', row))]


def analytics(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        name = _types(event, ("view_item", "add_to_cart", "purchase", "session_start"))
        return json.dumps(
            {
                "event_date": f"{event.at:%Y%m%d}",
                "event_timestamp": _epoch(event) * 1_000_000 + 12,
                "event_name": name,
                "user_pseudo_id": f"{event.user}.168",
                "item_id": f"SKU{event.item}",
                "device": {"category": "mobile"},
            }
        )

    return [_write(folder / "events.jsonl", lines(None, row))]


def daily(folder: Path) -> list[str]:
    for day in sorted({event.at.date() for event in EVENTS}):
        rows = [
            f"{event.user},{event.item},{event.at:%Y-%m-%dT%H:%M:%SZ},{_types(event, ('view', 'cart'))}\n"
            for event in EVENTS
            if event.at.date() == day
        ]
        _write(folder / "events" / f"{day}.csv", "user_id,item_id,timestamp,event_type\n" + "".join(rows))
    return [str(folder / "events")]


def parquet(folder: Path) -> list[str]:
    table = pa.table(
        {
            "customer_id": pa.array([float(event.user) for event in EVENTS]),
            "sku": [f"sku-{event.item}" for event in EVENTS],
            "ts": pa.array([event.at.replace(tzinfo=None) for event in EVENTS], pa.timestamp("ns")),
            "properties": pa.array([{"page": 1} for _ in EVENTS]),
        }
    )
    (folder / "clicks").mkdir()
    pq.write_table(table.slice(0, 90), folder / "clicks" / "part-00000.parquet")
    pq.write_table(table.slice(90), folder / "clicks" / "part-00001.parquet")
    return [str(folder / "clicks")]


def sequences(folder: Path) -> list[str]:
    rows = [
        " ".join([str(user), *(str(event.item) for event in EVENTS if event.user == user)][: 3 + user % 3])
        for user in range(1, 41)
    ]
    return [_write(folder / "sequences.txt", "\n".join(rows) + "\n")]


def coded(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        return f"{event.user},{event.item},{event.place % 4 + 1},,{11 + event.item % 3},{event.at:%Y-%m-%d %H}"

    header = "user_id,item_id,behavior_type,user_geohash,item_category,time"
    return [_write(folder / "tianchi_mobile.csv", lines(header, row))]


def chinese(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        return (
            f"{event.user},{event.item},{_types(event, ('浏览', '收藏', '加购', '购买'))},{event.at:%Y/%m/%d %H:%M:%S}"
        )

    return [_write(folder / "行为.csv", lines("用户ID,商品ID,行为类型,时间", row))]


def french(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        return f"{event.user};{event.item};{_types(event, ('vue', 'panier', 'achat', 'favori'))};{event.at:%d/%m/%Y %H:%M:%S}"

    return [_write(folder / "evenements.csv", lines("client_id;id_produit;évènement;horodatage", row))]


def recbole(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        return f"{event.user}\t{event.item}\t{event.item % 5}\t{_epoch(event)}"

    return [_write(folder / "games.inter", lines("user_id:token\titem_id:token\trating:float\ttimestamp:float", row))]


def pandas_index(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        return f"{event.user * 5 + event.place},{event.user},{event.item},{event.at:%Y-%m-%d %H:%M:%S}"

    return [_write(folder / "log.csv", lines(",user,item,time", row))]


def instacart(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        return f"{event.user * 5 + event.place},{event.user},{event.item},{event.place + 1},{event.item % 4}"

    header = "order_id,user_id,product_id,order_number,add_to_cart_order"
    return [_write(folder / "order_products.csv", lines(header, row))]


def baskets(folder: Path) -> list[str]:
    """Sessions without users, in a Parquet file, with times in milliseconds."""
    table = {
        "session_id": [event.user for event in EVENTS],
        "item_id": [event.item for event in EVENTS],
        "unix_ms": [_epoch(event) // 86_400 * 86_400_000 + event.place for event in EVENTS],
    }
    pq.write_table(pa.table(table), folder / "buys.parquet")
    return [str(folder / "buys.parquet")]


def taobao(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        return f"{event.user},{event.item},{100 + event.item % 4},{_types(event, ('pv', 'buy', 'cart', 'fav'))},{_epoch(event)}"

    return [_write(folder / "UserBehavior.csv", lines(None, row))]


def hashed_sessions(folder: Path) -> list[str]:
    """Sessions and products as hashes; the column with the usual name does not tell the type of an event."""

    def row(event: Event) -> str:
        kind = _types(event, ("detail", "detail", "add", "remove", "purchase"))
        return f"{event.user:040x},event_product,{kind},{event.item:064x},{_epoch(event) * 1_000}"

    header = "session_id_hash,event_type,product_action,product_sku_hash,server_timestamp_epoch_ms"
    return [_write(folder / "browsing.csv", lines(header, row))]


def order_export(folder: Path) -> list[str]:
    """Order lines by e-mail address; only the first line of an order has its status."""

    def row(event: Event) -> str:
        status = ("paid", "refunded", "", "", "")[event.place]
        return f"#{event.user},u{event.user}@shop.org,{status},{event.at:%Y-%m-%d %H:%M:%S} +0000,2,SKU-{event.item}"

    header = "Name,Email,Financial Status,Created at,Lineitem quantity,Lineitem sku"
    return [_write(folder / "orders_export.csv", lines(header, row))]


def numbered_order_items(folder: Path) -> list[str]:
    """`item_id` numbers the rows; the product is in another column."""

    def row(event: Event) -> str:
        quantity = "-1.0000" if event.place == 2 else "1.0000"
        number = event.user * 5 + event.place
        return f"{number},{number // 2},{event.at:%Y-%m-%d %H:%M:%S},24-MB{event.item},{quantity},{event.user}"

    return [_write(folder / "items.csv", lines("item_id,order_id,created_at,sku,qty_ordered,customer_id", row))]


def check_ins(folder: Path) -> list[str]:
    """No header, and coordinates before the item."""

    def row(event: Event) -> str:
        place = f"{30.2 + event.item / 100:.7f}\t{-97.7 - event.item / 100:.7f}\t{22_847 + event.item}"
        return f"{event.user}\t{event.at:%Y-%m-%dT%H:%M:%SZ}\t{place}"

    return [_write(folder / "checkins.txt", lines(None, row))]


def subclasses(folder: Path) -> list[str]:
    """No header, the user's age group and the product's group before the product, blanks at the ends."""

    def row(event: Event) -> str:
        group = f"{'ABC'[event.user % 3]} ;{110_411 + event.item % 4}"
        return f"{event.at:%Y-%m-%d} 00:00:00;{46_855 + event.user:08d}  ;{group};{4_710_199_010_372 + event.item};{event.item % 2}"

    return [_write(folder / "D11", lines(None, row))]


def blanks(folder: Path) -> list[str]:
    """A byte order mark, Windows line ends, and blanks after the commas."""

    def row(event: Event) -> str:
        return f"{event.user}, {event.item}, {event.at:%Y-%m-%d %H:%M:%S}, {_types(event, ('view', 'cart'))}\r"

    header = "\ufeffuser_id, product_id, event_time, event_type\r"
    return [_write(folder / "blanks.csv", lines(header, row))]


def missing_texts(folder: Path) -> list[str]:
    """Texts in place of missing users and items."""

    def row(event: Event) -> str:
        text = ("NULL", "\\N", "nan")[event.user % 3]
        user, item = text if event.place == 1 else event.user, text if event.place == 2 else event.item
        return f"{user},{item},{_epoch(event)}.0,{_types(event, ('view', 'cart'))}"

    return [_write(folder / "log.csv", lines("user_id,product_id,ts,evt", row))]


def russian(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        return f"{event.user};{event.item};{event.at:%d.%m.%Y %H:%M};1"

    return [_write(folder / "заказы.csv", lines("клиент;товар;дата;количество", row))]


def japanese(folder: Path) -> list[str]:
    def row(event: Event) -> str:
        return f"{event.user},{event.item},{event.at:%Y/%m/%d %H:%M},{_types(event, ('閲覧', 'カート', '購入'))}"

    return [_write(folder / "log.csv", lines("ユーザーID,商品ID,日時,イベント", row))]


def _epoch(event: Event) -> int:
    return int(event.at.timestamp())


def _write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)
