"""Addresses of pages that are about a job: OpenAI's, Flyte's, and our own."""

from urllib.parse import quote

_OPENAI = "https://platform.openai.com"


def batch_page(batch_id: str) -> str:
    """A batch, in OpenAI's console."""
    return f"{_OPENAI}/batches/{_part(batch_id)}"


def file_page(file_id: str) -> str:
    """A file, in OpenAI's console."""
    return f"{_OPENAI}/storage/files/{_part(file_id)}"


def job_page(public_url: str, job_id: str) -> str:
    """A job, at our gateway; ``public_url`` is BATCHFLOW_PUBLIC_URL."""
    return f"{public_url}/jobs/{_part(job_id)}"


def execution_page(flyte_console_url: str, execution: str) -> str | None:
    """The execution of ``<project>/<domain>/<execution>/<node>`` in the Flyte console, of which
    ``flyte_console_url`` is the address; None for a job that has none."""
    parts = execution.split("/")[:3]
    if len(parts) < len(("project", "domain", "execution")) or not all(parts):
        return None
    project, domain, name = map(_part, parts)
    return f"{flyte_console_url}/projects/{project}/domains/{domain}/executions/{name}"


def _part(name: str) -> str:
    return quote(name, safe="")
