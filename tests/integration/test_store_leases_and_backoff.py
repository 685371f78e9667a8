"""Leases and backoff, for all stores, over fakeredis and Redis."""

import pytest

from batchflow.states import WaitingFor
from batchflow.store import backoff, keys, leases, records
from batchflow.store.backoff import Backoff
from tests.kit.processes import until
from tests.kit.stores import StoreHarness

# Leases


def test_a_lease_has_one_owner(store: StoreHarness) -> None:
    assert store.run(leases.acquire("sweep", "one", ttl_s=60))
    assert not store.run(leases.acquire("sweep", "two", ttl_s=60))
    assert not store.run(leases.acquire("sweep", "one", ttl_s=60))
    assert store.run(leases.acquire("poll:key", "two", ttl_s=60))


def test_a_lease_is_renewed_and_released_only_by_its_owner(store: StoreHarness) -> None:
    key = f"{store.prefix}:{keys.lease('sweep')}"
    store.run(leases.acquire("sweep", "one", ttl_s=60))
    assert not store.run(leases.renew("sweep", "two", ttl_s=600))
    assert not store.run(leases.release("sweep", "two"))
    assert store.redis.pttl(key) <= 60_000
    assert store.run(leases.renew("sweep", "one", ttl_s=600))
    assert store.redis.pttl(key) > 500_000
    assert store.run(leases.release("sweep", "one"))
    assert not store.run(leases.release("sweep", "one"))
    assert not store.run(leases.renew("sweep", "one", ttl_s=60))
    assert store.run(leases.acquire("sweep", "two", ttl_s=60))


def test_a_lease_runs_out(store: StoreHarness) -> None:
    assert store.run(leases.acquire("sweep", "dead", ttl_s=0.03))
    until(lambda: store.run(leases.acquire("sweep", "alive", ttl_s=60)), "the end of the lease")
    assert not store.run(leases.renew("sweep", "dead", ttl_s=60))
    assert not store.run(leases.release("sweep", "dead"))


# Backoff


def waits(store: StoreHarness, credential: str = "key") -> Backoff | None:
    return store.run(backoff.current(credential, store.run(records.time())))


def fail(store: StoreHarness, retry_after_s: float | None = None, message: str = "Down.") -> float:
    return store.run(backoff.extend("key", message=message, retry_after_s=retry_after_s))


def end_wait(store: StoreHarness) -> None:
    """Act as if the backoff had ended."""
    store.redis.hset(f"{store.prefix}:{keys.backoff('key')}", "until", "0")


def test_a_failure_backs_off_a_credential(store: StoreHarness) -> None:
    assert waits(store) is None
    before_s = store.run(records.time())
    delay_s = fail(store)
    assert backoff.FIRST_S / 2 <= delay_s <= backoff.FIRST_S
    wait = store.run(backoff.current("key", before_s))
    assert wait is not None
    assert wait.seconds_left == pytest.approx(delay_s, abs=5)
    assert wait.message == "Down."
    assert waits(store, "other") is None


def test_a_backoff_says_what_its_jobs_wait_for(store: StoreHarness) -> None:
    store.run(backoff.extend("key", message="No key.", waiting_for=WaitingFor.KEY))
    wait = waits(store)
    assert wait is not None
    assert wait.waiting_for is WaitingFor.KEY
    fail(store)
    wait = waits(store)
    assert wait is not None
    assert wait.waiting_for is None


def test_backoff_grows_exponentially(store: StoreHarness) -> None:
    for failure in range(14):
        longest_s = min(backoff.LONGEST_S, backoff.FIRST_S * 2**failure)
        assert longest_s / 2 <= fail(store) <= longest_s
        end_wait(store)
    assert waits(store) is None


def test_failures_of_concurrent_requests_count_as_one(store: StoreHarness) -> None:
    first_s = fail(store, retry_after_s=60)
    assert all(fail(store, message=f"Down {n}.") <= first_s for n in range(20))
    assert store.raw(keys.backoff("key"))["failures"] == "1"
    end_wait(store)
    assert fail(store) <= 2 * backoff.FIRST_S


def test_a_longer_retry_after_wins(store: StoreHarness) -> None:
    assert fail(store, retry_after_s=77) == pytest.approx(77, abs=0.01)
    # During a backoff, too, and not if it is shorter.
    assert fail(store, retry_after_s=99) == pytest.approx(99, abs=0.01)
    assert fail(store, retry_after_s=1) == pytest.approx(99, abs=5)
    wait = waits(store)
    assert wait is not None
    assert wait.seconds_left == pytest.approx(99, abs=5)


@pytest.mark.parametrize("retry_after_s", [0, 0.001, 86_400, 1e9])
def test_any_retry_after_is_accepted(store: StoreHarness, retry_after_s: float) -> None:
    before_s = store.run(records.time())
    assert fail(store, retry_after_s=retry_after_s) > 0
    assert store.run(backoff.current("key", before_s)) is not None


def test_success_ends_the_backoff(store: StoreHarness) -> None:
    fail(store)
    end_wait(store)
    fail(store)
    store.run(backoff.clear("key"))
    assert waits(store) is None
    assert fail(store) <= backoff.FIRST_S


def test_a_backoff_expires_some_time_after_its_end(store: StoreHarness) -> None:
    delay_s = fail(store, retry_after_s=50)
    ttl_s = store.redis.ttl(f"{store.prefix}:{keys.backoff('key')}")
    assert delay_s < ttl_s < 10 * delay_s
