"""A worker that is killed at any point of any step loses nothing and repeats nothing.

Each step runs in a child process that kills itself at one point. First all children die, while no
other worker runs. Then healthy workers finish all jobs together, and each test checks its own.
"""

import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from batchflow_workers.policy import Policy

from batchflow.states import JobState
from batchflow.store import records
from tests.kit.kill_point_stack import (
    ALL_END_S,
    BATCH_S,
    SETTLE_S,
    Case,
    KillPointStack,
    a_batch_job,
    a_download_job,
    a_lost_reply,
    a_lost_request,
    a_lost_upload,
    a_lost_upload_reply,
    a_submitted_job,
    an_upload_job,
    has_all_lines,
    has_no_batch,
    has_one_batch,
    has_one_file,
    have_all_ended,
    is_cancelled,
    jobs_for_the_sweep,
    to_be_cancelled,
    two_submitted_jobs,
)

pytestmark = pytest.mark.timeout(600)

MAX_STARTS = Policy().max_starts

# -- the points -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Situation:
    """A step, the state before it, and everything that it does outside its process, in order."""

    step: str
    setup: Callable[[KillPointStack, Case], object]
    check: Callable[[KillPointStack, Case], None]
    does: tuple[str, ...]

    @property
    def points(self) -> list[str]:
        """The points before and after each action."""
        times: Counter[str] = Counter()
        names = []
        for what in self.does:
            times[what] += 1
            name = what if times[what] == 1 else f"{what} #{times[what]}"
            names += [f"before {name}", f"after {name}"]
        return names


#: How a step about one job begins, and how it ends if OpenAI answered.
_TAKE = ("SET lease", "start job", "TIME", "HMGET backoff")
_GIVE_BACK = ("DEL backoff", "HDEL job", "release lease")
#: After each request to OpenAI; tokens and times when a batch has ended.
_COUNT = "all HINCRBYFLOAT metrics"
#: Searches for what an earlier try may have made.
_SEARCH = (
    *("TIME", "open_search search", "SET lease", "HGETALL job", "open_search search"),
    "ZSCAN due",
)
_SEARCH_BATCHES = (*_SEARCH, "GET /v1/batches", _COUNT, "DEL backoff")
_SEARCH_FILES = (*_SEARCH, "GET /v1/files", _COUNT, "DEL backoff")
#: Before and after what a search has found is recorded, and the end of one that has found nothing.
_FOUND, _END_SEARCH = "all HGETALL job", ("advance_search search", "release lease")
_NOTHING_FOUND = (
    *("advance_search search", "advance_search search", "HKEYS search", "release lease"),
    "open_search search",
)
#: Writes an observation of a batch; what the end of a batch adds.
_OBSERVE = ("EXISTS pushed", "all update job")
_END = ("TIME", _COUNT, "all advance waiting")
_SEE_CANCELLED = (*_OBSERVE, "all advance waiting")
_CREATE_BATCH = ("GET openai", "advance waiting", "begin job", "POST /v1/batches", _COUNT)
_SEND_PIECES = ("send a piece", "settle job", "send a piece")
_SEND_FILE = ("begin job", "POST /v1/files", *_SEND_PIECES, _COUNT, "update job")
_CREATE_FILE = ("update job", "update job", *_SEND_FILE)
_GET_FILE = ("write the blob", "GET /v1/files/{id}/content", _COUNT, "publish the blob")
#: A poll, before and after its request.
_TAKE_POLL = ("all HGETALL job", "SET lease", "TIME", "HMGET backoff")
_SEE_PAGE = (_COUNT, "ZMSCORE due", "all HGETALL job", *_OBSERVE, *_END)
_END_POLL = ("DEL backoff", "record_event pulse", "release lease")

