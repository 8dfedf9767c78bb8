"""The phone in the pocket: who is away is woken up by Apple, Google and a browser's push service, for what is worth it."""

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.people import WAIT_S, Frame, Line, Person, befriend, line, sign_up, until
from tests.support.push.all_servers import PushServers
from tests.support.push.behaviour import answers
from tests.support.push.server import Accepted
from tests.support.runner import Hither, StartHither

pytestmark = pytest.mark.timeout(300)

_QUICK = {
    "HITHER_PUSHPOLICY_PAIR_INTERVAL_S": "2",
    "HITHER_PUSHPOLICY_GROUP_GATHER_S": "4",
    "HITHER_PUSHPIPELINE_TAKEOVER_PAUSE_S": "0",
}
"""As the policy has it, in seconds instead of minutes."""
IPHONE, PIXEL, BROWSER = "iphone", "pixel", "browser"


@dataclass(frozen=True, slots=True)
class Pocket:
    """One Hither, and the providers that it sends by."""

    hither: Hither
    servers: PushServers
    http: httpx.AsyncClient


@pytest.fixture
async def pocket(start_hither: StartHither, tmp_path: Path) -> AsyncIterator[Pocket]:
    keys = tmp_path / "keys"
    keys.mkdir()
    async with PushServers(keys) as servers:
        settings = {f"HITHER_PROVIDERS_{name.upper()}": str(value) for name, value in asdict(servers.settings).items()}
        async with (
            start_hither(tmp_path / "data", {**settings, **_QUICK}) as hither,
            httpx.AsyncClient(base_url=hither.url, timeout=WAIT_S) as http,
        ):
            yield Pocket(hither, servers, http)


class Pockets:
    """Ann's three devices, as their providers see them."""

    def __init__(self, pocket: Pocket, ann: Person) -> None:
        self.ann = ann
        self._servers = pocket.servers
        self._endpoint = pocket.servers.web.endpoint(ann.user_id)
        self._token = f"fcm:{ann.user_id}"
        self.tokens = {
            IPHONE: ("IOS", ann.user_id.encode().hex().rjust(64, "0")),
            PIXEL: ("ANDROID", self._token),
            BROWSER: ("WEB", pocket.servers.web.subscription(ann.user_id)),
        }

    async def register(self) -> None:
        """Each device registers the token that it was given."""
        for device_id, (platform, token) in self.tokens.items():
            device = await self.ann.on(device_id)
            await device.put("/push-tokens", {"platform": platform, "token": token})

    async def woken(self, count: int) -> list[list[Accepted]]:
        """What each provider was given, once it is that many."""
        servers = (self._servers.apns, self._servers.fcm, self._servers.web)
        for server in servers:
            await server.until(count)
        return [server.accepted for server in servers]


def said(accepted: list[Accepted], place: int) -> tuple[Any, ...]:
    """Title, body and badge of a push, whichever provider it went by."""
    payload = accepted[place].payload
    if "aps" in payload:
        alert = payload["aps"].get("alert", {})
        return alert.get("title", ""), alert.get("body", ""), payload["aps"].get("badge")
    if "android" in payload:
        shown = payload.get("notification", {})
        badge = payload["android"].get("notification", {}).get("notification_count")
        return shown.get("title", ""), shown.get("body", ""), badge
    return payload.get("title", ""), payload.get("body", ""), payload.get("badge")


async def say(bob: Line, client_id: str, text: str, **to: str) -> Frame:
    """Bob's message is durable."""
    ack = await bob.ask("send_message", client_id=client_id, text=text, **to)
    assert ack["type"] == "ack", ack
    return ack


