"""Commands that read the stream of transitions, which the Lua commands append to.

An entry's id is its position and its time. Redis deletes the oldest entries.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from batchflow.errors import InvalidInput, invalid_fields
from batchflow.states import JobKind, JobState
from batchflow.store import keys
from batchflow.store.command import Command

logger = logging.getLogger(__name__)

_ENTRY_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})", re.ASCII)
_MAX = 2**64 - 1


class EntryId(NamedTuple):
    """An entry's id: milliseconds since the epoch, and a number within the millisecond."""

    ms: int
    number: int

    @classmethod
    def parse(cls, text: str) -> "EntryId":
        """From Redis' form, ``<ms>-<number>``; raises InvalidInput."""
        match = _ENTRY_ID.fullmatch(text)
        found = cls(int(match[1]), int(match[2])) if match else None
        if found is None or max(found) > _MAX:
            raise InvalidInput(
                "Not a valid event id. Give the id of the last event, such as 1767225600000-0."
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
    before: Annotated[JobState | None, BeforeValidator(lambda text: text or None)] = Field(
        description="The state before; null for a new job."
    )
    state: JobState
    openai_status: str = Field(description="OpenAI's status; empty before there is a batch.")
    message: str
    source: str = Field(
        description="What made the change: `create`, `submit`, `poll`, `webhook`, `cancel` ..."
    )
    at: datetime


@dataclass(frozen=True)
class Entry:
    """A transition and its id; None if this version can't read it."""

    id: EntryId
    transition: Transition | None


def oldest() -> Command[EntryId | None]:
    """The id of the oldest entry that Redis still has."""
    return Command("XRANGE", [keys.EVENTS], ["-", "+", "COUNT", 1], _only_id)


def newest() -> Command[EntryId | None]:
    """The id of the newest entry."""
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
    """Wait for an entry; False if there was none within ``for_s`` seconds, which must be less than
    the store's timeout."""
    # `entries` reads it: redis-py returns the reply to XREAD in three forms.
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
    parsed_id = EntryId.parse(entry_id)
    try:
        transition = Transition.model_validate({**fields, "at": parsed_id.ms / 1000})
    except ValidationError as error:
        logger.error("Can't read event %s; check: %s", entry_id, invalid_fields(error))  # noqa: TRY400 - the names of the fields are enough
        transition = None
    return Entry(parsed_id, transition)
