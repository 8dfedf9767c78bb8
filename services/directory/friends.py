"""Friends: what a user does about another, as one transaction."""

from collections.abc import Collection, Sequence

from services.directory import friendship
from services.directory.changes import News
from services.directory.errors import NoSuchUser, QuotaExceeded, invalid_field
from services.directory.friendship import Action
from services.directory.model import Friendship, Side
from services.directory.ports import Tables

SHOWN_BY_DEFAULT = frozenset({Side.ACCEPTED, Side.REQUESTED, Side.PENDING})
_COUNTED = frozenset({Side.ACCEPTED, Side.REQUESTED})


async def ask(tables: Tables, news: News, user_id: str, friend_id: str, now_ms: int, most: int) -> Friendship:
    """Asks to become a friend, or accepts, and says how the two now stand.

    Raises NoSuchUser, Blocked, QuotaExceeded if the user has `most` friends and open requests, and InvalidArgument for
    oneself.
    """
    if user_id == friend_id:
        raise invalid_field("friend_id", "must be another user")
    await _check_exist(tables, {user_id, friend_id})
    await _act(tables, news, Action.ASK, user_id, friend_id, now_ms)
    if await tables.friendships.count(user_id, _COUNTED) > most:
        raise QuotaExceeded(f"A user has at most {most} friends and open requests.")
    stands = await tables.friendships.find(user_id, friend_id)
    assert stands is not None, "asking leaves no stranger"
    return stands


async def end(tables: Tables, news: News, user_id: str, friend_id: str, now_ms: int) -> None:
    """Ends a friendship or a request. Raises NotFriends."""
    await _act(tables, news, Action.END, user_id, friend_id, now_ms)


async def block(tables: Tables, news: News, user_id: str, blocked_id: str, now_ms: int) -> None:
    """Blocks a user. Raises NoSuchUser, and InvalidArgument for oneself."""
    if user_id == blocked_id:
        raise invalid_field("blocked_id", "must be another user")
    await _check_exist(tables, {user_id, blocked_id})
    await _act(tables, news, Action.BLOCK, user_id, blocked_id, now_ms)


async def unblock(tables: Tables, news: News, user_id: str, blocked_id: str, now_ms: int) -> None:
    """Takes a block back; does nothing if there is none."""
    await _act(tables, news, Action.UNBLOCK, user_id, blocked_id, now_ms)


async def _act(tables: Tables, news: News, action: Action, user_id: str, other_id: str, now_ms: int) -> None:
    before = await tables.friendships.pair(user_id, other_id)
    after = friendship.after(action, before)
    if after == before:
        return
    await tables.friendships.put_pair(user_id, other_id, after, now_ms)
    news.standing_changed(user_id, other_id)


async def find_blocked(tables: Tables, user_id: str, other_ids: Sequence[str]) -> list[str]:
    """Those of the others, in their order, who have blocked the user or whom the user has blocked."""
    return [
        other_id
        for other_id in other_ids
        if other_id != user_id and friendship.is_blocked(await tables.friendships.pair(user_id, other_id))
    ]


async def _check_exist(tables: Tables, user_ids: Collection[str]) -> None:
    if len(await tables.users.find(user_ids)) < len(user_ids):
        raise NoSuchUser()
