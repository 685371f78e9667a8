"""``batchflow run``: a JSONL file in, two files and a summary out."""

import json
import time
from pathlib import Path

import click
from rich.console import Console

from batchflow.cli.credential_options import with_credential
from batchflow.cli.exit_codes import JobFailed
from batchflow.cli.local_run import finished_batch
from batchflow.cli.output_files import keep
from batchflow.cli.results_audit import audit_results, request_ids
from batchflow.cli.run_summary import Summary
from batchflow.cli.text import count
from batchflow.errors import InvalidInput
from batchflow.job_requests.batch_config import check_batch_config
from batchflow.jobs import Credential
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
    help=f"Where {_OUTPUT} and {_ERRORS} go.",
)
@click.option("--endpoint", metavar="PATH", help="The API's path.  [default: as in the file]")
@click.option("--completion-window", default="24h", show_default=True, help="As OpenAI names it.")
@click.option(
    "--metadata", metavar="KEY=VALUE", multiple=True, help="For the batch. Can be repeated."
)
@with_credential
@click.option("--json", "as_json", is_flag=True, help="Print the summary as data.")
def run(
    file: Path,
    output_dir: Path,
    endpoint: str | None,
    completion_window: str,
    metadata: tuple[str, ...],
    credential: Credential,
    as_json: bool,
) -> None:
    """Run the requests in FILE, which has one JSON object in each line, as an OpenAI batch.

    Redis and workers are brought along unless BATCHFLOW_REDIS_URL names a Redis. The API key is
    OPENAI_API_KEY; without one an emulator answers, and nothing is paid.
    """
    began = time.monotonic()
    input_ = _checked(file, endpoint)
    config = {
        "endpoint": endpoint or input_.url or _DEFAULT_ENDPOINT,
        "completion_window": completion_window,
        **({"model": input_.model} if input_.model else {}),
        **({"metadata": _pairs(metadata)} if metadata else {}),
    }
    check_batch_config(config)
    ids = request_ids(file)
    _make_folder(output_dir)
    console = Console(stderr=True, highlight=False)
    with finished_batch(file.resolve(), credential, config, console) as batch:
        output = keep(batch.output, output_dir / _OUTPUT)
        errors = keep(batch.errors, output_dir / _ERRORS)
        duration_s = time.monotonic() - began
    summary = Summary(
        account=audit_results(ids, output, errors),
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
        click.echo(json.dumps(summary.data(), indent=2))
    else:
        Console(highlight=False).print(summary.view(), soft_wrap=True)
    if summary.account.unaccounted:
        missing = count(summary.account.unaccounted, "request")
        raise JobFailed(f"The batch is completed, but its files say nothing of {missing}.")


def _checked(file: Path, endpoint: str | None) -> JsonlSummary:
    """Look at the whole file before anything is started, as a worker does before it uploads it."""
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
            f"--endpoint is {endpoint} and the requests' url is {summary.url}; they must be the "
            "same. Without --endpoint the file decides."
        )
    return summary


def _pairs(metadata: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in metadata:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise InvalidInput(f"--metadata must be KEY=VALUE, not {text!r}.")
        if key in pairs:
            raise InvalidInput(f"--metadata has the key {key!r} twice.")
        pairs[key] = value
    return pairs


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".batchflow").touch()
        (folder / ".batchflow").unlink()
    except OSError as error:
        raise InvalidInput(f"Nothing can be written to {folder}: {error.strerror}.") from error
