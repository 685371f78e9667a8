"""The output type of the download task."""

from dataclasses import dataclass

from flytekit.types.file import JSONLFile
from mashumaro.mixins.json import DataClassJSONMixin


@dataclass
class BatchResult(DataClassJSONMixin):
    """The answers and the failed requests of a batch; None where OpenAI made no file."""

    output_file: JSONLFile | None = None
    error_file: JSONLFile | None = None
