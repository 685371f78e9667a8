"""Celery workers that talk to OpenAI for every job: ``celery -A batchflow_workers worker``."""

from batchflow_workers.app import app

__all__ = ["app"]
