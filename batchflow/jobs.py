"""What a job is: its order, its record, its identity. Parsed at the edge, trusted inside."""

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

from batchflow.states import JobKind, JobState, Stage

#: The key name of the secret when a task names none, as in Flyte's OpenAI plugin.
DEFAULT_SECRET_KEY = "FLYTE_OPENAI_API_KEY"  # noqa: S105 - the name of a secret, not a secret


def _text(pattern: str, wanted: str) -> BeforeValidator:
    """Takes a text that matches ``pattern`` as a whole; for anything else it says what is wanted,
    and does not repeat what was given, which may be a secret."""
    regex = re.compile(pattern, re.ASCII)

    def check(value: object) -> str:
        if isinstance(value, str) and regex.fullmatch(value):
            return value
        raise PydanticCustomError("text", f"must be {wanted}")

    return BeforeValidator(check)


#: Somebody gave an API key where its name belongs.
_NO_API_KEY = r"(?!sk-.{16})"
_NO_PARENT_FOLDER = r"(?!.*\.\.)"

#: A job id: ``bf-`` and 26 characters, then ``-2``, ``-3`` ... for later generations.
JobId = Annotated[str, _text(r"bf-[a-z2-7]{26}(-[1-9][0-9]{0,5})?", "the id of a job")]

