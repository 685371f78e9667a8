"""The filters that are a click away: states and kinds, each a link that switches it on or off."""

from dataclasses import dataclass

from batchflow.gateway.pages.query import JobsQuery
from batchflow.overview.snapshot import Summary
from batchflow.states import LIVE, JobKind, JobState


@dataclass(frozen=True)
class FilterLink:
    """A filter, and whether it is on."""

    text: str
    href: str
    is_on: bool
    #: The jobs that it leaves; None when they aren't counted.
    jobs: int | None = None
    #: The state whose shape it shows.
    state: str = ""


def state_filters(query: JobsQuery, summary: Summary) -> list[FilterLink]:
    """All jobs, the live ones, and those in each state."""
    counts = _counts(query, summary)
    every = [
        FilterLink(
            state.title(),
            query.switched("state", state).address(),
            state in query.state,
            counts[state] if counts else None,
            state,
        )
        for state in JobState
    ]
    return [
        FilterLink(
            "All",
            query.but(state=frozenset()).address(),
            not query.state,
            sum(counts.values()) if counts else None,
        ),
        FilterLink(
            "Live",
            query.but(state=LIVE).address(),
            query.state == LIVE,
            sum(counts[state] for state in LIVE) if counts else None,
        ),
        *every,
    ]


def kind_filters(query: JobsQuery) -> list[FilterLink]:
    """The kinds; none of them on means all."""
    return [
        FilterLink(kind.title(), query.switched("kind", kind).address(), kind in query.kind)
        for kind in JobKind
    ]


def _counts(query: JobsQuery, summary: Summary) -> dict[JobState, int] | None:
    """The jobs of the wanted kinds by state; None where a filter is on by which none are
    counted."""
    if query.organization or query.execution or query.text:
        return None
    kinds = query.kind or JobKind
    return {state: sum(summary.counts[kind][state] for kind in kinds) for state in JobState}
