"""Transfer a file with OpenAI's SDK, and print how many seconds it took.

Run ``python -m benchmarks.support.sdk_transfers upload FILE`` or ``download FILE-ID FILE``.
"""

import sys
import time
from pathlib import Path

from openai import OpenAI


def _upload(path: str) -> None:
    with OpenAI() as client, Path(path).open("rb") as file:
        client.files.create(file=file, purpose="batch")


def _download(file_id: str, path: str) -> None:
    with OpenAI() as client, client.files.with_streaming_response.content(file_id) as answer:
        answer.stream_to_file(path)


if __name__ == "__main__":
    started_at = time.perf_counter()
    if sys.argv[1] == "upload":
        _upload(sys.argv[2])
    else:
        _download(sys.argv[2], sys.argv[3])
    print(time.perf_counter() - started_at)
