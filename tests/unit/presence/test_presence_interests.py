"""Watching those on the screen: friends and, as far as they let everyone know, others; each connection for itself."""

import pytest

from discovery.errors import NotFound, Unavailable
from hither.presence.v1.presence_service_pb2 import FriendPresence
from tests.unit.presence.conftest import AWAY, EVERYONE, FRIENDS, OFFLINE, ONLINE, Desk, World


def statuses(presences: list[FriendPresence]) -> list[tuple[str, int]]:
    return [(one.user_id, one.status) for one in presences]


async def test_the_answer_says_how_the_watched_are_now(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob", "carol")
    await desk.arrive("ann", "carol")
    await desk.set_presence("carol", AWAY, text="at lunch")
    await desk.gather()

    presences = await desk.watch("ann", "carol", "bob", "carol")

    assert [(one.user_id, one.status, one.text) for one in presences] == [
        ("bob", OFFLINE, ""),
        ("carol", AWAY, "at lunch"),
    ]


async def test_only_those_who_are_watched_are_told_of(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob", "carol")
    await desk.arrive("ann", "bob", "carol")
    await desk.watch("ann", "bob")

    await desk.set_presence("bob", AWAY)
    await desk.set_presence("carol", AWAY)
    await desk.gather()

    assert world.told() == [("ann", "bob", AWAY)]
    assert "presence:carol" not in world.bus.topics()


async def test_each_connection_watches_for_itself(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob", "carol")
    await desk.arrive("ann", "bob", "carol")
    await desk.connect("ann", "laptop")
    await desk.gather()
    world.events()
    await desk.watch("ann", "bob")

    await desk.set_presence("carol", AWAY)
    await desk.gather()
    await desk.set_presence("bob", AWAY)
    await desk.gather()

    numbers = {one.connection_id: one.device_id for one in world.sessions.connections if one.user_id == "ann"}
    carols, bobs = world.mesh.edges["edge"].deliveries()[-2:]
    assert [numbers[target.connection_id] for target in carols.targets] == ["laptop"]
    assert sorted(numbers[target.connection_id] for target in bobs.targets) == ["laptop", "phone"]


async def test_naming_nobody_brings_all_friends_back_and_says_how_they_are(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob", "carol")
    await desk.arrive("ann", "bob", "carol")
    await desk.watch("ann", "bob")
    await desk.set_presence("carol", AWAY)
    await desk.gather()
    assert world.told() == []

    assert await desk.watch("ann") == []
    await desk.settle()
    assert sorted(world.told()) == [("ann", "bob", ONLINE), ("ann", "carol", AWAY)]

    await desk.set_presence("carol", ONLINE)
    await desk.gather()
    assert world.told() == [("ann", "carol", ONLINE)]


async def test_what_is_watched_ends_with_the_connection(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob", "carol")
    await desk.arrive("ann", "bob", "carol")
    await desk.watch("ann", "bob")

    await desk.connect("ann")
    await desk.gather()
    world.events()
    await desk.set_presence("carol", AWAY)
    await desk.gather()

    assert ("ann", "carol", AWAY) in world.told()


async def test_strangers_who_let_everyone_know_can_be_watched(desk: Desk, world: World) -> None:
    await desk.arrive("ann", "star")
    await desk.let_know("star", presence=EVERYONE)

    assert statuses(await desk.watch("ann", "star")) == [("star", ONLINE)]

    await desk.set_presence("star", AWAY)
    await desk.gather()
    assert world.told() == [("ann", "star", AWAY)]


async def test_strangers_who_let_only_friends_know_cannot(desk: Desk, world: World) -> None:
    await desk.arrive("ann", "bob")

    assert statuses(await desk.watch("ann", "bob", "nobody")) == [("bob", OFFLINE), ("nobody", OFFLINE)]

    await desk.set_presence("bob", AWAY)
    await desk.gather()
    assert world.told() == []


async def test_a_stranger_who_hides_again_is_told_of_as_gone_and_a_friend_is_not(desk: Desk, world: World) -> None:
    world.befriend("star", "carol")
    await desk.arrive("ann", "star", "carol")
    await desk.let_know("star", presence=EVERYONE)
    await desk.watch("ann", "star")

    await desk.let_know("star", presence=FRIENDS)
    await desk.settle()

    assert world.told() == [("ann", "star", OFFLINE)]


async def test_who_is_blocked_sees_nothing_of_whom_everyone_may_see(desk: Desk, world: World) -> None:
    await desk.arrive("ann", "star")
    await desk.let_know("star", presence=EVERYONE)
    world.directory.blocks.add(frozenset({"ann", "star"}))

    assert statuses(await desk.watch("ann", "star")) == [("star", OFFLINE)]

    await desk.set_presence("star", AWAY)
    await desk.gather()
    assert world.told() == []


async def test_a_block_ends_the_watch_at_once_and_for_the_next_time(desk: Desk, world: World) -> None:
    await desk.arrive("ann", "star")
    await desk.let_know("star", presence=EVERYONE)
    await desk.watch("ann", "star")
    await desk.set_presence("star", AWAY)

    await world.block("star", "ann")
    await desk.gather()

    assert world.told() == []
    assert statuses(await desk.watch("ann", "star")) == [("star", OFFLINE)]


async def test_who_was_a_friend_is_not_watched_as_one_before_the_directory_was_asked_again(
    desk: Desk, world: World
) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    await world.block("bob", "ann")

    assert statuses(await desk.watch("ann", "bob")) == [("bob", OFFLINE)]


async def test_an_answer_that_a_block_has_overtaken_is_thrown_away(
    desk: Desk, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.arrive("ann", "star")
    await desk.let_know("star", presence=EVERYONE)
    ask = world.directory.FindBlocks

    async def late(request: object, context: object) -> object:
        answer = await ask(request, context)  # type: ignore[arg-type]
        monkeypatch.setattr(world.directory, "FindBlocks", ask)
        await world.block("star", "ann")
        return answer

    monkeypatch.setattr(world.directory, "FindBlocks", late)

    assert statuses(await desk.watch("ann", "star")) == [("star", OFFLINE)]


async def test_a_stranger_who_becomes_a_friend_stays_watched(desk: Desk, world: World) -> None:
    await desk.arrive("ann", "bob")
    await desk.watch("ann", "bob")
    world.befriend("ann", "bob")
    await world.announce("ann", "bob")
    await desk.settle()
    world.events()

    await desk.set_presence("bob", AWAY)
    await desk.gather()

    assert world.told() == [("ann", "bob", AWAY)]


async def test_a_friend_whom_everyone_may_see_stays_watched_when_the_friendship_ends(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    await desk.let_know("bob", presence=EVERYONE)
    await desk.watch("ann", "bob")
    world.part("ann", "bob")
    await world.announce("ann", "bob")
    await desk.settle()
    world.events()

    await desk.set_presence("bob", AWAY)
    await desk.gather()

    assert world.told() == [("ann", "bob", AWAY)]


async def test_watching_friends_asks_the_directory_nothing(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob", "carol")
    await desk.arrive("ann", "bob", "carol")
    asked = len(world.directory.asked)

    await desk.watch("ann", "bob")
    await desk.watch("ann", "bob", "carol")

    assert len(world.directory.asked) == asked
    assert world.directory.blocks_asked == []


async def test_strangers_are_asked_for_once_while_they_are_watched(desk: Desk, world: World) -> None:
    await desk.arrive("ann")

    await desk.watch("ann", "star")
    await desk.watch("ann", "star", "moon")

    assert world.directory.blocks_asked == ["star", "moon"]


async def test_a_connection_can_watch_before_anything_else_is_known_of_it(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("bob")
    await desk.connect("ann")

    assert statuses(await desk.watch("ann", "bob")) == [("bob", ONLINE)]

    await desk.gather()
    assert ("ann", "bob", ONLINE) in world.told()  # the greeting that every connection gets


async def test_the_next_owner_narrows_the_same_connection_alike(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob", "carol")
    ann, _, _ = await desk.arrive("ann", "bob", "carol")
    await desk.watch("ann", "bob")
    desk.presence._publishing.drop(lambda user_id: user_id != "ann")
    heir = Desk(world)
    await heir.report(ann)
    await heir.gather()
    world.events()

    await desk.set_presence("bob", AWAY)
    await desk.set_presence("carol", AWAY)
    await desk.gather()
    await heir.settle()

    assert [told for told in world.told() if told[0] == "ann"] == [("ann", "bob", AWAY)]


async def test_the_next_owner_does_not_narrow_another_connection(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("ann")
    await desk.watch("ann", "carol")
    heir = Desk(world)

    await heir.connect("ann")
    await heir.gather()

    assert heir.world.bus.subscriptions("presence:bob") == 2


async def test_only_a_connected_device_can_watch(desk: Desk) -> None:
    with pytest.raises(NotFound) as refused:
        await desk.watch("ann", "bob")

    assert refused.value.reason == "NO_SUCH_DEVICE"


async def test_a_watch_while_the_directory_is_away_is_refused_for_strangers_only(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    world.directory.is_down = True

    assert statuses(await desk.watch("ann", "bob")) == [("bob", ONLINE)]
    with pytest.raises(Unavailable):
        await desk.watch("ann", "star")
