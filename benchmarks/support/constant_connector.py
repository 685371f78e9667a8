"""A connector with constant responses, to measure the cost of flytekit's gRPC server.

Run ``pyflyte serve connector --modules benchmarks.support.constant_connector``. `create` returns a
ResourceMeta as long as Batchflow's; `get` returns a Resource like that of a running batch.
"""

from dataclasses import dataclass
from typing import Any

from flyteidl.core.execution_pb2 import TaskExecution, TaskLog
from flytekit.extend.backend.base_connector import (
    AsyncConnectorBase,
    ConnectorRegistry,
    Resource,
    ResourceMeta,
)

_BATCH_ID = "batch_0123456789abcdef0123456789abcdef"
_RUNNING = Resource(
    phase=TaskExecution.RUNNING,
    message="in_progress: 500 of 1000",
    custom_info={
        "job_id": "bf-abcdefghijklmnopqrstuvwxyz",
        "state": "running",
        "openai_status": "in_progress",
        "batch_id": _BATCH_ID,
        "input_file_id": "file-input-0123456789abcdef",
        "organization": "org-benchmark",
        "request_counts": {"total": 1000, "completed": 500, "failed": 0},
    },
    log_links=[
        TaskLog(name="OpenAI batch", uri=f"https://platform.openai.com/batches/{_BATCH_ID}")
    ],
)
_BARE = Resource(phase=TaskExecution.RUNNING)


@dataclass
class _Meta(ResourceMeta):  # type: ignore[misc]  # flytekit is untyped
    def encode(self) -> bytes:
        return b"x" * 400

    @classmethod
    def decode(cls, data: bytes) -> "_Meta":
        return cls()


class _Constant(AsyncConnectorBase):  # type: ignore[misc]  # flytekit is untyped
    """Always returns the same response."""

    def __init__(self, task_type: str, answer: Resource) -> None:
        super().__init__(task_type_name=task_type, metadata_type=_Meta)
        self.name = f"Constant {task_type}"
        self._answer = answer

    async def create(self, **_: Any) -> _Meta:
        return _Meta()

    async def get(self, **_: Any) -> Resource:
        return self._answer

    async def delete(self, **_: Any) -> None:
        pass


#: The task type whose responses have only a phase.
PHASE_ONLY_TASK_TYPE = "constant-bare"

ConnectorRegistry.register(_Constant("openai-batch", _RUNNING), override=True)
ConnectorRegistry.register(_Constant(PHASE_ONLY_TASK_TYPE, _BARE))
