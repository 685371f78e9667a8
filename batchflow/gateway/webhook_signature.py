"""The signature of a webhook: Standard Webhooks (standardwebhooks.com), scheme ``v1``.

A delivery has three headers: ``webhook-id``, ``webhook-timestamp`` in epoch seconds, and
``webhook-signature``, a space-separated list of ``v1,<base64>``. Each signature is an HMAC-SHA256
of ``<id>.<timestamp>.<body>`` with a secret whose form is ``whsec_<base64>``. OpenAI signs with one
secret per project, and with two during a rotation.

The verifier is written by hand: the ``standardwebhooks`` package takes one secret, and raises other
errors than its own for some malformed deliveries.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from typing import Final

from pydantic import SecretStr

from batchflow.errors import BatchflowError, InvalidSettings

#: How much older or newer than now a delivery may be.
TOLERANCE_S: Final = 300

_PREFIX = "whsec_"
# Without dots: one in the id could be confused with the one before the timestamp.
_ID = re.compile(r"[!-\-/-~]{1,256}", re.ASCII)
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)
_LIST = re.compile(r"[!-~]+( [!-~]+)*", re.ASCII)
#: Signatures of unknown versions are ignored.
_SIGNATURE = re.compile(
    r"(?P<version>v[0-9]{1,3}[a-z]?),(?P<base64>[A-Za-z0-9+/=_-]{1,512})", re.ASCII
)


class InvalidDelivery(BatchflowError):
    """Raised when a webhook is not from OpenAI, or is not valid; the message is for the log."""


def parse_secrets(secrets: Iterable[SecretStr]) -> tuple[bytes, ...]:
    """The keys in ``whsec_<base64>`` secrets; raises InvalidSettings, without the secrets."""
    return tuple(_key(secret.get_secret_value(), n) for n, secret in enumerate(secrets, start=1))


def verify(
    body: bytes, headers: Iterable[tuple[str, str]], *, keys: Sequence[bytes], now_s: float
) -> str:
    """Verify a delivery and return its id, which it keeps when it is repeated.

    :param headers: all headers, as often as they were sent; names in any case.
    :param keys: one of them must have signed the delivery.
    :param now_s: epoch seconds.
    :raises InvalidDelivery: for everything else, with the reason.
    """
    if not keys:
        raise InvalidDelivery("OPENAI_WEBHOOK_SECRET is not set, so signatures can't be verified")
    found = [(name.lower(), value) for name, value in headers]
    webhook_id = _single("webhook-id", _ID, found)
    timestamp = _single("webhook-timestamp", _TIMESTAMP, found)
    signatures = _signatures(_single("webhook-signature", _LIST, found))
    age_s = now_s - int(timestamp)
    if abs(age_s) > TOLERANCE_S:
        raise InvalidDelivery(f"its timestamp is {age_s:.0f} s old; check the clock")
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    expected = [hmac.digest(key, signed, hashlib.sha256) for key in keys]
    if not any(hmac.compare_digest(ours, given) for ours in expected for given in signatures):
        raise InvalidDelivery("no signature matches a secret in OPENAI_WEBHOOK_SECRET")
    return webhook_id


def _key(secret: str, position: int) -> bytes:
    which = f"OPENAI_WEBHOOK_SECRET is not valid: secret {position} in it"
    if not secret.startswith(_PREFIX):
        raise InvalidSettings(f"{which} does not begin with {_PREFIX}. Copy the whole secret.")
    text = secret.removeprefix(_PREFIX)
    try:
        # Some secrets come without padding.
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise InvalidSettings(f"{which} is not {_PREFIX} and base64. Copy the whole secret.")
    return key


def _single(name: str, form: re.Pattern[str], headers: Sequence[tuple[str, str]]) -> str:
    values = [value for each, value in headers if each == name]
    if len(values) != 1:
        raise InvalidDelivery(f"it has {len(values)} headers {name} instead of one")
    if not form.fullmatch(values[0]):
        raise InvalidDelivery(f"its header {name} is malformed")
    return values[0]


def _signatures(header: str) -> list[bytes]:
    parts = [_SIGNATURE.fullmatch(part) for part in header.split(" ")]
    if not all(parts):
        raise InvalidDelivery("its header webhook-signature is malformed")
    try:
        return [
            base64.b64decode(part["base64"], validate=True)
            for part in parts
            if part and part["version"] == "v1"
        ]
    except binascii.Error as error:
        raise InvalidDelivery("one of its signatures is not valid base64") from error
