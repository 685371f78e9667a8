"""Which jobs someone wants to see: one filter for the API, the status page and the command line."""

from collections.abc import Iterable
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from batchflow.jobs import Job
from batchflow.states import JobKind, JobState
from batchflow.store.index import IndexScope

#: The fields of a record, besides its id, in which a text is searched.
SEARCHED_FIELDS: Final = (
    "batch_id",
    "input_file_id",
    "output_file_id",
    "error_file_id",
    "execution",
    "model",
    "credential",
    "openai_status",
    "message",
)
#: Longer than any name.
_MAX_CHARS: Final = 300

_Text = Annotated[str, Field(max_length=_MAX_CHARS)]

#: A query may repeat a value of a set.
_REPEATABLE: JsonDict = {"uniqueItems": False}


class JobFilter(BaseModel):
    """A filter for jobs; its fields are the parameters of the API. Empty ones match all jobs."""

    model_config = ConfigDict(frozen=True)

    state: frozenset[JobState] = Field(
        default=frozenset(),
        description="In one of these states.",
        json_schema_extra=_REPEATABLE,
    )
    kind: frozenset[JobKind] = Field(
        default=frozenset(),
        description="Of one of these kinds.",
        json_schema_extra=_REPEATABLE,
    )
    organization: _Text = Field(default="", description="Of this OpenAI organization.")
    execution: _Text = Field(
        default="",
        description="Of this Flyte execution: its name, or `<project>/<domain>/<name>`, with or "
        "without `/<node>`.",
    )
    text: _Text = Field(
        default="",
        description="With this text in an id, the execution, the model, the credential, OpenAI's "
        "status or the message; case does not matter.",
    )

    @property
    def scope(self) -> IndexScope:
        """The part of the index that has all matching jobs."""
        parts = self._execution.split("/")
        name = parts[2] if len(parts) > 2 else parts[0]
        return IndexScope.of(organization=self.organization, execution=name)

    def matches(self, job: Job) -> bool:
        """Whether a job matches."""
        return (
            (not self.state or job.state in self.state)
            and (not self.kind or job.kind in self.kind)
            and (not self.organization or job.organization == self.organization)
            and (not self._execution or self._matches_execution(job.execution))
            and self.matches_text(job.id, (getattr(job, name) for name in SEARCHED_FIELDS))
        )

    def matches_text(self, job_id: str, values: Iterable[str | None]) -> bool:
        """Whether the text is in a job's id or in the values of SEARCHED_FIELDS."""
        text = self.text.casefold()
        return not text or any(text in value.casefold() for value in (job_id, *values) if value)

    def _matches_execution(self, execution: str) -> bool:
        name = "/".join(execution.split("/")[2:3])
        return name == self._execution or f"{execution}/".startswith(f"{self._execution}/")

    @property
    def _execution(self) -> str:
        return self.execution.strip("/")
