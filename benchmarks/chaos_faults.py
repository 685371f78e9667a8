"""What breaks, when, and how it heals: a schedule drawn from a seed."""

import contextlib
import heapq
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import httpx2
import psutil
from redis import RedisError

from benchmarks.chaos_stack import ChaosStack
from tests.kit.flyte_client import Task
from tests.kit.processes import Process

#: Seconds between two faults.
PAUSE_S = (0.4, 1.6)

#: Kind of fault -> how likely it is.
WEIGHTS = {
    "kill worker": 3,
    "pause worker": 1,
    "stop beat": 1,
    "two beats": 1,
    "flush redis": 2,
    "kill redis": 1,
    "kill redis, data lost": 1,
    "redis goes back": 2,
    "pause redis": 1,
    "pause redis, many gets": 1,
    "empty queues": 2,
    "kill connector": 1,
    "no connector": 1,
    "lost replies": 4,
    "late effect": 2,
    "openai errors": 3,
    "openai 429": 2,
    "openai slow": 1,
    "openai garbage": 2,
    "openai cut": 2,
    "openai hangs": 1,
    "token limit": 1,
}
_QUEUES = ("batchflow.submit", "batchflow.poll", "batchflow.files", "unacked", "unacked_index")
_OPERATIONS = ("batches.create", "files.create")
#: The number of gets at once while Redis is suspended.
_GETS = 100
#: A job whose input kills its workers must end within this time, in seconds.
_HUNT_S = 300.0
_HUNT_EVERY_S = 0.05


@dataclass(order=True)
class _Action:
    at: float
    number: int
    do: Callable[[], None] = field(compare=False)
    what: str = field(compare=False, default="")


@dataclass(frozen=True)
class Fault:
    """One thing that will break."""

    after_s: float
    kind: str
    #: Decides the details; of its own, so that one fault doesn't change the others.
    seed: int


def make_schedule(rng: random.Random, lasts_s: float) -> list[Fault]:
    """The faults of a run."""
    faults = []
    at = rng.uniform(*PAUSE_S)
    while at < lasts_s:
        [kind] = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
        faults.append(Fault(at, kind, rng.randrange(1 << 30)))
        at += rng.uniform(*PAUSE_S)
    return faults


@dataclass(frozen=True)
class _Hunt:
    """A file, and until when each worker that has it open is killed."""

    path: Path
    ended: Callable[[], bool]
    until: float


def _has_open(worker: Process, path: Path) -> bool:
    """Whether a process or one of its children has a file open."""
    try:
        process = psutil.Process(worker.pid)
        family = [process, *process.children(recursive=True)]
        return any(file.path == str(path) for one in family for file in one.open_files())
    except psutil.Error:
        return False


