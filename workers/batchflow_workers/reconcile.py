"""Write what OpenAI reports about batches into the records of their jobs, and act on it.

Every observation goes through :func:`reconcile`: it is classified, written, and acted on. The
write is guarded by the record's state, stage and batch, so late and repeated observations do no
harm.
"""

import time
from collections.abc import Iterable, Sequence

import orjson

from batchflow.states import JobState, Stage
from batchflow.store import deliveries, metrics, records
from batchflow.store.command import Command
from batchflow_workers import quota, schedule
from batchflow_workers.observation import (
    Classification,
    Observation,
    classify,
    ended_at_s,
    message_of,
    result_of,
)
from batchflow_workers.runtime import Runtime


def reconcile(
    runtime: Runtime, observations: Sequence[Observation], source: str, *, calls: float = 1
) -> list[records.Updated]:
    """Classify, write and act on observations that share a credential.

    ``calls`` is how many calls it takes to observe all batches that were due with them.
    """
    if not observations:
        return []
    # Jobs that join a quota queue together do so in the queue's order, so that each message has
    # the right position.
    observations = sorted(observations, key=lambda observation: observation.job.created_at)
    credential = str(observations[0].job.spec.credential)
    conditions = schedule.Conditions(
        runtime.settings,
        runtime.policy,
        now_s=time.time(),
        webhooks_active=runtime.store.run(deliveries.webhooks_active(credential)),
        calls=calls,
    )
    found = [
        classify(o.job, o.batch, policy=runtime.policy, now_s=conditions.now_s)
        for o in observations
    ]
    updates = runtime.store.run_all(
        [
            change(observation, classification, source, conditions)
            for observation, classification in zip(observations, found, strict=True)
        ]
    )
    _count_ended(runtime, observations, updates, source)
    quota.advance(runtime, _moves(zip(observations, found, updates, strict=True)))
    return updates


def change(
    observation: Observation, found: Classification, source: str, conditions: schedule.Conditions
) -> Command[records.Updated]:
    """The change that an observation makes to its job's record."""
    job, batch = observation.job, observation.batch
    if found.over_quota:
        return quota.requeue(observation, source, conditions.settings, conditions.policy)
    credential = str(job.spec.credential)
    if found.files_pending:
        interval_s = conditions.settings.poll_interval_s
        due_in_s = schedule.until_tick_s(interval_s, interval_s, credential, conditions.now_s)
    else:
        due_in_s = schedule.due_in_s(batch, credential, conditions)
    return records.update(
        job.id,
        source=source,
        to=found.state,
        of_batch=records.NO_BATCH if observation.new else batch.id,
        # A rebuilt record claims a stage that its batch may not have reached yet.
        stage=max(found.stage, job.stage) if observation.new else found.stage,
        due_in_s=None if found.state.terminal else due_in_s,
        fields=_fields(observation, found),
    )


def _fields(observation: Observation, found: Classification) -> dict[str, records.Value]:
    job, batch, counts = observation.job, observation.batch, observation.batch.request_counts
    fields: dict[str, records.Value] = {
        "batch_id": batch.id,
        "openai_status": str(batch.status),
        "message": message_of(job, batch, found),
        "failures": None,
        "total": counts.total if counts else 0,
        "completed": counts.completed if counts else 0,
        "failed": counts.failed if counts else 0,
    }
    for name in ("output_file_id", "error_file_id", "expires_at"):
        if value := getattr(batch, name, None):
            fields[name] = str(value)
    if found.state.terminal and batch.usage:
        fields["input_tokens"] = batch.usage.input_tokens
        fields["output_tokens"] = batch.usage.output_tokens
    if batch.model and not job.model:
        # OpenAI reports the exact version of the model; quota queues go by what was asked for.
        fields["model"] = batch.model
    if found.admitted:
        fields["waiting_since"] = None
    if found.state is JobState.SUCCEEDED:
        fields["result"] = orjson.dumps(result_of(job, batch)).decode()
    return fields


def _moves(
    reconciled: Iterable[tuple[Observation, Classification, records.Updated]],
) -> list[quota.Move]:
    """The quota queues that move on: of batches that were admitted just now or have ended."""
    moves = []
    for observation, classification, updated in reconciled:
        if classification.over_quota:
            ended = updated.ended and updated.outcome is not records.UpdateOutcome.STALE
            admitted = False
        else:
            ended = classification.stage is Stage.ENDED or classification.files_pending
            admitted = classification.admitted and observation.job.stage < Stage.IN_PROGRESS
        if ended or admitted:
            moves += quota.moves_of(observation, batch_ended=ended)
    return moves


def _count_ended(
    runtime: Runtime,
    observations: Sequence[Observation],
    updates: Sequence[records.Updated],
    source: str,
) -> None:
    """Count the tokens of batches that this observation ended, and how long their end took to be
    noticed."""
    ended = [
        observation.batch
        for observation, updated in zip(observations, updates, strict=True)
        if updated.ended and updated.outcome is records.UpdateOutcome.APPLIED
    ]
    if not ended:
        return
    counted: list[Command[float]] = []
    now_s = runtime.store.run(records.time())
    for batch in ended:
        if batch.usage:
            counted.append(metrics.count("tokens", "input", by=batch.usage.input_tokens))
            counted.append(metrics.count("tokens", "output", by=batch.usage.output_tokens))
        if ended_s := ended_at_s(batch):
            counted += metrics.observation("knowing", now_s - ended_s, source)
    runtime.store.run_all(counted)
