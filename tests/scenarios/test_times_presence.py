"""Who is there, and since when not, over seconds, hours and a day: by a clock that is moved."""

from datetime import datetime

import grpc
import pytest

from discovery.rpc.call import Caller, Role
from hither.presence.v1.presence_service_pb2 import DeviceReport, ReportDevicesRequest
from hither.presence.v1.presence_service_pb2_grpc import PresenceServiceStub
from services.data_directory import DataDirectory
from services.directory.tokens import TokenIssuer
from tests.scenarios.test_presence import friends, is_listed, listed, says
from tests.support.people import WAIT_S, Frame, Person, until
from tests.support.times import Times

pytestmark = pytest.mark.asyncio(loop_scope="module")


def last_seen(event: Frame) -> datetime:
    return datetime.fromisoformat(event["last_seen"])


async def report_from_elsewhere(times: Times, person: Person) -> None:
    """An edge that runs apart reports the person's phone."""
    data = DataDirectory(times.data)
    running = data.running()
    assert running is not None
    issuer = TokenIssuer(data.keys.signing_pem, data.cluster, times.clock)
    token = issuer.issue(Caller(Role.SERVICE, service="edge-elsewhere"), ttl_s=60)
    report = DeviceReport(
        user_id=person.user_id, device_id="phone", connected=True, connection_id=7, edge_id="edge-elsewhere"
    )
    async with grpc.aio.insecure_channel(running.grpc_address) as channel:
        await PresenceServiceStub(channel).ReportDevices(
            ReportDevicesRequest(reports=[report]), timeout=WAIT_S, metadata=(("authorization", f"Bearer {token}"),)
        )


async def test_whoever_an_edge_took_along_when_it_died_is_gone_in_half_a_minute_and_was_last_seen_before(
    times: Times,
) -> None:
    async with times.http as http:
        bob, ann = await friends(http, "bob", "ann")
        async with times.line(bob) as his:
            await report_from_elsewhere(times, ann)
            await his.next("presence", user_id=ann.user_id, status="ONLINE")
            await times.live_through(seconds=24)
            before = times.now()
            await report_from_elsewhere(times, ann)
            after = times.now()
            await times.live_through(seconds=24)
            still = (await listed(bob))[ann.user_id]
            assert his.passed_over("presence", user_id=ann.user_id) == []
            times.pass_(seconds=6)
            gone = await his.next("presence", user_id=ann.user_id)
            seen = (await listed(bob))[ann.user_id]
    assert still["status"] == "ONLINE"
    assert (gone["status"], seen["status"]) == ("OFFLINE", "OFFLINE")
    assert before <= last_seen(gone) == last_seen(seen) <= after


async def test_when_somebody_went_is_known_for_as_long_as_nobody_comes_back(times: Times) -> None:
    async with times.http as http:
        bob, ann = await friends(http, "bob", "ann")
        async with times.line(bob) as his:
            async with times.line(ann):
                await his.next("presence", user_id=ann.user_id, status="ONLINE")
                times.pass_(hours=3)
                before = times.now()
                reported = times.reports()
            await times.reported(since=reported)
            after = times.now()
            times.pass_(seconds=6)
            gone = await his.next("presence", user_id=ann.user_id, status="OFFLINE")
            times.pass_(hours=20)
            seen = (await listed(bob))[ann.user_id]
            async with times.line(ann):
                await his.next("presence", user_id=ann.user_id, status="ONLINE")
                reported = times.reports()
            await times.reported(since=reported)
            times.pass_(seconds=6)
            gone_again = await his.next("presence", user_id=ann.user_id, status="OFFLINE")
    assert before <= last_seen(gone) <= after
    assert (seen["status"], seen["last_seen"]) == ("OFFLINE", gone["last_seen"])
    assert (last_seen(gone_again) - last_seen(gone)).total_seconds() >= 20 * 3600


async def test_what_somebody_says_is_said_for_hours(times: Times) -> None:
    async with times.http as http:
        bob, ann = await friends(http, "bob", "ann")
        async with times.line(ann) as hers:
            await says(hers, "AWAY", text="on the night train")
            await until(is_listed(bob, ann, "AWAY"))
            times.pass_(hours=9)
            await until(is_listed(bob, ann, "AWAY"))
            seen = (await listed(bob))[ann.user_id]
            async with times.line(bob) as his:
                told = await his.next("presence", user_id=ann.user_id)
                times.pass_(hours=2)
                await says(hers, "ONLINE")
                back = await his.next("presence", user_id=ann.user_id)
                await says(hers, "ONLINE", text="")
                quiet = await his.next("presence", user_id=ann.user_id)
    assert seen["text"] == "on the night train"
    assert (told["status"], told["text"]) == ("AWAY", "on the night train")
    assert (back["status"], back["text"]) == ("ONLINE", "on the night train")
    assert (quiet["status"], quiet["text"]) == ("ONLINE", "")


async def test_a_connection_that_is_back_within_five_seconds_was_never_gone(times: Times) -> None:
    async with times.http as http:
        bob, ann, carol = await friends(http, "bob", "ann", "carol")
    async with times.line(bob) as his, times.line(carol) as carols:
        await his.next("presence", user_id=carol.user_id, status="ONLINE")
        for status in ("AWAY", "ONLINE") * 3:
            async with times.line(ann):
                times.pass_(seconds=3)
                reported = times.reports()
            await times.reported(since=reported)
            await says(carols, status)
            times.pass_(seconds=4)
            await his.next("presence", user_id=carol.user_id, status=status)  # so others were looked at as well
        async with times.line(ann):
            times.pass_(seconds=8)
            await says(carols, "AWAY")
            await his.next("presence", user_id=carol.user_id, status="AWAY")
    assert his.passed_over("presence", user_id=ann.user_id, status="OFFLINE") == []
    assert len(his.passed_over("presence", user_id=ann.user_id, status="ONLINE")) == 1
