"""What Flyte's console shows of a task: each phase once, as the connector first answered it.

FlyteAdmin takes each pair of phase and version once, and the version of a connector's phases never
changes. So a later message, link or ``custom_info`` of the same phase is never seen.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.kit.flyte_client import Answer

#: In these phases, the console hides links without ``ShowWhilePending``.
_PENDING = frozenset({"QUEUED", "INITIALIZING"})


@dataclass(frozen=True)
class ShownPhase:
    """A phase as the console shows it."""

    phase: str
    message: str
    custom_info: Mapping[str, Any]
    links: Mapping[str, str]
    #: When the connector answered it, epoch seconds.
    at_s: float


@dataclass
class Console:
    """The record of one attempt of a task."""

    #: In the order in which they came.
    phases: list[ShownPhase] = field(default_factory=list)

    def take(self, answer: Answer) -> None:
        """Record an answer if it has a new phase. Flyte itself has taken QUEUED."""
        if answer.phase == "QUEUED" or answer.phase in self.names:
            return
        shown = ShownPhase(
            phase=answer.phase,
            # The console has no place for the message of RUNNING; ABORTED drops its message.
            message="" if answer.phase in ("RUNNING", "ABORTED") else answer.message,
            custom_info=answer.custom_info,
            links=answer.pending_links if answer.phase in _PENDING else answer.links,
            at_s=time.time(),
        )
        self.phases.append(shown)

    @property
    def names(self) -> list[str]:
        """The phases by name."""
        return [shown.phase for shown in self.phases]

    @property
    def phase(self) -> str:
        """The phase that the console shows."""
        return self.names[-1] if self.phases else "QUEUED"

    def message_of(self, phase: str) -> str:
        """The message of a phase."""
        return next(shown.message for shown in self.phases if shown.phase == phase)
