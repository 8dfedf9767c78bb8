"""What users let be known: nobody learns more, in any way, from the moment the change was answered."""

import pytest

from discovery.errors import HitherError, Unavailable
from hither.presence.v1 import presence_service_pb2 as pb
from hither.presence.v1.presence_pb2 import PresenceEvent
from services.ports.privacy_store import Audience, PrivacyRow
from tests.unit.presence.conftest import AWAY, EVERYONE, FRIENDS, NOBODY, OFFLINE, ONLINE, Desk, World


async def listed(desk: Desk, user_id: str) -> list[tuple[str, int, bool, str]]:
    friends = (await desk.friends_of(user_id)).friends
    return [(one.user_id, one.status, one.HasField("last_seen"), one.text) for one in friends]


def hidden(user_id: str) -> PresenceEvent:
    return PresenceEvent(user_id=user_id, status=OFFLINE)


async def test_friends_see_everything_where_nothing_was_chosen(desk: Desk) -> None:
    answer = await desk.servicer.GetPrivacy(pb.GetPrivacyRequest(user_id="ann"), None)

    assert (answer.privacy.presence, answer.privacy.last_seen) == (FRIENDS, FRIENDS)


async def test_what_is_not_named_stays_as_it_was(desk: Desk, world: World) -> None:
    await desk.let_know("ann", presence=EVERYONE)
    await desk.let_know("ann", last_seen=NOBODY)

    answer = await desk.servicer.GetPrivacy(pb.GetPrivacyRequest(user_id="ann"), None)

    assert (answer.privacy.presence, answer.privacy.last_seen) == (EVERYONE, NOBODY)


async def test_a_change_leaves_what_is_known_of_the_place_as_it_is(desk: Desk, world: World) -> None:
    world.privacy.rows["ann"] = PrivacyRow("ann", shares_location=True, version=4)

    await desk.let_know("ann", presence=NOBODY)

    assert world.privacy.rows["ann"] == PrivacyRow("ann", Audience.NOBODY, shares_location=True, version=5)


