"""Settings of the emulator: each is an option of the command and a field of the control API."""

import base64
import binascii
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    Strict,
    model_validator,
)

from batchflow.simulator.faults import Outage
from batchflow.simulator.statuses import KNOWN

#: The longest duration that can be set, in seconds: 30 days.
LONGEST_S = 2_592_000

_SECRET_PREFIX = "whsec_"  # noqa: S105 - a prefix, not a secret

Seconds = Annotated[float, Field(ge=0, le=LONGEST_S)]
Share = Annotated[float, Field(ge=0, le=1)]


def _signing_secret(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value()
    problem = f"has to be {_SECRET_PREFIX} followed by base64"
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
        raise ValueError("has to be an http:// or https:// URL")
    return url


def _unlisted(status: str) -> str:
    if status in KNOWN:
        raise ValueError("has to be a status that OpenAI doesn't list")
    return status


HttpUrl = Annotated[str, Field(max_length=2048), AfterValidator(_http_url)]
SigningSecret = Annotated[SecretStr, AfterValidator(_signing_secret)]
UnlistedStatus = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_unlisted)]


class SimulatorConfig(BaseModel):
    """How the emulator behaves. A batch keeps the settings of the moment it was created in."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    validating_s: Seconds = Field(default=1.0, description="time in `validating`")
    in_progress_s: Seconds = Field(default=2.0, description="time in `in_progress`, at least")
    per_request_s: Seconds = Field(
        default=0.01, description="more time in `in_progress` for each request of the batch"
    )
    finalizing_s: Seconds = Field(default=1.0, description="time in `finalizing`")
    cancelling_s: Seconds = Field(default=1.0, description="time in `cancelling`")
    completion_window_s: Seconds = Field(
        default=86_400.0, description="a batch that is not done so long after its creation expires"
    )
    output_file_lag_s: Seconds = Field(
        default=0.0, description="`completed` is visible so long before the ids of its files"
    )
    extra_status: UnlistedStatus | None = Field(
        default=None,
        description="a status that OpenAI doesn't list, shown before `in_progress`",
    )
    extra_status_s: Seconds = Field(default=1.0, description="how long it is shown")
    request_failure_share: Share = Field(
        default=0.0, description="share of the requests that fail, chosen by custom_id and seed"
    )
    request_failure_status: int = Field(
        default=500, ge=400, le=599, description="status code of the requests that fail so"
    )
    seed: int = Field(default=0, description="decides what is hit by the shares")
    shuffle_output: bool = Field(
        default=True, description="results come in another order than the requests"
    )
    enqueued_token_limit: int | None = Field(
        default=None,
        ge=0,
        description="an organization's batch beyond it fails with `token_limit_exceeded`",
    )
    max_requests: int = Field(default=50_000, ge=1, description="requests in one batch, at most")
    max_file_bytes: int = Field(
        default=200 * 1024 * 1024, ge=1, description="bytes in one uploaded file, at most"
    )
    refused_keys: Annotated[tuple[SecretStr, ...], Strict(False)] = Field(
        default=(), description="API keys that are answered with 401"
    )
    webhook_url: HttpUrl | None = Field(
        default=None, description="receives the events of every organization"
    )
    webhook_secret: SigningSecret | None = Field(
        default=None, description="signs what goes to it: `whsec_` and base64"
    )
    webhook_retries: int = Field(
        default=8, ge=0, le=100, description="further attempts at a delivery that isn't taken"
    )
    webhook_backoff_s: Seconds = Field(
        default=1.0, description="wait before the first further attempt; doubles each time"
    )
    webhook_delay_s: Seconds = Field(default=0.0, description="wait before each delivery")
    webhook_reorder_s: Seconds = Field(
        default=0.0, description="up to so much more wait, different for each delivery"
    )
    webhook_drop_share: Share = Field(default=0.0, description="share of deliveries never made")
    webhook_duplicate_share: Share = Field(
        default=0.0, description="share of deliveries made twice"
    )
    outages: Annotated[tuple[Outage, ...], Strict(False)] = Field(
        default=(), description="outages that begin with this setting"
    )

    @model_validator(mode="after")
    def _signed(self) -> Self:
        if self.webhook_url is not None and self.webhook_secret is None:
            raise ValueError("webhook_url needs a webhook_secret to sign with")
        return self
