"""The connector over gRPC, as Flyte's backend calls it, with real workers and an emulator."""

from dataclasses import replace

import grpc
import msgpack
import pytest
from flyteidl.core.literals_pb2 import LiteralMap
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from tests.kit.emulator import Emulator
from tests.kit.flyte_client import FlyteClient, Node, file_inputs, inputs_of, template_of
from tests.kit.flyte_tasks import (
    TaskStarter,
    batch_task,
    custom_ids,
    download_task,
    jsonl,
    request_line,
    requests,
    upload_task,
)
from tests.kit.processes import until
from tests.kit.stack import Stack

MAX_MESSAGE_CHARS = 20_000


def is_sentence(message: str) -> bool:
    """Whether a message suits users."""
    return (
        0 < len(message) < MAX_MESSAGE_CHARS
        and message[-1] in ".!?"
        and "Traceback" not in message
        and 'File "' not in message
    )


# -- from end to end ------------------------------------------------------------------------------


def test_upload_batch_download(emulator: Emulator, start: TaskStarter) -> None:
    # Long enough that a get falls into each phase.
    emulator.configure(validating_s=1.0, in_progress_s=1.0, finalizing_s=0.6)
    wrong = request_line("wrong", temperature=9)
    content = jsonl([*(request_line(f"r-{n}") for n in range(5)), wrong])

    upload = start.upload(content).follow()
    assert upload.answer.phase == "SUCCEEDED"
    file_id = upload.answer.result
    [file] = emulator.files(start.org)
    assert file_id == file["id"]
    assert file["filename"] == f"{upload.answer.custom_info['job_id']}.jsonl"
    assert file["bytes"] == len(content)
    assert upload.answer.links == {
        "OpenAI file": f"https://platform.openai.com/storage/files/{file_id}"
    }

    running = start.at("n1").batch(file_id, model="gpt-4o-mini", metadata={"team": "support"})
    during = running.until(lambda answer: answer.phase == "RUNNING", "the batch to be in progress")
    [batch] = start.batches()
    assert during.custom_info["openai_status"] == "in_progress"
    assert during.custom_info["batch_id"] == batch["id"]
    assert during.custom_info["input_file_id"] == file_id
    assert during.custom_info["organization"] == start.org
    assert during.custom_info["request_counts"]["total"] == 6
    assert during.links == {"OpenAI batch": f"https://platform.openai.com/batches/{batch['id']}"}
    result = running.succeeds()
    with emulator.sdk(start.org) as client:
        assert result == client.batches.retrieve(batch["id"]).to_dict()
    assert result["metadata"] == {"team": "support", "batchflow_job": during.custom_info["job_id"]}
    assert result["request_counts"] == {"total": 6, "completed": 5, "failed": 1}
    after = running.get()
    assert after.custom_info["openai_status"] == "completed"
    assert after.custom_info["model"] == "gpt-4o-mini"
    assert after.custom_info["output_file_id"] == result["output_file_id"]
    assert after.custom_info["error_file_id"] == result["error_file_id"]
    assert after.custom_info["request_counts"] == {"total": 6, "completed": 5, "failed": 1}

    last = start.at("n2")
    files = last.download(result).succeeds()
    assert set(files) == {"output_file", "error_file"}
    assert custom_ids(files["output_file"]["path"]) == [f"r-{n}" for n in range(5)]
    assert custom_ids(files["error_file"]["path"]) == ["wrong"]
    assert all(file["path"].startswith(last.node.output_prefix) for file in files.values())


def test_phases_come_in_order_and_say_what_happens(emulator: Emulator, start: TaskStarter) -> None:
    emulator.configure(validating_s=1.0, in_progress_s=1.0)
    run = start.batch().follow()
    assert run.phases[-3:] == ["INITIALIZING", "RUNNING", "SUCCEEDED"]
    assert set(run.phases) <= {"INITIALIZING", "RUNNING", "SUCCEEDED"}
    assert any("validating" in message for message in run.messages)


def test_twenty_batches_at_once(emulator: Emulator, start: TaskStarter) -> None:
    file_id = emulator.upload(start.org, requests(2))
    tasks = [start.at(f"n{n}").batch(file_id) for n in range(20)]
    results = [task.succeeds() for task in tasks]
    assert len({result["id"] for result in results}) == 20
    assert len(start.batches()) == 20


