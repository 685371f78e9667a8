"""OpenAI batches from Flyte at scale.

Importing this pulls in neither Celery, Redis nor OpenAI, and flytekit only when a name is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchflow.flyte.images import OpenAIFileDefaultImages
    from batchflow.flyte.results import BatchResult
    from batchflow.flyte.tasks import (
        BatchEndpointTask,
        DownloadJSONFilesTask,
        OpenAIFileConfig,
        UploadJSONLFileTask,
    )
    from batchflow.flyte.workflow import create_batch

_HOME = {
    "BatchEndpointTask": "batchflow.flyte.tasks",
    "BatchResult": "batchflow.flyte.results",
    "DownloadJSONFilesExecutor": "batchflow.flyte.executors",
    "DownloadJSONFilesTask": "batchflow.flyte.tasks",
    "OpenAIFileConfig": "batchflow.flyte.tasks",
    "OpenAIFileDefaultImages": "batchflow.flyte.images",
    "UploadJSONLFileExecutor": "batchflow.flyte.executors",
    "UploadJSONLFileTask": "batchflow.flyte.tasks",
    "create_batch": "batchflow.flyte.workflow",
}

__all__ = [
    "BatchEndpointTask",
    "BatchResult",
    "DownloadJSONFilesExecutor",
    "DownloadJSONFilesTask",
    "OpenAIFileConfig",
    "OpenAIFileDefaultImages",
    "UploadJSONLFileExecutor",
    "UploadJSONLFileTask",
    "create_batch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'batchflow' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
