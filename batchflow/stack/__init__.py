"""All processes on one machine, for local executions, ``batchflow run`` and ``batchflow up``."""
