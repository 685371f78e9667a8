"""API keys, in the places that Flyte's convention for secrets prescribes."""

from pathlib import Path

from flytekit import current_context

from batchflow.errors import CredentialMissing
from batchflow.jobs import Credential


def api_key(credential: Credential) -> str:
    """Read a credential's API key from the environment or a file; raises CredentialMissing."""
    secrets = current_context().secrets
    name = credential.group, credential.key, credential.group_version
    try:
        key = str(secrets.get(*name))
    except ValueError:
        key = ""
    path = Path(secrets.get_secrets_file(*name))
    if not key and path.is_file():
        # Compose sets a missing variable to an empty text, and flytekit then ignores the file.
        key = path.read_text("utf-8").strip()
    if not key:
        raise CredentialMissing(
            f"The workers have no OpenAI API key '{credential.secret}'. Give them the environment "
            f"variable {secrets.get_secrets_env_var(*name)} or the file {path}."
        )
    if not (key.isascii() and key.isprintable()):
        # The HTTP library would refuse it with an error that shows the key.
        raise CredentialMissing(
            f"The OpenAI API key '{credential.secret}' contains characters that an API key cannot "
            "have. Check the environment variable or file that holds it."
        )
    return key
