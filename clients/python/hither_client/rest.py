"""The REST side: what is not urgent enough for the socket, and what comes before it: signing up and signing in."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TypeVar

import httpx
import msgspec

from hither_client.errors import NoAnswer, RequestFailed, request_failed
from hither_client.models import (
    Ack,
    Audience,
    Content,
    Conversation,
    Friendship,
    HistoryPage,
    LocationGrant,
    LocationSharing,
    LocationView,
    Message,
    NearbyFriend,
    PresenceChanged,
    Privacy,
    PushPlatform,
    Tokens,
    User,
)

_T = TypeVar("_T")

_CODES: Mapping[int, str] = {
    0: "OK",
    1: "CANCELLED",
    2: "UNKNOWN",
    3: "INVALID_ARGUMENT",
    4: "DEADLINE_EXCEEDED",
    5: "NOT_FOUND",
    6: "ALREADY_EXISTS",
    7: "PERMISSION_DENIED",
    8: "RESOURCE_EXHAUSTED",
    9: "FAILED_PRECONDITION",
    10: "ABORTED",
    11: "OUT_OF_RANGE",
    12: "UNIMPLEMENTED",
    13: "INTERNAL",
    14: "UNAVAILABLE",
    15: "DATA_LOSS",
    16: "UNAUTHENTICATED",
}
"""Names of google.rpc.Code, by number."""


class RestClient:
    """A user's requests over HTTP. Without a token: only `sign_up`, `sign_in` and `refresh`.

    Raises RequestFailed for what the server refuses, NoAnswer where it cannot be reached in time; repeats nothing by itself.
    """

    def __init__(self, url: str, token: str = "", *, timeout_s: float = 30.0) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.AsyncClient(base_url=url.rstrip("/") + "/api/v1", headers=headers, timeout=timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections that are kept open."""
        await self._http.aclose()

    # Accounts

    async def sign_up(self, user_id: str, name: str, password: str, *, request_id: str = "") -> User:
        """Makes an account. Raises AlreadyExists. Repeating it with the same `request_id` returns the first answer."""
        body = {"user_id": user_id, "name": name, "password": password, "request_id": request_id}
        return (await self._call("POST", "/users", _UserAnswer, body)).user

    async def sign_in(self, user_id: str, password: str, device_id: str) -> Tokens:
        """Signs a device in. Raises NotSignedIn or LimitReached."""
        body = {"user_id": user_id, "password": password, "device_id": device_id}
        return await self._call("POST", "/sessions", Tokens, body)

    async def refresh(self, refresh_token: str) -> Tokens:
        """Exchanges a refresh token, which serves once, for a new pair. Raises NotSignedIn."""
        return await self._call("POST", "/sessions:refresh", Tokens, {"refresh_token": refresh_token})

    async def user(self, user_id: str) -> User:
        """An account. Raises NoSuchUser."""
        return (await self._call("GET", f"/users/{user_id}", _UserAnswer)).user

    # Friends

    async def add_friend(self, friend_id: str) -> Friendship:
        """Asks to become a friend; asking back accepts. Raises NoSuchUser or Blocked."""
        return (await self._call("POST", "/friends", _FriendAnswer, {"friend_id": friend_id})).friendship

    async def remove_friend(self, friend_id: str) -> None:
        """Ends a friendship, or takes back or declines a request. Raises NotFriends."""
        await self._call("DELETE", f"/friends/{friend_id}", _Nothing)

    async def friends(self) -> Sequence[Friendship]:
        """All friendships, of any state, by user id."""
        friendships: list[Friendship] = []
        token = ""
        while True:
            page = await self._call("GET", "/friends", _FriendsAnswer, query=_paging(token))
            friendships += page.friendships
            if not (token := page.next_page_token):
                return friendships

    async def block(self, user_id: str) -> None:
        """Ends the friendship and every direct way between the two."""
        await self._call("POST", "/blocks", _Nothing, {"blocked_id": user_id})

    async def unblock(self, user_id: str) -> None:
        """Takes a block back."""
        await self._call("DELETE", f"/blocks/{user_id}", _Nothing)

    # Presence

    async def presence(self) -> Sequence[PresenceChanged]:
        """How all friends are, those who are there first."""
        friends: list[PresenceChanged] = []
        token = ""
        while True:
            page = await self._call("GET", "/presence", _PresenceAnswer, query=_paging(token))
            friends += page.friends
            if not (token := page.next_page_token):
                return friends

    async def privacy(self) -> Privacy:
        """Who may know the caller's presence."""
        return (await self._call("GET", "/settings/privacy", _PrivacyAnswer)).privacy

    async def update_privacy(self, *, presence: Audience | None = None, last_seen: Audience | None = None) -> Privacy:
        """Changes what is given, at once; returns what holds now."""
        body = {"presence": presence, "last_seen": last_seen}
        given = {name: audience for name, audience in body.items() if audience is not None}
        return (await self._call("PUT", "/settings/privacy", _PrivacyAnswer, given)).privacy

    # Places

    async def nearby_friends(self, *, radius: float = 0.0) -> Sequence[NearbyFriend]:
        """Friends within the radius in miles (zero: as far as the last update of the place said), nearest first."""
        friends: list[NearbyFriend] = []
        token, query = "", {"radius": str(radius)} if radius else {}
        while True:
            page = await self._call("GET", "/nearby-friends", _NearbyAnswer, query={**query, **_paging(token)})
            friends += page.friends
            if not (token := page.next_page_token):
                return friends

    async def location_sharing(self) -> LocationSharing:
        """Whether and how the user shares."""
        return await self._call("GET", "/settings/location-sharing", LocationSharing)

    async def set_location_sharing(self, enabled: bool, default_precision: str = "") -> LocationSharing:
        """Turns sharing on or off; without a precision that stays as it was."""
        body = {"enabled": enabled, "default_precision": default_precision}
        return await self._call("PUT", "/settings/location-sharing", LocationSharing, body)

    async def grant_location(self, friend_id: str, precision: str, *, duration_s: int = 0) -> LocationGrant:
        """Decides what one friend may know, for a time or (zero) for good. Raises NotFriends or LimitReached."""
        body = {"friend_id": friend_id, "precision": precision, "duration_s": duration_s}
        return (await self._call("PUT", "/location-grants", _GrantAnswer, body)).grant

    async def revoke_location(self, friend_id: str) -> None:
        """Takes back what was decided about a friend: the default holds again."""
        await self._call("DELETE", f"/location-grants/{friend_id}", _Nothing)

    async def location_grants(self) -> Sequence[LocationGrant]:
        """What was decided about single friends, by friend id."""
        grants: list[LocationGrant] = []
        token = ""
        while True:
            page = await self._call("GET", "/location-grants", _GrantsAnswer, query=_paging(token))
            grants += page.grants
            if not (token := page.next_page_token):
                return grants

    async def location_views(self) -> AsyncIterator[LocationView]:
        """Who was shown where the user is in the last 30 days, newest first."""
        token = ""
        while True:
            page = await self._call("GET", "/location-views", _ViewsAnswer, query=_paging(token))
            for view in page.views:
                yield view
            if not (token := page.next_page_token):
                return

    # Push

    async def register_push_token(self, platform: PushPlatform, token: str) -> None:
        """As HitherClient.register_push_token, for the device that the access token names."""
        await self._call("PUT", "/push-tokens", _Nothing, {"platform": platform, "token": token})

    async def remove_push_token(self, device_id: str) -> None:
        """Has the device woken up no more."""
        await self._call("DELETE", f"/push-tokens/{device_id}", _Nothing)

    async def mute(self, conversation_id: str, until: datetime | None = None) -> None:
        """Lets nothing in the conversation wake the user up, until then or until further notice. Raises LimitReached."""
        body: dict[str, object] = {} if until is None else {"until": until.astimezone(UTC)}
        await self._call("PUT", f"/conversations/{conversation_id}/mute", _Nothing, body)

    async def unmute(self, conversation_id: str) -> None:
        """Lets the conversation wake the user up again."""
        await self._call("DELETE", f"/conversations/{conversation_id}/mute", _Nothing)

    # Conversations

    async def create_conversation(self, name: str, member_ids: Sequence[str], *, request_id: str = "") -> Conversation:
        """Makes a group of the caller and up to 99 friends. Raises NotFriends or WrongState."""
        body = {"name": name, "member_ids": list(member_ids), "request_id": request_id}
        return (await self._call("POST", "/conversations", _ConversationAnswer, body)).conversation

    async def conversation(self, conversation_id: str) -> Conversation:
        """A conversation of the caller's, with its members. Raises NotAMember."""
        return (await self._call("GET", f"/conversations/{conversation_id}", _ConversationAnswer)).conversation

    async def conversations(self) -> Sequence[Conversation]:
        """All conversations of the caller, newest first."""
        conversations: list[Conversation] = []
        token = ""
        while True:
            page = await self._call("GET", "/conversations", _ConversationsAnswer, query=_paging(token))
            conversations += page.conversations
            if not (token := page.next_page_token):
                return conversations

    async def add_members(self, conversation_id: str, member_ids: Sequence[str]) -> Conversation:
        """Adds friends of the caller, who must be an admin of the group."""
        path = f"/conversations/{conversation_id}/members"
        return (await self._call("POST", path, _ConversationAnswer, {"member_ids": list(member_ids)})).conversation

    async def remove_member(self, conversation_id: str, member_id: str) -> None:
        """Removes a member, or leaves."""
        await self._call("DELETE", f"/conversations/{conversation_id}/members/{member_id}", _Nothing)

    # Messages

    async def send(
        self, conversation_id: str, client_id: str, *, text: str | None = None, content: Content | None = None
    ) -> Ack:
        """Sends a message once. Repeating it with the same `client_id` is safe and returns the first answer."""
        body: dict[str, object] = {"client_id": client_id}
        if text is not None:
            body["text"] = text
        if content is not None:
            body["content"] = {"media_type": content.media_type, "data": content.data}
        return await self._call("POST", f"/conversations/{conversation_id}/messages", Ack, body)

    async def history_page(
        self, conversation_id: str, *, before_seq: int = 0, after_seq: int = 0, limit: int = 200, page_token: str = ""
    ) -> HistoryPage:
        """A page of a conversation, ascending within the page: the newest, or those before or after a place."""
        query = {"limit": str(limit), **_paging(page_token)}
        query |= {"before_seq": str(before_seq)} if before_seq else {}
        query |= {"after_seq": str(after_seq)} if after_seq else {}
        return await self._call("GET", f"/conversations/{conversation_id}/messages", HistoryPage, query=query)

    async def history(self, conversation_id: str) -> AsyncIterator[Message]:
        """All messages of a conversation, newest first."""
        token = ""
        while True:
            page = await self.history_page(conversation_id, page_token=token)
            for message in reversed(page.messages):
                yield message
            if not (token := page.next_page_token):
                return

    async def _call(
        self,
        method: str,
        path: str,
        answer: type[_T],
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> _T:
        content = (
            None if body is None else msgspec.json.encode({name: value for name, value in body.items() if value != ""})
        )
        headers = {} if body is None else {"content-type": "application/json"}
        try:
            response = await self._http.request(method, path, content=content, params=query, headers=headers)
        except httpx.TransportError as error:
            raise NoAnswer(f"{method} {path}: {error or type(error).__name__}") from error
        if not response.is_success:
            raise _failure(response)
        return msgspec.json.decode(response.content or b"{}", type=answer, strict=False)


class _Nothing(msgspec.Struct):
    pass


class _UserAnswer(msgspec.Struct):
    user: User


class _FriendAnswer(msgspec.Struct):
    friendship: Friendship


class _FriendsAnswer(msgspec.Struct):
    friendships: list[Friendship] = []
    next_page_token: str = ""


class _PresenceAnswer(msgspec.Struct):
    friends: list[PresenceChanged] = []
    next_page_token: str = ""


class _PrivacyAnswer(msgspec.Struct):
    privacy: Privacy


class _ConversationAnswer(msgspec.Struct):
    conversation: Conversation


class _ConversationsAnswer(msgspec.Struct):
    conversations: list[Conversation] = []
    next_page_token: str = ""


class _NearbyAnswer(msgspec.Struct):
    friends: list[NearbyFriend] = []
    next_page_token: str = ""


class _GrantAnswer(msgspec.Struct):
    grant: LocationGrant


class _GrantsAnswer(msgspec.Struct):
    grants: list[LocationGrant] = []
    next_page_token: str = ""


class _ViewsAnswer(msgspec.Struct):
    views: list[LocationView] = []
    next_page_token: str = ""


class _Detail(msgspec.Struct):
    """One of google.rpc.ErrorInfo, RetryInfo and BadRequest, as `@type` says."""

    reason: str = ""
    retry_delay: str = ""
    field_violations: list[dict[str, str]] = []


class _Status(msgspec.Struct):
    """A google.rpc.Status in ProtoJSON, with the field names of the proto."""

    code: int = 2
    message: str = ""
    details: list[_Detail] = []


def _paging(token: str) -> dict[str, str]:
    return {"page_token": token} if token else {}


def _failure(response: httpx.Response) -> RequestFailed:
    try:
        status = msgspec.json.decode(response.content, type=_Status)
    except msgspec.DecodeError:
        unavailable = response.status_code in {502, 503, 504}
        return request_failed("UNAVAILABLE" if unavailable else "UNKNOWN", f"HTTP_{response.status_code}")
    return request_failed(
        _CODES.get(status.code, "UNKNOWN"),
        next((one.reason for one in status.details if one.reason), ""),
        status.message,
        retry_after_s=next((float(one.retry_delay.rstrip("s")) for one in status.details if one.retry_delay), None),
        violations=[violation for one in status.details for violation in one.field_violations],
    )