SITUATIONS: dict[str, Situation] = {
    "submit": Situation(
        "submit", a_batch_job, has_one_batch, (*_TAKE, *_CREATE_BATCH, *_OBSERVE, *_GIVE_BACK)
    ),
    "submit after a lost request": Situation(
        "submit",
        a_lost_request,
        has_one_batch,
        (
            *(*_TAKE, *_SEARCH_BATCHES, *_NOTHING_FOUND, *_CREATE_BATCH, *_OBSERVE),
            *_GIVE_BACK,
        ),
    ),
    "submit after a lost reply": Situation(
        "submit",
        a_lost_reply,
        has_one_batch,
        (
            *(*_TAKE, *_SEARCH_BATCHES, _FOUND, *_OBSERVE, *_END, *_END_SEARCH),
            *_GIVE_BACK,
        ),
    ),
    "upload": Situation(
        "upload", an_upload_job, has_one_file, (*_TAKE, *_CREATE_FILE, *_GIVE_BACK)
    ),
    "upload after a lost request": Situation(
        "upload",
        a_lost_upload,
        has_one_file,
        (*_TAKE, *_SEARCH_FILES, *_NOTHING_FOUND, *_CREATE_FILE, *_GIVE_BACK),
    ),
    "upload after a lost reply": Situation(
        "upload",
        a_lost_upload_reply,
        has_one_file,
        (*_TAKE, *_SEARCH_FILES, _FOUND, "update job", *_END_SEARCH, *_GIVE_BACK),
    ),
    "download": Situation(
        "download",
        a_download_job,
        has_all_lines,
        (*_TAKE, "update job", *_GET_FILE, *_GET_FILE, "update job", *_GIVE_BACK),
    ),
    "cancel": Situation(
        "cancel",
        to_be_cancelled(a_submitted_job),
        is_cancelled,
        (
            *(*_TAKE, "POST /v1/batches/{id}/cancel", _COUNT, *_SEE_CANCELLED),
            *("DEL backoff", "release lease"),
        ),
    ),
    "cancel after a lost reply": Situation(
        "cancel",
        to_be_cancelled(a_lost_reply),
        is_cancelled,
        (
            *(*_TAKE, *_SEARCH_BATCHES, _FOUND, *_SEE_CANCELLED, "update job"),
            *(*_END_SEARCH, *_GIVE_BACK),
        ),
    ),
    "cancel after a lost request": Situation(
        "cancel",
        to_be_cancelled(a_lost_request),
        has_no_batch,
        (
            *(*_TAKE, *_SEARCH_BATCHES, *_NOTHING_FOUND),
            *("GET openai", "begin job", "update job", *_GIVE_BACK),
        ),
    ),
    "poll one": Situation(
        "poll",
        a_submitted_job,
        has_one_batch,
        (*_TAKE_POLL, "GET /v1/batches/{id}", *_SEE_PAGE, *_END_POLL),
    ),
    "poll two": Situation(
        "poll",
        two_submitted_jobs,
        has_one_batch,
        (*_TAKE_POLL, "GET /v1/batches", *_SEE_PAGE, *_END_POLL),
    ),
    "sweep": Situation(
        "sweep",
        jobs_for_the_sweep,
        have_all_ended,
        (
            *("SET lease", "check_server server", "TIME", "claim due", "all HGETALL job"),
            *("update job", "send batchflow.submit", "update job", "send batchflow.cancel"),
            *("TIME", "send batchflow.poll", "TIME", "ZRANGE recent"),
            *("HGETALL pulse", "ZRANGE index", "ZRANGE index", "ZRANGE index", "ZMSCORE due"),
            *("ZRANGE index", "ZMSCORE due", "ZRANGE index", "ZRANGE index"),
            *("record_event pulse", "SRANDMEMBER unreadable"),
            *("all HINCRBYFLOAT metrics + record_event pulse", "release lease"),
        ),
    ),
}

POINTS = [(name, point) for name, situation in SITUATIONS.items() for point in situation.points]

#: Points at which a whole Celery worker is killed, too.
WHOLE_WORKER_POINTS = [
    ("submit", "after POST /v1/batches"),
    ("upload", "after POST /v1/files"),
    ("download", "before publish the blob"),
    ("poll one", "after GET /v1/batches/{id}"),
]


@pytest.fixture(scope="module")
def world(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillPointStack]:
    """Redis, the emulator and the killing worker, without healthy workers."""
    world = KillPointStack(redis_url, tmp_path_factory.mktemp("kill-points"))
    yield world
    world.stop()


@pytest.fixture(scope="module")
def recorded(world: KillPointStack) -> dict[str, list[str]]:
    """The points that each step passes if it is not killed."""
    cases = {name: Case() for name in SITUATIONS}
    for name, case in cases.items():
        SITUATIONS[name].setup(world, case)
    time.sleep(max(SETTLE_S, BATCH_S))
    return {name: _run(world, name, case)[1] for name, case in cases.items()}


