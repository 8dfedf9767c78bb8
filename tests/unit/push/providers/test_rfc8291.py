"""The tests' own reading of RFC 8291, against the RFC's example (appendix A)."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, derive_private_key

from tests.support.push.rfc8291 import NotForUs, decrypt, from_base64url, point, to_base64url

_AUTH = "BTBZMqHH6r4Tts7J_aSIgg"
_PRIVATE = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"
_PUBLIC = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
_MESSAGE = (
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27ml"
    "mlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPT"
    "pK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
)


def test_the_example_is_read() -> None:
    assert to_base64url(point(_key().public_key())) == _PUBLIC
    read = decrypt(from_base64url(_MESSAGE), _key(), from_base64url(_AUTH))
    assert read == b"When I grow up, I want to be a watermelon"


@pytest.mark.parametrize("place", [0, 20, 30, 90, -1])
def test_whatever_is_changed_makes_it_unreadable(place: int) -> None:
    message = bytearray(from_base64url(_MESSAGE))
    message[place] ^= 0x80
    with pytest.raises(NotForUs):
        decrypt(bytes(message), _key(), from_base64url(_AUTH))


def test_another_subscriber_cannot_read_it() -> None:
    with pytest.raises(NotForUs):
        decrypt(from_base64url(_MESSAGE), _key(), b"another secret!!")


def _key() -> EllipticCurvePrivateKey:
    return derive_private_key(int.from_bytes(from_base64url(_PRIVATE), "big"), SECP256R1())
