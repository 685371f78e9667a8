"""The processes that the chaos program breaks: Redis, emulator, workers, beat, two connectors."""

from contextlib import ExitStack, closing
from pathlib import Path

from redis import Redis

from batchflow.settings import Settings
from batchflow.store import keys
from tests.kit.emulator import Emulator
from tests.kit.flyte_client import FlyteClient
from tests.kit.flyte_settings import SERVICE_CONFIG
from tests.kit.processes import Process, RedisServer
from tests.kit.stack import KEY_VARIABLES, StackBase

#: In seconds.
SETTINGS = {
    "BATCHFLOW_POLL_INTERVAL_S": "0.5",
    "BATCHFLOW_SWEEP_INTERVAL_S": "0.3",
    "BATCHFLOW_SETTLE_S": "1",
    "BATCHFLOW_LEASE_S": "2",
    "BATCHFLOW_OPENAI_TIMEOUT_S": "3",
    "BATCHFLOW_DELETE_DELAY_S": "5",
}
EMULATOR_OPTIONS = {
    "validating-s": 0.3,
    # Ten polls, so that a second batch can be seen before it ends.
    "in-progress-s": 5,
    "per-request-s": 0.02,
    "finalizing-s": 0.2,
    "cancelling-s": 0.2,
}
#: The pools of the workers: the recommended one, and Celery's default.
_POOLS = ("threads", "prefork")
_CONNECTORS = 2
_API_KEY = "sk-chaos"


class ChaosStack(StackBase):
    """The processes by name; each may be killed and started at any time."""

    log_level = "INFO"

    def __init__(self, folder: Path) -> None:
        self.redis_data = folder / "redis"
        self.redis_data.mkdir(parents=True)
        kept = ("--dir", self.redis_data, "--appendonly", "yes", "--appendfsync", "everysec")
        self.redis_server = RedisServer(folder, *kept)
        super().__init__(folder, SETTINGS | {"BATCHFLOW_REDIS_URL": self.redis_server.url})
        self.emulator_process = self.make_emulator("emulator", EMULATOR_OPTIONS)
        base_url = self.emulator_process.base_url
        secrets = {"OPENAI_BASE_URL": base_url, **dict.fromkeys(KEY_VARIABLES, _API_KEY)}
        self.workers = [
            self.make_worker(f"worker-{n}", "--pool", pool, "--concurrency", "2", env=secrets)
            for n, pool in enumerate(_POOLS)
        ]
        self.connectors = [self.make_connector(f"connector-{n}") for n in range(_CONNECTORS)]
        self.beat = self.make_beat("beat")
        self.second_beat = self.make_beat("beat-2")
        self._clients = ExitStack()
        self.redis = self._clients.enter_context(
            Redis.from_url(self.redis_server.url, decode_responses=True, socket_timeout=2)
        )

    def start(self) -> None:
        """Start everything but the second beat, and wait until all of it is ready."""
        processes: list[Process] = [
            self.redis_server,
            self.emulator_process,
            self.beat,
            *self.connectors,
            *self.workers,
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.await_ready()
        # In a new store, each job would search first. Redis must lose its data for that.
        self.redis.set(keys.full(Settings().key_prefix, keys.BORN), 0)
        self.emulator = self._clients.enter_context(
            closing(Emulator(self.emulator_process.base_url, _API_KEY))
        )
        addresses = ",".join(connector.address for connector in self.connectors)
        self.client = self._clients.enter_context(FlyteClient(f"ipv4:{addresses}", SERVICE_CONFIG))

    def worker_logs(self) -> str:
        """What all workers have logged."""
        return "".join(worker.log_path.read_text("utf-8", "replace") for worker in self.workers)

    def stop(self) -> None:
        """Kill everything."""
        self._clients.close()
        for process in [
            *self.workers,
            *self.connectors,
            self.beat,
            self.second_beat,
            self.emulator_process,
            self.redis_server,
        ]:
            if process.running:
                process.kill()
