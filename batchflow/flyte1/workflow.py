"""A workflow of upload, batch and download."""

from typing import Any, Iterator  # noqa: UP035 - the only one that flytekit supports

from flytekit import Resources, Workflow
from flytekit.models.security import Secret
from flytekit.types.file import JSONLFile
from flytekit.types.iterator import JSON

from batchflow.flyte1.results import BatchResult
from batchflow.flyte1.tasks import (
    BatchEndpointTask,
    DownloadJSONFilesTask,
    OpenAIFileConfig,
    UploadJSONLFileTask,
)


def create_batch(
    name: str,
    secret: Secret,
    openai_organization: str | None = None,
    config: dict[str, Any] | None = None,
    is_json_iterator: bool = True,
    file_upload_mem: str = "700Mi",
    file_download_mem: str = "700Mi",
) -> Workflow:
    """Make a workflow that uploads requests, runs a batch of them, and downloads the results.

    :param name: suffix of the names of the workflow (``openai-batch-<name>``) and its tasks; dots
        are removed.
    :param secret: names the secret with the OpenAI API key.
    :param openai_organization: the OpenAI organization.
    :param config: the config of :class:`BatchEndpointTask`.
    :param is_json_iterator: whether the input ``jsonl_in`` is an ``Iterator[JSON]`` or a
        ``JSONLFile``.
    :param file_upload_mem: memory of the upload task's container form.
    :param file_download_mem: memory of the download task's container form.
    :returns: an imperative workflow with the output ``batch_output``, a :class:`BatchResult`.
    """
    suffix = name.replace(".", "")
    workflow = Workflow(name=f"openai-batch-{suffix}")
    workflow.add_workflow_input("jsonl_in", Iterator[JSON] if is_json_iterator else JSONLFile)

    file_config = OpenAIFileConfig(secret=secret, openai_organization=openai_organization)
    upload = workflow.add_entity(
        UploadJSONLFileTask(name=f"openai-file-upload-{suffix}", task_config=file_config),
        jsonl_in=workflow.inputs["jsonl_in"],
    )
    batch = workflow.add_entity(
        BatchEndpointTask(
            name=f"openai-batch-{suffix}",
            openai_organization=openai_organization,
            config=config or {},
        ),
        input_file_id=upload.outputs["result"],
    )
    download = workflow.add_entity(
        DownloadJSONFilesTask(name=f"openai-download-files-{suffix}", task_config=file_config),
        batch_endpoint_result=batch.outputs["result"],
    )
    for node, memory in ((upload, file_upload_mem), (download, file_download_mem)):
        node.with_overrides(requests=Resources(mem=memory), limits=Resources(mem=memory))
    workflow.add_workflow_output("batch_output", download.outputs["result"], BatchResult)
    return workflow
