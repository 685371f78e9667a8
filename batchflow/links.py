"""URLs of pages about a job: in OpenAI's and Flyte's consoles, and on the gateway."""

from functools import partial
from urllib.parse import quote

_OPENAI = "https://platform.openai.com"
#: A name as a part of a path.
_part = partial(quote, safe="")


def batch_page(batch_id: str) -> str:
    """A batch in OpenAI's console."""
    return f"{_OPENAI}/batches/{_part(batch_id)}"


def file_page(file_id: str) -> str:
    """A file in OpenAI's console."""
    return f"{_OPENAI}/storage/files/{_part(file_id)}"


def job_page(public_url: str, job_id: str) -> str:
    """A job on the gateway; ``public_url`` is BATCHFLOW_PUBLIC_URL."""
    return f"{public_url}/jobs/{_part(job_id)}"


def execution_page(flyte_console_url: str, execution: str) -> str | None:
    """The page of ``<project>/<domain>/<execution>/<node>`` in the Flyte console; None for a job
    without an execution."""
    parts = execution.split("/")[:3]
    if len(parts) < len(("project", "domain", "execution")) or not all(parts):
        return None
    project, domain, name = map(_part, parts)
    return f"{flyte_console_url}/projects/{project}/domains/{domain}/executions/{name}"
