"""From a Flyte task to an order: what its template and inputs ask for, and which job that is.

The connector and the container form both come through here.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from batchflow.errors import InvalidInput
from batchflow.flyte.config import check_batch_config
from batchflow.jobs import (
    BatchSpec,
    Credential,
    DownloadSpec,
    Order,
    Spec,
    UploadSpec,
    derived_job_id,
    generation_id,
    random_job_id,
)
from batchflow.store.commands import Created

M = TypeVar("M", bound=BaseModel)

#: Generations of one job; more mean that something is wrong with how it is ordered.
_MAX_GENERATIONS = 1_000


def upload_spec(custom: Mapping[str, Any], uri: str) -> UploadSpec:
    """The spec of an ``openai-batch-upload-file`` task."""
    return _parsed(UploadSpec, credential=_credential(custom), uri=uri)


def batch_spec(custom: Mapping[str, Any], input_file_id: str) -> BatchSpec:
    """The spec of an ``openai-batch`` task."""
    config = custom.get("config") or {}
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
    return _parsed(
        DownloadSpec,
        credential=_credential(custom),
        output_file_id=batch.get("output_file_id") or None,
        error_file_id=batch.get("error_file_id") or None,
        destination=destination,
    )


def make_order(spec: Spec, *, execution: str, output_prefix: str, attempt: int) -> Order:
    """The order for a spec, with the id that it always has.

    ``execution`` names Flyte's execution and node, and is empty for a local run, whose id is
    random. ``output_prefix`` ends in the attempt number, which is not part of the identity; before
    it, a map task has the index of the element.
    """
    if not execution:
        return Order(job_id=random_job_id(), spec=spec)
    location = output_prefix.rstrip("/").rpartition("/")[0]
    asked = spec.model_dump_json(exclude={"destination"})
    job_id = derived_job_id(execution.encode(), location.encode(), asked.encode())
    return Order(job_id=job_id, spec=spec, execution=execution, attempt=attempt)


def next_order(order: Order, created: Created) -> Order | None:
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
        or job.attempt >= order.attempt
    ):
        return None
    generation = order.generation + 1
    if generation > _MAX_GENERATIONS:
        raise InvalidInput(f"The job {order.job_id} has ended badly {_MAX_GENERATIONS} times.")
    first_id = order.job_id.removesuffix(f"-{order.generation}")
    return order.model_copy(
        update={"job_id": generation_id(first_id, generation), "generation": generation}
    )


def _credential(custom: Mapping[str, Any]) -> Credential:
    organization = custom.get("openai_organization") or None
    secret = custom.get("secret_arg")
    if secret is None:
        return _parsed(Credential, organization=organization)
    if not isinstance(secret, Mapping):
        raise InvalidInput("The task's secret_arg must be a dict with group and key.")
    return _parsed(
        Credential,
        organization=organization,
        **{part: secret.get(part) or None for part in ("group", "key", "group_version")},
    )


def _parsed(model: type[M], **values: Any) -> M:
    try:
        return model(**values)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)[:10]
        )
        raise InvalidInput(f"The task can't be run as it is. {wrong}.") from None
