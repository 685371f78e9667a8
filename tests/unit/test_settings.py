from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from batchflow.errors import InvalidSettings
from batchflow.requests.jsonl import ValidationMode
from batchflow.settings import Settings, load_settings

PASSWORD = "hunter2"
URL = f"redis://user:{PASSWORD}@redis.example:6379/0"


@pytest.fixture(autouse=True)
def read_again() -> Iterator[None]:
    """Read the settings again in each test, instead of once per process."""
    load_settings.cache_clear()
    yield
    load_settings.cache_clear()


def test_defaults() -> None:
    settings = load_settings()
    assert settings.redis_url is None
    assert settings.key_prefix == "batchflow"
    assert settings.poll_interval_s == 15
    assert settings.retention_s == 7 * 24 * 3_600
    assert settings.validation is ValidationMode.STRICT


def test_the_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHFLOW_REDIS_URL", URL)
    monkeypatch.setenv("BATCHFLOW_POLL_INTERVAL_S", "2.5")
    settings = load_settings()
    assert settings.require_redis_url() == URL
    assert settings.poll_interval_s == 2.5
    assert load_settings() is settings


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHFLOW_REDIS_URL", "")
    monkeypatch.setenv("BATCHFLOW_KEY_PREFIX", "")
    assert load_settings() == Settings()


def test_without_a_redis_url_the_error_says_what_to_set() -> None:
    with pytest.raises(InvalidSettings, match="BATCHFLOW_REDIS_URL is not set"):
        load_settings().require_redis_url()
    with pytest.raises(InvalidSettings, match="BATCHFLOW_REDIS_URL is not set"):
        load_settings().require_broker_url()


def test_the_broker_is_redis_by_default() -> None:
    assert Settings.model_validate({"redis_url": URL}).require_broker_url() == URL
    both = Settings.model_validate({"redis_url": URL, "broker_url": "amqp://broker"})
    assert both.require_broker_url() == "amqp://broker"
    assert both.require_redis_url() == URL


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEY_PREFIX", "two words"),
        ("KEY_PREFIX", "a{b}"),
        ("KEY_PREFIX", "x" * 65),
        ("POLL_INTERVAL_S", "soon-ish"),
        ("POLL_INTERVAL_S", "0"),
        ("POLL_INTERVAL_S", "-15"),
        ("POLL_INTERVAL_S", "nan"),
        ("SWEEP_INTERVAL_S", "0.001"),
        ("RETENTION_S", "59.5"),
        ("RETENTION_S", "nan"),
        ("VALIDATION", "lenient"),
        ("OPENAI_TIMEOUT_S", "-7"),
        ("OPENAI_TIMEOUT_S", "inf"),
        ("SETTLE_S", "-0.5"),
        ("LEASE_S", "0.25"),
    ],
)
def test_an_error_names_the_variable_and_not_the_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"BATCHFLOW_{name}", value)
    with pytest.raises(InvalidSettings) as caught:
        load_settings()
    message = str(caught.value)
    assert f"BATCHFLOW_{name}: " in message
    if len(value) > 3:  # a shorter one may be part of a limit in the message
        assert value not in message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_an_error_names_every_invalid_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHFLOW_LEASE_S", "never")
    monkeypatch.setenv("BATCHFLOW_SETTLE_S", "always")
    with pytest.raises(InvalidSettings, match=r"BATCHFLOW_SETTLE_S: .*BATCHFLOW_LEASE_S: "):
        load_settings()


@pytest.mark.parametrize("name", ["redis_url", "broker_url"])
def test_a_password_is_never_shown(name: str) -> None:
    settings = Settings.model_validate({name: URL})
    assert PASSWORD not in repr(settings)
    assert PASSWORD not in str(settings)
    assert PASSWORD not in settings.model_dump_json()


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().key_prefix = "other"
