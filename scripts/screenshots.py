"""Take the screenshots of the status page in docs/images.

    .venv/bin/python -m scripts.screenshots

A real gateway shows the demonstration fleet (scripts/fleet.py), in a Redis of its own.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
from playwright.sync_api import Browser, expect
from redis import Redis

from batchflow.stack import process_commands
from batchflow.stack.processes import Processes, free_port, is_port_taken
from scripts.fleet import Fleet
from tests.kit.browser import running_chromium

IMAGES = Path(__file__).parent.parent / "docs" / "images"


@dataclass(frozen=True)
class Picture:
    """A screenshot: its file, its page, and the size of the window."""

    name: str
    path: str = "/"
    scheme: Literal["light", "dark"] = "light"
    width: int = 1280
    height: int = 940


@click.command()
def main() -> None:
    """Take the screenshots of the status page in docs/images."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with running_chromium() as browser, gateway() as (url, fleet):
        pictures = [
            Picture("status-page"),
            Picture("status-page-dark", scheme="dark"),
            Picture("status-page-job", f"/jobs/{fleet.partly_failed}"),
            Picture("status-page-phone", "/?state=running", width=390, height=844),
        ]
        for picture in pictures:
            take(browser, url, picture)


def take(browser: Browser, url: str, picture: Picture) -> None:
    """Take a screenshot."""
    context = browser.new_context(
        base_url=url,
        viewport={"width": picture.width, "height": picture.height},
        color_scheme=picture.scheme,
        device_scale_factor=2,
    )
    page = context.new_page()
    page.goto(picture.path)
    expect(page.locator("#connection")).to_have_text("Live")
    path = IMAGES / f"{picture.name}.png"
    page.screenshot(path=path)
    context.close()
    click.echo(path.relative_to(IMAGES.parent.parent))


@contextmanager
def gateway() -> Iterator[tuple[str, Fleet]]:
    """Run a gateway over a Redis with a fleet."""
    processes = Processes()
    try:
        redis_port, port = free_port(), free_port()
        redis_url = f"redis://127.0.0.1:{redis_port}/0"
        name, command = process_commands.redis(redis_port, str(processes.folder))
        redis = processes.start(name, command, os.environ, stop_last=True)
        processes.wait_until(redis, lambda: is_port_taken(redis_port))
        env = {
            **os.environ,
            "BATCHFLOW_REDIS_URL": redis_url,
            "BATCHFLOW_FLYTE_CONSOLE_URL": "https://flyte.example.com/console",
        }
        child = processes.start("gateway", process_commands.gateway(port), env)
        processes.wait_until(child, lambda: is_port_taken(port))
        # Fill Redis last, so that the fleet does not age while processes start.
        with Redis.from_url(redis_url, decode_responses=True) as client:
            fleet = Fleet(client, "batchflow")
            fleet.fill()
        yield f"http://127.0.0.1:{port}", fleet
    finally:
        processes.stop()


if __name__ == "__main__":
    main()
