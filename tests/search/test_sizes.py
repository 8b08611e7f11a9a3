"""Other spellings of sizes and model numbers."""

import pytest

from kdlib.search.sizes import split_sizes


@pytest.mark.parametrize(
    ("text", "left", "found"),
    [
        ("15.6 inch", "", ["15", "15.6inch"]),
        ('Notebook 39.6 cm (15,6")', "notebook ( )", ["39", "39.6cm", "15", "15.6inch"]),
        ("15.6″", "", ["15", "15.6inch"]),
        ("笔记本15.6英寸显示屏", "笔记本 显示屏", ["15", "15.6inch"]),
        ("17.0 Zoll", "", ["17", "17inch"]),
        ("16 GB", "", ["16", "16gb"]),
        ("16gb", "", ["16", "16gb"]),
        ("1-TB", "", ["1", "1tb"]),
        ("2.0 megapixels", "", ["2", "2mp"]),
        ("305XL", "305xl", ["305", "xl"]),
        ("TN-2110", "tn-2110", ["tn2110"]),
        ("tn2110", "tn2110", ["tn", "2110"]),
        ("i7 ddr3 802.11b", "i7 ddr3 802.11b", []),
        ("2 in 1 gbic", "2 in 1 gbic", []),
        ("1,000.50 gb", "1,000.50 gb", []),  # such a number has more than one reading
    ],
)
def test_a_size_has_one_word_in_all_spellings(text: str, left: str, found: list[str]) -> None:
    """Decimal signs, blanks, hyphens and names of a unit make no difference, and model numbers also give their parts."""
    rest, sizes = split_sizes(text)
    assert (" ".join(rest.split()), sizes) == (left, found)
