"""What Flyte keeps for us between calls."""

import json
from dataclasses import dataclass

from flytekit.extend.backend.base_connector import ResourceMeta

from batchflow.errors import InvalidInput
from batchflow.flyte.config import check_batch_config
from batchflow.jobs import BatchSpec, Order


@dataclass
class JobMeta(ResourceMeta):  # type: ignore[misc]  # flytekit is untyped
    """The order, from which a lost record can be made again; or why there is none.

    Encoded as JSON. It holds names of secrets, never their values.
    """

    order: Order | None = None
    refused: str = ""

    def encode(self) -> bytes:
        """As Flyte keeps it."""
        if self.order is None:
            return json.dumps({"refused": self.refused}).encode()
        return self.order.model_dump_json().encode()

    @classmethod
    def decode(cls, data: bytes) -> "JobMeta":
        """As Flyte hands it back; what can't be read becomes a task that is refused."""
        try:
            fields = json.loads(data)
            if isinstance(fields, dict) and isinstance(fields.get("refused"), str):
                return cls(refused=fields["refused"])
            order = Order.model_validate(fields)
            if isinstance(order.spec, BatchSpec):
                check_batch_config(order.spec.config)
            return cls(order=order)
        except (ValueError, RecursionError, InvalidInput):
            return cls(
                refused="This task was started by another connector than Batchflow's, which can't "
                "follow it. Run it again; a batch that it started runs on at OpenAI."
            )
