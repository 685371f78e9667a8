"""Outages: what goes wrong between a client and the API, on demand."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict

#: Every operation of the API, by the name of its method in OpenAI's SDK.
OPERATIONS = (
    "files.create",
    "files.list",
    "files.retrieve",
    "files.content",
    "files.delete",
    "batches.create",
    "batches.list",
    "batches.retrieve",
    "batches.cancel",
    "webhooks.create",
    "webhooks.list",
    "webhooks.retrieve",
    "webhooks.update",
    "webhooks.delete",
    "webhooks.rotate_secret",
    "webhooks.test",
    "webhooks.event_types",
)


def _known_operation(pattern: str) -> str:
    if not any(fnmatchcase(operation, pattern) for operation in OPERATIONS):
        raise ValueError(f"no operation has this name; they are {', '.join(OPERATIONS)}")
    return pattern


OperationPattern = Annotated[str, AfterValidator(_known_operation)]


class Outage(BaseModel):
    """One thing that goes wrong, for which calls, and for how long."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    answer: Literal["status", "drop", "garbage", "cut", "normal"] = Field(
        default="status",
        description=(
            "`status`: an error with the code `status`; `drop`: the connection closes without an "
            "answer; `garbage`: 200 with a body that isn't JSON; `cut`: half of the real answer, "
            "then the connection closes; `normal`: the real answer, after `delay_s`"
        ),
    )
    status: int = Field(default=503, ge=400, le=599, description="code of an error answer")
    retry_after_s: float | None = Field(
        default=None, ge=0, le=86_400, description="Retry-After header of an error answer"
    )
    after_acting: bool = Field(
        default=False,
        description="carry out the call, then answer like this: the client can't know it worked",
    )
    operations: Annotated[tuple[OperationPattern, ...], Strict(False)] = Field(
        default=(), description="operations that are hit, such as `batches.create` or `files.*`"
    )
    share: float = Field(default=1.0, ge=0, le=1, description="share of the calls that are hit")
    count: int | None = Field(default=None, ge=1, description="ends after so many hits")
    duration_s: float | None = Field(default=None, gt=0, description="ends after so long")
    delay_s: float = Field(default=0.0, ge=0, le=86_400, description="wait before the answer")

    def concerns(self, operation: str) -> bool:
        """Whether calls of this operation may be hit."""
        return not self.operations or any(fnmatchcase(operation, p) for p in self.operations)


@dataclass(slots=True)
class _Running:
    outage: Outage
    ends_at: float | None
    hits_left: int | None


class Faults:
    """The outages that are going on."""

    def __init__(self, outages: Sequence[Outage], *, seed: int, now: float) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._running: list[_Running] = []
        for outage in outages:
            self.begin(outage, now=now)

    def begin(self, outage: Outage, *, now: float) -> None:
        """Start an outage; it is added to those that are going on."""
        ends_at = None if outage.duration_s is None else now + outage.duration_s
        self._running.append(_Running(outage, ends_at, outage.count))

    def end_all(self) -> None:
        """Everything works again."""
        self._running.clear()

    def strike(self, operation: str, *, now: float) -> Outage | None:
        """The outage that hits this call, if one does; it is counted as a hit."""
        for running in self._still_running(now):
            outage = running.outage
            if not outage.concerns(operation) or self._random.random() >= outage.share:
                continue
            if running.hits_left is not None:
                running.hits_left -= 1
            return outage
        return None

    def going_on(self, *, now: float) -> list[Outage]:
        """The outages that can hit a call now, oldest first."""
        return [running.outage for running in self._still_running(now)]

    def _still_running(self, now: float) -> list[_Running]:
        self._running = [
            running
            for running in self._running
            if running.hits_left != 0 and (running.ends_at is None or now < running.ends_at)
        ]
        return self._running
