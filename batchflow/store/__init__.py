"""The job store: records in Redis, which are the truth about every job."""

from batchflow.store.connection import connect, connect_async, warn_of_eviction
from batchflow.store.job_store import AsyncJobStore, JobStore

__all__ = ["AsyncJobStore", "JobStore", "connect", "connect_async", "warn_of_eviction"]
