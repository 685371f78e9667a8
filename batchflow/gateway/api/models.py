"""Response models of the API that are not models of jobs, and parts of its OpenAPI document."""

from http import HTTPStatus
from typing import Any, Final

from fastapi import Depends
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from batchflow.overview.job_view import JobView
from batchflow.store.records import CancelResult


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class JobPage(_Frozen):
    """A page of jobs, newest first."""

    jobs: tuple[JobView, ...]
    next: str | None = Field(
        description="The `after` of the next page; null if there is none. A page may be short, or "
        "empty, and still have a next one: a search answers in parts."
    )


class CancelAnswer(_Frozen):
    """The result of a cancellation."""

    outcome: CancelResult = Field(
        description="`cancelled`: the job has ended. `requested`: a worker cancels the batch at "
        "OpenAI, and the job ends when OpenAI reports that the batch has. `ended`: the job had "
        "already ended, and nothing changed."
    )
    delayed: bool = Field(
        description="The cancellation is recorded, but Celery's broker is unavailable. A worker "
        "cancels the batch when the broker is back."
    )
    job: JobView


class Reason(_Frozen):
    """Why a request failed."""

    message: str = Field(description="What went wrong, and what to do.")


class Problem(_Frozen):
    """The response to a request that failed."""

    error: Reason


_MEANING: Final = {
    HTTPStatus.BAD_REQUEST: "A parameter is not valid.",
    HTTPStatus.UNAUTHORIZED: "The token is missing or wrong.",
    HTTPStatus.FORBIDDEN: "The origin of the request is not allowed.",
    HTTPStatus.NOT_FOUND: "There is no such job.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "A parameter is missing or not valid; the message names it.",
    HTTPStatus.TOO_MANY_REQUESTS: "Too many requests; `Retry-After` says when to try again.",
    HTTPStatus.SERVICE_UNAVAILABLE: "Redis is unavailable, or the gateway has too many streams.",
}

#: The errors of every route.
_COMMON: Final = (401, 403, 422, 429, 503)

#: Only for the OpenAPI document: the auth middleware checks the token.
SHOWS_TOKEN: Final = Depends(
    HTTPBearer(auto_error=False, description="BATCHFLOW_API_TOKEN, if it is set.")
)


def problems(*further: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of a route's errors."""
    return {
        status: {"model": Problem, "description": _MEANING[HTTPStatus(status)]}
        for status in sorted({*_COMMON, *further})
    }


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """A model's schema, for a place in the document where FastAPI does not create one. The models
    that it refers to must be in other responses, too."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {name: value for name, value in schema.items() if name != "$defs"}
