"""Redis URLs for our own client and for Celery's. No error may contain one."""

import traceback
from typing import Any

import pytest
from kombu import Connection
from redis import SSLConnection

from batchflow.errors import InvalidSettings
from batchflow.redis_url import SentinelAddress, broker, is_sentinel, parse_sentinel
from batchflow.settings import Settings
from batchflow.store import connect, connect_async

SECRET = "hunter2"
#: A password with characters that have to be encoded.
ODD = "p@ss:/w?rd#%"
ENCODED = "p%40ss%3A%2Fw%3Frd%23%25"


def address(**fields: Any) -> SentinelAddress:
    nothing = dict.fromkeys(("username", "password", "sentinel_password"))
    usual = {"sentinels": (("one", 26379),), "master": "mymaster", "db": 0}
    return SentinelAddress(**{**nothing, **usual, **fields})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sentinel://one/mymaster", address()),
        ("sentinel://one/mymaster/", address()),
        ("sentinel://one:5/mymaster/3", address(sentinels=(("one", 5),), db=3)),
        (
            "sentinel://one:1,two,10.0.0.3:3/mymaster/0",
            address(sentinels=(("one", 1), ("two", 26379), ("10.0.0.3", 3))),
        ),
        (
            "sentinel://[::1]:1,[fe80::2]/mymaster",
            address(sentinels=(("::1", 1), ("fe80::2", 26379))),
        ),
        (f"sentinel://:{ENCODED}@one/mymaster", address(password=ODD)),
        (f"sentinel://me:{ENCODED}@one/mymaster", address(username="me", password=ODD)),
        (
            "sentinel://m%40e:pw@one/my%2Fmaster",
            address(username="m@e", password="pw", master="my/master"),
        ),
        (
            f"sentinel://:pw@one/mymaster/0?sentinel_password={ENCODED}",
            address(password="pw", sentinel_password=ODD),
        ),
    ],
)
def test_a_sentinel_url_is_parsed(url: str, expected: SentinelAddress) -> None:
    assert is_sentinel(url)
    assert parse_sentinel(url) == expected


def test_sentinels_have_their_own_password_or_none() -> None:
    assert "password" not in address().sentinel_options
    assert address(sentinel_password="pw").sentinel_options["password"] == "pw"


def test_an_unavailable_sentinel_is_skipped_at_once() -> None:
    """By default, redis-py would retry for ten seconds before it tries the next one."""
    options = address().sentinel_options
    assert options["retry"].get_retries() == 0
    assert options["socket_timeout"] == options["socket_connect_timeout"] == 1


BAD_SENTINELS = [
    "sentinel://",
    f"sentinel://:{SECRET}@one",
    f"sentinel://:{SECRET}@one/",
    f"sentinel://:{SECRET}@/mymaster",
    f"sentinel://:{SECRET}@one,,two/mymaster",
    f"sentinel://:{SECRET}@one:{SECRET}/mymaster",
    f"sentinel://:{SECRET}@one:99999/mymaster",
    f"sentinel://:{SECRET}@one/mymaster/{SECRET}",
    f"sentinel://:{SECRET}@[::1/mymaster",
    f"sentinel://:{SECRET}[@one/mymaster",
    f"sentinel://:{SECRET}/x@one/mymaster/0",
    f"sentinel://:{SECRET}\u2100@one/mymaster/0",
]
BAD_REDIS = [
    "localhost:6379",
    f"http://:{SECRET}@one",
    f"redis://:{SECRET}/x@one:6379/0",
    f"redis://:{SECRET}#x@one:6379/0",
    f"redis://:{SECRET}?x@one:6379/0",
    f"redis://:{SECRET}[x@one:6379/0",
    f"redis://:{SECRET}\u2100@one:6379/0",
    f"redis://:{SECRET}@one:port/0",
    f"redis://:{SECRET}@one:99999/0",
    f"redis://:{SECRET}@one/{SECRET}",
    f"rediss://:{SECRET}@one/0/1",
    f"redis://:x@one/0?socket_timeout={SECRET}",
]


