"""A thread pool for Celery whose steps can be ended: a worker must stop when it is asked to."""

import logging
import os
from typing import NoReturn

from celery.concurrency.thread import TaskPool

logger = logging.getLogger(__name__)


class ThreadPool(TaskPool):
    """Threads that end with their process when Celery ends a step."""

    def terminate_job(self, pid: int, signal: int | None = None) -> NoReturn:
        """Exit: the time for a shutdown is over, or an operator revoked a step.

        Celery's own pool raises an error here and then waits for its threads. A step may be killed
        at any point, so nothing is lost.
        """
        logger.warning("Exiting with steps in threads; other workers continue them")
        logging.shutdown()
        os._exit(os.EX_OK)
