"""A real browser: headless Chromium, which reports errors on a page."""

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

#: The names of the program in Debian, Fedora and Google's packages.
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: The time within which a page must fulfil an expectation.
_TIMEOUT_MS = 15_000
#: Chromium's report of an error status, which is not an error of the page.
_STATUS = re.compile(r"the server responded with a status of (\d{3})")

Scheme = Literal["light", "dark"]


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """Run the browser. Meanwhile, this thread can't run another event loop."""
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.fail("These tests need a browser. Install `chromium` and add it to PATH.")
    # Root's Chromium refuses to run in a sandbox.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    expect.set_options(timeout=_TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@dataclass(frozen=True)
class Window:
    """A window with a page, and the errors that the browser reported."""

    page: Page
    complaints: list[str]

    def violations(self) -> str:
        """The accessibility violations of the page; empty if there are none."""
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
    """Open a window without cookies. Fails at the end if a script raised an error or violated the
    content security policy."""
    context = browser.new_context(
        base_url=url, viewport={"width": width, "height": 800}, color_scheme=scheme, **options
    )
    context.set_default_timeout(_TIMEOUT_MS)
    complaints: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        status = _STATUS.search(message.text)
        is_expected = status is not None and int(status[1]) in expected_statuses
        if message.type in ("error", "warning") and not is_expected:
            complaints.append(f"{message.location.get('url')}: {message.text}")

    def on_page_error(error: Error) -> None:
        complaints.append(str(error))

    page = context.new_page()
    page.on("console", on_console)
    page.on("pageerror", on_page_error)
    try:
        yield Window(page, complaints)
    finally:
        context.close()
    assert not complaints
