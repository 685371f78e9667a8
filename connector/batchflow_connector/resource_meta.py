"""The connector's ResourceMeta, which Flyte keeps between calls."""

from dataclasses import dataclass

import orjson
from flytekit.extend.backend.base_connector import ResourceMeta

from batchflow.errors import InvalidInput
from batchflow.job_requests.batch_config import check_batch_config
from batchflow.jobs import BatchSpec, JobRequest, is_job_id

_FOREIGN = (
    "This task was started by a connector other than Batchflow's, so Batchflow cannot follow it. "
    "Run the task again. If it started a batch, that batch continues at OpenAI."
)


@dataclass
class JobMeta(ResourceMeta):  # type: ignore[misc]  # flytekit is untyped
    """A job request, from which a lost record can be rebuilt, or the reason why there is none.

    Encoded as JSON. It holds names of secrets, never their values.
    """

    #: The encoded form.
    data: bytes
    #: Empty for a refused task.
    job_id: str = ""
    #: Why the task was refused.
    refused: str = ""
    #: Redis was unavailable: the job may have no record yet, and be of a later generation.
    unrecorded: bool = False

    @classmethod
    def of(cls, job_request: JobRequest) -> "JobMeta":
        """The metadata of a job that has a record."""
        return cls(job_request.model_dump_json().encode(), job_id=job_request.job_id)

    @classmethod
    def of_unrecorded(cls, job_request: JobRequest) -> "JobMeta":
        """The metadata of a job that could not be recorded; its ``get`` does that."""
        fields = {**job_request.model_dump(mode="json"), "unrecorded": True}
        return cls(orjson.dumps(fields), job_id=job_request.job_id, unrecorded=True)

    @classmethod
    def refusing(cls, reason: str) -> "JobMeta":
        """The metadata of a task that is refused."""
        return cls(orjson.dumps({"refused": reason}), refused=reason)

    def encode(self) -> bytes:
        return self.data

    @classmethod
    def decode(cls, data: bytes) -> "JobMeta":
        """Parse what Flyte sends; data that is not valid becomes a refused task.

        Every ``get`` calls this, so the job request itself is parsed only when it is needed.
        """
        try:
            fields = orjson.loads(data)
        except orjson.JSONDecodeError:
            fields = None
        if isinstance(fields, dict):
            if isinstance(fields.get("refused"), str):
                return cls.refusing(fields["refused"])
            if isinstance(fields.get("job_id"), str) and is_job_id(fields["job_id"]):
                return cls(
                    data, job_id=fields["job_id"], unrecorded=fields.get("unrecorded") is True
                )
        return cls.refusing(_FOREIGN)

    def job_request(self) -> JobRequest:
        """Parse the job request; raises InvalidInput."""
        try:
            job_request = JobRequest.model_validate_json(self.data)
            if isinstance(job_request.spec, BatchSpec):
                check_batch_config(job_request.spec.config)
        except (ValueError, InvalidInput) as error:
            raise InvalidInput(_FOREIGN) from error
        return job_request
