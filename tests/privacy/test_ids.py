"""Many ids are found in a text exactly where each would be found alone."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlib.privacy.ids import FEW, Ids, _word, is_unmistakable

PIECES = [
    "anna",
    "u9",
    "42",
    "é",
    "ü",
    "日",
    ".",
    "-",
    "@",
    '"',
    "\\",
    " ",
    "'",
    "_",
    "a.b@c.de",
    "x",
    "\n",
    "user ",
    "0",
]
ids = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join).filter(str.strip)
texts = st.lists(st.one_of(st.sampled_from(PIECES), ids, ids.map(json.dumps)), max_size=12).map("".join)


@given(st.lists(ids, min_size=1, max_size=6), texts)
def test_a_word_is_found_among_many_as_alone(user_ids: list[str], text: str) -> None:
    """Whatever an id is made of: blanks, quotes, marks, letters outside ASCII, and its JSON form in the text."""
    alone = {one for one in user_ids if _word(one).search(text)}
    assert alone <= set(Ids(user_ids).may_stand_in(text.encode()))
    assert Ids(user_ids).stand_in(text.encode()) == bool(alone)


@given(st.lists(ids, min_size=1, max_size=6), texts)
def test_a_log_line_names_an_id_among_many_as_alone(user_ids: list[str], text: str) -> None:
    """An id that may be a number or a word counts after `user` alone."""
    line = f"user {text}".encode()
    assert Ids(user_ids).are_named_in(line) == any(Ids([one]).are_named_in(line) for one in user_ids)


@pytest.mark.parametrize("num_others", [0, FEW])
def test_an_id_is_found_in_a_file_that_is_no_text(num_others: int) -> None:
    """Between bytes that are no UTF-8, in capital letters of a JSON escape, and not as a part of another word."""
    others = [f"ab{number:030}" for number in range(num_others)]
    for user_id in ("0123456789abcdef0123456789abcdef", "anna.k@shop.example", "9f1c2d3e-0000-4000-8000-5a6b7c8d9e0f"):
        assert is_unmistakable(user_id)
        many = Ids([user_id, *others])
        name = user_id.encode()
        assert many.are_in_file(b"\xff\x80" + name + b"\xfe")
        assert many.are_in_file(b"\0" + name)
        assert not many.are_in_file(b"x" + name)
        assert not many.are_in_file(name + b"0\xff")
        assert not many.are_in_file(name[:-1])


@pytest.mark.parametrize("escape", [r"\u00fc", r"\u00FC"])
def test_a_json_escape_counts_in_either_case(escape: str) -> None:
    """Each program writes its own."""
    assert Ids(["über", "other"]).stand_in(f'{{"user": "{escape}ber", "item'.encode())
