"""Object ids in OpenAI's format, and values derived from ids."""

import hashlib
import secrets
import string

_ALPHABET = string.ascii_letters + string.digits


def file_id() -> str:
    """Return a new id such as `file-x5UHoMDGDDUyz3e3d1yD1z`."""
    return "file-" + "".join(secrets.choice(_ALPHABET) for _ in range(22))


def new_id(prefix: str) -> str:
    """Return the prefix, `_`, and 32 hexadecimal digits."""
    return f"{prefix}_{secrets.token_hex(16)}"


def derived(*parts: object) -> str:
    """Return 32 hexadecimal digits that depend only on the parts."""
    text = "\0".join(str(part) for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def fraction_of(*parts: object) -> float:
    """Return a number in [0, 1) that depends only on the parts."""
    return int(derived(*parts)[:13], 16) / 16**13
