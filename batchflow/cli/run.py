"""``batchflow run``: run a JSONL file as a batch and write its result files."""

import os
import shutil
import time
from pathlib import Path

import click
from rich.console import Console

from batchflow.cli.command_group import JobFailed
from batchflow.cli.local_run import succeeded_batch
from batchflow.cli.options import credential_options, json_option
from batchflow.cli.output import echo, echo_json
from batchflow.cli.run_summary import RunSummary, audit_results, request_ids
from batchflow.errors import InvalidInput
from batchflow.job_requests.batch_config import check_batch_config
from batchflow.jobs import Credential
from batchflow.overview.formatting import count
from batchflow.requests.jsonl import JsonlSummary, JsonlValidator
from batchflow.settings import load_settings

_DEFAULT_ENDPOINT = "/v1/chat/completions"
_OUTPUT, _ERRORS = "output.jsonl", "error.jsonl"
_CHUNK_BYTES = 1 << 20


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help=f"The folder for {_OUTPUT} and {_ERRORS}.",
)
@click.option("--endpoint", metavar="PATH", help="The API endpoint.  [default: the requests' url]")
@click.option(
    "--completion-window", default="24h", show_default=True, help="OpenAI's completion window."
)
@click.option(
    "--metadata", metavar="KEY=VALUE", multiple=True, help="Metadata of the batch. Repeatable."
)
@credential_options
@json_option
def run(
    file: Path,
    output_dir: Path,
    endpoint: str | None,
    completion_window: str,
    metadata: tuple[str, ...],
    credential: Credential,
    as_json: bool,
) -> None:
    """Run the requests in FILE, one JSON object per line, as an OpenAI batch.

    Unless BATCHFLOW_REDIS_URL is set, this starts its own Redis and workers. The API key is read
    from OPENAI_API_KEY; without one, an emulator answers and nothing is charged.
    """
    started = time.monotonic()
    input_ = _validated(file, endpoint)
    config = {
        "endpoint": endpoint or input_.url or _DEFAULT_ENDPOINT,
        "completion_window": completion_window,
        **({"model": input_.model} if input_.model else {}),
        **({"metadata": _metadata(metadata)} if metadata else {}),
    }
    check_batch_config(config)
    ids = request_ids(file)
    _make_writable(output_dir)
    console = Console(stderr=True, highlight=False)
    with succeeded_batch(file.resolve(), credential, config, console) as batch:
        output = replace_file(batch.output, output_dir / _OUTPUT)
        errors = replace_file(batch.errors, output_dir / _ERRORS)
        duration_s = time.monotonic() - started
    summary = RunSummary(
        audit=audit_results(ids, output, errors),
        usage=(batch.job.result or {}).get("usage") or {},
        model=batch.job.model,
        endpoint=str(config["endpoint"]),
        job_id=batch.job.id,
        batch_id=batch.job.batch_id,
        duration_s=duration_s,
        emulated=batch.emulated,
        output_file=output,
        error_file=errors,
    )
    if as_json:
        echo_json(summary.as_data())
    else:
        echo(summary.as_table())
    if summary.audit.unaccounted:
        missing = count(summary.audit.unaccounted, "request")
        raise JobFailed(f"The batch completed, but its files have no result for {missing}.")


def replace_file(source: Path | None, target: Path) -> Path | None:
    """Copy ``source`` to ``target`` atomically; without a source, delete the target."""
    if source is None:
        target.unlink(missing_ok=True)
        return None
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with source.open("rb") as content, part.open("xb") as copy:
            shutil.copyfileobj(content, copy)
            copy.flush()
            os.fsync(copy.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _validated(file: Path, endpoint: str | None) -> JsonlSummary:
    """Validate the whole file before anything is started, by the rules of the upload."""
    if file.is_dir():
        raise InvalidInput(f"{file} is a folder.")
    validator = JsonlValidator(load_settings().validation)
    try:
        with file.open("rb") as content:
            while chunk := content.read(_CHUNK_BYTES):
                validator.feed(chunk)
    except OSError as error:
        raise InvalidInput(f"{file} can't be read: {error.strerror}.") from error
    summary = validator.finish()
    if endpoint and summary.url and summary.url != endpoint:
        raise InvalidInput(
            f"--endpoint is {endpoint}, but the url of the requests is {summary.url}. They must be "
            "the same; leave out --endpoint to use that of the requests."
        )
    return summary


def _metadata(options: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in options:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise InvalidInput(f"--metadata must be KEY=VALUE, not {text!r}.")
        if key in pairs:
            raise InvalidInput(f"--metadata has the key {key!r} twice.")
        pairs[key] = value
    return pairs


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".batchflow").touch()
        (folder / ".batchflow").unlink()
    except OSError as error:
        raise InvalidInput(f"{folder} is not writable: {error.strerror}.") from error
