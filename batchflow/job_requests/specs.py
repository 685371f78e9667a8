"""From a Flyte task's ``custom`` and inputs to a job's spec."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from batchflow.errors import InvalidInput, explain_invalid
from batchflow.job_requests.batch_config import check_batch_config
from batchflow.jobs import BatchSpec, Credential, DownloadSpec, UploadSpec

M = TypeVar("M", bound=BaseModel)

#: Fields of a credential -> where a task's ``custom`` has them.
_CUSTOM_NAMES = {
    "organization": "openai_organization",
    "group": "secret_arg.group",
    "key": "secret_arg.key",
    "group_version": "secret_arg.group_version",
}
#: Every dict that a batch task returns has at least one of these.
_BATCH_KEYS = frozenset({"id", "output_file_id", "error_file_id"})


def upload_spec(custom: Mapping[str, Any], uri: str) -> UploadSpec:
    """The spec of an ``openai-batch-upload-file`` task; raises InvalidInput."""
    return _parsed(UploadSpec, credential=_credential(custom), uri=_absolute(uri))


def batch_spec(custom: Mapping[str, Any], input_file_id: str) -> BatchSpec:
    """The spec of an ``openai-batch`` task; raises InvalidInput."""
    config = custom.get("config")
    config = {} if config is None else config
    check_batch_config(config)
    return _parsed(
        BatchSpec,
        credential=_credential(custom),
        input_file_id=input_file_id,
        config=config,
        accept_partial=custom.get("accept_partial", False),
    )


def download_spec(
    custom: Mapping[str, Any], batch: Mapping[str, Any], destination: str
) -> DownloadSpec:
    """The spec of an ``openai-batch-download-files`` task; raises InvalidInput."""
    if not isinstance(batch, Mapping):
        raise InvalidInput("batch_endpoint_result must be the dict that the batch task returned.")
    spec = _parsed(
        DownloadSpec,
        credential=_credential(custom),
        output_file_id=_get(batch, "output_file_id"),
        error_file_id=_get(batch, "error_file_id"),
        destination=destination,
    )
    if not _BATCH_KEYS & batch.keys():
        raise InvalidInput(
            "batch_endpoint_result must be the dict that the batch task returned; "
            f"this one has none of the keys {', '.join(sorted(_BATCH_KEYS))}."
        )
    return spec


def _credential(custom: Mapping[str, Any]) -> Credential:
    organization = _get(custom, "openai_organization")
    secret = custom.get("secret_arg")
    if secret is None:
        return _parsed(Credential, organization=organization)
    if not isinstance(secret, Mapping):
        raise InvalidInput("The task's secret_arg must be a dict with group and key.")
    names = {field: _get(secret, field) for field in ("group", "key", "group_version")}
    if names["group"] is None and names["key"] is None:
        raise InvalidInput("The task's secret_arg must name a secret by its group, key or both.")
    return _parsed(Credential, organization=organization, **names)


def _absolute(uri: str) -> str:
    """Make a relative path absolute; a local execution may have one."""
    scheme = uri.partition("/")[0]
    return str(Path(uri).absolute()) if uri and ":" not in scheme else uri


def _get(values: Mapping[str, Any], name: str) -> Any:
    """A value, or None for an empty string, which is protobuf's form of an absent value."""
    value = values.get(name)
    return None if value == "" else value


def _parsed(model: type[M], **values: Any) -> M:
    try:
        return model(**values)
    except ValidationError as error:
        raise InvalidInput(f"The task is not valid. {explain_invalid(error, _field)}.") from None


def _field(location: tuple[int | str, ...]) -> str:
    return ".".join(_CUSTOM_NAMES.get(str(part), str(part)) for part in location)
