"""The webhook verifier, compared with the OpenAI SDK's and the ``standardwebhooks`` package's."""

import time
from collections.abc import Iterable

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from batchflow.errors import InvalidSettings
from batchflow.gateway.webhook_signature import TOLERANCE_S, InvalidDelivery, parse_secrets, verify
from tests.kit.deliveries import OTHER_SECRET, SECRET, Delivery, delivery, event

NOW_S = 1_760_000_000.5
BODY = event("batch_68f0c1")
GENUINE = delivery(BODY, at_s=NOW_S, webhook_id="wh_1")
SIGNATURE = GENUINE.headers["webhook-signature"]

OPENAI = openai.OpenAI(api_key="unused")


def keys(*secrets: str) -> tuple[bytes, ...]:
    return parse_secrets(SecretStr(secret) for secret in secrets)


def check(given: Delivery, *, secrets: Iterable[str] = (SECRET,), now_s: float = NOW_S) -> str:
    return verify(given.body, given.headers.items(), keys=keys(*secrets), now_s=now_s)


def openai_accepts(given: Delivery) -> bool:
    """Whether the SDK accepts a delivery; for malformed ones it raises other errors, too."""
    try:
        OPENAI.webhooks.verify_signature(given.body, dict(given.headers), secret=SECRET)
    except (openai.InvalidWebhookSignatureError, ValueError, TypeError):
        return False
    return True


def standard_accepts(given: Delivery) -> bool:
    """Whether the ``standardwebhooks`` package accepts a delivery."""
    try:
        Webhook(SECRET).verify(given.body, dict(given.headers), json_parse=False)
    except (WebhookVerificationError, ValueError):
        return False
    return True


class TestGenuine:
    def test_the_id_of_a_valid_delivery_is_returned(self) -> None:
        assert check(GENUINE) == "wh_1"

    def test_header_names_are_case_insensitive(self) -> None:
        shouted = Delivery(BODY, {name.upper(): value for name, value in GENUINE.headers.items()})
        assert check(shouted) == "wh_1"

    @pytest.mark.parametrize("secrets", [(SECRET, OTHER_SECRET), (OTHER_SECRET, SECRET)])
    def test_any_of_several_secrets_is_accepted(self, secrets: tuple[str, str]) -> None:
        assert check(GENUINE, secrets=secrets) == "wh_1"

    def test_one_valid_signature_of_two_is_enough(self) -> None:
        other = delivery(BODY, at_s=NOW_S, webhook_id="wh_1", secret=OTHER_SECRET)
        both = GENUINE.with_header(
            "webhook-signature", f"{other.headers['webhook-signature']} {SIGNATURE}"
        )
        assert check(both) == check(both, secrets=[OTHER_SECRET]) == "wh_1"

    def test_unknown_versions_are_ignored(self) -> None:
        assert check(GENUINE.with_header("webhook-signature", f"v1a,AAAA {SIGNATURE}")) == "wh_1"

    @pytest.mark.parametrize("age_s", [-TOLERANCE_S + 1, 0, TOLERANCE_S - 1])
    def test_clocks_may_differ_a_little(self, age_s: int) -> None:
        assert check(GENUINE, now_s=NOW_S + age_s) == "wh_1"

    def test_the_body_is_not_parsed(self) -> None:
        assert check(delivery("{ ü\u2028".encode(), at_s=NOW_S, webhook_id="wh_2")) == "wh_2"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (GENUINE.without("webhook-id"), "0 headers webhook-id"),
        (GENUINE.without("webhook-timestamp"), "0 headers webhook-timestamp"),
        (GENUINE.without("webhook-signature"), "0 headers webhook-signature"),
        *(
            (GENUINE.with_header("webhook-id", value), "webhook-id is malformed")
            for value in ("", " ", "wh 1", "wh.1", "wh_\x00", "wh_ü", "x" * 257)
        ),
        *(
            (GENUINE.with_header("webhook-timestamp", value), "webhook-timestamp is malformed")
            for value in (
                *("", " ", "now", "-1", "+1760000000", " 1760000000", "1760000000.0", "1e9"),
                *("1_760_000_000", "NaN", "inf", "-inf", "9" * 13, "9" * 5000, "١٧٦٠٠٠٠٠٠٠", "0x1"),
            )
        ),
        (GENUINE.with_header("webhook-timestamp", "0"), "old"),
        (GENUINE.with_header("webhook-timestamp", "9" * 12), "old"),
        *(
            (GENUINE.with_header("webhook-signature", value), "webhook-signature is malformed")
            for value in (
                *("", " ", "v1", "v1,", ",", "v1,a,b", f"v1,a,b {SIGNATURE}", f" {SIGNATURE}"),
                *(f"{SIGNATURE} ", SIGNATURE.removeprefix("v1,"), f"v1,ü {SIGNATURE}"),
                *(SIGNATURE.replace(",", ", "), f"{SIGNATURE}, {SIGNATURE}", "v1," + "A" * 513),
            )
        ),
        (GENUINE.with_header("webhook-signature", "v1,A"), "not valid base64"),
        (GENUINE.with_header("webhook-signature", "v1,AAA=A"), "not valid base64"),
        (GENUINE.with_header("webhook-signature", "v1,__--"), "not valid base64"),
        (GENUINE.with_header("webhook-signature", SIGNATURE.replace("v1,", "v2,")), "no signature"),
        (GENUINE.with_header("webhook-signature", "v1,AAAA"), "no signature"),
        (GENUINE.with_header("webhook-id", "wh_2"), "no signature"),
        (GENUINE.with_header("webhook-timestamp", str(int(NOW_S) + 1)), "no signature"),
        (Delivery(BODY + b" ", GENUINE.headers), "no signature"),
        (Delivery(b"", GENUINE.headers), "no signature"),
        (Delivery(b"\xff\xfe", GENUINE.headers), "no signature"),
    ],
)
def test_an_invalid_delivery_raises_one_error_with_a_reason(changed: Delivery, reason: str) -> None:
    with pytest.raises(InvalidDelivery, match=reason):
        check(changed)


