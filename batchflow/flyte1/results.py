"""What a download task returns."""

from dataclasses import dataclass

from flytekit.types.file import JSONLFile
from mashumaro.mixins.json import DataClassJSONMixin


@dataclass
class BatchResult(DataClassJSONMixin):
    """A batch's files: the answers, and the requests that failed. Either may be missing."""

    output_file: JSONLFile | None = None
    error_file: JSONLFile | None = None
