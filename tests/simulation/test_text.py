"""Fixed-width texts against Python's own formatting."""

from datetime import UTC, date, datetime, timedelta
from ipaddress import ip_address

import numpy as np
import pytest

from kdlib.simulation.names import category_names
from kdlib.simulation.text import address_texts, number_texts, scrambled_hex_texts, time_texts


def test_numbers_have_leading_zeros() -> None:
    """The text is what Python's format gives."""
    numbers = [0, 9, 10, 123_456, 99_999_999]
    assert number_texts("i", np.array(numbers), 8).to_pylist() == [f"i{number:08d}" for number in numbers]


def test_times_are_iso_text_in_utc() -> None:
    """The text reads back as the same moment, also across a leap day and a year's end."""
    rng = np.random.default_rng(0)
    for first in (date(2024, 2, 28), date(2025, 12, 30)):
        times = np.concatenate([[0, 86_399_999, 86_400_000], rng.integers(0, 5 * 86_400_000, 50)])
        start = datetime(first.year, first.month, first.day, tzinfo=UTC)
        read = [datetime.fromisoformat(text) for text in time_texts(times, first).to_pylist()]
        assert read == [start + timedelta(milliseconds=int(time)) for time in times]


def test_scrambled_texts_stay_distinct() -> None:
    """Each number has its own text of 16 hexadecimal digits, also across blocks."""
    numbers = np.concatenate([np.arange(50_000), (np.uint64(3) << np.uint64(32)) + np.arange(50_000, dtype=np.uint64)])
    texts = scrambled_hex_texts(numbers).to_pylist()
    assert len(set(texts)) == 100_000
    assert {len(text) for text in texts} == {16}
    assert len({text[:2] for text in texts}) == 256


def test_addresses_are_private_and_steady() -> None:
    """The addresses are valid 10.x.y.z, the same for the same number and different for most numbers."""
    texts = address_texts(np.array([1, 2, 3, 1])).to_pylist()
    assert texts[0] == texts[3]
    assert len(set(texts)) == 3
    assert all(ip_address(text).is_private for text in texts)


def test_no_rows_give_empty_columns() -> None:
    """Zero numbers give zero texts."""
    assert number_texts("i", np.array([], np.int64), 8).to_pylist() == []
    assert time_texts(np.array([], np.int64), date(2026, 1, 1)).to_pylist() == []


def test_text_columns_beyond_arrows_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than 32-bit offsets can count are an error, not wrong texts."""
    monkeypatch.setattr("kdlib.simulation.text._MOST_BYTES", 100)
    with pytest.raises(ValueError, match="13 texts of 9 bytes"):
        number_texts("i", np.arange(13), 8)


def test_category_names_are_distinct_at_any_number() -> None:
    """Neighbours share a noun, and 3,000 categories have 3,000 names."""
    names = category_names(3_000)
    assert len(set(names)) == 3_000
    assert names[:2] == ["hiking boots", "winter boots"]
