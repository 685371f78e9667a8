"""The filters for states and kinds: each is a link that turns it on or off."""

from dataclasses import dataclass

from batchflow.gateway.pages.list_query import ListQuery
from batchflow.overview.summary import Summary
from batchflow.states import LIVE, JobKind, JobState


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
    counts = _counts(query, summary)
    states = [
        FilterLink(
            state.title(),
            query.toggled("state", state).url(),
            state in query.state,
            counts[state] if counts else None,
            state,
        )
        for state in JobState
    ]
    return [
        FilterLink(
            "All",
            query.changed(state=frozenset()).url(),
            not query.state,
            sum(counts.values()) if counts else None,
        ),
        FilterLink(
            "Live",
            query.changed(state=LIVE).url(),
            query.state == LIVE,
            sum(counts[state] for state in LIVE) if counts else None,
        ),
        *states,
    ]


def kind_filters(query: ListQuery) -> list[FilterLink]:
    """The kinds; without any of them, all jobs match."""
    return [
        FilterLink(kind.title(), query.toggled("kind", kind).url(), kind in query.kind)
        for kind in JobKind
    ]


def _counts(query: ListQuery, summary: Summary) -> dict[JobState, int] | None:
    """The jobs of these kinds by state; None with a filter for which jobs are not counted."""
    if query.organization or query.execution or query.text:
        return None
    kinds = query.kind or JobKind
    return {state: sum(summary.counts[kind][state] for kind in kinds) for state in JobState}
