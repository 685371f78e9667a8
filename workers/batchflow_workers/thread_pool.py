"""Celery's pool of threads, with an end: a worker that is told to stop must not stay for hours."""

import logging
import os
from typing import NoReturn

from celery.concurrency.thread import TaskPool

logger = logging.getLogger(__name__)


class ThreadPool(TaskPool):
    """Threads that end with their process when Celery wants a step ended."""

    def terminate_job(self, pid: int, signal: int | None = None) -> NoReturn:
        """Leave the process: a shutdown's time is up, or somebody has revoked a step.

        Celery's own pool raises an error here and then waits for its threads. A step can be killed
        at any point, so nothing is lost.
        """
        logger.warning(
            "Steps in threads end with their process; other workers take them up where they are"
        )
        logging.shutdown()
        os._exit(os.EX_OK)
