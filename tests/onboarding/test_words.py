"""Names of columns and event types in several languages."""

import pytest

from kdlib.onboarding.words import event_type_of, role_score, type_of_file


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("user_id", "user"),
        ("Customer ID", "user"),
        ("reviewerID", "user"),
        ("KUNDENNUMMER", "user"),
        ("用户ID", "user"),
        ("id_utilisateur", "user"),
        ("session ID", "session"),
        ("product_id", "item"),
        ("StockCode", "item"),
        ("user_id:token", "user"),
        ("Artikel-Nr.", "item"),
        ("unixReviewTime", "time"),
        ("événement", "event_type"),
        ("behavior_type", "event_type"),
        ("E-Mail", "user"),
        ("ユーザーID", "user"),
        ("клиент", "user"),
        ("id_prodotto", "item"),
    ],
)
def test_a_column_name_is_known(name, role):
    """Case, signs between words, accents and RecBole's types do not matter."""
    assert role_score(name, role) >= 3


def test_part_of_a_name_is_a_weaker_hint():
    """`page 2 (clothing model)` may be the item, `model photography` hardly, `colour` not. Chinese writes no blanks between words."""
    scores = [role_score(name, "item") for name in ("item", "page 2 (clothing model)", "model photography", "colour")]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] == 0
    assert role_score("下单用户名", "user") == 2


@pytest.mark.parametrize(
    ("value", "ours"),
    [
        ("pv", "view"),
        ("view_item", "view"),
        ("Product Viewed", "view"),
        ("addToCart", "cart"),
        ("in den Warenkorb", "cart"),
        ("fav", "favourite"),
        ("add_to_wishlist", "favourite"),
        ("buy", "purchase"),
        ("Kauf", "purchase"),
        ("achat", "purchase"),
        ("compra", "purchase"),
        ("购买", "purchase"),
        ("加购", "cart"),
        ("remove_from_cart", ""),
        ("refund", ""),
        ("Product Added", "cart"),
        ("carts", "cart"),
        ("Product Added to Wishlist", "favourite"),
        ("Order Refunded", ""),
        ("просмотр", "view"),
        ("search", ""),
        ("foo", None),
        ("", None),
    ],
)
def test_an_event_type_is_known(value, ours):
    """A shop's event types become ours; returns and removals are known, and no events."""
    assert event_type_of(value) == ours


def test_a_files_name_tells_the_type():
    """`buys.parquet` holds purchases, `clickstream.csv.gz` views, `export.csv` says nothing."""
    names = ("buys.parquet", "online_retail.parquet", "clickstream.csv.gz", "export.csv")
    assert [type_of_file(name) for name in names] == ["purchase", "purchase", "view", None]
