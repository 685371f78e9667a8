"""The flytekit tasks, with the names, arguments and outputs of Flyte's OpenAI plugin."""

from dataclasses import dataclass
from typing import Any, ClassVar

from flytekit import Resources, kwtypes
from flytekit.configuration import SerializationSettings
from flytekit.core.base_task import PythonTask
from flytekit.core.interface import Interface
from flytekit.core.python_customized_container_task import PythonCustomizedContainerTask
from flytekit.extend.backend.base_connector import AsyncConnectorExecutorMixin
from flytekit.models.literals import LiteralMap
from flytekit.models.security import Secret
from flytekit.types.file import JSONLFile

from batchflow.flyte1.executors import (
    DownloadJSONFilesExecutor,
    OpenAIFileDefaultImages,
    UploadJSONLFileExecutor,
)
from batchflow.flyte1.local import prepare
from batchflow.flyte1.results import BatchResult
from batchflow.job_requests.batch_config import check_batch_config

BATCH_TASK_TYPE = "openai-batch"
UPLOAD_TASK_TYPE = "openai-batch-upload-file"
DOWNLOAD_TASK_TYPE = "openai-batch-download-files"


class _ThroughConnector(AsyncConnectorExecutorMixin):  # type: ignore[misc]  # flytekit is untyped
    """Runs a local execution through the connector, as a cluster does."""

    def execute(self, **kwargs: Any) -> LiteralMap:
        prepare(self.local_secret)
        return super().execute(**kwargs)

    @property
    def local_secret(self) -> Secret | None:
        """The secret that the task names, if any."""
        return None


class BatchEndpointTask(_ThroughConnector, PythonTask):  # type: ignore[misc]  # as above
    """Runs an OpenAI batch on an uploaded file and returns the batch as a dict.

    Input ``input_file_id: str``, output ``result: dict``: ``openai.types.Batch.to_dict()``.
    """

    _TASK_TYPE = BATCH_TASK_TYPE

    def __init__(
        self,
        name: str,
        config: dict[str, Any],
        openai_organization: str | None = None,
        accept_partial: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        :param name: unique name of the task.
        :param config: parameters of ``batches.create``: ``completion_window`` (default ``24h``),
            ``endpoint`` (default ``/v1/chat/completions``), ``metadata``, ``output_expires_after``.
            ``model`` is recorded and displayed but not sent; each request names its own.
        :param openai_organization: the OpenAI organization that the batch belongs to.
        :param accept_partial: whether a batch that expired at OpenAI succeeds if it has output,
            which the download task then fetches.
        :raises InvalidInput: if the config is not valid.
        """
        check_batch_config(config)
        super().__init__(
            name=name,
            task_type=self._TASK_TYPE,
            interface=Interface(
                inputs=kwtypes(input_file_id=str),
                outputs=kwtypes(result=dict),
            ),
            **kwargs,
        )
        self._openai_organization = openai_organization
        self._config = config
        self._accept_partial = accept_partial

    def get_custom(self, settings: SerializationSettings) -> dict[str, Any]:
        """The task's part of the template, for the connector."""
        custom = {"openai_organization": self._openai_organization, "config": self._config}
        # Left out by default, so that custom equals the old plugin's.
        return {**custom, "accept_partial": True} if self._accept_partial else custom


@dataclass
class OpenAIFileConfig:
    """The API key and organization of a transfer task."""

    secret: Secret
    openai_organization: str | None = None

    def to_custom(self) -> dict[str, Any]:
        """Convert to ``custom``: the secret's name, never its value."""
        return {
            "openai_organization": self.openai_organization,
            "secret_arg": {
                "group": self.secret.group,
                "key": self.secret.key,
                "group_version": self.secret.group_version,
                "mount_requirement": self.secret.mount_requirement.value,
            },
        }


class _TransferTask(
    _ThroughConnector,
    PythonCustomizedContainerTask[OpenAIFileConfig],  # type: ignore[misc]  # as above
):
    _TYPE: ClassVar[str]
    _EXECUTOR: ClassVar[type]
    _INPUTS: ClassVar[dict[str, type]]
    _RESULT: ClassVar[type]

    def __init__(
        self,
        name: str,
        task_config: OpenAIFileConfig,
        container_image: str = OpenAIFileDefaultImages.find_image_for(),
        **kwargs: Any,
    ) -> None:
        # The container is used where a platform does not route the task type to the connector.
        super().__init__(
            name=name,
            task_type=self._TYPE,
            task_config=task_config,
            container_image=container_image,
            executor_type=self._EXECUTOR,
            interface=Interface(inputs=self._INPUTS, outputs=kwtypes(result=self._RESULT)),
            requests=Resources(mem="700Mi"),
            secret_requests=[task_config.secret],
            **kwargs,
        )

    def get_custom(self, settings: SerializationSettings) -> dict[str, Any]:
        """The task's part of the template, for the connector."""
        custom: dict[str, Any] = self.task_config.to_custom()
        return custom

    @property
    def local_secret(self) -> Secret | None:
        secret: Secret = self.task_config.secret
        return secret


class UploadJSONLFileTask(_TransferTask):
    """Validates a JSONL file, uploads it to OpenAI, and returns its file id.

    Input ``jsonl_in: JSONLFile`` (or an ``Iterator[JSON]``), output ``result: str``.
    """

    _TYPE = _UPLOAD_JSONL_FILE_TASK_TYPE = UPLOAD_TASK_TYPE
    _EXECUTOR = UploadJSONLFileExecutor
    _INPUTS = kwtypes(jsonl_in=JSONLFile)
    _RESULT = str


class DownloadJSONFilesTask(_TransferTask):
    """Downloads the output file and the error file of a batch, if they exist.

    Input ``batch_endpoint_result: dict``, output ``result: BatchResult``.
    """

    _TYPE = _DOWNLOAD_JSON_FILES_TASK_TYPE = DOWNLOAD_TASK_TYPE
    _EXECUTOR = DownloadJSONFilesExecutor
    _INPUTS = kwtypes(batch_endpoint_result=dict)
    _RESULT = BatchResult
