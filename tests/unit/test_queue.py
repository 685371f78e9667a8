from itertools import product

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from batchflow.queue import (
    QUEUE_OF,
    STEP_LIMIT_S,
    STEP_OF,
    VISIBILITY_TIMEOUT_S,
    Queue,
    QueueUnavailable,
    Sender,
    Step,
    all_queues,
    make_app,
)
from batchflow.settings import Settings
from batchflow.states import JobKind


def configured(key_prefix: str = "batchflow") -> Settings:
    # A broker in memory.
    return Settings.model_validate({"broker_url": "memory://", "key_prefix": key_prefix})


@pytest.fixture
def app() -> Celery:
    return make_app(configured())


def test_messages_are_json(app: Celery) -> None:
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_serializer == "json"


def test_a_message_survives_its_worker(app: Celery) -> None:
    assert app.conf.task_acks_late is True
    assert app.conf.task_reject_on_worker_lost is True
    assert app.conf.worker_prefetch_multiplier == 1


def test_a_running_step_is_not_delivered_again(app: Celery) -> None:
    assert app.conf.broker_transport_options["visibility_timeout"] == VISIBILITY_TIMEOUT_S
    assert app.conf.task_time_limit == STEP_LIMIT_S < VISIBILITY_TIMEOUT_S


def test_results_are_not_stored(app: Celery) -> None:
    assert app.conf.result_backend is None
    assert app.conf.task_ignore_result is True


@pytest.mark.parametrize(
    ("step", "queue"),
    [
        (Step.SUBMIT, "submit"),
        (Step.CANCEL, "submit"),
        (Step.POLL, "poll"),
        (Step.SWEEP, "poll"),
        (Step.UPLOAD, "files"),
        (Step.DOWNLOAD, "files"),
    ],
)
@pytest.mark.parametrize("prefix", ["batchflow", "team-a.prod"])
def test_steps_go_to_the_queue_of_their_prefix(step: Step, queue: str, prefix: str) -> None:
    route = make_app(configured(prefix)).amqp.router.route({}, step.value)
    assert route["queue"].name == f"{prefix}.{queue}"


def test_a_worker_takes_from_all_queues_by_default() -> None:
    settings = configured("mine")
    assert all_queues(settings) == ["mine.submit", "mine.poll", "mine.files"]
    assert [queue.name for queue in make_app(settings).conf.task_queues] == all_queues(settings)
    assert make_app(settings).conf.task_default_queue in all_queues(settings)


def test_every_step_has_a_queue_and_every_kind_a_step() -> None:
    assert set(QUEUE_OF) == set(Step)
    assert set(QUEUE_OF.values()) == set(Queue)
    assert set(STEP_OF) == set(JobKind)


def test_a_step_is_sent_as_json_to_its_queue(app: Celery) -> None:
    sender = Sender(app)
    sender.send(Step.SUBMIT, "bf-1")
    sender.send(Step.POLL, ["bf-1", "bf-2"], expires_s=60)
    with app.connection_for_read() as connection:
        for name, args in (("submit", ["bf-1"]), ("poll", [["bf-1", "bf-2"]])):
            message = connection.SimpleQueue(f"batchflow.{name}").get(block=False)
            message.ack()
            assert message.content_type == "application/json"
            assert message.payload[0] == args
            assert (message.headers["expires"] is not None) is (name == "poll")


@pytest.mark.parametrize("error", [OperationalError("no broker"), ConnectionResetError("reset")])
def test_an_unavailable_broker_is_one_error(
    app: Celery, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(app, "send_task", fail)
    with pytest.raises(QueueUnavailable, match="Celery's broker can't be reached"):
        Sender(app).send(Step.SUBMIT, "bf-1")


def test_apps_of_two_prefixes_share_nothing() -> None:
    names = [set(all_queues(configured(prefix))) for prefix in ("one", "two")]
    assert all(not one & other for one, other in product(names, names) if one is not other)
