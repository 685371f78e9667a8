"""Placing an order and waiting for the end, for a process that has nothing else to do."""

import logging
import time

from batchflow.errors import StoreUnavailable
from batchflow.flyte.orders import next_order
from batchflow.jobs import Job, Order
from batchflow.queue import FIRST_NUDGE_S, STEP_OF, QueueUnavailable, Sender
from batchflow.store import JobStore, commands

logger = logging.getLogger(__name__)


def place(store: JobStore, sender: Sender, order: Order) -> Order:
    """Record a job and tell the workers; returns the order that stands, see ``next_order``."""
    while True:
        created = store.run(commands.create(order, due_in_s=FIRST_NUDGE_S))
        following = next_order(order, created)
        if following is None:
            break
        order = following
    if created.new:
        try:
            sender.send(STEP_OF[order.spec.kind], order.job_id)
        except QueueUnavailable as error:
            logger.warning("%s: the sweep will send it: %s", order.job_id, error)
    return order


def wait(store: JobStore, order: Order, *, every_s: float) -> Job:
    """Watch a job until it ends. Redis may be away meanwhile, or forget the job."""
    while True:
        try:
            job = store.run(commands.get(order.job_id))
            if job is None:
                store.run(commands.create(order, due_in_s=0, source="get", remade=True))
            elif job.terminal:
                return job
        except StoreUnavailable as error:
            logger.warning("%s: %s", order.job_id, error)
        time.sleep(every_s)