#: An id that OpenAI, or a server that speaks its API, gave to a file or a batch.
OpenAIId = Annotated[
    str,
    _text(
        _NO_PARENT_FOLDER + r"[A-Za-z0-9][A-Za-z0-9_.:/=-]{0,255}",
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

#: Where a file is, or a folder; which places a worker touches, the worker decides.
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


_JOB_ID: TypeAdapter[str] = TypeAdapter(JobId)
_OPENAI_ID: TypeAdapter[str] = TypeAdapter(OpenAIId)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Credential(_Frozen):
    """Names an API key without holding it: a Flyte secret, and the organization it is used for."""

    organization: _Organization | None = None
    group: _SecretName | None = None
    key: _SecretName | None = DEFAULT_SECRET_KEY
    group_version: _SecretName | None = None

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> dict[str, str | None]:
        """Only what differs from the defaults: it stands in every record."""
        values: dict[str, str | None] = handler(self)
        fields = type(self).model_fields
        return {name: value for name, value in values.items() if value != fields[name].default}

    @property
    def secret(self) -> str:
        """The secret's name for people, such as ``openai-api-key/api_key``."""
        return "/".join(part for part in (self.group, self.group_version, self.key) if part)

    def __str__(self) -> str:
        return f"{self.secret}@{self.organization}" if self.organization else self.secret


class UploadSpec(_Frozen):
    """Send the JSONL file at ``uri`` to OpenAI."""

    kind: Literal[JobKind.UPLOAD] = JobKind.UPLOAD
    credential: Credential
    uri: _Uri


class BatchSpec(_Frozen):
    """Run a batch; ``config`` is the task's, as its author wrote it."""

    kind: Literal[JobKind.BATCH] = JobKind.BATCH
    credential: Credential
    input_file_id: OpenAIId
    config: dict[str, Any]
    #: Whether an expired batch with output is a success.
    accept_partial: Annotated[bool, BeforeValidator(_true_or_false)] = False


class DownloadSpec(_Frozen):
    """Fetch a batch's files into the folder ``destination``, a URI."""

    kind: Literal[JobKind.DOWNLOAD] = JobKind.DOWNLOAD
    credential: Credential
    output_file_id: OpenAIId | None = None
    error_file_id: OpenAIId | None = None
    destination: _Uri


Spec = Annotated[UploadSpec | BatchSpec | DownloadSpec, Field(discriminator="kind")]

#: Parts of a spec that have fields of their own in a record; so has a credential's organization.
#: The record's ``spec`` holds the rest of it, less what is as it mostly is.
_OWN_FIELDS = ("kind", "input_file_id", "output_file_id", "error_file_id")
_STORED_SPEC: TypeAdapter[dict[str, Any]] = TypeAdapter(Json[dict[str, Any]])


class JobRequest(_Frozen):
    """What is known of a job before anything is done: enough to make its record, or remake it."""

    job_id: JobId
    spec: Spec
    #: ``<project>/<domain>/<execution>/<node>``, or empty for a local run.
    execution: str = ""
    #: Flyte's attempt that gave the order, from 0.
    attempt: int = 0
    #: Which try of the whole job this is, from 1.
    generation: int = 1

    def record(self) -> dict[str, str]:
        """The fields of a new record; those that are not known yet are left out."""
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
            # What most jobs have is left out: there may be very many of them.
            "attempt": self.attempt or None,
            "generation": self.generation if self.generation > 1 else None,
        }
        if isinstance(self.spec, BatchSpec):
            fields["model"] = self.spec.config.get("model")
        return {name: str(value) for name, value in fields.items() if value not in (None, "")}


class Job(_Frozen):
    """A job's record, as it stands in Redis. Times are aware, sizes in bytes."""

    id: str
    kind: JobKind
    state: JobState
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    organization: str | None = None
    #: Made whole from the fields above, which the record does not say twice.
    spec: Spec
    #: For the user: why the job waits, failed, or what it is doing.
    message: str = ""
    #: The last status that OpenAI reported, word for word.
    openai_status: str = ""
    stage: Stage = Stage.NONE
    model: str | None = None
    batch_id: str | None = None
    #: Requests in the batch, and how many of them are done.
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
    #: Tries at OpenAI whose outcome may be unknown; 0 means that nothing went out.
    tries: int = 0
    #: When the last of them went out.
    tried_at: datetime | None = None
    #: Times in a row that a step broke for a reason other than OpenAI.
    failures: int = 0
    #: Since when it waits for OpenAI's limit of enqueued tokens.
    waiting_since: datetime | None = None
    cancel_requested: bool = False
    created_at: datetime
    updated_at: datetime
    #: When OpenAI was last asked about it.
    checked_at: datetime | None = None
    #: Who made the last change: ``create``, ``submit``, ``poll``, ``webhook``, ``cancel`` ...
    source: str = ""
    #: When OpenAI gives a batch up.
    expires_at: datetime | None = None
    #: Tokens that OpenAI counted, once the batch has ended.
    input_tokens: int = 0
    output_tokens: int = 0
    #: The most frequent error among its failed requests, once somebody wanted to know.
    top_error: str = ""
    #: Its transitions, a line each, see ``overview.timeline``.
    history: str = ""

    @field_validator("spec", mode="before")
    @classmethod
    def _whole(cls, stored: object, info: ValidationInfo) -> object:
        """What ``Order.record`` took apart; a spec that was stored whole stays as it is."""
        spec = {name: info.data.get(name) for name in _OWN_FIELDS}
        spec |= _STORED_SPEC.validate_python(stored)
        credential = spec.setdefault("credential", {})
        if isinstance(credential, dict):
            credential.setdefault("organization", info.data.get("organization"))
        return spec

    @property
    def terminal(self) -> bool:
        """Whether nothing will follow."""
        return self.state.terminal

    @property
    def succeeded(self) -> bool:
        """Whether the outputs are there."""
        return self.state is JobState.SUCCEEDED


class JobStatus(NamedTuple):
    """The part of a job's record that Flyte is told about. It is read for each running task, all
    the time, so it is small and quickly made; absent texts are empty."""

    kind: JobKind
    state: JobState
    stage: Stage
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
    #: The task's outputs in JSON, once it has succeeded.
    result: str

    @classmethod
    def parse(cls, values: Sequence[str | None]) -> "JobStatus":
        """From the record's fields of the same names; raises ValueError."""
        kind, state, stage, *rest = [value or "" for value in values]
        message, status, model, batch, given, output, error, organization, *numbers, result = rest
        total, completed, failed, done, size = [int(number or 0) for number in numbers]
        return cls(
            JobKind(kind),
            JobState(state),
            Stage(int(stage or 0)),
            message,
            status,
            model,
            batch,
            given,
            output,
            error,
            organization,
            total,
            completed,
            failed,
            done,
            size,
            result,
        )


def is_job_id(text: str) -> bool:
    """Whether ``text`` has the form of a job id."""
    return _matches(_JOB_ID, text)


def is_openai_id(text: str) -> bool:
    """Whether ``text`` can be the id of a file or batch."""
    return _matches(_OPENAI_ID, text)


def _matches(adapter: TypeAdapter[str], text: str) -> bool:
    try:
        adapter.validate_python(text)
    except ValueError:
        return False
    return True


def random_job_id() -> str:
    """An id for a job without an identity of its own, such as a local run's."""
    return _job_id(uuid.uuid4().bytes)


def derived_job_id(*identity: bytes) -> str:
    """The id of the job with this identity: the same parts give the same id."""
    digest = hashlib.sha256()
    for part in identity:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return _job_id(digest.digest())


def generation_id(first_id: str, generation: int) -> str:
    """The id of a later generation of the job whose first one has ``first_id``."""
    return first_id if generation == 1 else f"{first_id}-{generation}"


def _job_id(entropy: bytes) -> str:
    return "bf-" + base64.b32encode(entropy[:16]).decode("ascii").rstrip("=").lower()
