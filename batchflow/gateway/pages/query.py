"""What the address of the page with all jobs asks for, and the addresses that it leads to."""

from typing import Annotated, Any
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, StringConstraints

from batchflow.overview.job_list import Filter
from batchflow.states import JobKind, JobState

#: Nobody types a longer one, and it comes back in every link of the page.
_Typed = Annotated[str, StringConstraints(strip_whitespace=True, max_length=300)]


class JobsQuery(BaseModel):
    """Which jobs are wanted, and from where on; the parameters of the API's list, too."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: frozenset[JobState] = frozenset()
    kind: frozenset[JobKind] = frozenset()
    organization: _Typed = ""
    execution: _Typed = ""
    text: _Typed = ""
    after: _Typed = ""

    @property
    def filter(self) -> Filter:
        """For the list of jobs."""
        return Filter(self.state, self.kind, self.organization, self.execution, self.text)

    @property
    def filters(self) -> bool:
        """Whether some jobs are left out."""
        return self.filter != Filter()

    def but(self, **changes: Any) -> "JobsQuery":
        """Another filter, from its first page on."""
        return self.model_copy(update={"after": "", **changes})

    def from_(self, place: str) -> "JobsQuery":
        """The same filter, from a place on."""
        return self.model_copy(update={"after": place})

    def switched(self, name: str, value: str) -> "JobsQuery":
        """With a state or kind put in, or taken out if it is there."""
        return self.but(**{name: getattr(self, name) ^ {value}})

    @property
    def hidden(self) -> list[tuple[str, str]]:
        """What a form that has fields for the rest must carry along."""
        return [(name, value) for name, value in self._pairs() if name in ("state", "kind")]

    def address(self, path: str = "/") -> str:
        """Where that is: ``/?state=running``."""
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