class Askers:
    """Asks about many tasks at once, each with Flyte's default deadline."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._pool = ThreadPoolExecutor(len(tasks))
        self._failures = [self._pool.submit(self._ask, task) for task in tasks]

    def failures(self) -> list[str]:
        """The gets that were not answered, for other reasons than that no connector ran."""
        found = [future.result() for future in self._failures]
        self._pool.shutdown()
        return [failure for failure in found if failure]

    @staticmethod
    def _ask(task: Task) -> str:
        began = time.monotonic()
        try:
            task.get()
        except grpc.RpcError as error:
            code = getattr(error, "code", lambda: None)()
            if code is not grpc.StatusCode.UNAVAILABLE:
                return f"a get failed after {time.monotonic() - began:.1f} s with {code}"
        return ""


class Breaker:
    """Breaks things by schedule, in a thread of its own, and heals them after a while."""

    def __init__(
        self,
        stack: ChaosStack,
        schedule: list[Fault],
        tasks: Callable[[], Sequence[Task]] = tuple,
    ) -> None:
        #: The tasks that Flyte may ask about.
        self._tasks = tasks
        self._askers: list[Askers] = []
        self._hunt: _Hunt | None = None
        self.injected: Counter[str] = Counter()
        #: (epoch seconds, what was done)
        self.journal: list[tuple[float, str]] = []
        self._stack = stack
        self._schedule = schedule
        self._numbers = count()
        self._actions: list[_Action] = []
        self._busy: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="breaker")

    def start(self) -> None:
        """Begin."""
        begun_at = time.monotonic()
        for fault in self._schedule:
            self._push(begun_at + fault.after_s, lambda f=fault: self._inject(f))  # type: ignore[misc]
        self._thread.start()

    def join(self) -> None:
        """Wait until everything has happened and has healed."""
        self._thread.join()

    def _run(self) -> None:
        while self._actions:
            action = heapq.heappop(self._actions)
            time.sleep(max(0.0, action.at - time.monotonic()))
            if action.what:
                self._note(action.what)
            try:
                action.do()
            except (RedisError, httpx2.HTTPError, OSError) as error:
                self._note(f"(did not work: {type(error).__name__}: {error})")
        with contextlib.suppress(httpx2.HTTPError):
            self._stack.emulator.heal()
        self._note("all is healed")

    @property
    def unanswered(self) -> list[str]:
        """The failures of the gets that Redis had to wait for."""
        return [failure for askers in self._askers for failure in askers.failures()]

    def _inject(self, fault: Fault) -> None:
        rng = random.Random(fault.seed)
        inject: dict[str, Callable[[random.Random], str | None]] = {
            "kill worker": self._kill_worker,
            "pause worker": self._pause_worker,
            "stop beat": self._stop_beat,
            "two beats": self._two_beats,
            "flush redis": self._flush,
            "kill redis": lambda rng: self._kill_redis(rng, lose_data=False),
            "kill redis, data lost": lambda rng: self._kill_redis(rng, lose_data=True),
            "redis goes back": self._go_back,
            "pause redis": self._pause_redis,
            "pause redis, many gets": self._pause_redis_under_gets,
            "empty queues": self._empty_queues,
            "kill connector": self._kill_connector,
            "no connector": self._kill_connectors,
            "lost replies": self._lose_replies,
            "late effect": self._act_late,
            "openai errors": self._errors,
            "openai 429": self._too_many,
            "openai slow": self._slow,
            "openai garbage": lambda rng: self._garble(rng, "garbage"),
            "openai cut": lambda rng: self._garble(rng, "cut"),
            "openai hangs": self._hang,
            "token limit": self._token_limit,
        }
        done = inject[fault.kind](rng)
        if done is not None:
            self.injected[fault.kind] += 1
            self._note(f"{fault.kind}: {done}")

    # -- processes

    def _kill_worker(self, rng: random.Random) -> str | None:
        worker = rng.choice(self._stack.workers)
        if not self._occupy(worker.name):
            return None
        worker.kill()
        self._later(rng.uniform(0, 1.5), lambda: self._restart(worker), f"{worker.name} starts")
        return worker.name

    def _pause_worker(self, rng: random.Random) -> str | None:
        worker = rng.choice(self._stack.workers)
        # Longer than its lease lasts.
        return self._pause(worker, rng.uniform(2.5, 4.5))

    def _stop_beat(self, rng: random.Random) -> str | None:
        beat = self._stack.beat
        if not self._occupy(beat.name):
            return None
        beat.kill()
        away_s = rng.uniform(1.5, 4)
        self._later(away_s, lambda: self._restart(beat), "beat starts")
        return f"for {away_s:.1f} s"

    def _two_beats(self, rng: random.Random) -> str | None:
        beat = self._stack.second_beat
        if not self._occupy(beat.name):
            return None
        beat.start()

        def end() -> None:
            beat.kill()
            self._busy.discard(beat.name)

        self._later(rng.uniform(3, 6), end, "the second beat ends")
        return "a second one"

    def _kill_connector(self, rng: random.Random) -> str | None:
        connector = rng.choice(self._stack.connectors)
        # The other replica goes on, as in a rolling restart.
        return self._stop_connectors([connector], rng.uniform(0, 1))

    def _kill_connectors(self, rng: random.Random) -> str | None:
        return self._stop_connectors(self._stack.connectors, rng.uniform(2, 8))

    def _stop_connectors(self, connectors: Sequence[Process], away_s: float) -> str | None:
        if not self._occupy("connector"):
            return None
        for connector in connectors:
            connector.kill()

        def start() -> None:
            for connector in connectors:
                connector.start()
            self._until(
                lambda: all(connector.is_ready for connector in connectors),
                lambda: self._busy.discard("connector"),
            )

        names = " and ".join(connector.name for connector in connectors)
        self._later(away_s, start, f"{names} start")
        return f"{names} for {away_s:.1f} s"

    def hunt(self, path: Path, ended: Callable[[], bool]) -> None:
        """Kill each worker that has a file open, from the start until its job has ended."""
        self._hunt = _Hunt(path, ended, time.monotonic() + _HUNT_S)
        self._later(0, self._kill_holders)

    def _kill_holders(self) -> None:
        hunt = self._hunt
        if hunt is None or hunt.ended() or time.monotonic() > hunt.until:
            return
        for worker in self._stack.workers:
            if worker.running and _has_open(worker, hunt.path) and self._occupy(worker.name):
                worker.kill()
                self.injected["kill worker of a job"] += 1
                self._note(f"{worker.name} is killed by {hunt.path.parent.name}")
                self._later(0.1, partial(self._restart, worker), f"{worker.name} starts")
        self._later(_HUNT_EVERY_S, self._kill_holders)

    # -- Redis

    def _flush(self, _: random.Random) -> str | None:
        self._stack.redis.flushall()
        return "FLUSHALL"

    def _kill_redis(self, rng: random.Random, *, lose_data: bool) -> str | None:
        server = self._stack.redis_server
        if not self._occupy(server.name):
            return None
        server.kill()
        if lose_data:
            shutil.rmtree(self._stack.redis_data)
            self._stack.redis_data.mkdir()
        away_s = rng.choice([0.0, rng.uniform(0.2, 3)])
        self._later(away_s, lambda: self._restart(server), "redis starts")
        return f"for {away_s:.1f} s"

    def _go_back(self, rng: random.Random) -> str | None:
        """Restart Redis with an older copy of its append-only file."""
        server, data = self._stack.redis_server, self._stack.redis_data
        if not self._occupy(server.name):
            return None
        copy = data.with_name("redis-copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(data, copy)
        back_s = rng.uniform(0.3, 2)

        def restore() -> None:
            server.kill()
            shutil.rmtree(data)
            copy.rename(data)
            self._restart(server)

        self._later(back_s, restore, f"redis goes back by {back_s:.1f} s")
        return f"by {back_s:.1f} s"

    def _pause_redis_under_gets(self, rng: random.Random) -> str | None:
        tasks = self._tasks()
        if not tasks:
            return None
        paused = self._pause(self._stack.redis_server, rng.uniform(2, 7))
        if paused is None:
            return None
        chosen = rng.choices(tasks, k=_GETS)
        self._askers.append(Askers(chosen))
        return f"{paused}, {_GETS} gets"

    def _pause_redis(self, rng: random.Random) -> str | None:
        return self._pause(self._stack.redis_server, rng.uniform(1, 7))

    def _empty_queues(self, _: random.Random) -> str | None:
        return f"{self._stack.redis.delete(*_QUEUES)} keys"

    # -- OpenAI

    def _lose_replies(self, rng: random.Random) -> str | None:
        answer: dict[str, Any] = rng.choice(
            [{"answer": "drop"}, {"status": 503}, {"status": 500}, {"answer": "garbage"}]
        )
        return self._outage(
            **answer,
            after_acting=True,
            operations=[*_OPERATIONS],
            count=rng.randint(1, 4),
            duration_s=4,
        )

    def _act_late(self, rng: random.Random) -> str | None:
        # After the workers' timeout, but in time for their search; or too late for it. A file that
        # is too late is harmless: it costs nothing, and no later poll would show it.
        operation, acts_after_s = rng.choice(
            [("files.create", 3.5), ("batches.create", 3.5), ("batches.create", 6.0)]
        )
        return self._outage(
            answer="normal",
            acts_after_s=acts_after_s,
            operations=[operation],
            count=rng.randint(1, 3),
            duration_s=4,
        )

    def _errors(self, rng: random.Random) -> str | None:
        answer: dict[str, Any] = rng.choice(
            [{"status": 503}, {"status": 500}, {"answer": "drop"}, {"status": 502}]
        )
        share, lasts_s = rng.choice([1.0, 0.4]), rng.uniform(0.5, 2.5)
        retry: dict[str, Any] = {"retry_after_s": 1} if "status" in answer else {}
        return self._outage(
            **answer, **rng.choice([{}, retry]), share=share, duration_s=round(lasts_s, 2)
        )

    def _too_many(self, rng: random.Random) -> str | None:
        retry: dict[str, Any] = rng.choice([{}, {"retry_after_s": 2}])
        return self._outage(status=429, **retry, share=0.6, duration_s=round(rng.uniform(1, 2), 2))

    def _slow(self, rng: random.Random) -> str | None:
        # The second one outlasts the workers' patience.
        delay_s = rng.choice([1.5, 4.0])
        return self._outage(answer="normal", delay_s=delay_s, share=0.5, duration_s=2)

    def _garble(self, rng: random.Random, answer: str) -> str | None:
        operations = rng.choice([[], ["files.content"], ["batches.*"], ["*.create"], ["*.list"]])
        if operations in (["*.create"], ["*.list"]):
            name = operations[0].removeprefix("*")
            operations = [f"files{name}", f"batches{name}"]
        return self._outage(answer=answer, operations=operations, share=0.7, duration_s=2)

    def _outage(self, **outage: Any) -> str | None:
        if self._stack.emulator_process.name in self._busy:
            return None  # it would not hear of it
        self._stack.emulator.outage(**outage)
        return " ".join(f"{name}={value}" for name, value in outage.items())

    def _hang(self, rng: random.Random) -> str | None:
        return self._pause(self._stack.emulator_process, rng.uniform(1, 5))

    def _token_limit(self, rng: random.Random) -> str | None:
        if self._stack.emulator_process.name in self._busy or not self._occupy("token limit"):
            return None
        limit = rng.choice([0, 40])
        self._stack.emulator.configure(enqueued_token_limit=limit)

        def lift() -> None:
            if self._stack.emulator_process.name in self._busy:
                self._later(0.5, lift)
                return
            self._stack.emulator.configure(enqueued_token_limit=None)
            self._busy.discard("token limit")

        self._later(rng.uniform(1, 3), lift, "the token limit is lifted")
        return f"{limit} tokens"

    # -- what they share

    def _pause(self, process: Process, lasts_s: float) -> str | None:
        if not self._occupy(process.name):
            return None
        process.signal_group(signal.SIGSTOP)

        def go_on() -> None:
            process.signal_group(signal.SIGCONT)
            self._busy.discard(process.name)

        self._later(lasts_s, go_on, f"{process.name} goes on")
        return f"{process.name} for {lasts_s:.1f} s"

    def _restart(self, process: Process) -> None:
        process.start()
        self._busy.discard(process.name)

    def _occupy(self, name: str) -> bool:
        """Whether something is whole, and so may be broken."""
        if name in self._busy:
            return False
        self._busy.add(name)
        return True

    def _until(self, condition: Callable[[], bool], then: Callable[[], None]) -> None:
        if condition():
            then()
        else:
            self._later(0.5, lambda: self._until(condition, then))

    def _later(self, after_s: float, do: Callable[[], None], what: str = "") -> None:
        self._push(time.monotonic() + after_s, do, what)

    def _push(self, at: float, do: Callable[[], None], what: str = "") -> None:
        heapq.heappush(self._actions, _Action(at, next(self._numbers), do, what))

    def _note(self, what: str) -> None:
        self.journal.append((time.time(), what))
