"""The pages as NiceGUI serves them. Each view, user, item and query has an address of its own."""

from asyncio import to_thread
from collections.abc import Callable
from typing import TypeVar

import duckdb
from fastapi.responses import RedirectResponse
from markupsafe import Markup
from nicegui import app, ui
from nicegui.events import GenericEventArguments

from kdlib.errors import DistilrecError
from kdlib.explore.data import random_user
from kdlib.explore.find import ITEMS, USERS, Finder
from kdlib.explore.item import item_view
from kdlib.explore.quality import quality_view
from kdlib.explore.rendering import link, render, style
from kdlib.explore.run import Run
from kdlib.explore.search import search_view
from kdlib.explore.shop import Shop
from kdlib.explore.user import user_view

MENU = {"/user": "Users", "/item": "Items", "/quality": "Quality", "/search": "Search"}
"""Address → name in the menu."""
SECONDS = 120.0
"""How long a view may take. The first one reads the models."""
REPLACED = "The files of this run were replaced while the page read them. Load the page again."
Answer = TypeVar("Answer")


def add_pages(shop: Shop) -> None:
    """Declare all pages to NiceGUI. Each request looks up the run to show, so a switch of the run in use breaks no page."""

    @app.get("/")
    def start() -> RedirectResponse:
        return RedirectResponse("/user")

    @app.get("/random")
    def random() -> RedirectResponse:
        user, _ = _of_run(shop, random_user)
        return RedirectResponse(link("/user", id=user) if user else "/user")

    def add_finder(finder: Finder, view: Callable[[Shop, Run, str], Markup]) -> None:
        @ui.page(finder.address, response_timeout=SECONDS)
        async def found(id: str = "", find: str = "") -> RedirectResponse | None:
            find = find.strip()
            if find and (only := (await to_thread(_of_run, shop, lambda run: finder.only(shop, run, find)))[0]):
                return RedirectResponse(link(finder.address, id=only))
            await _show(
                shop,
                finder.address,
                lambda run: view(shop, run, id) if id else finder.view(shop, run, find),
                label=finder.label,
                text=find,
                finder=finder,
            )
            return None

    add_finder(USERS, user_view)
    add_finder(ITEMS, item_view)

    @ui.page("/quality", response_timeout=SECONDS)
    async def quality() -> None:
        await _show(shop, "/quality", lambda run: quality_view(shop, run))

    @ui.page("/search", response_timeout=SECONDS)
    async def search(find: str = "") -> None:
        await _show(shop, "/search", lambda run: search_view(shop, run, find), label="Query", text=find)


def _of_run(shop: Shop, ask: Callable[[Run], Answer]) -> tuple[Answer | None, str]:
    """The answer about the run to show now; or None, and the reason."""
    try:
        return ask(shop.run()), ""
    except DistilrecError as error:
        return None, str(error)
    except (OSError, duckdb.IOException):
        return None, REPLACED


def _built(shop: Shop, address: str, view: Callable[[Run], Markup]) -> tuple[Markup, Markup]:
    """The head of a page, and its content. If the view fails, the content is a sentence that says why."""
    found, fault = _of_run(shop, lambda run: (run, view(run)))
    run, content = found or (None, render("note", heading=MENU[address], text=fault))
    return render("head", shop=shop, run=run, menu=MENU, address=address), content


async def _show(
    shop: Shop,
    address: str,
    view: Callable[[Run], Markup],
    *,
    label: str = "",
    text: str = "",
    finder: Finder | None = None,
) -> None:
    """Build a page: head, input field, content.

    Args:
      shop: to show.
      address: of the page.
      view: makes the content.
      label: of the input field. Empty: the page has none.
      text: in the input field.
      finder: what is found while a person types. None: the page waits for Enter.
    """
    head, content = await to_thread(_built, shop, address, view)
    ui.page_title(f"{MENU[address]} · {shop.name} · distilrec")
    ui.add_head_html(f"<style>{style()}</style>{render('theme')}")
    with ui.header(fixed=False, wrap=False):
        ui.html(head, sanitize=False)
        form = _form(address, label, text) if label else None
    body = ui.html(content, sanitize=False).props("id=content tabindex=-1")
    if form is None or finder is None:
        return

    newest = text

    async def typed(event: GenericEventArguments) -> None:
        nonlocal newest
        newest = wanted = str(event.args).strip()
        found = await to_thread(_built, shop, address, lambda run: finder.view(shop, run, wanted))
        if wanted == newest:  # a slow answer comes after the answer to a longer text
            body.content = found[1]

    form.on("input", typed, js_handler="event => emit(event.target.value)", throttle=0.3, leading_events=False)


def _form(address: str, label: str, text: str) -> ui.element:
    """An input field with a button. Enter asks for the page's address with `find`."""
    with ui.element("form").props(f"role=search action={address} method=get") as form:
        ui.html(label, sanitize=False, tag="label").props("for=find")
        field = ui.element("input").props("id=find name=find type=search autocomplete=off spellcheck=false")
        field.props["value"] = text
        ui.html("Find", sanitize=False, tag="button").props("type=submit")
    return form
