"""Settings from the environment, read once into one frozen object."""

from functools import cache
from typing import Annotated

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from batchflow.errors import InvalidSettings, explain_invalid
from batchflow.requests.jsonl import ValidationMode

_PREFIX = "BATCHFLOW_"

#: A URL of this installation, without a trailing slash.
_HttpUrl = Annotated[
    str,
    StringConstraints(pattern=r"^https?://[^\s?#]+$"),
    AfterValidator(lambda url: url.rstrip("/")),
]


class Settings(BaseSettings):
    """All settings of all processes, from ``BATCHFLOW_<NAME>``."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        populate_by_name=True,
    )

    #: The Redis with the job records; the schemes are in ``redis_url``.
    redis_url: SecretStr | None = None
    #: Celery's broker, if it is not the same Redis.
    broker_url: SecretStr | None = None
    #: The prefix of all keys in Redis and of all queues.
    key_prefix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "batchflow"
    #: How often a young batch is polled. Older ones are polled less often.
    poll_interval_s: float = Field(default=15, ge=0.05, le=86_400)
    #: How often beat triggers a sweep.
    sweep_interval_s: float = Field(default=1, ge=0.05, le=3_600)
    #: How long the record of a job that ended stays in Redis.
    retention_s: float = Field(default=7 * 86_400, ge=60)
    #: How uploads are validated: ``strict``, ``json`` or ``off``.
    validation: ValidationMode = ValidationMode.STRICT
    #: What workers may read and write: comma-separated prefixes such as ``s3://bucket/`` or
    #: ``/data/``. Default: object stores, and on a local stack the temporary and current folder.
    allowed_uris: Annotated[tuple[str, ...] | None, NoDecode] = None
    #: The timeout of a request to OpenAI; a transfer may stall for this long.
    openai_timeout_s: float = Field(default=60, gt=0, le=3_600)
    #: How long after a request with an unknown outcome OpenAI's lists show what it created.
    settle_s: float = Field(default=20, ge=0, le=3_600)
    #: How long a job waits for OpenAI's limit of enqueued tokens before it fails.
    quota_wait_s: float = Field(default=86_400, ge=0)
    #: How long after Flyte deleted a task its job is cancelled. Meanwhile, another attempt of the
    #: task takes over the job.
    delete_delay_s: float = Field(default=60, ge=0, le=86_400)
    #: A worker that has not renewed its lease for this long counts as dead.
    lease_s: float = Field(default=30, ge=0.5, le=3_600)
    #: The signing secrets of OpenAI's webhooks, comma-separated: one per OpenAI project, and old
    #: ones during a rotation. The variable is OpenAI's own.
    webhook_secrets: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(), validation_alias="OPENAI_WEBHOOK_SECRET"
    )
    #: The token that the gateway requires, except on the loopback.
    api_token: Annotated[SecretStr | None, Field(min_length=16)] = None
    #: The URL at which people reach the gateway; links from the Flyte console begin with it.
    public_url: _HttpUrl | None = None
    #: The URL of the Flyte console; links to executions begin with it.
    flyte_console_url: _HttpUrl | None = None

    @field_validator("allowed_uris", "webhook_secrets", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    def require_redis_url(self) -> str:
        """The Redis URL; raises InvalidSettings if it is not set."""
        if self.redis_url is None:
            raise InvalidSettings(
                "BATCHFLOW_REDIS_URL is not set. Set it to the Redis that holds the jobs, such as "
                "redis://localhost:6379/0."
            )
        return self.redis_url.get_secret_value()

    def require_broker_url(self) -> str:
        """Celery's broker URL, by default the Redis URL."""
        return self.broker_url.get_secret_value() if self.broker_url else self.require_redis_url()


@cache
def load_settings() -> Settings:
    """The settings of this process; raises InvalidSettings that names each invalid variable."""
    try:
        return Settings()
    except ValidationError as error:
        # Without the values: one may be a password.
        invalid = explain_invalid(error, _variable)
        raise InvalidSettings(f"The environment has invalid settings. {invalid}.") from None


def _variable(location: tuple[int | str, ...]) -> str:
    name = str(location[0])
    return _PREFIX + name.upper() if name in Settings.model_fields else name