async def test_each_device_of_who_is_away_is_woken_up_once_and_the_badge_is_right(pocket: Pocket) -> None:
    ann, bob = await sign_up(pocket.http, "ann"), await sign_up(pocket.http, "bob")
    pockets = Pockets(pocket, ann)
    await pockets.register()
    await ann.put("/settings/push", {"preview": "TEXT"})
    assert (await ann.get("/push-key"))["application_server_key"]
    async with line(pocket.hither.websocket_url, bob) as bobs:
        first = await say(bobs, "1", "Are you there?", to=ann.user_id)
        for woken in await pockets.woken(1):
            assert said(woken, 0) == ("Bob", "Are you there?", 1)
        await say(bobs, "2", "It begins at eight.", to=ann.user_id)
        last = await say(bobs, "3", "Bring a coat.", to=ann.user_id)
        for woken in await pockets.woken(2):
            assert said(woken, 1) == ("Bob", "2 new messages: Bring a coat.", 3)

        async with line(pocket.hither.websocket_url, await ann.on(IPHONE)) as anns:
            assert await anns.texts(3) == ["Are you there?", "It begins at eight.", "Bring a coat."]
            await anns.ask("mark_read", conversation_id=first["conversation_id"], seq=last["seq"])
            await say(bobs, "4", "Seen, I see.", to=ann.user_id)
            assert await anns.texts(1) == ["Seen, I see."]

        await until(lambda: is_away(bob, ann))
        await say(bobs, "5", "Gone again?", to=ann.user_id)
        for woken in await pockets.woken(3):
            assert said(woken, 2) == ("Bob", "Gone again?", 2)
            assert len(woken) == 3


async def is_away(bob: Person, ann: Person) -> bool:
    """Whether none of Ann's devices is connected."""
    return not any(device.get("connected") for device in (await ann.get("/devices"))["devices"])


async def test_a_group_is_gathered_a_mention_goes_at_once_and_a_muted_one_stays_silent(pocket: Pocket) -> None:
    ann, bob = await sign_up(pocket.http, "ann"), await sign_up(pocket.http, "bob")
    pockets = Pockets(pocket, ann)
    await pockets.register()
    await befriend(ann, bob)
    await ann.put("/settings/push", {"preview": "SENDER"})
    group = (await bob.post("/conversations", {"name": "Hikers", "member_ids": [ann.user_id]}))["conversation"]
    to = {"conversation_id": group["conversation_id"]}
    async with line(pocket.hither.websocket_url, bob) as bobs:
        for number in range(15):
            await say(bobs, f"many {number}", "Where to?", **to)
        for woken in await pockets.woken(1):
            assert said(woken, 0) == ("Hikers", "15 new messages in Hikers", 15)

        await say(bobs, "mention", f"@{ann.user_id} you choose", **to)
        for woken in await pockets.woken(2):
            assert said(woken, 1) == ("Hikers", "You were mentioned by Bob", 16)

        await ann.put(f"/conversations/{group['conversation_id']}/mute", {})
        await say(bobs, "muted", f"@{ann.user_id} still there?", **to)
        for woken in await pockets.woken(3):
            title, body, badge = said(woken, 2)
            assert (title, body) == ("", "")
            assert badge in (17, None)  # FCM knows no badge without a notification


async def test_without_leave_a_push_tells_nothing_and_who_asks_is_told_what_became_of_it(pocket: Pocket) -> None:
    ann, bob = await sign_up(pocket.http, "ann"), await sign_up(pocket.http, "bob")
    pockets = Pockets(pocket, ann)
    await pockets.register()
    pocket.servers.apns.behave(answers(410, "Unregistered"), token=pockets.tokens[IPHONE][1])
    async with line(pocket.hither.websocket_url, bob) as bobs:
        await say(bobs, "1", "The password is swordfish.", to=ann.user_id)
        await pocket.servers.fcm.until(1)
        await pocket.servers.web.until(1)

    for server in (pocket.servers.fcm, pocket.servers.web):
        [push] = server.accepted
        assert said([push], 0)[:2] == ("", "New message")
        assert "swordfish" not in str(push.payload)
        assert bob.user_id not in str(push.payload)
    await until(lambda: has_lost(ann, IPHONE))
    tried = await ann.post(f"/push-tokens/{PIXEL}:test", {})
    assert tried["delivery"]["fate"] == "ACCEPTED"
    told = await ann.get(f"/push-tokens/{PIXEL}/deliveries")
    assert [(one["kind"], one["fate"]) for one in told["deliveries"]] == [("TEST", "ACCEPTED"), ("DIRECT", "ACCEPTED")]


async def has_lost(ann: Person, device_id: str) -> bool:
    """Whether the device's token was forgotten."""
    return device_id not in {token["device_id"] for token in (await ann.get("/push-tokens"))["tokens"]}
