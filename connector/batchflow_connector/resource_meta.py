"""What Flyte keeps for us between calls."""

from dataclasses import dataclass

import orjson
from flytekit.extend.backend.base_connector import ResourceMeta

from batchflow.errors import InvalidInput
from batchflow.job_requests.batch_config import check_batch_config
from batchflow.jobs import BatchSpec, JobRequest, is_job_id

_FOREIGN = (
    "This task was started by another connector than Batchflow's, which can't follow it. Run it "
    "again; a batch that it started runs on at OpenAI."
)


@dataclass
class JobMeta(ResourceMeta):  # type: ignore[misc]  # flytekit is untyped
    """The order, from which a lost record can be made again; or why there is none.

    Encoded as JSON. It holds names of secrets, never their values.
    """

    #: As Flyte keeps it.
    data: bytes
    #: Empty for a task that can't work.
    job_id: str = ""
    refused: str = ""

    @classmethod
    def of(cls, job_request: JobRequest) -> "JobMeta":
        """For a job."""
        return cls(job_request.model_dump_json().encode(), job_id=job_request.job_id)

    @classmethod
    def refusing(cls, reason: str) -> "JobMeta":
        """For a task that can't work."""
        return cls(orjson.dumps({"refused": reason}), refused=reason)

    def encode(self) -> bytes:
        """As Flyte keeps it."""
        return self.data

    @classmethod
    def decode(cls, data: bytes) -> "JobMeta":
        """As Flyte hands it back; what can't be read becomes a task that is refused.

        This runs for each question about each task: the order is read when it is needed.
        """
        try:
            fields = orjson.loads(data)
        except orjson.JSONDecodeError:
            fields = None
        if isinstance(fields, dict):
            if isinstance(fields.get("refused"), str):
                return cls.refusing(fields["refused"])
            if isinstance(fields.get("job_id"), str) and is_job_id(fields["job_id"]):
                return cls(data, job_id=fields["job_id"])
        return cls.refusing(_FOREIGN)

    def job_request(self) -> JobRequest:
        """What was ordered; raises InvalidInput."""
        try:
            job_request = JobRequest.model_validate_json(self.data)
            if isinstance(job_request.spec, BatchSpec):
                check_batch_config(job_request.spec.config)
        except (ValueError, InvalidInput) as error:
            raise InvalidInput(_FOREIGN) from error
        return job_request
