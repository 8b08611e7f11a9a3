"""Chromium, and what a page of a test must not do in it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

MISSING = "the tests of the pages need Chromium, not found here: apt-get install chromium"


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium. Where there is none, tests skip; in continuous integration they fail."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None and os.environ.get("CI"):
        pytest.fail(MISSING)
    if path is None:
        pytest.skip(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page, and every fault that it had: console errors, failed requests, requests to other machines."""

    page: Page
    home: str
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: self._note(message.type in ("error", "warning"), message.text))
        self.page.on("pageerror", lambda error: self._note(True, str(error)))
        self.page.on("requestfailed", lambda request: self._note(True, f"failed: {request.url}"))
        self.page.on("response", lambda got: self._note(got.status >= 400, f"{got.status}: {got.url}"))
        self.page.on("request", lambda request: self._note(not self._is_own(request.url), f"left: {request.url}"))

    def open(self, address: str) -> str:
        """Open an address; returns the text of the first heading."""
        self.page.goto(self.home + address)
        return self.page.locator("h1").inner_text()

    def _is_own(self, url: str) -> bool:
        return url.startswith((self.home, self.home.replace("http", "ws", 1), "data:"))

    def _note(self, is_fault: bool, text: str) -> None:
        if is_fault:
            self.faults.append(text)


def watched(browser: Browser, home: str, **options: Any) -> Watched:
    """A new page in a context of its own."""
    return Watched(browser.new_context(**options).new_page(), home)
