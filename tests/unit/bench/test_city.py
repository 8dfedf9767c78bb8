"""The city's benchmark measures what it says."""

from dataclasses import asdict
from typing import Any, cast

from bench.city.decision import decide
from bench.city.report import is_sustained
from bench.city.walk import Sent, Walk, Walked
from bench.peer import Peer


class QuietPeer:
    """A connection that keeps what is sent."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.sent: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)


def peer(index: int) -> Peer:
    return cast(Peer, QuietPeer(index))


def told_of_bob(lat: bytes) -> bytes:
    return b'{"type":"friend_location_update","friend_id":"bob","name":"","distance":0.1,"lat":%b,"lng":13.4}' % lat


def test_only_those_whom_an_update_was_to_reach_count_and_once() -> None:
    walk = Walk("", 3, 2, [0, 1, 2], ["ann", "bob", "cid"], [], 0)
    peers = walk._peers = [peer(index) for index in range(3)]
    walk._report(0, 52.5, 13.4, 0.0)
    walk._report(2, 48.2, 16.4, 0.0)

    walk._report(1, 52.5, 13.4, 0.0)
    lat = cast(QuietPeer, peers[1]).sent[0].partition(b'"lat":')[2].partition(b",")[0]
    for index in (0, 0, 2):
        walk._on_frame(peers[index], told_of_bob(lat))
    walk._on_frame(peers[0], told_of_bob(b"52.4"))

    assert (walk._expected, walk._reached, walk._told) == (1, 1, 4)


def test_a_load_is_sustained_if_all_were_answered_and_reached_within_a_second() -> None:
    def run(answered: int = 100, reached: int = 100, p99_ms: float = 10) -> dict[str, Any]:
        updates = Sent(100, answered, 500.0, 0.1, 0.1)
        return asdict(Walked(100, updates, 100, reached, reached, 5, p99_ms, p99_ms, None, None))

    assert is_sustained(run())
    assert not is_sustained(run(answered=99))
    assert not is_sustained(run(reached=98))
    assert not is_sustained(run(p99_ms=1_000))


async def test_deciding_makes_events_where_friends_are_near_and_none_where_nobody_is() -> None:
    near = await decide("a village", 20, 1_000.0, 1, 5)
    far = await decide("a country", 20, 4_000_000.0, 1, 5)

    assert near.events > 10
    assert far.events == 0
