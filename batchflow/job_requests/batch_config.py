"""Validation of a batch task's ``config``, when the task is declared and when a job is created."""

import re
from collections.abc import Mapping

from batchflow.errors import InvalidInput
from batchflow.openai_client import batch_metadata

#: The limits on the lifetime of an output file, in seconds:
#: https://developers.openai.com/api/reference/resources/batches/methods/create
MIN_EXPIRY_S = 3_600
MAX_EXPIRY_S = 2_592_000

#: An API key, or the user and password of a URL; masked in messages.
_SECRET = re.compile(r"sk-[\w-]{8,}|(?<=://)[^/@]*@")

#: The limit on the strings in a config, except those in its metadata.
_MAX_CHARS = 256

#: ``model`` is recorded and displayed; it is not a parameter of OpenAI's API.
_KEYS = frozenset({"completion_window", "endpoint", "metadata", "model", "output_expires_after"})


def check_batch_config(config: object) -> None:
    """Raise InvalidInput unless the config is valid."""
    if not isinstance(config, Mapping):
        raise InvalidInput(f"config must be a dict, not {_type(config)}.")
    unknown = sorted(str(key)[:80] for key in config.keys() - _KEYS)
    if unknown:
        raise InvalidInput(
            f"config has the unknown key {_shown(unknown[0])}. "
            f"The valid keys are {', '.join(sorted(_KEYS))}; "
            "parameters of requests belong in the lines of the JSONL file."
        )
    endpoint = config.get("endpoint")
    if endpoint is not None and not (
        isinstance(endpoint, str)
        and endpoint.startswith("/")
        and endpoint.isprintable()
        and not any(character in endpoint for character in " ?#")
        and len(endpoint) <= _MAX_CHARS
    ):
        raise InvalidInput(
            "config['endpoint'] must be a path such as '/v1/chat/completions', "
            f"not {_shown(endpoint)}."
        )
    for key in ("completion_window", "model"):
        value = config.get(key)
        if value is not None and not _is_short_string(value):
            raise InvalidInput(
                f"config[{key!r}] must be a string of 1 to {_MAX_CHARS} printable characters, "
                f"not {_shown(value)}."
            )
    if config.get("metadata") is not None:
        _check_metadata(config["metadata"])
    if config.get("output_expires_after") is not None:
        _check_expiry(config["output_expires_after"])


def _check_metadata(metadata: object) -> None:
    where = "config['metadata']"
    if not isinstance(metadata, Mapping):
        raise InvalidInput(f"{where} must be a dict of strings, not {_type(metadata)}.")
    if len(metadata) > batch_metadata.MAX_PAIRS:
        raise InvalidInput(
            f"{where} has {len(metadata)} pairs; OpenAI accepts at most {batch_metadata.MAX_PAIRS}."
        )
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidInput(
                f"{where} must map strings to strings; the key {_shown(key)} does not."
            )
        if not 0 < len(key) <= batch_metadata.MAX_KEY_CHARS:
            raise InvalidInput(
                f"{where} has a key of {len(key)} characters, {_shown(key)}; "
                f"OpenAI accepts 1 to {batch_metadata.MAX_KEY_CHARS}."
            )
        if not _is_unicode(key) or not _is_unicode(value):
            raise InvalidInput(
                f"{where} must be valid Unicode; the key {_shown(key)} or its value is not."
            )
        if key == batch_metadata.JOB_KEY:
            raise InvalidInput(f"{where} must not have the key {key!r}, which Batchflow sets.")
        if len(value) > batch_metadata.MAX_VALUE_CHARS:
            raise InvalidInput(
                f"{where}[{_shown(key)}] has {len(value)} characters; "
                f"OpenAI accepts at most {batch_metadata.MAX_VALUE_CHARS}."
            )


def _check_expiry(expiry: object) -> None:
    if not isinstance(expiry, Mapping) or set(expiry) != {"anchor", "seconds"}:
        raise InvalidInput(
            "config['output_expires_after'] must be a dict such as "
            "{'anchor': 'created_at', 'seconds': 86400}."
        )
    if not _is_short_string(expiry["anchor"]):
        raise InvalidInput(
            "config['output_expires_after']['anchor'] must be a string such as 'created_at', "
            f"not {_shown(expiry['anchor'])}."
        )
    seconds = expiry["seconds"]
    whole = isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds % 1 == 0
    if not whole or not MIN_EXPIRY_S <= seconds <= MAX_EXPIRY_S:
        raise InvalidInput(
            "config['output_expires_after']['seconds'] must be a whole number, "
            f"not {_shown(seconds)}; OpenAI accepts {MIN_EXPIRY_S:,} to {MAX_EXPIRY_S:,}."
        )


def _is_short_string(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_CHARS and value.isprintable()


def _is_unicode(value: str) -> bool:
    """Whether a string can be encoded: Python's may contain halves of surrogate pairs."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _type(value: object) -> str:
    return type(value).__name__


def _shown(value: object) -> str:
    text = _SECRET.sub("***", repr(value))
    return text if len(text) <= 60 else text[:57] + "..."
