"""What a batch task may be told: checked when it is declared, and again when it arrives."""

from collections.abc import Mapping

from batchflow.errors import InvalidInput

#: OpenAI's limits on ``metadata``: pairs, characters of a key, characters of a value.
#: https://developers.openai.com/api/reference/resources/batches/methods/create
MAX_METADATA_PAIRS = 16
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512

#: ``model`` is recorded and shown; OpenAI's call has no such parameter.
_KEYS = frozenset({"completion_window", "endpoint", "metadata", "model", "output_expires_after"})


def check_batch_config(config: object) -> None:
    """Raise InvalidInput, with a sentence that helps, unless the config can work."""
    if not isinstance(config, Mapping):
        raise InvalidInput(f"config must be a dict, not {_type(config)}.")
    unknown = sorted(str(key)[:80] for key in config.keys() - _KEYS)
    if unknown:
        raise InvalidInput(
            f"config has the unknown key {unknown[0]!r}. It takes {', '.join(sorted(_KEYS))}; "
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
        if value is not None and not (isinstance(value, str) and 0 < len(value) <= 256):
            raise InvalidInput(f"config[{key!r}] must be a short text, not {_shown(value)}.")
    if config.get("metadata") is not None:
        _check_metadata(config["metadata"])
    if config.get("output_expires_after") is not None:
        _check_expiry(config["output_expires_after"])


def _check_metadata(metadata: object) -> None:
    where = "config['metadata']"
    if not isinstance(metadata, Mapping):
        raise InvalidInput(f"{where} must be a dict of texts, not {_type(metadata)}.")
    if len(metadata) > MAX_METADATA_PAIRS:
        raise InvalidInput(
            f"{where} has {len(metadata)} pairs; OpenAI takes at most {MAX_METADATA_PAIRS}."
        )
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidInput(f"{where} must map texts to texts; look at {_shown(key)}.")
        if not 0 < len(key) <= MAX_METADATA_KEY:
            raise InvalidInput(
                f"{where} has a key of {len(key)} characters, {_shown(key)}; "
                f"OpenAI takes 1 to {MAX_METADATA_KEY}."
            )
        if key == "batchflow_job":
            raise InvalidInput(f"{where} must not have the key 'batchflow_job'; Batchflow sets it.")
        if len(value) > MAX_METADATA_VALUE:
            raise InvalidInput(
                f"{where}[{_shown(key)}] has {len(value)} characters; "
                f"OpenAI takes at most {MAX_METADATA_VALUE}."
            )


def _check_expiry(expiry: object) -> None:
    if not isinstance(expiry, Mapping) or set(expiry) != {"anchor", "seconds"}:
        raise InvalidInput(
            "config['output_expires_after'] must be a dict such as "
            "{'anchor': 'created_at', 'seconds': 86400}."
        )
    seconds = expiry["seconds"]
    whole = isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds % 1 == 0
    if not whole or seconds <= 0:
        raise InvalidInput(
            f"config['output_expires_after']['seconds'] must be a whole number, "
            f"not {_shown(seconds)}."
        )


def _type(value: object) -> str:
    return type(value).__name__


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
