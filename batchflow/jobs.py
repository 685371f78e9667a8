"""Jobs: specs, requests, records, ids, and ``JobStatus``, the Redis fields that ``get`` reads."""

import base64
import hashlib
import re
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_serializer,
)
from pydantic_core import PydanticCustomError, to_json

from batchflow.states import JobKind, JobState, Phase, Stage, WaitingFor, phase_of

#: The key name of the secret when a task names none, as in Flyte's OpenAI plugin.
DEFAULT_SECRET_KEY = "FLYTE_OPENAI_API_KEY"  # noqa: S105 - the name of a secret, not a secret


def _text(pattern: str, wanted: str) -> BeforeValidator:
    """Accept only strings that match ``pattern`` as a whole.

    The error says what is ``wanted`` without the invalid value, which may be a secret.
    """
    regex = re.compile(pattern, re.ASCII)

    def check(value: object) -> str:
        if isinstance(value, str) and regex.fullmatch(value):
            return value
        raise PydanticCustomError("text", f"must be {wanted}")

    return BeforeValidator(check)


#: Rejects an API key in the place of its name.
_NO_API_KEY = r"(?!sk-.{16})"
_NO_PARENT_FOLDER = r"(?!.*\.\.)"

#: A job id: ``bf-`` and 26 characters, then ``-2``, ``-3`` ... for later generations.
_JOB_ID = re.compile(r"bf-[a-z2-7]{26}(-[1-9][0-9]{0,5})?", re.ASCII)
_FIRST_ID_CHARS = 29
JobId = Annotated[str, _text(_JOB_ID.pattern, "a job id")]

#: An id that OpenAI, or a server that speaks its API, gave to a file or a batch.
_OPENAI_ID = re.compile(_NO_PARENT_FOLDER + r"[A-Za-z0-9][A-Za-z0-9_.:/=-]{0,255}", re.ASCII)
OpenAIId = Annotated[
    str,
    _text(
        _OPENAI_ID.pattern,
        "an id from OpenAI, such as 'file-abc123': at most 256 letters, digits and _.:/=- "
        "without '..'",
    ),
]

#: A part of a secret's name. It becomes part of a file's path.
_SecretName = Annotated[
    str,
    _text(
        _NO_API_KEY + _NO_PARENT_FOLDER + r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}",
        "the name of a secret, never the API key itself: at most 253 letters, digits and _.- "
        "without '..'",
    ),
]

_Organization = Annotated[
    str,
    _text(
        _NO_API_KEY + r"[\x21-\x7e]{1,128}",
        "an organization's id, such as 'org-abc123': at most 128 characters without spaces",
    ),
]

#: The URI of a file or folder. Workers check it against their allow-list.
_Uri = Annotated[
    str,
    _text(
        r"[^\x00-\x1f\x7f\ud800-\udfff]{1,4096}",
        "a URI of 1 to 4,096 characters, none of them a control character",
    ),
]


