"""A session without a socket: what it sends and asks for, as values."""

import json
from typing import Any

from discovery.errors import HitherError, Unauthenticated
from discovery.rpc.call import Caller, Role
from edge.codec.frames import Codec
from edge.codec.text import TEXT
from edge.metrics import EdgeMetrics
from edge.session import Call, Purpose, Session, Surroundings
from edge.settings import EdgeSettings
from hither.messaging.v1 import messaging_pb2, messaging_service_pb2
from hither.sessions.v1 import sessions_service_pb2
from tests.support.fake_mesh import inbox_message

Frame = dict[str, Any]


def authenticate(token: str) -> Caller:
    """Takes "user/device"."""
    user_id, _, device_id = token.partition("/")
    if not device_id:
        raise Unauthenticated("the token does not hold", reason="BAD_TOKEN")
    return Caller(Role.USER, user_id, device_id)


class SessionDriver:
    """Feeds a session and takes what it gives."""

    def __init__(self, settings: EdgeSettings | None = None, codec: Codec = TEXT) -> None:
        self.settings = settings or EdgeSettings()
        self.metrics = EdgeMetrics()
        surroundings = Surroundings("edge-1", self.settings, self.metrics, authenticate)
        self.now_s = 100.0
        self.session = Session(7, codec, surroundings, self.now_s)

    # --- what the client does ---

    def say(self, type_: str, **fields: object) -> None:
        """A JSON frame."""
        self.say_raw(json.dumps({"type": type_, **fields}))

    def say_raw(self, text: str | bytes) -> None:
        """A text message."""
        data = text.encode() if isinstance(text, str) else text
        self.session.receive(data, text=True, now_s=self.now_s)

    def say_binary(self, data: bytes) -> None:
        """A binary message."""
        self.session.receive(data, text=False, now_s=self.now_s)

    # --- what comes out ---

    def frames(self) -> list[Frame]:
        """The JSON frames that wait, taken out of the outbox."""
        taken = [json.loads(frame) for frame in self.session.outbox.take(1 << 30)]
        self.session.drained(self.now_s)
        return taken

    def frame(self) -> Frame:
        """The one frame that waits."""
        [frame] = self.frames()
        return frame

    def calls(self, purpose: Purpose | None = None) -> list[Call]:
        """The calls to make, of one purpose if one is given."""
        return [call for call in self.session.take_calls() if purpose in (None, call.purpose)]

    def call(self) -> Call:
        """The one call to make."""
        [call] = self.calls()
        return call

    def closed(self) -> int | None:
        """The close code, if the session has closed."""
        return self.session.closing.code if self.session.closing else None

    # --- what the mesh does ---

    def register(self, cursor: int = 0) -> None:
        """The registry answers."""
        response = sessions_service_pb2.RegisterConnectionResponse(cursor=cursor)
        self.session.answer(self.call(), response, self.now_s)

    def page(self, *events: messaging_pb2.InboxEvent, more: bool = False) -> None:
        """The page that the session has asked for."""
        call = self.call()
        assert call.purpose is Purpose.SYNC
        assert isinstance(call.request, messaging_service_pb2.SyncInboxRequest)
        places = [event.pos for event in events if event.pos]
        next_pos = places[-1] if places else call.request.pos
        response = messaging_service_pb2.SyncInboxResponse(events=events, next_pos=next_pos, more=more)
        self.session.answer(call, response, self.now_s)

    def fail(self, call: Call, error: HitherError) -> None:
        """A call fails."""
        self.session.fail(call, error, self.now_s)

    def deliver(self, pos: int) -> None:
        """A message of the inbox comes live."""
        event = self.session.codec.event("message", inbox_message(pos).message)
        self.session.deliver(event, pos, "", self.now_s)

    def deliver_typing(self, user_id: str, key: str = "typing") -> None:
        """An event comes that may be lost."""
        typing = messaging_pb2.TypingEvent(conversation_id="d.x", user_id=user_id)
        self.session.deliver(self.session.codec.event("typing", typing), 0, key, self.now_s)

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now_s += seconds
        self.session.tick(self.now_s)


def live(settings: EdgeSettings | None = None, cursor: int = 0) -> SessionDriver:
    """A session that has caught up, with nothing waiting."""
    driver = SessionDriver(settings)
    driver.session.open("alice/phone", None)
    driver.register(cursor)
    driver.page()
    assert [frame["type"] for frame in driver.frames()] == ["connected", "synced"]
    return driver
