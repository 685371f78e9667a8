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

from batchflow.errors import InvalidSettings
from batchflow.requests.jsonl import ValidationMode

_PREFIX = "BATCHFLOW_"

#: An address of this installation, without the slash at its end.
_HttpUrl = Annotated[
    str,
    StringConstraints(pattern=r"^https?://[^\s?#]+$"),
    AfterValidator(lambda url: url.rstrip("/")),
]


class Settings(BaseSettings):
    """Every setting of every process, as ``BATCHFLOW_<NAME>``."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        populate_by_name=True,
    )

    #: Where the job records are: ``redis://``, ``rediss://`` or ``unix://``.
    redis_url: SecretStr | None = None
    #: Where Celery's queues are, if not in the same Redis.
    broker_url: SecretStr | None = None
    #: Begins every key in Redis and every queue.
    key_prefix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "batchflow"
    #: How often a young batch is asked about. Older ones are asked about less often.
    poll_interval_s: float = Field(default=15, ge=0.05, le=86_400)
    #: How often beat lets the sweep look for what is due.
    sweep_interval_s: float = Field(default=1, ge=0.05, le=3_600)
    #: How long a job that ended stays in Redis.
    retention_s: float = Field(default=7 * 86_400, ge=60)
    #: What upload checks: ``strict``, ``json`` or ``off``.
    validation: ValidationMode = ValidationMode.STRICT
    #: What workers may read and write: prefixes such as ``s3://bucket/`` or ``/data/``, with
    #: commas. Default: object stores, and on a local stack the temporary and current folder.
    allowed_uris: Annotated[tuple[str, ...] | None, NoDecode] = None
    #: How long one request to OpenAI may take; a transfer may pause this long.
    openai_timeout_s: float = Field(default=60, gt=0, le=3_600)
    #: After a request with an unknown outcome: how long until OpenAI's lists show what it made.
    settle_s: float = Field(default=20, ge=0, le=3_600)
    #: How long a job waits for OpenAI's limit of enqueued tokens before it fails.
    quota_wait_s: float = Field(default=86_400, ge=0)
    #: A worker that has not renewed its lease for so long is taken for dead.
    lease_s: float = Field(default=30, ge=0.5, le=3_600)
    #: What signs OpenAI's webhooks: one secret per OpenAI project, and old ones while they are
    #: rotated, with commas. The variable is OpenAI's own.
    webhook_secrets: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(), validation_alias="OPENAI_WEBHOOK_SECRET"
    )
    #: What the gateway asks for, everywhere but on the loopback.
    api_token: Annotated[SecretStr | None, Field(min_length=16)] = None
    #: Where people reach the gateway; links from the Flyte console begin with it.
    public_url: _HttpUrl | None = None
    #: Where people reach the Flyte console; links to executions begin with it.
    flyte_console_url: _HttpUrl | None = None

    @field_validator("allowed_uris", "webhook_secrets", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    def require_redis_url(self) -> str:
        """The Redis URL; raises InvalidSettings when none is set."""
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
    """This process's settings; raises InvalidSettings that names each wrong variable."""
    try:
        return Settings()
    except ValidationError as error:
        # Not the value: it may be a password.
        wrong = "; ".join(
            f"{_variable(str(problem['loc'][0]))}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        )
        raise InvalidSettings(
            f"The environment has settings that can't be used. {wrong}."
        ) from None


def _variable(name: str) -> str:
    return _PREFIX + name.upper() if name in Settings.model_fields else name
