"""The pages in a real browser: every view in light and in dark, at a desk and on a telephone, by keyboard alone."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from kdlib.config.load import load_config
from kdlib.release import promotions
from tests import whole_nights
from tests.explore.browser import chromium, watched
from tests.explore.made_shop import BEFORE, DS, EVIL

VIEWS = {
    "/user": "Users",
    "/user?find=user00": "Users",
    "/user?find=nobody": "Users",
    "/user?id=user0005": "User user0005",
    "/user?id=user0008": "User user0008",
    "/user?id=nobody": "Unknown user",
    "/item": "Items",
    "/item?id=item000": EVIL,
    "/item?id=item001": "Item item001 (no title)",
    "/item?id=nothing": "Unknown item",
    "/quality": "Run of Sunday, 22 November 2026",
    "/search": "Search",
    "/search?find=red+lamp": "Search",
}
"""Address → heading."""


@pytest.fixture(scope="module")
def home(config: Path) -> Iterator[str]:
    """The address of `distilrec explore` on the shop. It ends without an error when it is interrupted."""
    command = [sys.executable, "-m", "jobs", "explore", "--config", str(config), "--port", "0", "--no-browser"]
    process = subprocess.Popen(
        command,
        cwd=whole_nights.HOME,
        env=whole_nights.environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    found = re.fullmatch(r"explore: lamps, (http://127\.0\.0\.1:\d+); Ctrl-C ends it\n", first)
    if found is None:
        process.kill()
        pytest.fail(first + process.stdout.read())
    yield found[1]
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert process.stdout.read() == ""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_every_view_is_sound(home: str, browser: Browser, scheme: str, width: int) -> None:
    """No view breaks a rule of axe, has an error, asks another machine, or is wider than the screen."""
    view = watched(browser, home, color_scheme=scheme, viewport={"width": width, "height": 800})
    for address, heading in VIEWS.items():
        assert view.open(address) == heading
        assert Axe().run(view.page).response["violations"] == [], address
        assert view.page.evaluate("document.documentElement.scrollWidth") <= width, address
        dark = _background(view.page) == "rgb(20, 23, 27)"
        assert dark == (scheme == "dark")
    assert view.faults == []


def test_a_user_is_found_with_the_keyboard_alone(home: str, browser: Browser) -> None:
    """Tab leads to the field, typing lists matching users, and Tab and Enter open one of them."""
    view = watched(browser, home)
    view.open("/")
    _tab_to(view.page, "find")
    view.page.keyboard.type("user001")
    expect(view.page.get_by_role("status")).to_have_text("10 for “user001”:")
    _tab_to(view.page, "user0013")
    view.page.keyboard.press("Enter")
    expect(view.page.get_by_role("heading", level=1)).to_have_text("User user0013")
    assert view.page.url.endswith("/user?id=user0013")
    _tab_to(view.page, "find")
    view.page.keyboard.type("user0021\n")
    expect(view.page.get_by_role("heading", level=1)).to_have_text("User user0021")
    assert view.faults == []


def test_the_first_tab_skips_to_the_content(home: str, browser: Browser) -> None:
    """The first Tab reaches a link that skips the menu."""
    view = watched(browser, home)
    view.open("/user")
    view.page.keyboard.press("Tab")
    view.page.keyboard.press("Enter")
    view.page.keyboard.press("Tab")
    assert view.page.evaluate("document.activeElement.textContent") == "Take a random user"


def test_items_are_found_while_one_types(home: str, browser: Browser) -> None:
    """The matches of the last text are shown, and a title from the data is never markup."""
    view = watched(browser, home)
    view.open("/item")
    view.page.get_by_label("Words of a title, or an item id").type("far too long", delay=20)
    expect(view.page.get_by_role("status")).to_have_text("1 for “far too long”:")
    view.page.get_by_role("link", name=EVIL).click()
    expect(view.page.get_by_role("heading", level=1)).to_have_text(EVIL)
    assert view.faults == []


def test_the_toggle_wins_over_the_browser(home: str, browser: Browser) -> None:
    """The button switches a dark browser to light on all pages, and back."""
    view = watched(browser, home, color_scheme="dark")
    view.open("/user")
    dark = _background(view.page)
    _tab_to(view.page, "Light or dark")
    view.page.keyboard.press("Enter")
    assert _background(view.page) == "rgb(255, 255, 255)"
    view.open("/quality")
    assert _background(view.page) == "rgb(255, 255, 255)"
    view.page.get_by_role("button", name="Light or dark").click()
    assert _background(view.page) == dark == "rgb(20, 23, 27)"


def test_a_random_user_has_a_page(home: str, browser: Browser) -> None:
    """The link to a random user leads to the page of a user."""
    view = watched(browser, home)
    view.open("/user")
    view.page.get_by_role("link", name="Take a random user").click()
    expect(view.page.get_by_role("heading", level=1)).to_contain_text("User user00")


def test_a_switch_of_the_run_in_use_breaks_no_page(config: Path, home: str, browser: Browser) -> None:
    """After a switch an open page still works, and the next page shows the new run in use."""
    root = load_config(str(config)).root
    view = watched(browser, home)
    view.open("/user")
    shown = view.page.locator("header .over")
    expect(shown).to_contain_text(f"run of {DS}, in use")
    now = promotions.current(root)
    assert now is not None
    assert now.ds == DS
    promotions.rollback(root, BEFORE)
    try:
        view.page.get_by_label("User id, or its beginning").fill("user002")
        expect(view.page.get_by_role("status")).to_have_text("10 for “user002”:")
        view.page.get_by_role("link", name="user0021").click()
        expect(shown).to_contain_text(f"run of {BEFORE}, in use")
    finally:
        promotions.promote(root, DS, now.versions)
    assert view.faults == []


def test_other_names_of_this_machine_are_refused(home: str, browser: Browser) -> None:
    """A request by another host name gets nothing, even if the name leads to 127.0.0.1 (DNS rebinding)."""
    import http.client

    port = int(home.rpartition(":")[2])
    for host, status in (("evil.example", 400), ("localhost", 307), ("127.0.0.1", 307)):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/", headers={"Host": f"{host}:{port}"})
        assert connection.getresponse().status == status


def test_without_a_browser_continuous_integration_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a browser the tests fail with `CI` set and skip elsewhere, and both texts say what to install."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    for ci, outcome in (("true", pytest.fail.Exception), ("", pytest.skip.Exception)):
        monkeypatch.setenv("CI", ci)
        with pytest.raises(outcome, match="need Chromium, not found here: apt-get install chromium"), chromium():
            pass


def _background(page: Page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def _tab_to(page: Page, wanted: str) -> None:
    """Press Tab until the element with this id or text has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate("[document.activeElement.id, document.activeElement.textContent.trim()]")
        if wanted in focused:
            return
    raise AssertionError(f"expected Tab to reach {wanted!r}, found it nowhere")
