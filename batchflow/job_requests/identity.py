"""The identity of a job: its derived id, and the generation that a Flyte attempt gets."""

import json

from batchflow.errors import InvalidInput
from batchflow.jobs import JobRequest, Spec, derived_job_id, generation_id, random_job_id
from batchflow.store.records import Created

#: The limit on a job request as JSON, which Redis keeps per job and Flyte per task.
MAX_JOB_REQUEST_BYTES = 64 * 1024

_MAX_GENERATIONS = 1_000


def make_job_request(spec: Spec, *, execution: str, output_prefix: str, attempt: int) -> JobRequest:
    """Make the job request for a spec; the same arguments always give the same job id.

    ``execution`` names Flyte's execution and node; it is empty in a local execution, whose job id
    is random. ``output_prefix`` ends in the attempt, which the id does not depend on; in a map
    task, the index of the element precedes it. Raises InvalidInput if the request is too large.
    """
    if not execution:
        job_request = JobRequest(job_id=random_job_id(), spec=spec)
    else:
        location = output_prefix.rstrip("/").rpartition("/")[0]
        # Sorted, because protobuf's maps have no order.
        content = json.dumps(spec.model_dump(mode="json", exclude={"destination"}), sort_keys=True)
        job_id = derived_job_id(execution.encode(), location.encode(), content.encode())
        job_request = JobRequest(job_id=job_id, spec=spec, execution=execution, attempt=attempt)
    size_bytes = len(job_request.model_dump_json().encode())
    if size_bytes > MAX_JOB_REQUEST_BYTES:
        raise InvalidInput(
            f"The task's config, inputs and names take {size_bytes:,} bytes; "
            f"the limit is {MAX_JOB_REQUEST_BYTES:,}."
        )
    return job_request


def next_generation(job_request: JobRequest, created: Created) -> JobRequest | None:
    """The job request to create instead of one whose job exists; None if that job is to be used.

    A later attempt uses a job that it took over or that has succeeded, and starts the next
    generation of one that failed or that is being cancelled. The same attempt, repeated, gets the
    same job whatever its state.
    """
    job = created.job
    if (
        created.new
        or job is None
        or job.attempt >= job_request.attempt
        or (not job.replaced and (job.succeeded or not job.terminal))
    ):
        return None
    generation = job_request.generation + 1
    if generation > _MAX_GENERATIONS:
        raise InvalidInput(
            f"The job {job_request.job_id} has failed {_MAX_GENERATIONS} times, which is the limit."
        )
    first_id = job_request.job_id.removesuffix(f"-{job_request.generation}")
    return job_request.model_copy(
        update={"job_id": generation_id(first_id, generation), "generation": generation}
    )
