"""Fixtures of the status page's tests: a browser, a gateway, and a page of it."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page

from batchflow.settings import Settings
from tests.kit.browser import running_chromium, window
from tests.kit.gateway import Gateway
from tests.kit.status_page import old_gateway


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the tests of a module."""
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def gateway(settings: Callable[..., Settings]) -> Iterator[Gateway]:
    """A gateway without a token."""
    with old_gateway(settings()) as gateway:
        yield gateway


@pytest.fixture
def page(browser: Browser, gateway: Gateway) -> Iterator[Page]:
    """A window of the browser."""
    with window(browser, gateway.url, expected_statuses=(404,)) as opened:
        yield opened.page
