"""OpenAI batches from Flyte at scale.

Importing this package imports none of Celery, Redis and OpenAI, and flytekit only on first use of a
name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchflow.flyte1.executors import DownloadJSONFilesExecutor as DownloadJSONFilesExecutor
    from batchflow.flyte1.executors import OpenAIFileDefaultImages as OpenAIFileDefaultImages
    from batchflow.flyte1.executors import UploadJSONLFileExecutor as UploadJSONLFileExecutor
    from batchflow.flyte1.results import BatchResult as BatchResult
    from batchflow.flyte1.tasks import BatchEndpointTask as BatchEndpointTask
    from batchflow.flyte1.tasks import DownloadJSONFilesTask as DownloadJSONFilesTask
    from batchflow.flyte1.tasks import OpenAIFileConfig as OpenAIFileConfig
    from batchflow.flyte1.tasks import UploadJSONLFileTask as UploadJSONLFileTask
    from batchflow.flyte1.workflow import create_batch as create_batch

_MODULE_OF = {
    "BatchEndpointTask": "batchflow.flyte1.tasks",
    "BatchResult": "batchflow.flyte1.results",
    "DownloadJSONFilesExecutor": "batchflow.flyte1.executors",
    "DownloadJSONFilesTask": "batchflow.flyte1.tasks",
    "OpenAIFileConfig": "batchflow.flyte1.tasks",
    "OpenAIFileDefaultImages": "batchflow.flyte1.executors",
    "UploadJSONLFileExecutor": "batchflow.flyte1.executors",
    "UploadJSONLFileTask": "batchflow.flyte1.tasks",
    "create_batch": "batchflow.flyte1.workflow",
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'batchflow' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
