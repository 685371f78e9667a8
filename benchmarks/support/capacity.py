"""The capacity of each process, from the results of the benchmarks."""

import re
from collections.abc import Mapping

from benchmarks.support.results import OURS, Measured, Result

#: The recommended concurrency of the submit worker.
THREADS = 16
_THREADS = f"{OURS}, threads"


class NotMeasured(Exception):
    """Raised when a result or a figure in it is missing."""


class Capacity:
    """The capacity of each process. All methods raise NotMeasured."""

    def __init__(self, results: Mapping[str, Result]) -> None:
        self._results = results

    def gets_per_s(self) -> float:
        """`GetTask` per second of one connector."""
        return min(m.median for m in self.all("get_throughput", "GetTask per second"))

    def get_s(self) -> float:
        """The response time of `GetTask` with the fewest callers that were measured."""
        found = self.all("get_throughput", "median response time")
        return min(found, key=lambda m: _leading(m.case)).median / 1000

    def creates_per_s(self) -> float:
        """`CreateTask` per second of one connector."""
        return min(m.median for m in self.all("create_burst", "CreateTask per second"))

    def submits_per_s(self) -> float:
        """Submits per second of one worker with the recommended pool and concurrency."""
        return self._submitter("submits per second").median

    def submitter_mb(self) -> float:
        """The memory of that worker."""
        return self._submitter("memory, all processes").median

    def polling_share(self) -> float:
        """The average share of a core that polling uses per live batch."""
        found = self.all("polling_cost", "worker's CPU per minute")[-1]
        return found.median / 60 / _number_in(found.case)

    def calls_per_minute(self, batches: int, *, webhooks: bool) -> tuple[float, bool]:
        """Calls to OpenAI for an organization's batches, and whether this number was measured.

        Otherwise it is extrapolated in proportion, which overestimates it."""
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
        """The speed of one transfer in a files worker, with validation and copies."""
        for measured in self.all("files", "seconds", _THREADS):
            if size := re.search(rf"{name} of ([\d.]+) (MB|GB)", measured.case):
                mb = float(size[1]) * (1000 if size[2] == "GB" else 1)
                return mb / measured.median
        raise NotMeasured("files")

    def files_mb(self) -> float:
        """The peak memory of a files worker with one transfer at a time."""
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
        """All cases of the figures whose name starts with ``figure``."""
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
    """The first number of a case such as ``10,000 of all ages``."""
    return int(case.split()[0].replace(",", ""))


def _number_in(case: str) -> int:
    """The number in a case such as ``all 44,404 batches``."""
    found = re.search(r"\d[\d,]*", case)
    if not found:
        raise NotMeasured("polling_cost")
    return int(found[0].replace(",", ""))
