"""An OpenAI batch as a Flyte workflow: upload, run, download.

    pyflyte run examples/workflow.py openai_batch_workflow

With no OpenAI API key in the environment this uses the emulator. To register it on a cluster:

    pyflyte register examples/workflow.py
"""

from pathlib import Path

from flytekit import Secret, task, workflow
from flytekit.types.file import JSONLFile

from batchflow import (
    BatchEndpointTask,
    BatchResult,
    DownloadJSONFilesTask,
    OpenAIFileConfig,
    UploadJSONLFileTask,
)

# Define your OpenAI API key secret
# Ensure this secret is configured in your Flyte environment
OPENAI_SECRET = Secret(
    group="openai-api-key", key="api_key", mount_requirement=Secret.MountType.ENV_VAR
)
OPENAI_ORG_ID = "your-openai-organization-id"  # Replace with your actual organization ID


@task
def create_sample_input_file() -> JSONLFile:
    """Creates a dummy JSONL file for batch processing."""
    file_path = Path("sample_input.jsonl")
    with file_path.open("w") as f:
        f.write(
            '{"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "What is the capital of France?"}]}}\n'
        )
        f.write(
            '{"custom_id": "request-2", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "Who wrote Romeo and Juliet?"}]}}\n'
        )
    return JSONLFile(str(file_path))


# Configure the file tasks with secrets and organization ID
file_config = OpenAIFileConfig(
    secret=OPENAI_SECRET,
    openai_organization=OPENAI_ORG_ID,
)

upload_task = UploadJSONLFileTask(
    name="upload_openai_batch_input",
    task_config=file_config,
)

batch_execution_task = BatchEndpointTask(
    name="execute_openai_batch_job",
    config={
        "model": "gpt-3.5-turbo",
        "completion_window": "24h",
        "endpoint": "/v1/chat/completions",
    },
    openai_organization=OPENAI_ORG_ID,
)

download_task = DownloadJSONFilesTask(
    name="download_openai_batch_results",
    task_config=file_config,
)


@workflow
def openai_batch_workflow() -> BatchResult:
    """
    An end-to-end workflow demonstrating OpenAI batch processing.
    """
    # 1. Create the local input file
    input_file = create_sample_input_file()

    # 2. Upload the input file to OpenAI
    openai_file_id = upload_task(jsonl_in=input_file)

    # 3. Execute the OpenAI batch job
    batch_job_result = batch_execution_task(input_file_id=openai_file_id)

    # 4. Download the output and error files
    return download_task(batch_endpoint_result=batch_job_result)
