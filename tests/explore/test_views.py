"""The content of each view, as HTML text."""

import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from jobs.explore import shop_of
from kdlib.config.load import load_config
from kdlib.errors import ConfigError
from kdlib.explore import search
from kdlib.explore.find import ITEMS, USERS
from kdlib.explore.item import item_view
from kdlib.explore.pages import _built
from kdlib.explore.quality import quality_view
from kdlib.explore.rendering import link
from kdlib.explore.run import Run
from kdlib.explore.shop import Shop
from kdlib.explore.user import compare, user_view
from kdlib.privacy.pseudonyms import pseudonym
from tests.explore import made_shop
from tests.explore.made_shop import BEFORE, EVIL, KEY, user_id


def _text(html: str) -> str:
    """The text of some HTML, with single blanks."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", "", html))).strip()


def test_two_lists_are_compared_item_by_item() -> None:
    """An item is new, gone, the same, or has moved by some places; items that are gone come last."""
    found = compare(["a", "b", "c", "d"], ["b", "x", "c", "a", "y"])
    assert [(one.item_id, one.change, one.rank, one.before) for one in found] == [
        ("a", "up 3", 1, 4),
        ("b", "down 1", 2, 1),
        ("c", "same", 3, 3),
        ("d", "new", 4, None),
        ("x", "gone", None, 2),
        ("y", "gone", None, 5),
    ]
    assert compare([], []) == []


def test_a_user_s_page_has_every_part(shop: Shop, run: Run) -> None:
    """History, published list with reasons, the list before, and a list of each model stand on one page."""
    text = _text(user_view(shop, run, user_id(5)))
    for expected in (
        "User user0005",
        "5 interactions, newest first",
        "Made by the model (version ",
        "UTC. Variant of the A/B test: green. The list",
        "because of Red lamp 27",
        "how each item has moved since 21\u00a0Nov",
        "Gone since 21",
        "5 of 5 are in the published list",
        "student without teacher",
        "rules",
    ):
        assert re.sub(r"\s+", " ", expected) in text, expected
    popular = _text(user_view(shop, run, user_id(8)))
    assert "Popular items, because the user has no usable history" in popular
    assert popular.count("The model knows no item of this history, so it has no scores.") == 4


def test_the_first_run_has_no_list_before(config: Path) -> None:
    """The page of a date without earlier lists says so."""
    shop = replace(shop_of(load_config(str(config)), of_day=False), ds=BEFORE)
    assert "No earlier list is published to compare with." in _text(user_view(shop, shop.run(), user_id(5)))


def test_strangers_get_a_sentence(shop: Shop, run: Run) -> None:
    """An unknown user and an unknown item are named on the page, as text and not as markup."""
    for view in (user_view, item_view):
        html = view(shop, run, EVIL)
        assert "<script" not in html
        assert "The run of Sunday, 22 November 2026 has no " in html
    assert "No item's title or id matches “%”." in _text(ITEMS.view(shop, run, "%"))
    assert "No user's id begins with “x”." in _text(USERS.view(shop, run, "x"))


def test_an_item_s_page_names_its_neighbours(shop: Shop, run: Run) -> None:
    """An item's page has counts, and neighbours of student, teacher and control, but not of rules."""
    text = _text(item_view(shop, run, "item004"))
    assert "Blue lamp 4" in text
    assert "Interactions1,004" in text.replace(" ", "")
    assert "It gives light." in text
    assert "This teacher counts rules. It has no item vectors" in text
    assert "out of stock" in _text(item_view(shop, run, "item007"))


def test_made_up_times_are_told(shop: Shop, run: Run) -> None:
    """Where the input has no times, the history says that its days are made up."""
    told = "The input has no times. Days are made up"
    assert told not in _text(user_view(shop, run, user_id(5)))
    assert told in _text(user_view(replace(shop, made_up_times=True), run, user_id(5)))


def test_what_a_text_means_is_opened_at_once(shop: Shop, run: Run) -> None:
    """The page opens at once if a text is an id or finds a single id."""
    assert USERS.only(shop, run, "user0007") == "user0007"
    assert USERS.only(shop, run, "user000") is None
    assert ITEMS.only(shop, run, "red lamp 59") == "item059"
    assert ITEMS.only(shop, run, "red lamp") is None
    assert ITEMS.only(shop, run, "nothing") is None


