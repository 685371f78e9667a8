"""What the API answers with, where that is not a job's own form, and what its document says."""

from http import HTTPStatus
from typing import Any, Final

from fastapi import Depends
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from batchflow.overview.cancellation import CancelOutcome
from batchflow.overview.job_view import JobView


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class JobPage(_Frozen):
    """Some jobs, newest first."""

    jobs: tuple[JobView, ...]
    next: str | None = Field(
        description="Give it as `after` for the next page. Null when there is nothing more. A "
        "page may be short, or empty, and yet have a next one: a search answers in parts."
    )


class CancelAnswer(_Frozen):
    """What became of the wish to cancel a job."""

    outcome: CancelOutcome = Field(
        description="`cancelled`: it has ended. `requested`: a worker cancels it at OpenAI, and it "
        "ends when OpenAI says so. `ended`: it had ended before, and nothing was changed."
    )
    delayed: bool = Field(
        description="The wish is recorded, but no worker could be told, because Celery's broker is "
        "away. It is carried out when the broker is back."
    )
    job: JobView


class Reason(_Frozen):
    """Why a request failed."""

    message: str = Field(description="What is wrong, and how to mend it.")


class Problem(_Frozen):
    """The answer to a request that failed."""

    error: Reason


_MEANING: Final = {
    HTTPStatus.BAD_REQUEST: "What was given can't work.",
    HTTPStatus.UNAUTHORIZED: "The token is missing or wrong.",
    HTTPStatus.FORBIDDEN: "The request may not come from where it comes from.",
    HTTPStatus.NOT_FOUND: "There is no such job.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "A parameter is missing or wrong; the message names it.",
    HTTPStatus.TOO_MANY_REQUESTS: "Too many requests; `Retry-After` says when to ask again.",
    HTTPStatus.SERVICE_UNAVAILABLE: "Redis can't be reached, or the gateway is full.",
}

#: What every route may answer.
_COMMON: Final = (401, 403, 422, 429, 503)

#: For the document alone: it is the gate before all routes that asks for the token.
SHOWS_TOKEN: Final = Depends(
    HTTPBearer(auto_error=False, description="BATCHFLOW_API_TOKEN, if there is one.")
)


def problems(*further: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of the errors that a route answers with."""
    return {
        status: {"model": Problem, "description": _MEANING[HTTPStatus(status)]}
        for status in sorted({*_COMMON, *further})
    }


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """A model's schema for a place in the document where FastAPI expects none. What it refers to
    must be part of other answers, too."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {name: value for name, value in schema.items() if name != "$defs"}