def test_the_connectors_name_their_task_types(flyte: FlyteClient) -> None:
    served = flyte.task_types()
    ours = {
        kind for name, kinds in served.items() if name.startswith("Batchflow") for kind in kinds
    }
    assert ours == {"openai-batch", "openai-batch-upload-file", "openai-batch-download-files"}


# -- failures, and their messages -----------------------------------------------------------------


def test_a_bad_file_is_refused_before_anything_is_uploaded(
    emulator: Emulator, start: TaskStarter
) -> None:
    good = requests(1)
    message = start.upload(good + b'{"custom_id": "x"\n' + good + b"[1, 2]\n").fails()
    for line in ("line 2: not valid JSON", "line 3: custom_id 'r-0' was already used on line 1"):
        assert line in message
    assert "line 4: it is an array, not an object" in message
    assert emulator.files(start.org) == []


def test_a_batch_fails_validation_at_openai(emulator: Emulator, start: TaskStarter) -> None:
    # The file is for another endpoint, which only OpenAI checks.
    file_id = emulator.upload(start.org, jsonl([request_line("a", url="/v1/embeddings")]))
    run = start.batch(file_id).follow()
    assert run.answer.phase == "FAILED"
    assert "line 1" in run.answer.message
    assert "does not match the batch endpoint" in run.answer.message
    [batch] = start.batches()
    assert run.answer.custom_info["openai_status"] == "failed"
    assert run.answer.custom_info["batch_id"] == batch["id"]


def test_a_batch_waits_for_quota(emulator: Emulator, start: TaskStarter) -> None:
    emulator.next("failed", code="token_limit_exceeded")
    run = start.batch().follow()
    assert run.answer.phase == "SUCCEEDED"
    assert any("Waiting for quota" in message for message in run.messages)
    assert [batch["status"] for batch in start.batches()] == ["failed", "completed"]
    assert run.answer.result["id"] == start.batches()[1]["id"]


# -- collection -----------------------------------------------------------------------------------


def test_a_result_is_uncollected_until_flyte_receives_it(stack: Stack, start: TaskStarter) -> None:
    task = start.batch()
    job_id = task.get().custom_info["job_id"]
    until(lambda: stack.record(job_id)["state"] == "succeeded", "the end of the job")
    assert stack.redis.zscore(stack.key("uncollected"), job_id)
    assert task.get().phase == "SUCCEEDED"
    assert stack.redis.zscore(stack.key("uncollected"), job_id) is None
    collected_at = stack.record(job_id)["collected_at"]
    task.get()
    assert stack.record(job_id)["collected_at"] == collected_at


# -- delete ---------------------------------------------------------------------------------------


def test_delete_cancels_the_batch_at_openai(emulator: Emulator, start: TaskStarter) -> None:
    emulator.configure(in_progress_s=60)
    task = start.batch(emulator.upload(start.org, requests(4)))
    task.until(lambda answer: answer.phase == "RUNNING", "the batch to be in progress")
    task.delete()
    task.delete()
    run = task.follow()
    assert run.answer.phase == "FAILED"
    assert "Cancelled by Flyte" in run.answer.message
    assert "of 4 requests were completed" in run.answer.message
    assert [batch["status"] for batch in start.batches()] == ["cancelled"]
    task.delete()
    assert task.get().message == run.answer.message


def test_delete_of_an_ended_job_changes_nothing(start: TaskStarter) -> None:
    task = start.batch()
    result = task.succeeds()
    task.delete()
    answer = task.get()
    assert (answer.phase, answer.result) == ("SUCCEEDED", result)


# -- identity of jobs -----------------------------------------------------------------------------


def test_create_repeated_gives_the_same_job(emulator: Emulator, start: TaskStarter) -> None:
    file_id = emulator.upload(start.org, requests())
    tasks = [start.batch(file_id) for _ in range(3)]
    results = [task.succeeds() for task in tasks]
    tasks.append(start.batch(file_id))
    results.append(tasks[-1].succeeds())
    assert len({task.meta for task in tasks}) == 1
    [batch] = start.batches()
    assert {result["id"] for result in results} == {batch["id"]}


def test_a_later_attempt_adopts_a_live_and_a_succeeded_job(
    emulator: Emulator, start: TaskStarter
) -> None:
    file_id = emulator.upload(start.org, requests())
    first = start.batch(file_id)
    second = start.again().batch(file_id)
    assert second.succeeds() == first.succeeds()
    third = start.again().again().batch(file_id)
    assert third.succeeds() == first.get().result
    assert len(start.batches()) == 1


