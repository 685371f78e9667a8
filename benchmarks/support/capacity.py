"""What one process of Batchflow can do, looked up in the results of the benchmarks."""

import re
from collections.abc import Mapping

from benchmarks.support.results import OURS, Measured, Result

#: Of the submit worker that we recommend.
THREADS = 16
_THREADS = f"{OURS}, threads"


class NotMeasured(Exception):
    """Raised when a result is missing, or has no such figure."""


class Capacity:
    """What the results say of one process. All methods raise NotMeasured."""

    def __init__(self, results: Mapping[str, Result]) -> None:
        self._results = results

    def gets_per_s(self) -> float:
        """`GetTask` that one connector answers."""
        return min(m.median for m in self.all("get_throughput", "GetTask per second"))

    def get_s(self) -> float:
        """How long such an answer takes, with the fewest callers that were measured."""
        found = self.all("get_throughput", "median time of an answer")
        return min(found, key=lambda m: _leading(m.case)).median / 1000

    def creates_per_s(self) -> float:
        """`CreateTask` that one connector answers."""
        return min(m.median for m in self.all("create_burst", "CreateTask per second"))

    def submits_per_s(self) -> float:
        """Submits of one worker process with the pool and concurrency that we recommend."""
        return self._submitter("submits per second").median

    def submitter_mb(self) -> float:
        """Its memory."""
        return self._submitter("memory, all processes").median

    def polling_share(self) -> float:
        """The share of a core that polling one live batch takes, as an average of all measured."""
        found = self.all("polling_cost", "worker's CPU per minute")[-1]
        return found.median / 60 / _number_in(found.case)

    def calls_per_minute(self, batches: int, *, webhooks: bool) -> tuple[float, bool]:
        """Calls to OpenAI for one organization's batches of all ages, and whether exactly so many
        were measured: else it is in proportion to the most that were, which is too many."""
        side = f"{OURS}, with webhooks" if webhooks else OURS
        found = {
            _leading(m.case): m.median
            for m in self.all("polling_cost", "calls to OpenAI", side)
            if "all ages" in m.case and _leading(m.case) <= batches
        }
        if not found:
            raise NotMeasured("polling_cost")
        live = max(found)
        return found[live] * batches / live, live == batches

    def transfer_mb_per_s(self, name: str) -> float:
        """How fast one files worker does one upload or download, checks and copies included."""
        for measured in self.all("files", "seconds", _THREADS):
            if size := re.search(rf"{name} of ([\d.]+) (MB|GB)", measured.case):
                mb = float(size[1]) * (1000 if size[2] == "GB" else 1)
                return mb / measured.median
        raise NotMeasured("files")

    def files_mb(self) -> float:
        """The most memory that a files worker had, with one transfer at a time."""
        return max(max(m.rounds) for m in self.all("files", "peak memory, all", _THREADS))

    def bytes_per_job(self) -> float:
        """Redis memory of a live job, as configured in docker-compose.yml."""
        found = [
            m
            for m in self.all("size", "Redis memory per live job")
            if "with an organization, listpack 2048" in m.case
        ]
        if not found:
            raise NotMeasured("size")
        return max(m.median for m in found)

    def all(self, name: str, figure: str, side: str = OURS) -> list[Measured]:
        """All cases of a figure whose name begins so."""
        result = self._results.get(name)
        measured = result.measured if result else ()
        found = [m for m in measured if m.figure.startswith(figure) and m.side == side]
        if not found:
            raise NotMeasured(name)
        return found

    def _submitter(self, figure: str) -> Measured:
        for measured in self.all("submit_throughput", figure, _THREADS):
            if _leading(measured.case) == THREADS:
                return measured
        raise NotMeasured("submit_throughput")


def _leading(case: str) -> int:
    """The number with which a case begins: ``10,000 of all ages``."""
    return int(case.split()[0].replace(",", ""))


def _number_in(case: str) -> int:
    """The number in a case: ``all 44,404 together``."""
    found = re.search(r"\d[\d,]*", case)
    if not found:
        raise NotMeasured("polling_cost")
    return int(found[0].replace(",", ""))
