"""Settings of the emulator. Each is a command option and a field of the control API."""

import base64
import binascii
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, Strict, model_validator

from batchflow.simulator.api_error import InputModel
from batchflow.simulator.faults.outages import Outage
from batchflow.simulator.statuses import KNOWN

#: The longest duration that can be set, in seconds: 30 days.
MAX_DURATION_S = 2_592_000

_SECRET_PREFIX = "whsec_"  # noqa: S105 - a prefix, not a secret

Seconds = Annotated[float, Field(ge=0, le=MAX_DURATION_S)]
Share = Annotated[float, Field(ge=0, le=1)]


def _signing_secret(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value()
    problem = f"must be {_SECRET_PREFIX} followed by base64"
    if not value.startswith(_SECRET_PREFIX):
        raise ValueError(problem)
    try:
        key = base64.b64decode(value.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(problem) from None
    if not key:
        raise ValueError(problem)
    return secret


def _http_url(url: str) -> str:
    if not url.startswith(("http://", "https://")) or any(c.isspace() for c in url):
        raise ValueError("must be an http:// or https:// URL")
    return url


def _unlisted(status: str) -> str:
    if status in KNOWN:
        raise ValueError("must not be a status that OpenAI documents")
    return status


HttpUrl = Annotated[str, Field(max_length=2048), AfterValidator(_http_url)]
SigningSecret = Annotated[SecretStr, AfterValidator(_signing_secret)]
UnlistedStatus = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_unlisted)]


class SimulatorConfig(InputModel):
    """How the emulator behaves. A batch keeps the settings of the moment it was created in."""

    validating_s: Seconds = Field(default=1.0, description="time in `validating`")
    in_progress_s: Seconds = Field(default=2.0, description="least time in `in_progress`")
    per_request_s: Seconds = Field(
        default=0.01, description="additional time in `in_progress` per request"
    )
    finalizing_s: Seconds = Field(default=1.0, description="time in `finalizing`")
    cancelling_s: Seconds = Field(default=1.0, description="time in `cancelling`")
    completion_window_s: Seconds = Field(
        default=86_400.0, description="time after creation when an unfinished batch expires"
    )
    output_file_lag_s: Seconds = Field(
        default=0.0, description="time between `completed` and the output file ids"
    )
    extra_status: UnlistedStatus | None = Field(
        default=None,
        description="an undocumented status to show before `in_progress`",
    )
    extra_status_s: Seconds = Field(default=1.0, description="how long to show the extra status")
    request_failure_share: Share = Field(
        default=0.0, description="share of the requests that fail, selected by custom_id and seed"
    )
    request_failure_status: int = Field(
        default=500, ge=400, le=599, description="status code of these failures"
    )
    seed: int = Field(default=0, description="seed for all random decisions")
    shuffle_output: bool = Field(
        default=True, description="whether results are in a different order than requests"
    )
    enqueued_token_limit: int | None = Field(
        default=None,
        ge=0,
        description="tokens that an organization can enqueue; further batches fail",
    )
    max_requests: int = Field(
        default=50_000, ge=1, description="maximum number of requests in a batch"
    )
    max_file_bytes: int = Field(
        default=200 * 1024 * 1024, ge=1, description="maximum size of an uploaded file in bytes"
    )
    refused_keys: Annotated[tuple[SecretStr, ...], Strict(False)] = Field(
        default=(), description="API keys that are rejected with 401"
    )
    webhook_url: HttpUrl | None = Field(
        default=None, description="receives the events of every organization"
    )
    webhook_secret: SigningSecret | None = Field(
        default=None, description="signing secret for webhook_url: `whsec_` and base64"
    )
    webhook_retries: int = Field(
        default=8, ge=0, le=100, description="retries of a failed delivery"
    )
    webhook_backoff_s: Seconds = Field(
        default=1.0, description="delay before the first retry; doubles each time"
    )
    webhook_delay_s: Seconds = Field(default=0.0, description="delay before each delivery")
    webhook_reorder_s: Seconds = Field(
        default=0.0, description="maximum random extra delay of a delivery"
    )
    webhook_drop_share: Share = Field(
        default=0.0, description="share of deliveries that are dropped"
    )
    webhook_duplicate_share: Share = Field(
        default=0.0, description="share of deliveries that are sent twice"
    )
    outages: Annotated[tuple[Outage, ...], Strict(False)] = Field(
        default=(), description="outages that start immediately"
    )

    @model_validator(mode="after")
    def _signed(self) -> Self:
        if self.webhook_url is not None and self.webhook_secret is None:
            raise ValueError("webhook_url requires webhook_secret")
        return self
