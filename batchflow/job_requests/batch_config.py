"""What a batch task may be told: checked when it is declared, and again when it arrives."""

import re
from collections.abc import Mapping

from batchflow.errors import InvalidInput
from batchflow.openai_client import batch_metadata

#: How long an output file may be kept, in seconds:
#: https://developers.openai.com/api/reference/resources/batches/methods/create
MIN_EXPIRY_S = 3_600
MAX_EXPIRY_S = 2_592_000

#: An API key, or a URL's login: not to be repeated, wherever somebody put it.
_SECRET = re.compile(r"sk-[\w-]{8,}|(?<=://)[^/@]*@")

#: ``model`` is recorded and shown; OpenAI's call has no such parameter.
_KEYS = frozenset({"completion_window", "endpoint", "metadata", "model", "output_expires_after"})


def check_batch_config(config: object) -> None:
    """Raise InvalidInput, with a sentence that helps, unless the config can work."""
    if not isinstance(config, Mapping):
        raise InvalidInput(f"config must be a dict, not {_type(config)}.")
    unknown = sorted(str(key)[:80] for key in config.keys() - _KEYS)
    if unknown:
        raise InvalidInput(
            f"config has the unknown key {_shown(unknown[0])}. "
            f"It takes {', '.join(sorted(_KEYS))}; "
            "parameters of the requests belong into the lines of the JSONL file."
        )
    endpoint = config.get("endpoint")
    if endpoint is not None and not (
        isinstance(endpoint, str)
        and endpoint.startswith("/")
        and endpoint.isprintable()
        and not any(character in endpoint for character in " ?#")
        and len(endpoint) <= 256
    ):
        raise InvalidInput(
            "config['endpoint'] must be a path such as '/v1/chat/completions', "
            f"not {_shown(endpoint)}."
        )
    for key in ("completion_window", "model"):
        value = config.get(key)
        if value is not None and not _is_short_text(value):
            raise InvalidInput(f"config[{key!r}] must be a short text, not {_shown(value)}.")
    if config.get("metadata") is not None:
        _check_metadata(config["metadata"])
    if config.get("output_expires_after") is not None:
        _check_expiry(config["output_expires_after"])


def _check_metadata(metadata: object) -> None:
    where = "config['metadata']"
    if not isinstance(metadata, Mapping):
        raise InvalidInput(f"{where} must be a dict of texts, not {_type(metadata)}.")
    if len(metadata) > batch_metadata.MAX_PAIRS:
        raise InvalidInput(
            f"{where} has {len(metadata)} pairs; OpenAI takes at most {batch_metadata.MAX_PAIRS}."
        )
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidInput(f"{where} must map texts to texts; look at {_shown(key)}.")
        if not 0 < len(key) <= batch_metadata.MAX_KEY_CHARS:
            raise InvalidInput(
                f"{where} has a key of {len(key)} characters, {_shown(key)}; "
                f"OpenAI takes 1 to {batch_metadata.MAX_KEY_CHARS}."
            )
        if not _is_unicode(key) or not _is_unicode(value):
            raise InvalidInput(f"{where} must hold valid Unicode; look at {_shown(key)}.")
        if key == batch_metadata.JOB_KEY:
            raise InvalidInput(f"{where} must not have the key {key!r}; Batchflow sets it.")
        if len(value) > batch_metadata.MAX_VALUE_CHARS:
            raise InvalidInput(
                f"{where}[{_shown(key)}] has {len(value)} characters; "
                f"OpenAI takes at most {batch_metadata.MAX_VALUE_CHARS}."
            )


def _check_expiry(expiry: object) -> None:
    if not isinstance(expiry, Mapping) or set(expiry) != {"anchor", "seconds"}:
        raise InvalidInput(
            "config['output_expires_after'] must be a dict such as "
            "{'anchor': 'created_at', 'seconds': 86400}."
        )
    if not _is_short_text(expiry["anchor"]):
        raise InvalidInput(
            "config['output_expires_after']['anchor'] must be a short text such as 'created_at', "
            f"not {_shown(expiry['anchor'])}."
        )
    seconds = expiry["seconds"]
    whole = isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds % 1 == 0
    if not whole or not MIN_EXPIRY_S <= seconds <= MAX_EXPIRY_S:
        raise InvalidInput(
            "config['output_expires_after']['seconds'] must be a whole number, "
            f"not {_shown(seconds)}; OpenAI takes {MIN_EXPIRY_S:,} to {MAX_EXPIRY_S:,}."
        )


def _is_short_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable()


def _is_unicode(value: str) -> bool:
    """Whether it can be sent: Python's texts may hold halves of surrogate pairs."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _type(value: object) -> str:
    return type(value).__name__


def _shown(value: object) -> str:
    text = _SECRET.sub("***", repr(value))
    return text if len(text) <= 60 else text[:57] + "..."
