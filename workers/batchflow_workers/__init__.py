"""Celery workers that talk to OpenAI for every job: ``celery -A batchflow_workers worker``."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchflow_workers.app import app

__all__ = ["app"]


def __getattr__(name: str) -> Any:
    # Celery looks for the app here; the steps can be imported without its settings.
    if name != "app":
        raise AttributeError(f"module 'batchflow_workers' has no attribute {name!r}")
    from batchflow_workers.app import app

    return app