def _true_or_false(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise PydanticCustomError("flag", "must be true or false")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Credential(_Frozen):
    """The name of an API key: a Flyte secret, and the OpenAI organization that it is used for."""

    organization: _Organization | None = None
    group: _SecretName | None = None
    key: _SecretName | None = DEFAULT_SECRET_KEY
    group_version: _SecretName | None = None

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> dict[str, str | None]:
        """Omit defaults, because every record has a credential."""
        values: dict[str, str | None] = handler(self)
        fields = type(self).model_fields
        return {name: value for name, value in values.items() if value != fields[name].default}

    @property
    def secret(self) -> str:
        """The full name of the secret, such as ``openai-api-key/api_key``."""
        return "/".join(part for part in (self.group, self.group_version, self.key) if part)

    def __str__(self) -> str:
        return f"{self.secret}@{self.organization}" if self.organization else self.secret


class UploadSpec(_Frozen):
    """Upload the JSONL file at ``uri`` to OpenAI."""

    kind: Literal[JobKind.UPLOAD] = JobKind.UPLOAD
    credential: Credential
    uri: _Uri


class BatchSpec(_Frozen):
    """Run a batch with the config of the task."""

    kind: Literal[JobKind.BATCH] = JobKind.BATCH
    credential: Credential
    input_file_id: OpenAIId
    config: dict[str, Any]
    #: Whether an expired batch that has output is a success.
    accept_partial: Annotated[bool, BeforeValidator(_true_or_false)] = False


class DownloadSpec(_Frozen):
    """Download a batch's files to the folder with the URI ``destination``."""

    kind: Literal[JobKind.DOWNLOAD] = JobKind.DOWNLOAD
    credential: Credential
    output_file_id: OpenAIId | None = None
    error_file_id: OpenAIId | None = None
    destination: _Uri


Spec = Annotated[UploadSpec | BatchSpec | DownloadSpec, Field(discriminator="kind")]

#: The parts of a spec that are fields of the record, as is the credential's organization. The
#: record's field ``spec`` has the other parts, without defaults.
_OWN_FIELDS = ("kind", "input_file_id", "output_file_id", "error_file_id")
_STORED_SPEC: TypeAdapter[dict[str, Any]] = TypeAdapter(Json[dict[str, Any]])


class JobRequest(_Frozen):
    """What is known when a job is created: enough to create its record, or to rebuild it."""

    job_id: JobId
    spec: Spec
    #: ``<project>/<domain>/<execution>/<node>``, or empty for a local run.
    execution: str = ""
    #: The Flyte attempt that requested the job, from 0.
    attempt: int = 0
    #: The generation of the job, from 1. A later one replaces a failed one.
    generation: int = 1

    def record(self) -> dict[str, str]:
        """The fields of a new record, without those that are unknown."""
        rest = self.spec.model_dump(mode="json", exclude=set(_OWN_FIELDS), exclude_defaults=True)
        rest["credential"].pop("organization", None)
        if not rest["credential"]:
            del rest["credential"]
        fields: dict[str, str | int | None] = {
            **{name: getattr(self.spec, name, None) for name in _OWN_FIELDS},
            "organization": self.spec.credential.organization,
            "credential": str(self.spec.credential),
            "execution": self.execution,
            "spec": to_json(rest).decode(),
            # The usual values are omitted to save memory.
            "attempt": self.attempt or None,
            "generation": self.generation if self.generation > 1 else None,
        }
        if isinstance(self.spec, BatchSpec):
            fields["model"] = self.spec.config.get("model")
        return {name: str(value) for name, value in fields.items() if value not in (None, "")}


class Job(_Frozen):
    """A job's record. Times are aware."""

    id: str
    kind: JobKind
    state: JobState
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    organization: str | None = None
    #: Completed from the fields above, which the record does not repeat.
    spec: Spec
    #: For the user: why the job waits or failed, or what it is doing.
    message: str = ""
    #: The last status that OpenAI reported, unchanged.
    openai_status: str = ""
    stage: Stage = Stage.NONE
    model: str | None = None
    batch_id: str | None = None
    #: Requests in the batch, and those that have succeeded and failed.
    total: int = 0
    completed: int = 0
    failed: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    credential: str = ""
    execution: str = ""
    #: The task's outputs in JSON: a batch, ``{"file_id"}``, or ``{"output_file", "error_file"}``.
    result: Json[dict[str, Any]] | None = None
    attempt: int = 0
    generation: int = 1
    #: Attempts to create something at OpenAI; 0 means that no request was sent.
    tries: int = 0
    #: When the last attempt was sent.
    tried_at: datetime | None = None
    #: When OpenAI's lists show what the last attempt created.
    settled_at: datetime | None = None
    #: Consecutive failures of a step for reasons other than OpenAI.
    failures: int = 0
    #: Steps that started and have not returned: one that is running, or that killed its worker.
    starts: int = 0
    #: When the job started to wait for OpenAI's limit of enqueued tokens.
    waiting_since: datetime | None = None
    #: Why the job waits, if Flyte is to show it.
    waiting_for: WaitingFor | None = None
    cancel_requested: bool = False
    #: When the job is cancelled, because Flyte deleted its task.
    delete_at: datetime | None = None
    #: Whether a later attempt has started the next generation of this job.
    replaced: bool = False
    created_at: datetime
    updated_at: datetime
    #: When Flyte received the end of the job, or deleted its task.
    collected_at: datetime | None = None
    #: When the batch was last read from OpenAI.
    checked_at: datetime | None = None
    #: What made the last change: ``create``, ``submit``, ``poll``, ``webhook``, ``cancel`` ...
    source: str = ""
    #: When the batch expires at OpenAI.
    expires_at: datetime | None = None
    #: Tokens as counted by OpenAI, after the end of the batch.
    input_tokens: int = 0
    output_tokens: int = 0
    #: The most frequent error of the failed requests, after the job's page has been opened.
    top_error: str = ""
    #: The transitions, one per line, see ``overview.job_view``.
    history: str = ""

    @field_validator("spec", mode="before")
    @classmethod
    def _complete(cls, stored: object, info: ValidationInfo) -> object:
        """Reverse ``JobRequest.record``; a spec that was stored as a whole stays as it is."""
        spec = {name: info.data.get(name) for name in _OWN_FIELDS}
        spec |= _STORED_SPEC.validate_python(stored)
        credential = spec.setdefault("credential", {})
        if isinstance(credential, dict):
            credential.setdefault("organization", info.data.get("organization"))
        return spec

    @property
    def terminal(self) -> bool:
        """Whether the job has ended."""
        return self.state.terminal

    @property
    def phase(self) -> Phase:
        """The phase that Flyte gets."""
        return phase_of(self.kind, self.state, self.stage, self.waiting_for)

    @property
    def succeeded(self) -> bool:
        """Whether the job has outputs."""
        return self.state is JobState.SUCCEEDED


class JobStatus(NamedTuple):
    """The fields that Flyte's ``get`` reads from a job's record. Absent strings are empty.

    Flyte calls ``get`` every few seconds for each running task, so parsing must be fast.
    """

    kind: JobKind
    state: JobState
    stage: Stage
    waiting_for: WaitingFor | None
    message: str
    openai_status: str
    model: str
    batch_id: str
    input_file_id: str
    output_file_id: str
    error_file_id: str
    organization: str
    total: int
    completed: int
    failed: int
    bytes_done: int
    bytes_total: int
    #: The task's outputs in JSON, after success.
    result: str
    #: When Flyte received the end of the job, epoch seconds.
    collected_at: str

    @classmethod
    def parse(cls, values: Sequence[str | None]) -> "JobStatus":
        """Parse the record's fields of the same names; raises ValueError."""
        kind, state, stage, waiting_for, *rest = [value or "" for value in values]
        *texts, total, completed, failed, done, size, result, collected_at = rest
        numbers = [int(number or 0) for number in (total, completed, failed, done, size)]
        waiting = WaitingFor(waiting_for) if waiting_for else None
        checked = (JobKind(kind), JobState(state), Stage(int(stage or 0)), waiting)
        return cls._make((*checked, *texts, *numbers, result, collected_at))

    @property
    def phase(self) -> Phase:
        """The phase that Flyte gets."""
        return phase_of(self.kind, self.state, self.stage, self.waiting_for)


def is_job_id(text: str) -> bool:
    """Whether ``text`` has the form of a job id."""
    return _JOB_ID.fullmatch(text) is not None


def is_openai_id(text: str) -> bool:
    """Whether ``text`` can be the OpenAI id of a file or batch."""
    return _OPENAI_ID.fullmatch(text) is not None


def random_job_id() -> str:
    """An id for a job that has no identity, such as that of a local run."""
    return _job_id(uuid.uuid4().bytes)


def derived_job_id(*identity: bytes) -> str:
    """The id of the job with this identity; the same parts give the same id."""
    digest = hashlib.sha256()
    for part in identity:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return _job_id(digest.digest())


def generation_id(first_id: str, generation: int) -> str:
    """The id of a generation of the job whose first generation has ``first_id``."""
    return first_id if generation == 1 else f"{first_id}-{generation}"


def first_id(job_id: str) -> str:
    """The id of the first generation of a job."""
    return job_id[:_FIRST_ID_CHARS]


def _job_id(entropy: bytes) -> str:
    return "bf-" + base64.b32encode(entropy[:16]).decode("ascii").rstrip("=").lower()