@pytest.mark.parametrize("url", BAD_SENTINELS)
def test_the_error_about_a_sentinel_url_does_not_contain_it(url: str) -> None:
    with pytest.raises(
        InvalidSettings, match="BATCHFLOW_REDIS_URL is not a valid Sentinel URL"
    ) as caught:
        parse_sentinel(url)
    assert SECRET not in shown(caught.value)


@pytest.mark.parametrize("url", [*BAD_SENTINELS, *BAD_REDIS])
@pytest.mark.parametrize("connects", [connect, connect_async])
def test_no_client_connects_to_an_invalid_url(url: str, connects: Any) -> None:
    settings = Settings.model_validate({"redis_url": url})
    with pytest.raises(InvalidSettings, match=r"^BATCHFLOW_REDIS_URL ") as caught:
        connects(settings)
    assert SECRET not in shown(caught.value)
    assert SECRET not in repr(settings) + str(settings)


@pytest.mark.parametrize("url", [*BAD_SENTINELS, *BAD_REDIS[2:-1], f"amqp://me:{SECRET}/x@one//"])
def test_the_error_about_a_broker_url_does_not_contain_it(url: str) -> None:
    with pytest.raises(InvalidSettings, match="BATCHFLOW_REDIS_URL") as caught:
        broker(url)
    assert SECRET not in shown(caught.value)


def shown(error: BaseException) -> str:
    """Everything that a log could show of an error."""
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost:6379/",
        f"redis://me:{ENCODED}@localhost:6379/3?socket_timeout=5",
        "redis://[::1]:6379/0",
        "amqp://me:pw@localhost:5672//",
        "sqs://",
        "memory://",
        "amqp://one:5672;amqp://two:5672//",
        "redis://one:6379/0;redis://two:6379/0",
    ],
)
def test_celery_gets_most_urls_unchanged(url: str) -> None:
    assert broker(url) == (url, {})


def test_celery_gets_a_url_for_each_sentinel() -> None:
    url, options = broker(
        f"sentinel://me:{ENCODED}@one:1,two,[::1]:3/mymaster/2?sentinel_password=other"
    )
    assert url.split(";") == [
        f"sentinel://me:{ENCODED}@one:1/2",
        f"sentinel://me:{ENCODED}@two:26379/2",
        f"sentinel://me:{ENCODED}@[::1]:3/2",
    ]
    assert options["master_name"] == "mymaster"
    assert options["sentinel_kwargs"]["password"] == "other"
    assert ODD not in Connection(url).as_uri()
    assert ENCODED not in Connection(url).as_uri()


def test_celery_gets_no_user_without_a_password() -> None:
    assert broker("sentinel://one/mymaster")[0] == "sentinel://one:26379/0"


@pytest.mark.parametrize(
    ("url", "query"),
    [
        ("rediss://:pw@one/0", "?ssl_cert_reqs=required"),
        ("rediss://:pw@one/0?ssl_ca_certs=/ca.pem", "&ssl_cert_reqs=required"),
        ("rediss://:pw@one/0?ssl_cert_reqs=none", ""),
    ],
)
def test_celery_checks_certificates_by_default(url: str, query: str) -> None:
    assert broker(url) == (url + query, {})


def test_celery_gets_its_own_form_of_a_socket_url() -> None:
    url = f"unix://me:{ENCODED}@/run/redis.sock?db=3"
    expected = f"redis+socket://me:{ENCODED}@/run/redis.sock?virtual_host=3"
    assert broker(url) == (expected, {})


def test_tls_is_verified_by_default() -> None:
    pool: Any = connect(
        Settings.model_validate({"redis_url": "rediss://one"})
    ).redis.connection_pool
    connection = pool.connection_class(**pool.connection_kwargs)
    assert isinstance(connection, SSLConnection)
    assert (connection.cert_reqs.name, connection.check_hostname) == ("CERT_REQUIRED", True)
