"""Accounts and sessions, over a real store."""

import asyncio

import pytest

from discovery.errors import InvalidArgument
from hither.directory.v1 import directory_service_pb2 as pb
from hither.directory.v1.directory_pb2 import User
from services.directory.errors import BadPassword, BadToken, ExpiredToken, NoSuchUser, RateLimited, UserExists
from services.directory.tokens import RefreshToken
from tests.support.directory import PASSWORD, DirectoryDesk


async def create(desk: DirectoryDesk, user_id: str, name: str = "N", request_id: str = "") -> pb.CreateUserResponse:
    request = pb.CreateUserRequest(user_id=user_id, name=name, password=PASSWORD, request_id=request_id)
    return await desk.by_nobody(desk.servicer.CreateUser, request)


async def refresh(desk: DirectoryDesk, token: str) -> pb.RefreshSessionResponse:
    return await desk.by_nobody(desk.servicer.RefreshSession, pb.RefreshSessionRequest(refresh_token=token))


async def see(desk: DirectoryDesk, caller_id: str, user_id: str) -> User:
    return (await desk.by(caller_id, desk.servicer.GetUser, pb.GetUserRequest(user_id=user_id))).user


async def test_a_new_user_is_answered_with_its_account(desk: DirectoryDesk) -> None:
    user = (await create(desk, "alice", name="Alice L.")).user

    assert (user.user_id, user.name, user.create_time.ToMilliseconds()) == ("alice", "Alice L.", desk.clock.now_ms())


async def test_a_user_id_is_given_once(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice")

    with pytest.raises(UserExists) as refused:
        await create(desk, "alice")

    assert refused.value.reason == "USER_EXISTS"


async def test_of_many_that_sign_up_as_one_user_at_once_one_does(desk: DirectoryDesk) -> None:
    outcomes = await asyncio.gather(*(create(desk, "alice") for _ in range(5)), return_exceptions=True)

    assert sum(isinstance(outcome, pb.CreateUserResponse) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, UserExists) for outcome in outcomes) == 4


async def test_a_sign_up_repeated_with_its_request_id_gets_the_first_answer(desk: DirectoryDesk) -> None:
    first = await create(desk, "alice", request_id="r1")
    desk.clock.advance(24 * 3600)

    assert await create(desk, "alice", request_id="r1") == first


async def test_another_sign_up_under_a_used_request_id_is_refused(desk: DirectoryDesk) -> None:
    await create(desk, "alice", name="Alice", request_id="r1")

    with pytest.raises(InvalidArgument) as refused:
        await create(desk, "alice", name="Mallory", request_id="r1")

    assert [violation.field for violation in refused.value.violations] == ["request_id"]


