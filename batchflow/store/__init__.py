"""The job store: the authoritative records of all jobs, in Redis."""

from batchflow.store.connection import connect, connect_async, warn_of_eviction
from batchflow.store.job_store import AsyncJobStore, JobStore

__all__ = ["AsyncJobStore", "JobStore", "connect", "connect_async", "warn_of_eviction"]
