"""The presence of a user's friends as a list: the first screen of a client that has no connection yet."""

from collections.abc import Awaitable, Callable, Sequence

from hither.presence.v1.presence_pb2 import PresenceEvent
from services.paging import decode_token, encode_token
from services.presence.records import Records, is_there
from services.presence.visibility import Relation, view

Place = tuple[bool, str]
"""Where a friend stands on the list: who is there comes first, then in order of user id."""


class Listing:
    """Pages of friends. Each page is put together anew, so a friend who comes or goes between two pages may be on both or
    on neither.
    """

    def __init__(self, ask: Callable[[str], Awaitable[Sequence[str]]], records: Records) -> None:
        self._ask = ask
        self._records = records

    async def page(self, user_id: str, size: int, token: str) -> tuple[Sequence[PresenceEvent], str]:
        """At most `size` friends, and the token of the next page (empty: there is none). Raises InvalidArgument
        (BAD_PAGE_TOKEN) and Unavailable.
        """
        list_name = f"friend-presence/{user_id}"
        after = decode_token(list_name, token, 2)
        records = await self._records.read(await self._ask(user_id))
        events = [view(record, Relation.FRIEND) for record in records]
        if after is not None:
            last = (after[0] == "absent", after[1])
            events = [event for event in events if _place(event) > last]
        events.sort(key=_place)
        page = events[:size]
        if len(events) <= size:
            return page, ""
        is_absent, friend_id = _place(page[-1])
        return page, encode_token(list_name, "absent" if is_absent else "present", friend_id)


def _place(event: PresenceEvent) -> Place:
    return not is_there(event), event.user_id
