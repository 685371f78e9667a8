"""Fills a store with jobs of all kinds and states, of several organizations and executions."""

from collections.abc import Iterable
from dataclasses import replace
from random import Random
from typing import Any

from batchflow.jobs import BatchSpec, Credential, DownloadSpec, JobRequest, Spec, UploadSpec
from batchflow.states import JobKind, JobState, Stage
from batchflow.store import JobStore, records
from batchflow.store.command import Command

ORGANIZATIONS = (None, "org-alpha", "org-beta", "org-beta-2")
MODELS = ("gpt-4o-mini", "gpt-4.1", "o4-mini")
NODES = ("n0-up", "n1-batch", "n2-down")
MESSAGES = (
    "OpenAI is processing it.",
    "Line 3: 'custom_id' is not a string",
    "Waiting to call OpenAI again: HTTP 503",
    "Größe überschritten — 200 MB",
    "İstanbul\tand a tab",
)

#: The number of commands in a round trip.
_AT_ONCE = 500
_SOON_S = 1_000


def populate(store: JobStore, serials: Iterable[int]) -> None:
    """Create a job for each serial number, which determines all of its fields."""
    commands: list[Command[Any]] = []
    for serial in serials:
        random = Random(serial)
        job_request = _job_request(random, serial)
        commands.append(records.create(job_request, due_in_s=_SOON_S))
        commands += _transition(job_request, random)
        if len(commands) > _AT_ONCE:
            _send(store, commands)
            commands = []
    _send(store, commands)


def _send(store: JobStore, commands: list[Command[Any]]) -> None:
    store.run_all([replace(command, parse=bool) for command in commands])


def _job_request(random: Random, serial: int) -> JobRequest:
    kind = list(JobKind)[serial % 3]
    # An execution has three nodes; every fifth is a local run without a name.
    run = serial // 3
    execution = f"project-{run % 2}/dev/run-{run}/{NODES[serial % 3]}" if run % 5 else ""
    job_id = "bf-" + "".join(random.choices("abcdefghijklmnopqrstuvwxyz234567", k=26))
    spec = _spec(kind, random, serial)
    return JobRequest(job_id=job_id, spec=spec, execution=execution, attempt=serial % 2)


def _spec(kind: JobKind, random: Random, serial: int) -> Spec:
    credential = Credential(organization=random.choice(ORGANIZATIONS))
    match kind:
        case JobKind.UPLOAD:
            return UploadSpec(credential=credential, uri=f"s3://bucket/in-{serial}.jsonl")
        case JobKind.BATCH:
            config = {"endpoint": "/v1/chat/completions", "model": random.choice(MODELS)}
            file_id = f"file-in{serial}"
            return BatchSpec(credential=credential, input_file_id=file_id, config=config)
        case JobKind.DOWNLOAD:
            return DownloadSpec(
                credential=credential,
                output_file_id=f"file-out{serial}",
                destination=f"s3://bucket/out-{serial}",
            )


def _transition(job_request: JobRequest, random: Random) -> list[Command[Any]]:
    """The command that updates a job: its message, or another state with its fields."""
    state = random.choice(list(JobState))
    message = random.choice(MESSAGES)
    if state is JobState.QUEUED:
        return [records.update(job_request.job_id, source="submit", fields={"message": message})]
    fields: dict[str, records.Value] = {"message": message}
    stage = None
    if job_request.spec.kind is JobKind.BATCH:
        stage = Stage.ENDED if state.terminal else Stage.IN_PROGRESS
        fields |= {
            "batch_id": f"batch_{job_request.job_id[3:]}",
            "openai_status": {"running": "in_progress", "succeeded": "completed"}.get(
                state, state.value
            ),
            "total": 100,
            "completed": 40 if state is JobState.RUNNING else 97,
            "failed": 3,
        }
    if state is JobState.SUCCEEDED:
        fields["result"] = '{"id": "batch_1"}'
    return [records.update(job_request.job_id, source="poll", to=state, stage=stage, fields=fields)]
