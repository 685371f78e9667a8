"""The fleet of scripts/fleet.py, which the screenshots show."""

import time

from redis import Redis

from batchflow.states import LIVE, JobState
from batchflow.store import keys
from scripts.fleet import Fleet

DAY_S = 86_400


def test_jobs_of_different_ages_are_where_the_store_would_have_put_them(
    redis_url: str, key_prefix: str
) -> None:
    def name(key: str) -> str:
        return keys.full(key_prefix, key)

    with Redis.from_url(redis_url, decode_responses=True) as redis:
        fleet = Fleet(redis, key_prefix)
        fleet.fill()
        changed = dict(redis.zrange(name(keys.RECENT), 0, -1, withscores=True))
        index = set(redis.zrange(name(keys.INDEX), 0, -1))
        assert not redis.exists(name(keys.UNCOLLECTED)), "Flyte has received every end"
        records = {job_id: redis.hgetall(name(keys.job(job_id))) for job_id in changed}

    assert {JobState(record["state"]) for record in records.values()} == set(JobState)
    ages_s = [time.time() - float(record["created_at"]) for record in records.values()]
    assert min(ages_s) < DAY_S < 7 * DAY_S < max(ages_s)
    for job_id, record in records.items():
        is_live = JobState(record["state"]) in LIVE
        listed_at = record["created_at" if is_live else "updated_at"]
        assert f"all {record['kind']} {record['state']} {listed_at} {job_id}" in index
        assert f"{changed[job_id]:.6f}" == record["updated_at"]
        transitions = [int(line.split("\t")[0]) for line in record["history"].split("\n")]
        assert transitions == sorted(transitions)
        assert transitions[0] == int(float(record["created_at"]))
        assert transitions[-1] == int(float(record["updated_at"]))
    assert int(records[fleet.partly_failed]["failed"]) > 0
    assert sum(member.startswith("all ") for member in index) == len(records)
