"""Standard Webhooks: the published vector, and every way a message can be wrong."""

from __future__ import annotations

import base64

import pytest

from shared.outbound.webhook_signature import SignatureRejected, new_secret, sign, verify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = 1614265330
BODY = b'{"test": 2432232314}'


def signed(*secrets: str, at: int = NOW) -> dict[str, str]:
    return sign(secrets or (SECRET,), "msg_p5jXN8AQM9LWM0D4loKWxJek", at, BODY)


def test_the_vector_of_the_reference_libraries() -> None:
    assert signed() == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    verify([SECRET], signed(), BODY, now_s=NOW)


def test_while_a_secret_is_replaced_receivers_with_either_accept() -> None:
    old, new = new_secret(), new_secret()
    headers = signed(new, old)
    assert headers["webhook-signature"].count("v1,") == 2
    verify([old], headers, BODY, now_s=NOW)
    verify([new], headers, BODY, now_s=NOW)
    verify([new_secret(), new], signed(new), BODY, now_s=NOW)
    with pytest.raises(SignatureRejected):
        verify([new_secret()], headers, BODY, now_s=NOW)


@pytest.mark.parametrize("off_s", [-300, -299, 0, 299, 300])
def test_times_within_five_minutes_are_accepted(off_s: int) -> None:
    verify([SECRET], signed(at=NOW + off_s), BODY, now_s=NOW)


@pytest.mark.parametrize("off_s", [-360, -301, 301, 360])
def test_others_are_not(off_s: int) -> None:
    with pytest.raises(SignatureRejected, match="too old or too new"):
        verify([SECRET], signed(at=NOW + off_s), BODY, now_s=NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "msg_other"},
        {"webhook-id": ""},
        {"webhook-id": "a.b"},
        {"webhook-timestamp": str(NOW + 1)},
        {"webhook-timestamp": f"{NOW}.0"},
        {"webhook-timestamp": "٣"},
        {"webhook-timestamp": "-1"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1a,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
        {"webhook-signature": "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
        {"webhook-signature": "v1,ü\ud800"},
        {"webhook-signature": "v1,x " * 40 + "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
    ],
)
def test_changed_headers_are_rejected(change: dict[str, str]) -> None:
    with pytest.raises(SignatureRejected):
        verify([SECRET], signed() | change, BODY, now_s=NOW)


def test_a_changed_body_and_missing_headers_are_rejected() -> None:
    with pytest.raises(SignatureRejected):
        verify([SECRET], signed(), BODY + b" ", now_s=NOW)
    with pytest.raises(SignatureRejected):
        verify([SECRET], {}, BODY, now_s=NOW)
    with pytest.raises(SignatureRejected):
        verify([], signed(), BODY, now_s=NOW)


def test_signatures_of_other_schemes_beside_ours_do_no_harm() -> None:
    headers = signed()
    headers["webhook-signature"] = "v1a,AAAA " + headers["webhook-signature"]
    verify([SECRET], headers, BODY, now_s=NOW)


def test_a_retry_has_the_same_id_and_its_own_time() -> None:
    first, second = signed(at=NOW), signed(at=NOW + 60)
    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-signature"] != second["webhook-signature"]


def test_new_secrets_differ_and_carry_256_bits() -> None:
    assert new_secret() != new_secret()
    assert len(base64.b64decode(new_secret().removeprefix("whsec_"))) == 32


@pytest.mark.parametrize(
    "secret",
    ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_MfKQ", "whsec_not base64!", "whsec_ü",
     "whsec_" + "A" * 88],
)  # fmt: skip
def test_malformed_secrets_sign_nothing(secret: str) -> None:
    with pytest.raises(ValueError, match="a webhook secret is"):
        signed(secret)


@pytest.mark.parametrize("webhook_id", ["", "a.b", "a b", "a\r\nb", "ä", "a" * 129])
def test_ids_that_could_shift_the_signed_text_are_not_signed(webhook_id: str) -> None:
    with pytest.raises(ValueError, match="webhook id"):
        sign([SECRET], webhook_id, NOW, BODY)


def test_nothing_is_signed_without_a_secret_or_with_no_time() -> None:
    with pytest.raises(ValueError, match="secrets sign"):
        sign([], "msg", NOW, BODY)
    with pytest.raises(ValueError, match="whole seconds"):
        sign([SECRET], "msg", -1, BODY)
