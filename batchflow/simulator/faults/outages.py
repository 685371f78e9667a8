"""Outages that are started on request, and which calls they affect."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, Strict

from batchflow.simulator.api_error import InputModel

#: Every operation of the API, by the name of its method in OpenAI's SDK.
OPERATIONS = tuple(
    f"{resource}.{method}"
    for resource, methods in (
        ("files", "create list retrieve content delete"),
        ("batches", "create list retrieve cancel"),
        ("webhooks", "create list retrieve update delete rotate_secret test event_types"),
    )
    for method in methods.split()
)


def _validate_operation_pattern(pattern: str) -> str:
    if not any(fnmatchcase(operation, pattern) for operation in OPERATIONS):
        raise ValueError(
            f"no operation matches this pattern; the operations are {', '.join(OPERATIONS)}"
        )
    return pattern


OperationPattern = Annotated[str, AfterValidator(_validate_operation_pattern)]


class Outage(InputModel):
    """A fault, the calls that it affects, and how long it lasts."""

    answer: Literal["status", "drop", "garbage", "cut", "normal"] = Field(
        default="status",
        description=(
            "`status`: an error with the code `status`; `drop`: the connection closes without a "
            "response; `garbage`: 200 with a body that is not JSON; `cut`: half of the normal "
            "response, then the connection closes; `normal`: the normal response after `delay_s`"
        ),
    )
    status: int = Field(default=503, ge=400, le=599, description="status code of the error")
    retry_after_s: float | None = Field(
        default=None, ge=0, le=86_400, description="Retry-After header of the error"
    )
    after_acting: bool = Field(
        default=False,
        description="perform the call first, so that the client cannot know that it succeeded",
    )
    operations: Annotated[tuple[OperationPattern, ...], Strict(False)] = Field(
        default=(),
        description="operations that are affected, such as `batches.create` or `files.*`",
    )
    share: float = Field(
        default=1.0, ge=0, le=1, description="share of the calls that are affected"
    )
    count: int | None = Field(
        default=None, ge=1, description="number of affected calls after which the outage ends"
    )
    duration_s: float | None = Field(default=None, gt=0, description="duration of the outage")
    delay_s: float = Field(default=0.0, ge=0, le=86_400, description="delay before the response")
    acts_after_s: float = Field(
        default=0.0,
        ge=0,
        le=86_400,
        description="delay before the call is performed, even if the client no longer waits",
    )

    def matches(self, operation: str) -> bool:
        """Return whether the outage can affect calls of this operation."""
        return not self.operations or any(fnmatchcase(operation, p) for p in self.operations)


@dataclass(slots=True)
class _ActiveOutage:
    outage: Outage
    ends_at: float | None
    calls_left: int | None


class ActiveOutages:
    """The outages that have not ended."""

    def __init__(self, outages: Sequence[Outage], *, seed: int, now: float) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._active: list[_ActiveOutage] = []
        for outage in outages:
            self.begin(outage, now=now)

    def begin(self, outage: Outage, *, now: float) -> None:
        """Start an outage beside those that are active."""
        ends_at = None if outage.duration_s is None else now + outage.duration_s
        self._active.append(_ActiveOutage(outage, ends_at, outage.count))

    def end_all(self) -> None:
        """End all outages."""
        self._active.clear()

    def match(self, operation: str, *, now: float) -> Outage | None:
        """Return the oldest outage that affects this call, and count the call."""
        for active in self._remove_ended(now):
            outage = active.outage
            if not outage.matches(operation) or self._random.random() >= outage.share:
                continue
            if active.calls_left is not None:
                active.calls_left -= 1
            return outage
        return None

    def active(self, *, now: float) -> list[Outage]:
        """Return the active outages, oldest first."""
        return [active.outage for active in self._remove_ended(now)]

    def _remove_ended(self, now: float) -> list[_ActiveOutage]:
        self._active = [
            active
            for active in self._active
            if active.calls_left != 0 and (active.ends_at is None or now < active.ends_at)
        ]
        return self._active