def test_a_later_attempt_replaces_a_failed_job(emulator: Emulator, start: TaskStarter) -> None:
    file_id = emulator.upload(start.org, requests())
    emulator.next("expired", done_share=0.0)
    first = start.batch(file_id)
    first.fails()
    # The same attempt, repeated, gets the failure again.
    assert "expired" in start.batch(file_id).fails()
    second = start.again().batch(file_id)
    result = second.succeeds()
    assert first.get().phase == "FAILED"
    assert second.get().custom_info["job_id"] == f"{first.get().custom_info['job_id']}-2"
    assert [batch["status"] for batch in start.batches()] == ["expired", "completed"]
    assert result["id"] == start.batches()[1]["id"]


def test_other_executions_nodes_and_map_elements_have_their_own_batches(
    emulator: Emulator, start: TaskStarter
) -> None:
    file_id = emulator.upload(start.org, requests())
    places = [
        start.node,
        replace(start.node, node="n1"),
        replace(start.node, execution="another"),
        *(replace(start.node, node="map", index=index) for index in range(3)),
    ]
    tasks = [replace(start, node=place).batch(file_id) for place in places]
    ids = {task.succeeds()["id"] for task in tasks}
    assert len(ids) == len(places)
    assert {batch["id"] for batch in start.batches()} == ids


def test_without_an_identity_each_create_makes_a_job(
    flyte: FlyteClient, emulator: Emulator, start: TaskStarter
) -> None:
    inputs = inputs_of(input_file_id=emulator.upload(start.org, requests()))
    template = template_of(batch_task(start.org))
    tasks = [flyte.create(template, inputs, start.node, identified=False) for _ in range(2)]
    assert len({task.succeeds()["id"] for task in tasks}) == 2


# -- literals -------------------------------------------------------------------------------------


def test_a_dict_may_come_as_msgpack_or_as_a_struct(flyte: FlyteClient, start: TaskStarter) -> None:
    result = start.batch().succeeds()
    binary, struct = LiteralMap(), LiteralMap()
    scalar = binary.literals["batch_endpoint_result"].scalar
    scalar.binary.value, scalar.binary.tag = msgpack.packb(result), "msgpack"
    generic = struct.literals["batch_endpoint_result"].scalar.generic
    ParseDict(result, generic)
    template = template_of(download_task(start.org))
    for name, inputs in {"d0": binary, "d1": struct}.items():
        files = flyte.create(template, inputs, start.at(name).node).succeeds()
        assert custom_ids(files["output_file"]["path"]) == ["r-0", "r-1", "r-2"]


# -- input that is not valid (test_bad_input.py has all kinds) -------------------------------------


@pytest.mark.parametrize("meta", [b"", b"\x80\x04\x95pickle", b"{}", b"[" * 200_000], ids=range(4))
def test_a_resource_meta_that_is_not_valid(flyte: FlyteClient, meta: bytes) -> None:
    for task_type in ("openai-batch", "openai-batch-upload-file", "openai-batch-download-files"):
        answer = flyte.get(meta, task_type)
        assert answer.phase == "FAILED"
        assert is_sentence(answer.message), answer.message
        flyte.delete(meta, task_type)


def test_custom_and_inputs_that_are_not_valid(flyte: FlyteClient, node: Node) -> None:
    template = template_of(batch_task("org-x"))
    template.custom.CopyFrom(ParseDict({"config": {"temperature": 1}}, Struct()))
    wrong = {
        "temperature": flyte.create(template, inputs_of(input_file_id="file-1"), node),
        "uri": flyte.create(template_of(upload_task("org-x")), file_inputs("x" * 5_000), node),
    }
    for name, task in wrong.items():
        message = task.fails(timeout_s=10)
        assert is_sentence(message), message
        assert name in message


def test_a_task_type_of_another_connector_is_not_found(flyte: FlyteClient, node: Node) -> None:
    template = template_of(batch_task("org-x"))
    template.type = "spark"
    with pytest.raises(grpc.RpcError) as refused:
        flyte.create(template, LiteralMap(), node)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_resource_meta_holds_names_and_no_values(stack: Stack, start: TaskStarter) -> None:
    task = start.batch()
    assert b'"credential"' in task.meta
    assert stack.api_key.encode() not in task.meta
