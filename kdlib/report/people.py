"""Sample users: what they did last and what they are recommended."""

from collections.abc import Sequence

from kdlib.report.content import Night, Recommended, User
from kdlib.report.html import Content, Html, join, missing, section, tag
from kdlib.report.labels import count


def people(night: Night) -> Html:
    """A few users, side by side their history and their list."""
    if not night.users:
        return section("users", "Sample users", missing("No lists of this night to show."))
    return section("users", "Sample users", *(_user(user) for user in night.users))


def _user(user: User) -> Html:
    shown = len(user.history)
    last = f", the last {shown}" if shown < user.num_interactions else ""
    history = [(f"{time:%d %b %H:%M}", event, title) for time, event, title in user.history]
    lists = [(f"{rank}", _item(item), f"{item.score:.2f}") for rank, item in enumerate(user.recommended, start=1)]
    name = "recommended" if user.source == "model" else f"recommended ({user.source} items)"
    return tag(
        "article",
        tag("h3", f"User {user.user_id}"),
        tag(
            "div",
            _list(f"{count(user.num_interactions)} interactions{last}", ("When", "What", "Item"), history),
            _list(name, ("Rank", "Item", "Score"), lists),
            class_="pair",
        ),
    )


def _item(item: Recommended) -> Content:
    if not item.because:
        return item.title
    return join([item.title, tag("span", f"because of {', '.join(item.because)}", class_="because")])


def _list(caption: str, columns: tuple[str, ...], rows: Sequence[tuple[Content, ...]]) -> Html:
    """A small table whose headings only a screen reader needs."""
    number = [column == "Score" for column in columns]
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(
                tag("td", cell, class_="num" if right else None)
                for cell, right in zip(row[1:], number[1:], strict=True)
            ),
        )
        for row in rows
    ]
    head = tag(
        "tr",
        *(
            tag("th", column, scope="col", class_="num" if right else None)
            for column, right in zip(columns, number, strict=True)
        ),
    )
    return tag("div", tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body)))
