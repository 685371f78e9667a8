"""Images for the container form of the transfer tasks."""

from typing import ClassVar

from flytekit.configuration.default_images import DefaultImages, PythonVersion

_IMAGE = "flyte-batchflow-task"


class OpenAIFileDefaultImages(DefaultImages):  # type: ignore[misc]  # flytekit is untyped
    """Default images of the transfer tasks: the Dockerfile's ``task`` target.

    They are used only where a platform does not route the task types to the connector.
    """

    _DEFAULT_IMAGE_PREFIXES: ClassVar[dict[PythonVersion, str]] = {
        PythonVersion.PYTHON_3_11: f"{_IMAGE}:py3.11-",
        PythonVersion.PYTHON_3_12: f"{_IMAGE}:py3.12-",
    }

    @classmethod
    def get_version_suffix(cls) -> str:
        """The version of Batchflow in the image."""
        from importlib.metadata import version

        return version("flyte-batchflow")
