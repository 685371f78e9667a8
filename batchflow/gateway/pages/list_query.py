"""The query of the page with all jobs, and the filters: links to other queries."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from pydantic import ConfigDict, Field

from batchflow.overview.job_filter import JobFilter
from batchflow.overview.summary import Summary
from batchflow.states import LIVE, JobKind, JobState


class ListQuery(JobFilter):
    """A filter and the cursor of a page; the parameters of the API's list, too."""

    model_config = ConfigDict(frozen=True, extra="ignore", str_strip_whitespace=True)

    after: str = Field(default="", max_length=300)

    @property
    def is_filtered(self) -> bool:
        """Whether some jobs are excluded."""
        return any(getattr(self, name) for name in JobFilter.model_fields)

    def changed(self, **changes: Any) -> "ListQuery":
        """Another filter, from its first page."""
        return self.model_copy(update={"after": "", **changes})

    def page_after(self, cursor: str) -> "ListQuery":
        """The same filter, from a cursor."""
        return self.model_copy(update={"after": cursor})

    def toggled(self, name: str, value: str) -> "ListQuery":
        """The filter with a state or kind added, or removed if it has it."""
        return self.changed(**{name: getattr(self, name) ^ {value}})

    @property
    def hidden_fields(self) -> list[tuple[str, str]]:
        """The parameters that the search form has no fields for."""
        return [(name, value) for name, value in self._pairs() if name in ("state", "kind")]

    def url(self, path: str = "/") -> str:
        """The URL of this query: ``/?state=running``."""
        query = urlencode(self._pairs())
        return f"{path}?{query}" if query else path

    def _pairs(self) -> list[tuple[str, str]]:
        return [
            *(("state", state.value) for state in JobState if state in self.state),
            *(("kind", kind.value) for kind in JobKind if kind in self.kind),
            *(
                (name, value)
                for name in ("organization", "execution", "text", "after")
                if (value := getattr(self, name))
            ),
        ]


@dataclass(frozen=True)
class FilterLink:
    """A filter, and whether it is on."""

    text: str
    href: str
    is_on: bool
    #: The number of jobs that match; None if they are not counted.
    jobs: int | None = None
    #: The state whose icon it has.
    state: str = ""


def state_filters(query: ListQuery, summary: Summary) -> list[FilterLink]:
    """All jobs, the live ones, and those in each state."""
    kinds = query.kind or JobKind
    is_counted = not (query.organization or query.execution or query.text)

    def jobs_in(states: Iterable[JobState]) -> int | None:
        jobs = sum(summary.counts[kind][state] for kind in kinds for state in states)
        return jobs if is_counted else None

    every, live = query.changed(state=frozenset()).url(), query.changed(state=LIVE).url()
    return [
        FilterLink("All", every, not query.state, jobs_in(JobState)),
        FilterLink("Live", live, query.state == LIVE, jobs_in(LIVE)),
        *(
            FilterLink(
                state.title(),
                query.toggled("state", state).url(),
                state in query.state,
                jobs_in([state]),
                state,
            )
            for state in JobState
        ),
    ]


def kind_filters(query: ListQuery) -> list[FilterLink]:
    """The kinds; without any of them, all jobs match."""
    return [
        FilterLink(kind.title(), query.toggled("kind", kind).url(), kind in query.kind)
        for kind in JobKind
    ]
