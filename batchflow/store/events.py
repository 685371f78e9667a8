"""The stream of transitions, as commands: what the Lua commands append to ``events``.

An entry's id is its place: who has seen one goes on after it. It is its time, too. Redis forgets
the oldest.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from batchflow.errors import InvalidInput
from batchflow.states import JobKind, JobState
from batchflow.store import keys
from batchflow.store.command import Command

logger = logging.getLogger(__name__)

_ENTRY_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})", re.ASCII)
_MOST = 2**64 - 1


class EntryId(NamedTuple):
    """An entry's id, in Redis' order: milliseconds since the epoch, and a number in each."""

    ms: int
    number: int

    @classmethod
    def parse(cls, text: str) -> "EntryId":
        """From Redis' form, ``<ms>-<number>``; raises InvalidInput."""
        match = _ENTRY_ID.fullmatch(text)
        found = cls(int(match[1]), int(match[2])) if match else None
        if found is None or max(found) > _MOST:
            raise InvalidInput(
                "That is no id of a transition. Give the one that came with the last event, "
                "such as 1767225600000-0."
            )
        return found

    def __str__(self) -> str:
        return f"{self.ms}-{self.number}"


#: Before every entry.
BEGINNING = EntryId(0, 0)


class Transition(BaseModel):
    """A change of a job's state, status or message."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    kind: JobKind
    before: JobState | None = Field(description="The state until then; null for a new job.")
    state: JobState
    openai_status: str = Field(description="OpenAI's own word, empty before there is one.")
    message: str
    source: str = Field(
        description="Who saw to it: `create`, `submit`, `poll`, `webhook`, `cancel` ..."
    )
    at: datetime

    @field_validator("before", mode="before")
    @classmethod
    def _none_for_a_new_job(cls, value: object) -> object:
        return value or None


@dataclass(frozen=True)
class Entry:
    """A transition and its place; None if this code can't read it."""

    id: EntryId
    transition: Transition | None


def oldest() -> Command[EntryId | None]:
    """The first entry that Redis still has."""
    return Command("XRANGE", [keys.EVENTS], ["-", "+", "COUNT", 1], _only_id)


def newest() -> Command[EntryId | None]:
    """The last entry."""
    return Command("XREVRANGE", [keys.EVENTS], ["+", "-", "COUNT", 1], _only_id)


def entries(after: EntryId, limit: int) -> Command[list[Entry]]:
    """The next entries, oldest first."""
    return Command(
        "XRANGE",
        [keys.EVENTS],
        [f"({after}", "+", "COUNT", limit],
        lambda raw: [_entry(entry_id, fields) for entry_id, fields in raw],
    )


def wait(after: EntryId, *, for_s: float) -> Command[bool]:
    """Wait until there is a further entry; False if there was none in ``for_s`` seconds, which
    must be less than the store waits for an answer."""
    # What it holds, `entries` says: the client gives XREAD's answer in three forms.
    return Command(
        "XREAD",
        [keys.EVENTS],
        [str(after)],
        bool,
        options=["COUNT", 1, "BLOCK", int(for_s * 1000), "STREAMS"],
    )


def _only_id(raw: Sequence[tuple[str, object]]) -> EntryId | None:
    return EntryId.parse(raw[0][0]) if raw else None


def _entry(entry_id: str, fields: Mapping[str, str]) -> Entry:
    place = EntryId.parse(entry_id)
    try:
        transition = Transition.model_validate({**fields, "at": place.ms / 1000})
    except ValidationError as error:
        names = ", ".join(sorted({str(problem["loc"][0]) for problem in error.errors()}))
        logger.error("Event %s can't be read, look at: %s", entry_id, names)  # noqa: TRY400 - the fields say it all
        transition = None
    return Entry(place, transition)
