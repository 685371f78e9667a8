"""A real browser: headless Chromium, which complains of what it does not like on a page."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, expect, sync_playwright

#: What Debian, Fedora and Google call it.
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: A page has so long for what a test waits for.
_TIMEOUT_MS = 15_000
#: What Chromium says of an answer with such a status, which is no fault of a page.
_STATUS = re.compile(r"the server responded with a status of (\d{3})")

Scheme = Literal["light", "dark"]


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """The browser, until this is left. Meanwhile its thread can't run an event loop of its own."""
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.fail("These tests need a browser: install `chromium` and put it on PATH.")
    # Root's Chromium refuses to run in a sandbox.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    expect.set_options(timeout=_TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@dataclass(frozen=True)
class Window:
    """A window with a page in it, and all that the browser has complained of."""

    page: Page
    complaints: list[str]

    def violations(self) -> str:
        """What keeps people with a disability from using this page; empty if nothing does."""
        found = Axe().run(self.page)
        return str(found.generate_report()) if found.violations_count else ""


@contextmanager
def window(
    browser: Browser,
    url: str,
    *,
    width: int = 1280,
    scheme: Scheme = "light",
    expected_statuses: tuple[int, ...] = (),
    **options: Any,
) -> Iterator[Window]:
    """A new window, with no cookies. It ends with a failure when a script broke or the content
    security policy was violated on any of its pages."""
    context = browser.new_context(
        base_url=url, viewport={"width": width, "height": 800}, color_scheme=scheme, **options
    )
    context.set_default_timeout(_TIMEOUT_MS)
    complaints: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        status = _STATUS.search(message.text)
        is_expected = status is not None and int(status[1]) in expected_statuses
        if message.type in ("error", "warning") and not is_expected:
            complaints.append(f"{message.location.get('url')}: {message.text}")

    def note(error: Error) -> None:
        complaints.append(str(error))

    page = context.new_page()
    page.on("console", hear)
    page.on("pageerror", note)
    try:
        yield Window(page, complaints)
    finally:
        context.close()
    assert not complaints