async def test_a_change_beside_one_of_what_is_known_of_the_place_undoes_neither(
    desk: Desk, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = world.privacy.privacy

    async def late(user_ids: list[str]) -> object:
        found = await load(user_ids)
        monkeypatch.setattr(world.privacy, "privacy", load)
        await world.privacy.put_privacy(PrivacyRow("ann", shares_location=True))
        return found

    monkeypatch.setattr(world.privacy, "privacy", late)
    await desk.let_know("ann", presence=NOBODY)

    assert world.privacy.rows["ann"] == PrivacyRow("ann", Audience.NOBODY, shares_location=True, version=2)


async def test_friends_are_told_at_once_that_somebody_who_hides_is_not_there(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    await desk.set_presence("ann", AWAY, text="at lunch")
    await desk.gather()
    world.events()

    await desk.let_know("ann", presence=NOBODY)
    await desk.presence._telling.step()

    assert world.events() == [("bob", hidden("ann"))]
    assert await listed(desk, "bob") == [("ann", OFFLINE, False, "")]


async def test_nothing_that_somebody_who_hides_does_is_noticed(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    ann, bob = await desk.arrive("ann", "bob")
    await desk.let_know("ann", presence=NOBODY)
    await desk.gather()
    world.events()
    published = len(world.bus.published)

    await desk.set_presence("ann", AWAY, text="at lunch")
    await desk.gather()
    await desk.report(ann, bob)
    await desk.disconnect(ann)
    await desk.gather()
    assert len(world.bus.published) == published
    await desk.connect("bob", "laptop")
    await desk.gather()
    world.bus.come_back()
    await desk.settle()

    assert world.told() == []
    assert await listed(desk, "bob") == [("ann", OFFLINE, False, "")]


async def test_who_may_know_again_is_told_at_once(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    await desk.let_know("ann", presence=NOBODY)
    await desk.set_presence("ann", AWAY, text="at lunch")
    await desk.gather()
    world.events()

    await desk.let_know("ann", presence=FRIENDS)
    await desk.settle()

    assert world.events() == [("bob", PresenceEvent(user_id="ann", status=AWAY, text="at lunch"))]


async def test_a_hidden_last_seen_is_told_to_nobody_and_taken_back(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob", "carol")
    ann, _, carol = await desk.arrive("ann", "bob", "carol")
    await desk.let_know("ann", last_seen=NOBODY)
    await desk.disconnect(ann)
    await desk.disconnect(carol)
    await desk.gather()
    assert [event for user, event in world.events() if user == "bob"] == [hidden("ann")]
    assert await listed(desk, "bob") == [("ann", OFFLINE, False, "")]

    await desk.let_know("ann", last_seen=FRIENDS)
    await desk.settle()
    [(_, event)] = world.events()
    assert event.HasField("last_seen")

    await desk.let_know("ann", last_seen=NOBODY)
    await desk.settle()
    assert world.events() == [("bob", hidden("ann"))]


async def test_watchers_on_other_instances_are_told_and_the_next_owner_keeps_to_it(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    other = Desk(world)
    await other.start()
    await other.arrive("bob")
    [ann] = await desk.arrive("ann")
    await other.settle()
    world.events()

    await desk.let_know("ann", presence=NOBODY)
    await other.settle()
    assert world.events() == [("bob", hidden("ann"))]

    heir = Desk(world)
    await heir.report(ann)
    await heir.gather()
    await heir.set_presence("ann", AWAY)
    await heir.gather()
    await other.settle()
    assert [told for told in world.told() if told[0] == "bob"] == []


async def test_the_other_of_two_owners_learns_of_a_change_before_it_renews_the_record(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    ann, _ = await desk.arrive("ann", "bob")
    heir = Desk(world)
    await heir.start()
    await heir.report(ann)
    await heir.gather()

    await desk.let_know("ann", presence=NOBODY)
    await heir.report(ann)

    assert await listed(desk, "bob") == [("ann", OFFLINE, False, "")]


async def test_news_of_a_former_owner_with_older_rules_are_dropped(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    await desk.set_presence("ann", AWAY)
    await desk.gather()
    old_topic, old_news = world.bus.published[-1]
    await desk.let_know("ann", presence=NOBODY)
    await desk.settle()
    world.events()

    await world.bus.publish(old_topic, old_news)
    await desk.settle()

    assert world.told() == []


async def test_a_change_while_another_is_being_told_is_in_force_for_both(
    desk: Desk, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    await desk.set_presence("ann", AWAY)
    world.clock.advance(1)
    write = desk.presence._privacy.write

    async def hide_first(presences: object) -> None:
        monkeypatch.setattr(desk.presence._privacy, "write", write)
        await desk.let_know("ann", presence=NOBODY)
        await write(presences)  # type: ignore[arg-type]

    monkeypatch.setattr(desk.presence._privacy, "write", hide_first)
    await desk.settle()

    assert [event for user, event in world.events()] == [hidden("ann")]
    assert await listed(desk, "bob") == [("ann", OFFLINE, False, "")]


async def test_rules_that_were_loaded_while_they_were_changed_do_not_come_back(
    desk: Desk, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("bob")
    load = world.privacy.privacy

    async def late(user_ids: list[str]) -> object:
        found = await load(user_ids)
        monkeypatch.setattr(world.privacy, "privacy", load)
        await desk.let_know("ann", presence=NOBODY)
        return found

    monkeypatch.setattr(world.privacy, "privacy", late)
    await desk.connect("ann")
    await desk.gather()

    assert [told for told in world.told() if told[0] == "bob"] == []


async def test_who_changes_what_is_known_while_not_connected_changes_it_at_once(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    ann, _ = await desk.arrive("ann", "bob")
    await desk.disconnect(ann)
    await desk.gather()
    world.events()

    await desk.let_know("ann", last_seen=NOBODY)
    await desk.settle()

    assert world.events() == [("bob", hidden("ann"))]
    assert await listed(desk, "bob") == [("ann", OFFLINE, False, "")]


async def test_a_change_costs_nobody_else_anything(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    world.befriend("carol", "dave")
    await desk.arrive("ann", "bob", "carol", "dave")
    published = len(world.bus.published)

    await desk.let_know("ann", presence=EVERYONE)
    await desk.settle()

    assert world.told() == []
    assert [topic for topic, _ in world.bus.published[published:]] == ["presence:ann", "presence.privacy"]


async def test_while_the_store_is_away_the_record_says_who_may_know(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    ann, _ = await desk.arrive("ann", "bob")
    await desk.let_know("ann", presence=NOBODY)
    await desk.settle()
    world.events()
    world.privacy.is_down = True
    heir = Desk(world)
    await heir.report(ann)
    await heir.set_presence("ann", AWAY)
    await heir.gather()
    await desk.settle()

    assert [told for told in world.told() if told[0] == "bob"] == []
    with pytest.raises(Unavailable):
        await desk.let_know("ann", presence=EVERYONE)


async def test_while_the_store_is_away_friends_learn_of_changes_at_the_next_owner_too(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    ann, _ = await desk.arrive("ann", "bob")
    world.privacy.is_down = True
    heir = Desk(world)
    await heir.report(ann)
    await heir.set_presence("ann", AWAY)

    await heir.gather()
    await desk.settle()

    assert ("bob", "ann", AWAY) in world.told()


async def test_nothing_is_told_of_a_user_whose_rules_are_not_known_until_they_are(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("bob")
    world.privacy.is_down = True
    await desk.connect("ann")
    await desk.gather()
    assert [told for told in world.told() if told[0] == "bob"] == []

    world.privacy.is_down = False
    await desk.gather()

    assert ("bob", "ann", ONLINE) in world.told()


async def test_a_change_that_could_not_be_published_is_refused_and_works_when_it_is_repeated(
    desk: Desk, world: World
) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    world.bus.is_down = True
    with pytest.raises(HitherError):
        await desk.let_know("ann", presence=NOBODY)
    world.bus.is_down = False

    await desk.let_know("ann", presence=NOBODY)
    await desk.settle()

    assert world.events() == [("bob", hidden("ann"))]
