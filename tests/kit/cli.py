"""The command line, in the process of the test."""

from collections.abc import Mapping

from click.testing import CliRunner, Result

from batchflow.cli import main
from batchflow.settings import load_settings


def call(*arguments: str, env: Mapping[str, str | None] | None = None) -> Result:
    """Run ``batchflow`` with further variables. An error must end it with a message."""
    load_settings.cache_clear()
    try:
        result = CliRunner().invoke(main, list(arguments), env=env)
    finally:
        load_settings.cache_clear()
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result
