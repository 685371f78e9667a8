"""Object ids that look like OpenAI's."""

import hashlib
import secrets
import string

_ALPHABET = string.ascii_letters + string.digits


def file_id() -> str:
    """A new id such as `file-x5UHoMDGDDUyz3e3d1yD1z`."""
    return "file-" + "".join(secrets.choice(_ALPHABET) for _ in range(22))


def new_id(prefix: str) -> str:
    """A new id such as `batch_` and 32 hexadecimal digits."""
    return f"{prefix}_{secrets.token_hex(16)}"


def derived(*parts: object) -> str:
    """32 hexadecimal digits that are always the same for the same parts."""
    text = "\0".join(str(part) for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def share_of(*parts: object) -> float:
    """A number from 0 up to 1 that is always the same for the same parts."""
    return int(derived(*parts)[:13], 16) / 16**13