@pytest.mark.parametrize(("name", "request_id", "field"), [("A\0", "", "name"), ("A", "r\0", "request_id")])
async def test_a_text_that_not_every_store_can_keep_is_refused(
    desk: DirectoryDesk, name: str, request_id: str, field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await create(desk, "alice", name=name, request_id=request_id)

    assert [violation.field for violation in refused.value.violations] == [field]


async def test_a_password_is_no_part_of_what_is_stored_to_tell_requests_apart(desk: DirectoryDesk) -> None:
    first = await create(desk, "alice", name="Alice", request_id="r1")
    request = pb.CreateUserRequest(user_id="alice", name="Alice", password="battery staple", request_id="r1")

    assert await desk.by_nobody(desk.servicer.CreateUser, request) == first


async def test_a_request_id_of_one_user_means_nothing_for_another(desk: DirectoryDesk) -> None:
    await create(desk, "alice", request_id="r1")

    assert (await create(desk, "bob", request_id="r1")).user.user_id == "bob"


async def test_one_sees_oneself_and_friends(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice", "bob")
    await desk.befriend("alice", "bob")

    assert [(await see(desk, "alice", user_id)).name for user_id in ("alice", "bob")] == ["Alice", "Bob"]


async def test_one_sees_fellow_members_that_are_no_friends(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice", "bob", "carol")
    await desk.befriend("alice", "bob", "carol")
    await desk.group("alice", "bob", "carol")

    assert (await see(desk, "bob", "carol")).user_id == "carol"


@pytest.mark.parametrize("user_id", ["bob", "nobody"])
async def test_strangers_look_like_nobody(desk: DirectoryDesk, user_id: str) -> None:
    await desk.sign_up("alice", "bob")
    await desk.by("alice", desk.servicer.AddFriend, pb.AddFriendRequest(friend_id="bob"))

    with pytest.raises(NoSuchUser) as refused:
        await see(desk, "alice", user_id)

    assert refused.value.message == ""


async def test_a_session_is_granted_for_the_right_password(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice")

    grant = await desk.sign_in("alice")

    assert grant.expires_at.ToMilliseconds() == desk.clock.now_ms() + 24 * 3600 * 1000
    assert grant.access_token.count(".") == 2
    assert len(grant.refresh_token) > 43


@pytest.mark.parametrize("user_id", ["alice", "nobody"])
async def test_a_wrong_password_and_an_unknown_user_are_not_told_apart(desk: DirectoryDesk, user_id: str) -> None:
    await desk.sign_up("alice")

    with pytest.raises(BadPassword) as refused:
        await desk.sign_in(user_id, password="wrong")

    assert refused.value.reason == "BAD_PASSWORD"


@pytest.mark.parametrize("user_id", ["alice", "nobody"])
async def test_after_ten_wrong_passwords_even_the_right_one_waits(desk: DirectoryDesk, user_id: str) -> None:
    await desk.sign_up("alice")
    for _ in range(10):
        with pytest.raises(BadPassword):
            await desk.sign_in(user_id, password="wrong")
    desk.clock.advance(60)

    with pytest.raises(RateLimited) as refused:
        await desk.sign_in(user_id)

    assert refused.value.retry_after_s == 14 * 60


async def test_the_right_password_is_taken_once_the_window_is_over(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice")
    for _ in range(10):
        with pytest.raises(BadPassword):
            await desk.sign_in("alice", password="wrong")
    desk.clock.advance(15 * 60)

    await desk.sign_in("alice")


async def test_right_passwords_are_not_limited(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice")

    for _ in range(12):
        await desk.sign_in("alice")


async def test_guesses_at_once_do_not_slip_through_the_limit(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice")

    guesses = (desk.sign_in("alice", password=f"guess {number}") for number in range(20))
    outcomes = await asyncio.gather(*guesses, return_exceptions=True)

    assert sum(isinstance(outcome, BadPassword) for outcome in outcomes) == 10
    assert sum(isinstance(outcome, RateLimited) for outcome in outcomes) == 10


async def test_a_refresh_token_gets_the_next_pair(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice")
    first = await desk.sign_in("alice")
    desk.clock.advance(3600)

    second = await refresh(desk, first.refresh_token)
    third = await refresh(desk, second.refresh_token)

    assert len({first.refresh_token, second.refresh_token, third.refresh_token}) == 3
    assert second.expires_at.seconds == first.expires_at.seconds + 3600


async def test_a_refresh_token_that_is_used_again_ends_its_session(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice")
    stolen = (await desk.sign_in("alice")).refresh_token
    newest = (await refresh(desk, stolen)).refresh_token

    with pytest.raises(BadToken):
        await refresh(desk, stolen)

    with pytest.raises(BadToken):
        await refresh(desk, newest)


async def test_of_many_uses_of_a_refresh_token_at_once_one_counts_and_the_session_ends(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice")
    token = (await desk.sign_in("alice")).refresh_token

    outcomes = await asyncio.gather(*(refresh(desk, token) for _ in range(5)), return_exceptions=True)

    granted = [outcome for outcome in outcomes if isinstance(outcome, pb.RefreshSessionResponse)]
    assert len(granted) == 1
    with pytest.raises(BadToken):
        await refresh(desk, granted[0].refresh_token)


async def test_the_end_of_one_session_leaves_those_of_other_devices(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice")
    phone = (await desk.sign_in("alice", device_id="phone")).refresh_token
    laptop = (await desk.sign_in("alice", device_id="laptop")).refresh_token
    await refresh(desk, phone)
    with pytest.raises(BadToken):
        await refresh(desk, phone)

    await refresh(desk, laptop)


async def test_a_refresh_token_lives_thirty_days(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice")
    token = (await desk.sign_in("alice")).refresh_token
    desk.clock.advance(30 * 24 * 3600 - 1)
    token = (await refresh(desk, token)).refresh_token
    desk.clock.advance(30 * 24 * 3600)

    with pytest.raises(ExpiredToken) as refused:
        await refresh(desk, token)

    assert refused.value.reason == "EXPIRED_TOKEN"


@pytest.mark.parametrize("token", ["x", ".", "a.", ".a", "no-such-session.secret", "\0.\0"])
async def test_what_is_no_refresh_token_is_refused(desk: DirectoryDesk, token: str) -> None:
    with pytest.raises(BadToken) as refused:
        await refresh(desk, token)

    assert refused.value.reason == "BAD_TOKEN"


async def test_signing_in_again_ends_the_devices_earlier_session(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice")
    earlier = (await desk.sign_in("alice")).refresh_token
    await desk.sign_in("alice")

    with pytest.raises(BadToken):
        await refresh(desk, earlier)


async def test_no_refresh_token_is_stored_as_it_is(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice")
    token = RefreshToken.parse((await desk.sign_in("alice")).refresh_token)
    assert token is not None

    stored = await desk.store.read(lambda tables: tables.sessions.find(token.session_id))

    assert stored is not None
    assert stored.token_hash == token.hash()
    assert token.secret not in repr(stored)
