"""What the chaos program runs: chains of upload, batch and download, each each on its own file."""

import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgpack
from flyteidl.core.literals_pb2 import LiteralMap

from tests.kit.flyte_backend import FlyteBackend, History
from tests.kit.flyte_client import Node, file_inputs, template_of
from tests.kit.flyte_tasks import batch_task, download_task, jsonl, put, request_line, upload_task

#: Tasks of one chain.
TASKS = 3
_ORGANIZATIONS = 3
#: One of so many seeds has an input that kills workers.
_KILLING_SEEDS = 4
FILE_NAME = "requests.jsonl"
#: This share of the batch tasks times out in Flyte, once or twice.
_TIMEOUTS_SHARE = 0.15
_TIMEOUT_S = (1.0, 6.0)
#: The size of a file whose upload kills its worker: its worker has it open for about a second.
_LARGE_BYTES = 24_000_000
#: OpenAI refuses a request with such a temperature, not the batch.
_REFUSED_TEMPERATURE = 3


@dataclass(frozen=True)
class Plan:
    """A chain before it runs."""

    name: str
    organization: str
    starts_after_s: float
    #: custom_id -> whether OpenAI refuses the request.
    requests: dict[str, bool]
    #: The time that Flyte allows the first attempts of the batch task, in seconds.
    timeouts_s: tuple[float, ...] = ()
    #: Whether each worker that has the file open is killed.
    kills_worker: bool = False

    def content(self) -> bytes:
        """The batch file."""
        filler = {"user": "x" * (_LARGE_BYTES // len(self.requests))} if self.kills_worker else {}
        return jsonl(
            [
                request_line(name, temperature=_REFUSED_TEMPERATURE if bad else 1, **filler)
                for name, bad in self.requests.items()
            ]
        )

    def path(self, blobs: Path) -> Path:
        """Where the batch file is."""
        return blobs / self.name / FILE_NAME


@dataclass
class Chain:
    """A chain that has run, as far as it came."""

    plan: Plan
    histories: list[History] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether all tasks did."""
        return len(self.histories) == TASKS and all(h.succeeded for h in self.histories)


def make_plans(rng: random.Random, seed: int, jobs: int, starts_within_s: float) -> list[Plan]:
    """Chains for about so many jobs; the same seed gives the same ones."""
    plans = []
    for number in range(max(1, round(jobs / TASKS))):
        count = rng.randint(3, 8)
        failing = rng.random() < 0.25
        share = rng.choice([0.4, 1.0]) if failing else 0.0
        plans.append(
            Plan(
                name=f"s{seed}-c{number}",
                organization=f"org-{number % _ORGANIZATIONS}",
                starts_after_s=rng.uniform(0, starts_within_s),
                timeouts_s=_timeouts(rng),
                requests={
                    f"s{seed}-c{number}-r{line}": rng.random() < share for line in range(count)
                },
            )
        )
    if seed % _KILLING_SEEDS == 0:
        plans[0] = replace(plans[0], starts_after_s=0, kills_worker=True)
    return plans


def _timeouts(rng: random.Random) -> tuple[float, ...]:
    if rng.random() >= _TIMEOUTS_SHARE:
        return ()
    return tuple(rng.uniform(*_TIMEOUT_S) for _ in range(rng.randint(1, 2)))


def run_chain(plan: Plan, backend: FlyteBackend, blobs: Path) -> Chain:
    """Run a chain to its end, and look at what it downloaded."""
    chain = Chain(plan)
    time.sleep(plan.starts_after_s)
    try:
        _run(chain, backend, blobs)
    except Exception as error:  # noqa: BLE001 - a thread's end must not hide what it has
        chain.error = f"{type(error).__name__}: {error}"
    return chain


def _run(chain: Chain, backend: FlyteBackend, blobs: Path) -> None:
    plan = chain.plan
    folder = blobs / plan.name
    folder.mkdir()
    uri = put(folder, plan.content(), FILE_NAME)
    metadata = {"chain": plan.name}
    tasks: list[tuple[str, Any]] = [
        ("upload", upload_task(plan.organization)),
        ("batch", batch_task(plan.organization, metadata=metadata)),
        ("download", download_task(plan.organization)),
    ]
    inputs = file_inputs(uri)
    for position, (name, task) in enumerate(tasks):
        node = Node(folder, execution=plan.name, node=f"n{position}")
        timeouts_s = plan.timeouts_s if name == "batch" else ()
        history = backend.run(
            f"{plan.name}/{name}",
            template_of(task),
            inputs,
            node,
            retries=len(timeouts_s),
            timeouts_s=timeouts_s,
        )
        chain.histories.append(history)
        if not history.succeeded:
            return
        if name == "upload":
            inputs = _inputs("input_file_id", history.result)
        elif name == "batch":
            inputs = _inputs("batch_endpoint_result", history.result)
        else:
            _look_at(chain, history.result)


def _inputs(name: str, value: str | dict[str, Any]) -> LiteralMap:
    """One input. flytekit's type engine would start an event loop for each thread that asks."""
    inputs = LiteralMap()
    scalar = inputs.literals[name].scalar
    if isinstance(value, str):
        scalar.primitive.string_value = value
    else:
        scalar.binary.value, scalar.binary.tag = msgpack.packb(value), "msgpack"
    return inputs


def _look_at(chain: Chain, result: dict[str, Any]) -> None:
    """Compare the lines of both files with the requests."""
    good = _custom_ids(result.get("output_file"))
    bad = _custom_ids(result.get("error_file"))
    requests = chain.plan.requests
    for name, refused in requests.items():
        if (bad if refused else good)[name] == 0:
            chain.missing.append(name)
    found = good + bad
    chain.doubled += [name for name in found if found[name] > 1 or name not in requests]


def _custom_ids(file: dict[str, str] | None) -> Counter[str]:
    found: Counter[str] = Counter()
    if file is None:
        return found
    for line in Path(file["path"]).read_text("utf-8").splitlines():
        try:
            found[json.loads(line)["custom_id"]] += 1
        except (ValueError, KeyError, TypeError):
            # Not a result: its request shows as missing.
            continue
    return found
