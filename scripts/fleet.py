"""A demonstration fleet for screenshots: jobs of all kinds, in all states and of different ages."""

import json
import random
import time
from typing import Any

from redis import Redis

from batchflow.jobs import (
    BatchSpec,
    Credential,
    DownloadSpec,
    JobRequest,
    UploadSpec,
    derived_job_id,
)
from batchflow.requests.jsonl import InvalidJsonl, JsonlProblem
from batchflow.states import JobState, Stage
from batchflow.store import (
    JobStore,
    backoff,
    heartbeats,
    index,
    keys,
    metrics,
    quota_queues,
    records,
)
from batchflow.store.command import Command
from batchflow.store.records import Value

_MIN_S = 60
_H_S = 3_600
_STORE_AGE_S = 8 * 24 * _H_S
#: The fields of a record in which commands write the time.
_TIMES = ("created_at", "updated_at", "checked_at", "waiting_since")

_SEARCH = Credential(organization="org-search", group="openai-search", key="api_key")
_VISION = Credential(organization="org-vision", group="openai-vision", key="api_key")
_SHARED = Credential(organization="org-research")
_CHAT = "/v1/chat/completions"


class Fleet:
    """Fills a Redis that has no jobs.

    Jobs are created and changed by the store's own commands. These write the current time, so it is
    replaced by an earlier one after each command.
    """

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix
        self._store = JobStore(redis, prefix)
        self._random = random.Random(7)  # noqa: S311 - guards nothing
        #: The job of a batch in which some requests failed.
        self.partly_failed = ""

    def fill(self) -> None:
        """Create everything."""
        # A job of a new store starts with a try, because that store may have been emptied.
        self._redis.set(self._key(keys.BORN), time.time() - _STORE_AGE_S)
        for hours in (*range(170, 26, -1), 21, 17, 12.4, 9, 6.2, 4.1, 2.7, 1.6, 0.7):
            self._ended_pipeline(hours * _H_S)
        self._troubles()
        self._running()
        self._outage()
        self._quota_queue()
        self._transfers()
        self._fresh()
        self._collect()
        self._heartbeats()

    def _ended_pipeline(self, ago_s: float) -> None:
        name, credential, model = self._random.choice(
            [
                ("classify-reviews", _SEARCH, "gpt-4o-mini"),
                ("embed-catalog", _SEARCH, "text-embedding-3-small"),
                ("caption-photos", _VISION, "gpt-4.1-mini"),
                ("judge-answers", _SHARED, "o4-mini"),
            ]
        )
        total = self._random.choice([1_200, 8_000, 20_000, 50_000])
        failed = self._random.choice([0, 0, 0, 3, 41])
        execution = self._execution(name)
        took_s = self._random.uniform(0.3, min(2, 0.8 * ago_s / _H_S)) * _H_S
        batch = self._batch(ago_s, execution, credential, model, total)
        self._progress(batch, ago_s - took_s / 2, total // 2, 0)
        self._succeed(batch, ago_s - took_s, total, failed)

    def _running(self) -> None:
        for hours, name, credential, model, total, done, failed in (
            (20.6, "embed-archive", _SEARCH, "text-embedding-3-large", 50_000, 47_310, 0),
            (5.2, "classify-reviews", _SEARCH, "gpt-4o-mini", 50_000, 31_204, 12),
            (5.1, "classify-reviews", _SEARCH, "gpt-4o-mini", 50_000, 28_977, 0),
            (3.4, "judge-answers", _SHARED, "o4-mini", 12_000, 4_071, 3),
            (0.62, "translate-help-center", _SHARED, "gpt-4.1", 8_640, 6_902, 0),
            (0.31, "embed-catalog", _SEARCH, "text-embedding-3-small", 20_000, 9_118, 0),
            (0.2, "classify-reviews", _SEARCH, "gpt-4o-mini", 50_000, 2_350, 4),
            (0.04, "extract-invoices", _SHARED, "gpt-4.1-mini", 2_400, 0, 0),
        ):
            batch = self._batch(hours * _H_S, self._execution(name), credential, model, total)
            if done:
                self._progress(batch, hours * _H_S * 0.97, 0, 0)
                self._progress(batch, 11, done, failed)

    def _outage(self) -> None:
        message = (
            "Waiting to call OpenAI again. OpenAI returned HTTP 503: The server is overloaded."
        )
        for hours, done in ((2.2, 9_340), (0.45, 1_112)):
            ago_s = hours * _H_S
            batch = self._batch(
                ago_s, self._execution("caption-photos"), _VISION, "gpt-4.1-mini", 15_000
            )
            self._progress(batch, ago_s * 0.9, 0, 0)
            self._progress(batch, 2 * _MIN_S, done, 0)
            self._update(95, batch, "poll", {"message": message}, stage=Stage.NONE)
        self._store.run(backoff.extend(str(_VISION), message=message, retry_after_s=145))

    def _quota_queue(self) -> None:
        queue = f"{_SHARED}|o4-mini"
        for minutes in (33, 32, 30):
            batch = self._batch(
                minutes * _MIN_S, self._execution("judge-answers"), _SHARED, "o4-mini", 0
            )
            self._run_on(
                batch,
                minutes * _MIN_S - 9,
                quota_queues.requeue(
                    queue,
                    batch,
                    of_batch=records.NO_BATCH,
                    openai_status="failed",
                    model="o4-mini",
                    source="submit",
                    message="Waiting for quota: OpenAI's limit of enqueued tokens for o4-mini "
                    "is reached",
                    retry_in_s=300,
                    longest_wait_s=1_440 * _MIN_S,
                    waited_too_long="",
                ),
            )

    def _transfers(self) -> None:
        execution = self._execution("classify-reviews")
        upload = self._job_request(
            70, execution, UploadSpec(credential=_SEARCH, uri="s3://northwind-ml/reviews/41.jsonl")
        )
        self._update(
            12,
            upload,
            "upload",
            {
                "message": "Validating and uploading the file",
                "bytes_done": 61_400_000,
                "bytes_total": 148_200_000,
            },
            to=JobState.RUNNING,
        )
        download = self._job_request(
            25,
            self._execution("embed-catalog"),
            DownloadSpec(
                credential=_SEARCH,
                output_file_id=self._openai_id("file-", 22),
                destination="s3://northwind-ml/catalog/2",
            ),
        )
        self._update(
            20,
            download,
            "download",
            {
                "message": "Downloading the batch's files",
                "bytes_done": 212_700_000,
                "bytes_total": 260_300_000,
            },
            to=JobState.RUNNING,
        )

    def _troubles(self) -> None:
        expired = self._batch(
            26.4 * _H_S, self._execution("embed-archive"), _SEARCH, "text-embedding-3-large", 50_000
        )
        self._progress(expired, 20 * _H_S, 30_000, 0)
        self._update(
            2.4 * _H_S,
            expired,
            "poll",
            {
                "openai_status": "expired",
                "completed": 46_112,
                "output_file_id": (output := self._openai_id("file-", 22)),
                "message": "The batch expired at OpenAI before it was finished; 46112 of 50000 "
                f"requests were completed. OpenAI keeps the results: output file {output}.",
            },
            to=JobState.FAILED,
            stage=Stage.ENDED,
        )
        problems = (
            JsonlProblem(118, "custom_id is missing"),
            JsonlProblem(402, "custom_id 'inv-2231' was already used on line 17"),
            JsonlProblem(511, "empty lines, up to line 514"),
        )
        wrong = self._job_request(
            15 * _MIN_S,
            self._execution("extract-invoices"),
            UploadSpec(credential=_SHARED, uri="s3://northwind-ml/invoices/q2.jsonl"),
        )
        self._update(
            14.8 * _MIN_S,
            wrong,
            "upload",
            {"message": str(InvalidJsonl(problems, len(problems)))},
            to=JobState.FAILED,
        )
        lost = self._job_request(
            3.1 * _H_S,
            self._execution("caption-photos"),
            DownloadSpec(
                credential=_VISION,
                output_file_id=self._openai_id("file-", 22),
                destination="s3://northwind-media/captions/9",
            ),
        )
        self._update(
            2.9 * _H_S,
            lost,
            "download",
            {
                "message": "Can't write s3://northwind-media/captions/9/output_file.jsonl "
                "(PermissionError). (gave up after 8 tries)"
            },
            to=JobState.RETRYABLE,
        )
        stopped = self._batch(
            4.6 * _H_S, self._execution("translate-help-center"), _SHARED, "gpt-4.1", 8_640
        )
        cancel = records.cancel(stopped, message="Cancelled by Flyte.", source="delete")
        self._run_on(stopped, 4.5 * _H_S, cancel)
        self._update(
            4.4 * _H_S,
            stopped,
            "poll",
            {
                "openai_status": "cancelled",
                "completed": 212,
                "message": "Cancelled by Flyte. 212 of 8640 requests were completed.",
            },
            to=JobState.CANCELLED,
            stage=Stage.ENDED,
        )
        refused = self._batch(
            50 * _MIN_S, self._execution("extract-invoices"), _SHARED, "gpt-4.1-mini", 2_400
        )
        self._succeed(refused, 6 * _MIN_S, 2_400, 187)
        self.partly_failed = refused
        self._store.run(
            records.annotate(
                refused,
                {
                    "top_error": "164 x 400 invalid_image_format: You uploaded an unsupported "
                    "image. Please make sure your image is below 20 MB in size and is of one the "
                    "following formats: ['png', 'jpeg', 'gif', 'webp']."
                },
            )
        )

    def _fresh(self) -> None:
        for ago_s in (4, 3):
            self._job_request(
                ago_s,
                self._execution("classify-reviews"),
                UploadSpec(credential=_SEARCH, uri=f"s3://northwind-ml/reviews/{40 + ago_s}.jsonl"),
            )

    def _collect(self) -> None:
        """Let Flyte have received the end of each job when it came."""
        for job_id in self._store.run(index.uncollected(1_000)):
            self._store.run(records.collect(job_id))
            [ended_at] = self._store.run(records.get_fields(job_id, ["updated_at"]))
            self._redis.hset(self._key(keys.job(job_id)), "collected_at", str(ended_at))

    def _heartbeats(self) -> None:
        for name in ("files-0", "poll-0", "submit-0", "files-1"):
            self._store.run(heartbeats.beat(f"celery@{name}", [name.partition("-")[0]]))
        self._store.run(metrics.count("tokens", "input", by=1_184_302_117))
        self._store.run(metrics.count("tokens", "output", by=236_114_902))
        for event, ago_s in (("sweep", 1), ("poll", 4), ("webhook", 47)):
            self._redis.hset(self._key(keys.PULSE), event, time.time() - ago_s)

    def _batch(
        self, ago_s: float, execution: str, credential: Credential, model: str, total: int
    ) -> str:
        """Create a batch job; it is submitted unless ``total`` is 0."""
        file_id = self._openai_id("file-", 22)
        endpoint = "/v1/embeddings" if "embedding" in model else _CHAT
        config = {
            "completion_window": "24h",
            "endpoint": endpoint,
            "metadata": {"team": "catalog", "dataset": execution.split("/")[2]},
        }
        spec = BatchSpec(credential=credential, input_file_id=file_id, config=config)
        job_id = self._job_request(ago_s, execution, spec, model)
        if total:
            self._update(
                ago_s - 2,
                job_id,
                "submit",
                {
                    "batch_id": self._openai_id("batch_", 32),
                    "openai_status": "validating",
                    "expires_at": int(time.time() - ago_s + 24 * _H_S),
                    "total": total,
                },
                to=JobState.RUNNING,
                stage=Stage.VALIDATING,
            )
        return job_id

    def _job_request(
        self, ago_s: float, execution: str, spec: Any, model: str | None = None
    ) -> str:
        job_id = derived_job_id(self._random.randbytes(16))
        job_request = JobRequest(job_id=job_id, spec=spec, execution=execution)
        self._run_on(job_id, ago_s, records.create(job_request, due_in_s=1e6))
        if model:
            self._store.run(records.annotate(job_id, {"model": model}))
        return job_id

    def _progress(self, job_id: str, ago_s: float, completed: int, failed: int) -> None:
        self._update(
            ago_s,
            job_id,
            "poll",
            {"openai_status": "in_progress", "completed": completed - failed, "failed": failed},
            to=JobState.RUNNING,
            stage=Stage.IN_PROGRESS,
        )

    def _succeed(self, job_id: str, ago_s: float, total: int, failed: int) -> None:
        output = self._openai_id("file-", 22)
        result = {"id": self._openai_id("batch_", 32), "status": "completed"}
        fields: dict[str, Value] = {
            "openai_status": "completed",
            "completed": total - failed,
            "failed": failed,
            "output_file_id": output,
            "error_file_id": self._openai_id("file-", 22) if failed else None,
            "input_tokens": total * 412,
            "output_tokens": total * 83,
            "result": json.dumps({**result, "output_file_id": output}),
        }
        self._update(ago_s, job_id, "webhook", fields, to=JobState.SUCCEEDED, stage=Stage.ENDED)

    def _update(
        self, ago_s: float, job_id: str, source: str, fields: dict[str, Value], **more: Any
    ) -> None:
        self._run_on(
            job_id,
            ago_s,
            records.update(job_id, source=source, fields=fields, due_in_s=1e6, **more),
        )

    def _run_on(self, job_id: str, ago_s: float, command: Command[Any]) -> None:
        """Run a command that changes a job, as if ``ago_s`` seconds ago."""
        before = self._times(job_id)
        self._store.run(command)
        written = {
            name: at for name, at in self._times(job_id).items() if at and at != before[name]
        }
        if not written:
            return
        [now] = set(written.values())
        then = f"{float(now) - ago_s:.6f}"
        self._redis.hset(self._key(keys.job(job_id)), mapping=dict.fromkeys(written, then))
        if "updated_at" in written:
            self._set_transition_back(job_id, now, then)

    def _set_transition_back(self, job_id: str, now: str, then: str) -> None:
        """Set back the last line of a job's history, and the job's position in the lists."""
        record = self._key(keys.job(job_id))
        *earlier, last = str(self._redis.hget(record, "history")).split("\n")
        last = last.replace(str(int(float(now))), str(int(float(then))), 1)
        self._redis.hset(record, "history", "\n".join([*earlier, last]))
        self._redis.zadd(self._key(keys.RECENT), {job_id: float(then)})
        index = self._key(keys.INDEX)
        for member, _ in self._redis.zscan_iter(index, match=f"* {now} {job_id}", count=1_000):
            self._redis.zrem(index, member)
            self._redis.zadd(index, {member.replace(now, then): 0})

    def _times(self, job_id: str) -> dict[str, str | None]:
        values = self._store.run(records.get_fields(job_id, _TIMES))
        return dict(zip(_TIMES, values, strict=True))

    def _key(self, name: str) -> str:
        return keys.full(self._prefix, name)

    def _execution(self, workflow: str) -> str:
        name = "a" + "".join(self._random.choices("bcdfghjklmnpqrstvwxz2456789", k=19))
        return f"{workflow}/production/{name}/n0"

    def _openai_id(self, prefix: str, length: int) -> str:
        return prefix + "".join(
            self._random.choices("abcdefghijkmnpqrstuvwxyz0123456789", k=length)
        )
