"""Queries made from the catalogue."""

import numpy as np
import pytest

from kdlib.data.queries import normalise_query
from kdlib.search.catalogue_queries import catalogue_queries, misspelt


def test_catalogue_queries_come_from_the_products_words() -> None:
    """Queries are categories, brand with category, and neighbouring words: distinct, at most `limit`, fixed by the seed."""
    titles, descriptions = ["Acme red trekking boots 42", "Norvik red boots"], ["Sturdy leather boots", ""]
    made = catalogue_queries(titles, descriptions, ["Boots", ""], limit=40, seed=1)
    assert made == catalogue_queries(titles, descriptions, ["Boots", ""], limit=40, seed=1)
    assert len(set(made)) == len(made) <= 40
    assert {"boots", "acme boots", "red", "norvik red boots"} <= set(made)
    assert "boots norvik" not in made
    assert len(catalogue_queries(titles, descriptions, ["Boots", ""], limit=3, seed=1)) == 3
    assert catalogue_queries([], [], [], limit=5, seed=1) == []


def test_a_misspelt_query_differs_by_one_error() -> None:
    """The first letter stays, the length changes by at most one, and short queries stay."""
    generator = np.random.default_rng(1)
    spoilt = {misspelt("headphones", generator) for _ in range(200)}
    assert len(spoilt) > 40
    assert all(one.startswith("h") and abs(len(one) - 10) <= 1 for one in spoilt)
    assert misspelt("usb", generator) == "usb"
    assert misspelt("电脑", generator) == "电脑"


TITLES = [
    "Acme red trekking boots, size 42",
    "Norvik Café-table (oak) 1.5 m",
    "Acme lamp",
    "",
    "USB-C cable 2m",
    "red boots",
    "Boots",
]
DESCRIPTIONS = ["Sturdy boots for long walks & snow.", "", "Gives light; red, dimmable", "no title", "", "", ""]
CATEGORIES = ["Boots", "Garden furniture", "", "", "Cables", "Boots", ""]
MADE = [
    "cable 2m",
    "café table",
    "gives light red dimmable",
    "usb c",
    "boots",
    "red trekking boots size",
    "usb cables",
    "acme",
    "usb c cable 2m",
    "acme boots",
    "gives light red",
    "no title",
    "garden furniture",
    "for long walks",
    "for long walks snow",
    "for long",
    "size 42",
    "light red",
    "red boots",
    "cables",
    "acme lamp",
    "red",
    "norvik garden furniture",
    "red dimmable",
    "boots for long walks",
    "trekking boots",
    "usb c cable",
    "trekking boots size",
    "boots size",
    "walks snow",
]


def test_queries_of_a_catalogue_with_spaces_between_words_are_fixed() -> None:
    """The queries do not change, so a benchmark's training data can be made again."""
    assert catalogue_queries(TITLES, DESCRIPTIONS, CATEGORIES, limit=30, seed=3) == MADE


@pytest.mark.parametrize(
    "titles",
    [
        ["华为笔记本电脑 轻薄 16GB", "小米智能手机，黑色"],
        ["ソニー　ワイヤレスヘッドホン（黒）", "折りたたみ式テーブル 木製"],
        ["삼성 갤럭시 노트북 15.6인치", "엘지 냉장고 화이트"],
    ],
)
def test_queries_of_scripts_without_spaces_are_cut_out_of_the_text(titles: list[str]) -> None:
    """Each query is a piece of a title with at least two characters."""
    made = catalogue_queries(titles, ["", ""], ["", ""], limit=40, seed=1)
    assert len(made) > 5
    whole = [normalise_query(title) for title in titles]
    for query in made:
        assert query == normalise_query(query)
        assert len(query) > 1
        assert any(query in title for title in whole), query
    assert any(len(query) > 4 for query in made)


def test_words_that_are_written_whole_stay_whole() -> None:
    """A Korean word and a run of Katakana stay whole."""
    korean = catalogue_queries(["삼성 갤럭시 노트북", "엘지 노트북 거치대"], ["", ""], ["", ""], limit=40, seed=1)
    assert {word for query in korean for word in query.split()} == {"삼성", "갤럭시", "노트북", "엘지", "거치대"}
    assert "노트북" in korean
    japanese = catalogue_queries(["黒いヘッドホン", "ヘッドホン"], ["", ""], ["", ""], limit=40, seed=1)
    assert "ヘッドホン" in japanese
    assert all("ヘッドホン" in query or not set(query) & set("ヘッドホン") for query in japanese)


def test_words_of_such_scripts_are_pairs_and_stand_before_a_category() -> None:
    """Queries hold a pair of characters that two texts share, and a title's first pair with the category."""
    made = catalogue_queries(["小米智能手机", "小米手机 512G"], ["", ""], ["手机", ""], limit=60, seed=1)
    assert {"小米", "手机", "小米 手机"} <= set(made)
    assert not {"小", "米", "手", "机"} & set(made)