def _run(world: KillPointStack, name: str, case: Case, kill_at: str = "") -> tuple[int, list[str]]:
    step = SITUATIONS[name].step
    return world.killing.step(step, case.ids, kill_at=kill_at, prefix=case.prefix)


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_list_of_points_is_complete(recorded: dict[str, list[str]], name: str) -> None:
    did = [point.removeprefix("before ") for point in recorded[name] if point.startswith("before")]
    assert [what.partition(" #")[0] for what in did] == list(SITUATIONS[name].does)


@pytest.fixture(scope="module")
def cases(world: KillPointStack) -> dict[tuple[str, str], Case]:
    """The cases after a child has died at each point and healthy workers have ended all jobs."""
    cases = {(name, point): Case() for name, point in POINTS}
    cases |= {(f"whole {name}", point): Case() for name, point in WHOLE_WORKER_POINTS}
    for (name, _), case in cases.items():
        SITUATIONS[name.removeprefix("whole ")].setup(world, case)
    time.sleep(max(SETTLE_S, BATCH_S))
    for (name, point), case in cases.items():
        if name.startswith("whole "):
            step = SITUATIONS[name.removeprefix("whole ")].step
            case.status = world.killing.celery(step, case.ids, kill_at=point)
        else:
            case.status, _ = _run(world, name, case, kill_at=point)
    world.start_healthy_workers()
    world.killing.take_over([case.prefix for case in cases.values() if case.prefix])
    ids = [job_id for case in cases.values() if not case.prefix for job_id in case.ids]
    deadline = time.monotonic() + ALL_END_S
    while time.monotonic() < deadline and not _all_ended(world, ids):
        time.sleep(0.5)
    # Each test checks its own jobs.
    return cases


def _all_ended(world: KillPointStack, ids: list[str]) -> bool:
    jobs = world.run_all([records.get(job_id) for job_id in ids])
    return all(job is not None and job.terminal for job in jobs)


@pytest.mark.parametrize(("name", "point"), POINTS)
def test_a_worker_dies(
    world: KillPointStack, cases: dict[tuple[str, str], Case], name: str, point: str
) -> None:
    case = cases[name, point]
    assert case.status == -signal.SIGKILL
    SITUATIONS[name].check(world, case)


@pytest.mark.parametrize(("name", "point"), WHOLE_WORKER_POINTS)
def test_a_whole_celery_worker_dies(
    world: KillPointStack, cases: dict[tuple[str, str], Case], name: str, point: str
) -> None:
    case = cases[f"whole {name}", point]
    assert case.status == -signal.SIGKILL
    SITUATIONS[name].check(world, case)


@pytest.mark.parametrize("name", ["submit", "upload"])
def test_a_step_that_kills_its_worker_each_time_is_given_up(
    world: KillPointStack, name: str
) -> None:
    case = Case(prefix=f"{world.prefix}-{uuid.uuid4().hex[:8]}")
    SITUATIONS[name].setup(world, case)
    [job_id] = case.ids
    for _ in range(MAX_STARTS):
        assert not world.job(job_id, case.prefix).terminal
        assert _run(world, name, case, kill_at="after HMGET backoff")[0] == -signal.SIGKILL
        world.end_lease(job_id, case.prefix)
    world.killing.take_over([case.prefix])
    job = world.job(job_id, case.prefix)
    assert job.state is JobState.RETRYABLE
    assert f"{name} step was started {MAX_STARTS} times and never returned" in job.message
    assert "its worker died each time, probably for lack of memory" in job.message


@pytest.mark.parametrize(
    ("name", "stop_at"),
    [
        ("submit", "before begin job"),
        ("submit", "after begin job"),
        ("submit after a lost request", "before begin job"),
        ("submit after a lost request", "after begin job"),
        ("upload", "before begin job"),
        ("upload", "after begin job"),
        ("upload", "after settle job"),
        ("upload after a lost request", "before begin job"),
    ],
)
def test_a_worker_is_suspended_until_another_has_done_its_work(
    world: KillPointStack, name: str, stop_at: str
) -> None:
    situation = SITUATIONS[name]
    case = Case(prefix=f"{world.prefix}-{uuid.uuid4().hex[:8]}")
    situation.setup(world, case)
    time.sleep(SETTLE_S)
    pid = world.killing.suspend(situation.step, case.ids, stop_at=stop_at, prefix=case.prefix)
    assert pid > 0
    # Its lease expires, and another worker ends the job.
    world.killing.take_over([case.prefix])
    assert world.killing.resume(pid) == 0
    situation.check(world, case)
