"""``CreateTask`` as FlytePropeller sends it for batch tasks."""

import uuid
from collections.abc import Callable
from pathlib import Path

from flyteidl.admin.agent_pb2 import CreateTaskRequest

from batchflow import BatchEndpointTask
from benchmarks.support.live_jobs import CONFIG
from tests.kit.flyte_client import Node, inputs_of, template_of


def request_maker(
    folder: Path, *, organization: str, input_file_id: str
) -> Callable[[int], list[CreateTaskRequest]]:
    """Return a function that makes requests for new tasks of a new execution."""
    task = BatchEndpointTask(name="batch", config=dict(CONFIG), openai_organization=organization)
    template, inputs = template_of(task), inputs_of(input_file_id=input_file_id)

    def make(count: int) -> list[CreateTaskRequest]:
        execution = f"f{uuid.uuid4().hex[:18]}"
        nodes = [Node(folder, execution, f"n0-0-dn{number}") for number in range(count)]
        return [
            CreateTaskRequest(
                inputs=inputs,
                template=template,
                output_prefix=node.output_prefix,
                task_execution_metadata=node.metadata,
            )
            for node in nodes
        ]

    return make
