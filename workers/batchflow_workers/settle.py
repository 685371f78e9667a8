"""How long to wait until OpenAI's lists show what a request with an unknown outcome has made."""

from batchflow.jobs import Job
from batchflow.store import commands
from batchflow_workers.runtime import Runtime


def still_settling(runtime: Runtime, job: Job) -> float:
    """Seconds until looking is worth while; 0 when it is now."""
    tried_at = (job.tried_at or job.created_at).timestamp()
    now_s = runtime.store.run(commands.time())
    return max(0.0, tried_at + runtime.settings.settle_s - now_s)
