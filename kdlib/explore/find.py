"""Finds users and items by what a person types."""

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from kdlib.explore.data import MOST_FOUND, Row, find_items, find_users, has_pseudonyms
from kdlib.explore.rendering import render
from kdlib.explore.run import Run
from kdlib.explore.shop import Shop


@dataclass(frozen=True)
class Finder:
    """How a page finds what it shows."""

    address: str
    key: str
    """The column of the id."""
    label: str
    """Of the input field."""
    rows: Callable[[Shop, Run, str], list[Row]]
    """What a text finds: rows with the id, `title` where there is one, and `interactions`."""

    def only(self, shop: Shop, run: Run, text: str) -> str | None:
        """The id that a text means: the same id, or the only id that is found. None: the text finds several ids or none."""
        rows = self.rows(shop, run, text)
        return rows[0][self.key] if rows and (len(rows) == 1 or rows[0][self.key] == text) else None

    def view(self, shop: Shop, run: Run, text: str) -> Markup:
        """What a text finds, as links. An empty text finds the first users, or the most used items."""
        pseudonyms = self is USERS and has_pseudonyms(run)
        rows = self.rows(shop, run, text)
        known_key = shop.pseudonym_of is not None
        return render(
            "matches", finder=self, rows=rows, text=text, most=MOST_FOUND, pseudonyms=pseudonyms, known_key=known_key
        )


def matching_users(shop: Shop, run: Run, text: str) -> list[Row]:
    """Users whose id begins with a text. With pseudonyms, first the user whom the shop knows by exactly this id."""
    rows = find_users(run, text)
    if text and shop.pseudonym_of is not None and has_pseudonyms(run):
        rows = find_users(run, shop.pseudonym_of(text)) + rows
    return rows


USERS = Finder("/user", "user_id", "User id, or its beginning", matching_users)
ITEMS = Finder("/item", "item_id", "Words of a title, or an item id", lambda shop, run, text: find_items(run, text))
