"""Which tokens are taken, and how they are kept."""

import json

import pytest

from discovery.errors import InvalidArgument
from services.ports.push_store import Platform
from services.push.tokens import checked
from tests.support.push_subscriptions import ANDROID_TOKEN, ENDPOINT, IOS_TOKEN, base64url, subscription


def test_a_token_of_ios_is_kept_in_lower_case() -> None:
    assert checked(Platform.IOS, IOS_TOKEN.upper()) == IOS_TOKEN
    assert checked(Platform.IOS, "a" * 200) == "a" * 200


def test_a_token_of_android_is_kept_as_it_is() -> None:
    assert checked(Platform.ANDROID, ANDROID_TOKEN) == ANDROID_TOKEN
    assert checked(Platform.ANDROID, "~" * 4096) == "~" * 4096


def test_a_subscription_is_kept_down_to_its_endpoint_and_keys_however_it_was_written() -> None:
    given = json.loads(subscription())
    written_otherwise = json.dumps(
        {
            "keys": {"auth": given["keys"]["auth"] + "==", "more": 1, "p256dh": given["keys"]["p256dh"] + "="},
            "endpoint": ENDPOINT,
        },
        indent=4,
    )

    kept = checked(Platform.WEB, json.dumps(given))

    assert json.loads(kept) == {"endpoint": ENDPOINT, "keys": given["keys"]}
    assert checked(Platform.WEB, written_otherwise) == kept
    assert checked(Platform.WEB, kept) == kept


NO_TOKENS = {
    "too short": (Platform.IOS, "a" * 63),
    "too long": (Platform.IOS, "a" * 201),
    "not hexadecimal": (Platform.IOS, "g" * 64),
    "hexadecimal and a line": (Platform.IOS, IOS_TOKEN + "\n"),
    "a space": (Platform.ANDROID, "a b"),
    "not ASCII": (Platform.ANDROID, "tökén"),
    "empty": (Platform.ANDROID, ""),
    "longer than any": (Platform.ANDROID, "a" * 4097),
    "no JSON": (Platform.WEB, "{"),
    "nested without end": (Platform.WEB, "[" * 4_000),
    "no object": (Platform.WEB, "[]"),
    "no keys": (Platform.WEB, json.dumps({"endpoint": ENDPOINT})),
    "keys of another kind": (Platform.WEB, json.dumps({"endpoint": ENDPOINT, "keys": "x"})),
    "no endpoint": (Platform.WEB, subscription(None)),
    "in the clear": (Platform.WEB, subscription("http://push.example.com/x")),
    "no host": (Platform.WEB, subscription("https:///x")),
    "a user": (Platform.WEB, subscription("https://user@push.example.com/x")),
    "no port": (Platform.WEB, subscription("https://push.example.com:x/x")),
    "half an address": (Platform.WEB, subscription("https://[::1/x")),
    "a space in the endpoint": (Platform.WEB, subscription("https://push.example.com/ x")),
    "no public key": (Platform.WEB, subscription(p256dh=None)),
    "a public key that is no base64": (Platform.WEB, subscription(p256dh="a+b/")),
    "a public key that is cut": (Platform.WEB, subscription(p256dh="a")),
    "a public key off the curve": (Platform.WEB, subscription(p256dh=base64url(b"\x04" + b"\x01" * 64))),
    "a secret that is short": (Platform.WEB, subscription(auth=base64url(b"a" * 15))),
    "no secret": (Platform.WEB, subscription(auth=7)),
}


@pytest.mark.parametrize(("platform", "token"), NO_TOKENS.values(), ids=list(NO_TOKENS))
def test_what_is_no_token_is_refused_and_not_quoted(platform: Platform, token: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        checked(platform, token)

    assert [violation.field for violation in refused.value.violations] == ["token"]
    assert not token or token not in str(refused.value)