def test_quality_has_metrics_gates_and_sizes(shop: Shop, run: Run) -> None:
    """The page has the verdict, then the sections of the report, then the widths that were tried."""
    html = quality_view(shop, run)
    for anchor in ("distillation", "gates", "quality", "models", "drift", "sizes"):
        assert f'<section id="{anchor}"' in html
    assert "Published: 40 users have their lists; the one gate passed." in html
    assert "student of width 8 0.2500; student of width 16 0.2900; teachers together 0.3000" in html


def test_search_finds_products(shop: Shop, run: Run) -> None:
    """Found products have a category and a score, and the search's note is a sentence."""
    text = _text(search.search_view(shop, run, "blue lamp 12"))
    assert "1Bluelamp12lamps1.0000" in text.replace(" ", "")
    assert "Searched for 'lamp' in place of 'lmap'." in _text(search.search_view(shop, run, "lmap")).replace(
        "&#39;", "'"
    )
    assert "Type a query to see" in search.search_view(shop, run, " ")


def test_a_run_without_search_says_how_to_get_it(shop: Shop, run: Run) -> None:
    """The page names the missing section of the run config, or the missing extra."""
    bare = replace(run, versions={"recommendations": "v"})
    assert "has no product search. Add the section search to the run config" in search.search_view(shop, bare, "lamp")
    missing = replace(shop, search_missing="product search needs bm25s.")
    assert "product search needs bm25s." in search.search_view(missing, run, "lamp")


def test_files_that_are_gone_cost_only_this_page(tmp_path: Path) -> None:
    """If a later run removes the files, the page says what to do and keeps its menu."""
    config = made_shop.put_shop(tmp_path)
    shop = shop_of(load_config(str(config)), of_day=False)
    shutil.rmtree(shop.run().folder("histories"))
    head, content = _built(shop, "/user", lambda run: user_view(shop, run, user_id(5)))
    assert "The files of this run were replaced while the page read them. Load the page again." in content
    assert '<a href="/quality">Quality</a>' in head
    shutil.rmtree(shop.root)
    assert "nothing is published for 2026-11-22" in _built(shop, "/user", lambda run: user_view(shop, run, "x"))[1]


def test_a_missing_extra_is_told_on_the_page(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra `search`, the other pages work and the search page names what is missing."""
    from jobs import explore

    def missing() -> None:
        raise ConfigError("product search needs bm25s, not installed here: the extra `search`")

    monkeypatch.setattr(explore, "check_search_extra", missing)
    shop = shop_of(load_config(str(config)), of_day=False)
    assert shop.search_missing == "product search needs bm25s, not installed here: the extra `search`."


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run config of a shop with pseudonyms."""
    return made_shop.put_shop(tmp_path_factory.mktemp("secret"), pseudonyms=True)


def test_with_the_key_the_shop_s_own_ids_are_found(secret: Path) -> None:
    """With the key, the shop's own user id opens the page of its pseudonym."""
    shop = shop_of(load_config(str(secret)), of_day=False)
    run, hidden = shop.run(), pseudonym(KEY, user_id(5))
    assert USERS.only(shop, run, user_id(5)) == hidden
    assert USERS.only(shop, run, hidden) == hidden
    assert USERS.only(shop, run, "user0999") is None
    assert "Type the shop's own id in full, or the beginning of a pseudonym." in USERS.view(shop, run, "")
    assert "This id is a pseudonym." in user_view(shop, run, hidden)
    assert "User ids are pseudonyms in this run." in user_view(shop, run, "user0005")


def test_without_the_key_only_pseudonyms_are_found(secret: Path) -> None:
    """Without the key, the page says that only pseudonyms are found; an unreadable key is an error in a sentence."""
    shop = shop_of(load_config(str(secret)), of_day=False)
    bare = replace(shop, pseudonym_of=None)
    assert USERS.only(bare, bare.run(), user_id(5)) is None
    assert "The run config names no key" in USERS.view(bare, bare.run(), "")
    key = secret.parent / "key"
    key.rename(secret.parent / "elsewhere")
    try:
        with pytest.raises(ConfigError, match="no pseudonym key: cannot read"):
            USERS.only(shop, shop.run(), user_id(5))
    finally:
        (secret.parent / "elsewhere").rename(key)


def test_addresses_hold_any_id() -> None:
    """Signs that mean something in addresses are encoded."""
    assert link("/user", id="a b&c=d#/é") == "/user?id=a+b%26c%3Dd%23%2F%C3%A9"