def test_a_repeated_header_is_refused() -> None:
    for twice in GENUINE.headers.items():
        with pytest.raises(InvalidDelivery, match=f"2 headers {twice[0]}"):
            verify(BODY, [*GENUINE.headers.items(), twice], keys=keys(SECRET), now_s=NOW_S)


@pytest.mark.parametrize("age_s", [TOLERANCE_S + 1, -TOLERANCE_S - 1, 10 * 86_400, -10 * 86_400])
def test_a_timestamp_outside_the_tolerance_is_refused(age_s: int) -> None:
    with pytest.raises(InvalidDelivery, match="timestamp"):
        check(GENUINE, now_s=NOW_S + age_s)


def test_a_signature_with_another_secret_is_refused() -> None:
    with pytest.raises(InvalidDelivery, match="no signature"):
        check(GENUINE, secrets=[OTHER_SECRET])


def test_without_a_secret_every_delivery_is_refused() -> None:
    with pytest.raises(InvalidDelivery, match="OPENAI_WEBHOOK_SECRET is not set"):
        check(GENUINE, secrets=())


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_VALUES = st.one_of(
    _TEXT,
    st.from_regex(r"v[0-9a]{1,2},[A-Za-z0-9+/=,]{0,60}( v1,[A-Za-z0-9+/=]{0,60})?", fullmatch=True),
    st.integers(-(10**14), 10**14).map(str),
    st.floats().map(str),
    st.just(SIGNATURE),
)


class TestOtherVerifiers:
    """Both other verifiers read the clock, so these deliveries are sent now."""

    @settings(max_examples=300, deadline=None)
    @given(body=_TEXT, age_s=st.integers(-290, 290), number=st.integers(0, 10**20))
    def test_all_accept_valid_deliveries(self, body: str, age_s: int, number: int) -> None:
        now_s = time.time()
        sent = delivery(body.encode(), at_s=now_s - age_s, webhook_id=f"wh_{number}")
        assert check(sent, now_s=now_s) == f"wh_{number}"
        assert openai_accepts(sent)
        assert standard_accepts(sent)

    @settings(max_examples=1_000, deadline=None)
    @given(
        name=st.sampled_from(sorted(GENUINE.headers)),
        value=_VALUES,
        body=st.one_of(st.just(BODY), st.binary(max_size=60)),
    )
    def test_the_others_accept_it_too(self, name: str, value: str, body: bytes) -> None:
        now_s = time.time()
        changed = delivery(BODY, at_s=now_s).with_header(name, value)
        changed = Delivery(body, changed.headers)
        try:
            check(changed, now_s=now_s)
        except InvalidDelivery:
            return
        assert openai_accepts(changed)
        assert standard_accepts(changed)

    @pytest.mark.parametrize("age_s", [310, -310])
    def test_none_accepts_a_timestamp_outside_the_tolerance(self, age_s: int) -> None:
        now_s = time.time()
        sent = delivery(BODY, at_s=now_s - age_s)
        assert not openai_accepts(sent)
        assert not standard_accepts(sent)
        with pytest.raises(InvalidDelivery):
            check(sent, now_s=now_s)


class TestSecrets:
    def test_padding_is_optional(self) -> None:
        assert keys(SECRET.rstrip("=")) == keys(SECRET)

    @pytest.mark.parametrize(
        "wrong", ["whsec_", "whsec_not!base64", "whsec_AAAAA", "whsec_a_b-", "hunter2hunter2", ""]
    )
    def test_an_invalid_secret_is_refused_without_showing_it(self, wrong: str) -> None:
        with pytest.raises(InvalidSettings) as error:
            keys(SECRET, wrong)
        assert "OPENAI_WEBHOOK_SECRET is not valid: secret 2 in it" in str(error.value)
        for secret in (SECRET, wrong.removeprefix("whsec_") or SECRET):
            assert secret not in str(error.value)
        assert error.value.__context__ is None
