"""From a Flyte task to an order: what its template and inputs ask for, and which job that is.

The connector and the container form both come through here.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from batchflow.errors import InvalidInput
from batchflow.job_requests.batch_config import check_batch_config
from batchflow.jobs import (
    BatchSpec,
    Credential,
    DownloadSpec,
    JobRequest,
    Spec,
    UploadSpec,
    derived_job_id,
    generation_id,
    random_job_id,
)
from batchflow.store.records import Created

M = TypeVar("M", bound=BaseModel)

#: The most that an order may take, as JSON: Redis keeps it, and Flyte with every task.
MAX_JOB_REQUEST_BYTES = 64 * 1024

#: Generations of one job; more mean that something is wrong with how it is ordered.
_MAX_GENERATIONS = 1_000

#: What the parts of a credential are called where a task names them.
_NAMED_IN_TASK = {
    "organization": "openai_organization",
    "group": "secret_arg.group",
    "key": "secret_arg.key",
    "group_version": "secret_arg.group_version",
}
#: What every dict that a batch task returns has at least one of.
_BATCH_KEYS = frozenset({"id", "output_file_id", "error_file_id"})


def upload_spec(custom: Mapping[str, Any], uri: str) -> UploadSpec:
    """The spec of an ``openai-batch-upload-file`` task."""
    return _parsed(UploadSpec, credential=_credential(custom), uri=_absolute(uri))


def batch_spec(custom: Mapping[str, Any], input_file_id: str) -> BatchSpec:
    """The spec of an ``openai-batch`` task."""
    config = custom.get("config")
    config = {} if config is None else config
    check_batch_config(config)
    return _parsed(
        BatchSpec,
        credential=_credential(custom),
        input_file_id=input_file_id,
        config=config,
        accept_partial=custom.get("accept_partial", False),
    )


def download_spec(
    custom: Mapping[str, Any], batch: Mapping[str, Any], destination: str
) -> DownloadSpec:
    """The spec of an ``openai-batch-download-files`` task."""
    if not isinstance(batch, Mapping):
        raise InvalidInput("batch_endpoint_result must be the dict that the batch task returned.")
    spec = _parsed(
        DownloadSpec,
        credential=_credential(custom),
        output_file_id=_given(batch, "output_file_id"),
        error_file_id=_given(batch, "error_file_id"),
        destination=destination,
    )
    if not _BATCH_KEYS & batch.keys():
        raise InvalidInput(
            "batch_endpoint_result must be the dict that the batch task returned; "
            f"this one has none of {', '.join(sorted(_BATCH_KEYS))}."
        )
    return spec


def make_job_request(spec: Spec, *, execution: str, output_prefix: str, attempt: int) -> JobRequest:
    """The order for a spec, with the id that it always has.

    ``execution`` names Flyte's execution and node, and is empty for a local run, whose id is
    random. ``output_prefix`` ends in the attempt number, which is not part of the identity; before
    it, a map task has the index of the element.
    """
    if not execution:
        return _bounded(JobRequest(job_id=random_job_id(), spec=spec))
    location = output_prefix.rstrip("/").rpartition("/")[0]
    # Sorted: protobuf's maps have no order.
    asked = json.dumps(spec.model_dump(mode="json", exclude={"destination"}), sort_keys=True)
    job_id = derived_job_id(execution.encode(), location.encode(), asked.encode())
    return _bounded(JobRequest(job_id=job_id, spec=spec, execution=execution, attempt=attempt))


def next_generation(job_request: JobRequest, created: Created) -> JobRequest | None:
    """What to order instead, if the job that was found is no use; None if it is.

    A later attempt adopts a job that is live or succeeded. One that ended badly it leaves, and
    orders the next generation. The same attempt, repeated, gets what it had.
    """
    job = created.job
    if (
        created.new
        or job is None
        or not job.terminal
        or job.succeeded
        or job.attempt >= job_request.attempt
    ):
        return None
    generation = job_request.generation + 1
    if generation > _MAX_GENERATIONS:
        raise InvalidInput(
            f"The job {job_request.job_id} has ended badly {_MAX_GENERATIONS} times."
        )
    first_id = job_request.job_id.removesuffix(f"-{job_request.generation}")
    return job_request.model_copy(
        update={"job_id": generation_id(first_id, generation), "generation": generation}
    )


def _bounded(job_request: JobRequest) -> JobRequest:
    """The order, if it is small enough to be kept."""
    size_bytes = len(job_request.model_dump_json().encode())
    if size_bytes > MAX_JOB_REQUEST_BYTES:
        raise InvalidInput(
            f"The task's config, inputs and names take {size_bytes:,} bytes; "
            f"Batchflow keeps at most {MAX_JOB_REQUEST_BYTES:,}."
        )
    return job_request


def _credential(custom: Mapping[str, Any]) -> Credential:
    organization = _given(custom, "openai_organization")
    secret = custom.get("secret_arg")
    if secret is None:
        return _parsed(Credential, organization=organization)
    if not isinstance(secret, Mapping):
        raise InvalidInput("The task's secret_arg must be a dict with group and key.")
    names = {part: _given(secret, part) for part in ("group", "key", "group_version")}
    if names["group"] is None and names["key"] is None:
        raise InvalidInput("The task's secret_arg names no secret: it has no group and no key.")
    return _parsed(Credential, organization=organization, **names)


def _absolute(uri: str) -> str:
    """The URI; a relative path, as a local run may have one, means a file of this process."""
    begins = uri.partition("/")[0]
    return str(Path(uri).absolute()) if uri and ":" not in begins else uri


def _given(values: Mapping[str, Any], name: str) -> Any:
    """A value, or None for an empty text, which is how protobuf says that there is none."""
    value = values.get(name)
    return None if value == "" else value


def _parsed(model: type[M], **values: Any) -> M:
    try:
        return model(**values)
    except ValidationError as error:
        wrong = "; ".join(
            f"{_where(problem['loc'])}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)[:10]
        )
        raise InvalidInput(f"The task can't be run as it is. {wrong}.") from None


def _where(location: tuple[int | str, ...]) -> str:
    return ".".join(_NAMED_IN_TASK.get(str(part), str(part)) for part in location)
