"""Leases and backoff, for all stores, over fakeredis and Redis."""

import pytest

from batchflow.store import backoff, keys, leases, records
from batchflow.store.backoff import Backoff
from tests.kit.processes import until
from tests.kit.rigs import Rig

# Leases


def test_a_lease_has_one_owner(rig: Rig) -> None:
    assert rig.run(leases.acquire("sweep", "one", ttl_s=60))
    assert not rig.run(leases.acquire("sweep", "two", ttl_s=60))
    assert not rig.run(leases.acquire("sweep", "one", ttl_s=60))
    assert rig.run(leases.acquire("poll:key", "two", ttl_s=60))


def test_a_lease_is_renewed_and_released_only_by_its_owner(rig: Rig) -> None:
    key = f"{rig.prefix}:{keys.lease('sweep')}"
    rig.run(leases.acquire("sweep", "one", ttl_s=60))
    assert not rig.run(leases.renew("sweep", "two", ttl_s=600))
    assert not rig.run(leases.release("sweep", "two"))
    assert rig.redis.pttl(key) <= 60_000
    assert rig.run(leases.renew("sweep", "one", ttl_s=600))
    assert rig.redis.pttl(key) > 500_000
    assert rig.run(leases.release("sweep", "one"))
    assert not rig.run(leases.release("sweep", "one"))
    assert not rig.run(leases.renew("sweep", "one", ttl_s=60))
    assert rig.run(leases.acquire("sweep", "two", ttl_s=60))


def test_a_lease_runs_out(rig: Rig) -> None:
    assert rig.run(leases.acquire("sweep", "dead", ttl_s=0.03))
    until(lambda: rig.run(leases.acquire("sweep", "alive", ttl_s=60)), "the end of the lease")
    assert not rig.run(leases.renew("sweep", "dead", ttl_s=60))
    assert not rig.run(leases.release("sweep", "dead"))


# Backoff


def waits(rig: Rig, credential: str = "key") -> Backoff | None:
    return rig.run(backoff.current(credential, rig.run(records.time())))


def fail(rig: Rig, retry_after_s: float | None = None, message: str = "Down.") -> float:
    return rig.run(backoff.extend("key", message=message, retry_after_s=retry_after_s))


def end_wait(rig: Rig) -> None:
    """Act as if the backoff had ended."""
    rig.redis.hset(f"{rig.prefix}:{keys.backoff('key')}", "until", "0")


def test_a_failure_backs_off_a_credential(rig: Rig) -> None:
    assert waits(rig) is None
    before_s = rig.run(records.time())
    delay_s = fail(rig)
    assert backoff.FIRST_S / 2 <= delay_s <= backoff.FIRST_S
    wait = rig.run(backoff.current("key", before_s))
    assert wait is not None
    assert wait.seconds_left == pytest.approx(delay_s, abs=5)
    assert wait.message == "Down."
    assert waits(rig, "other") is None


def test_backoff_grows_exponentially(rig: Rig) -> None:
    for failure in range(14):
        longest_s = min(backoff.LONGEST_S, backoff.FIRST_S * 2**failure)
        assert longest_s / 2 <= fail(rig) <= longest_s
        end_wait(rig)
    assert waits(rig) is None


def test_failures_of_concurrent_requests_count_as_one(rig: Rig) -> None:
    first_s = fail(rig, retry_after_s=60)
    assert all(fail(rig, message=f"Down {n}.") <= first_s for n in range(20))
    assert rig.raw(keys.backoff("key"))["failures"] == "1"
    end_wait(rig)
    assert fail(rig) <= 2 * backoff.FIRST_S


def test_a_longer_retry_after_wins(rig: Rig) -> None:
    assert fail(rig, retry_after_s=77) == pytest.approx(77, abs=0.01)
    # During a backoff, too, and not if it is shorter.
    assert fail(rig, retry_after_s=99) == pytest.approx(99, abs=0.01)
    assert fail(rig, retry_after_s=1) == pytest.approx(99, abs=5)
    wait = waits(rig)
    assert wait is not None
    assert wait.seconds_left == pytest.approx(99, abs=5)


@pytest.mark.parametrize("retry_after_s", [0, 0.001, 86_400, 1e9])
def test_any_retry_after_is_accepted(rig: Rig, retry_after_s: float) -> None:
    before_s = rig.run(records.time())
    assert fail(rig, retry_after_s=retry_after_s) > 0
    assert rig.run(backoff.current("key", before_s)) is not None


def test_success_ends_the_backoff(rig: Rig) -> None:
    fail(rig)
    end_wait(rig)
    fail(rig)
    rig.run(backoff.clear("key"))
    assert waits(rig) is None
    assert fail(rig) <= backoff.FIRST_S


def test_a_backoff_expires_some_time_after_its_end(rig: Rig) -> None:
    delay_s = fail(rig, retry_after_s=50)
    ttl_s = rig.redis.ttl(f"{rig.prefix}:{keys.backoff('key')}")
    assert delay_s < ttl_s < 10 * delay_s
